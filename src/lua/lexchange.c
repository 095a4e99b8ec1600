/*
** lexchange: one request and its response, as a handler sees them.
**
** Fields read through to the parser's buffers and become Lua strings only when asked for. An exchange answers once: respond, or
** start, write..., finish. It is over when its task has ended: any later use is misuse.
*/
#include <string.h>

#include "lerror.h"
#include "lserver.h"

static struct exchange *exchange_check(lua_State *L) {
  struct exchange *e = luaL_checkudata(L, 1, LEXCHANGE_NAME);
  if (e->client == NULL) lerror_misuse(L, "this request is over: its task has ended");
  return e;
}

void lexchange_release(struct exchange *e) {
  struct client *c = e->client;
  if (c == NULL) return;
  if (!listen_responded(c)) listen_problem(c, 500, e->id, NULL, true);
  e->client = NULL;
  if (e->writer != NULL) ltask_wake(e->writer); /* another task's write: the client is gone for it */
  e->writer = NULL;
  list_remove(&e->link);
  listen_release(c);
}

/* --- the request --------------------------------------------------------------------------------------------------------- */

static void text_push(lua_State *L, struct http_text t) { lua_pushlstring(L, t.at ? t.at : "", t.len); }

/* Repeated headers are joined, cookies as RFC 9113 8.2.3 joins them. Stack: +1. */
static void headers_make(lua_State *L, const struct http_request *r) {
  lua_createtable(L, 0, r->header_count);
  for (int i = 0; i < r->header_count; i++) {
    text_push(L, r->headers[i].name);
    lua_pushvalue(L, -1);
    if (lua_rawget(L, -3) == LUA_TNIL) {
      lua_pop(L, 1);
      text_push(L, r->headers[i].value);
    } else {
      bool cookie = r->headers[i].name.len == 6 && memcmp(r->headers[i].name.at, "cookie", 6) == 0;
      lua_pushstring(L, cookie ? "; " : ", ");
      text_push(L, r->headers[i].value);
      lua_concat(L, 3);
    }
    lua_rawset(L, -3);
  }
}

static void headers_push(lua_State *L, const struct http_request *r) {
  if (lua_getiuservalue(L, 1, EXCHANGE_HEADERS) == LUA_TTABLE) return;
  lua_pop(L, 1);
  headers_make(L, r);
  lua_pushvalue(L, -1);
  lua_setiuservalue(L, 1, EXCHANGE_HEADERS);
}

static int exchange_index(lua_State *L) {
  struct exchange *e = exchange_check(L);
  const char *key = luaL_checkstring(L, 2);
  const struct http_request *r = listen_request(e->client);
  if (strcmp(key, "method") == 0) text_push(L, r->method);
  else if (strcmp(key, "path") == 0) text_push(L, r->path);
  else if (strcmp(key, "query_string") == 0) text_push(L, r->query);
  else if (strcmp(key, "headers") == 0) headers_push(L, r);
  else if (strcmp(key, "body") == 0) text_push(L, r->body);
  else if (strcmp(key, "id") == 0) lua_pushstring(L, e->id);
  else if (strcmp(key, "target") == 0) text_push(L, r->target);
  else if (strcmp(key, "remote") == 0) lua_pushstring(L, listen_remote(e->client));
  else if (strcmp(key, "version") == 0) lua_pushstring(L, r->minor == 0 ? "1.0" : "1.1");
  else if (strcmp(key, "responded") == 0) lua_pushboolean(L, listen_responded(e->client));
  else lua_getfield(L, lua_upvalueindex(1), key);
  return 1;
}

/* --- the response -------------------------------------------------------------------------------------------------------- */

/* How many header lines the value on top of the stack stands for. */
static int field_lines(lua_State *L) {
  if (lua_type(L, -1) == LUA_TSTRING) return 1;
  if (lua_type(L, -1) != LUA_TTABLE) lerror_misuse(L, "a header's value must be a string or an array of strings");
  lua_Unsigned n = lua_rawlen(L, -1);
  if (n > 1000) lerror_misuse(L, "a header with more than 1000 values");
  return (int)n;
}

/* Keeps in the table that it borrows from: the strings must outlive the call, and do, as the handler's own. */
static int field_fill(lua_State *L, struct http_field *fields) {
  struct http_text name;
  if (lua_type(L, -2) != LUA_TSTRING) lerror_misuse(L, "a header's name must be a string");
  name.at = lua_tolstring(L, -2, &name.len);
  if (lua_type(L, -1) == LUA_TSTRING) {
    fields[0].name = name;
    fields[0].value.at = lua_tolstring(L, -1, &fields[0].value.len);
    return 1;
  }
  int n = (int)lua_rawlen(L, -1);
  for (int i = 0; i < n; i++) {
    if (lua_rawgeti(L, -1, i + 1) != LUA_TSTRING) lerror_misuse(L, "a header's values must be strings");
    fields[i].name = name;
    fields[i].value.at = lua_tolstring(L, -1, &fields[i].value.len);
    lua_pop(L, 1);
  }
  return n;
}

/* The headers table at `index` (or nil) as fields, in memory that is pushed. */
static const struct http_field *fields_read(lua_State *L, int index, int *count) {
  *count = 0;
  if (lua_isnoneornil(L, index)) return NULL;
  luaL_checktype(L, index, LUA_TTABLE);
  int lines = 0;
  for (lua_pushnil(L); lua_next(L, index) != 0; lua_pop(L, 1)) lines += field_lines(L);
  struct http_field *fields = lua_newuserdatauv(L, (size_t)(lines + 1) * sizeof *fields, 0);
  for (lua_pushnil(L); lua_next(L, index) != 0; lua_pop(L, 1)) *count += field_fill(L, fields + *count);
  INSIST(*count == lines);
  return fields;
}

static void exchange_answer(lua_State *L, struct exchange *e, bool streamed) {
  struct http_response r = {.streamed = streamed, .keep_alive = true};
  lua_Integer status = luaL_checkinteger(L, 2);
  r.status = status < 0 || status > 999 ? 0 : (int)status;
  if (!streamed && !lua_isnoneornil(L, 4)) r.body.at = luaL_checklstring(L, 4, &r.body.len);
  if (listen_responded(e->client)) lerror_misuse(L, "this request is already answered");
  r.fields = fields_read(L, 3, &r.field_count);
  const char *fault = listen_respond(e->client, &r);
  if (fault != NULL) lerror_misuse(L, "this response cannot be sent: %s", fault);
}

/* exchange:respond(status, headers | nil, body | nil) */
static int exchange_respond(lua_State *L) {
  struct exchange *e = exchange_check(L);
  lua_settop(L, 4);
  exchange_answer(L, e, false);
  return 0;
}

/* exchange:start(status, headers | nil): then write, then finish */
static int exchange_start(lua_State *L) {
  struct exchange *e = exchange_check(L);
  lua_settop(L, 3);
  exchange_answer(L, e, true);
  return 0;
}

static void write_abort(struct task *t) {
  struct exchange *e = *(struct exchange **)ltask_scratch(t);
  e->writer = NULL;
}

static int write_k(lua_State *L, int status, lua_KContext context) {
  struct exchange *e = luaL_checkudata(L, 1, LEXCHANGE_NAME);
  (void)status;
  e->writer = NULL;
  if (ltask_interrupted((struct task *)context) != POOL_OK)
    return lerror_fail(L, POOL_DEADLINE, "the deadline passed while the client was slow to read");
  if (e->client == NULL || listen_is_gone(e->client)) return lerror_fail(L, POOL_CLOSED, "the client is gone");
  lua_pushboolean(L, 1);
  return 1;
}

static struct exchange *stream_check(lua_State *L) {
  struct exchange *e = exchange_check(L);
  if (!listen_is_streaming(e->client)) lerror_misuse(L, "no response is being streamed: start it first");
  return e;
}

/* exchange:write(chunk) -> true | nil, err: waits while too much is unsent */
static int exchange_write(lua_State *L) {
  struct exchange *e = stream_check(L);
  size_t len;
  const char *chunk = luaL_checklstring(L, 2, &len);
  if (e->writer != NULL) lerror_misuse(L, "two tasks write one response");
  struct task *t = ltask_enter(L);
  *(struct exchange **)ltask_scratch(t) = e;
  if (listen_part(e->client, chunk, len)) ltask_wake(t);
  else e->writer = t;
  return ltask_wait(L, t, write_abort, write_k);
}

static int exchange_finish(lua_State *L) {
  listen_finish(stream_check(L)->client);
  return 0;
}

void lexchange_open(lua_State *L) {
  static const luaL_Reg methods[] = {
    {"respond", exchange_respond}, {"start", exchange_start}, {"write", exchange_write}, {"finish", exchange_finish}, {NULL, NULL}};
  luaL_newmetatable(L, LEXCHANGE_NAME);
  luaL_newlib(L, methods);
  lua_pushcclosure(L, exchange_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}
