/*
** lserver: the listening side.
**
** What the listener has to tell is taken in a drain: a request becomes an exchange and a task; a client that went cancels its
** task; an exchange whose task has ended is released there too, since the scheduler must not be disturbed. Everything that can
** raise runs protected; a request that no task could be made for is answered 503.
*/
#include "lserver.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "lerror.h"
#include "lruntime.h"

static void anchor_set(lua_State *L, const void *key, int index) {
  lua_pushvalue(L, index);
  lua_rawsetp(L, LUA_REGISTRYINDEX, key);
}

/* Assigning nil to a key that is there allocates nothing, so this cannot raise. */
static void anchor_clear(lua_State *L, const void *key) {
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, key);
}

/* --- exchanges ----------------------------------------------------------------------------------------------------------- */

static void exchange_finished(struct task *t, void *user) {
  struct exchange *e = user;
  (void)t;
  e->task = NULL;
  list_remove(&e->link);
  if (e->server != NULL) list_append(&e->server->ended, &e->link);
}

/* A client's own request id if it can stand in logs and headers, else a new one. */
static void exchange_name(struct exchange *e, const struct http_request *r) {
  static const char safe[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
  struct http_text given = http_request_header(r, "x-request-id");
  bool sane = given.len > 0 && given.len <= LISTEN_ID_MAX;
  for (size_t i = 0; sane && i < given.len; i++) sane = memchr(safe, given.at[i], sizeof safe - 1) != NULL;
  if (sane) {
    memcpy(e->id, given.at, given.len);
    return;
  }
  listen_id(e->server->listener, e->id);
}

/* Protected. Stack: lightuserdata server, lightuserdata client. Once the exchange is among the ended it is released by the drain,
   whatever raises here afterwards. */
static int exchange_begin(lua_State *L) {
  struct lserver *s = lua_touserdata(L, 1);
  struct client *c = lua_touserdata(L, 2);
  struct exchange *e = lua_newuserdatauv(L, sizeof *e, EXCHANGE_VALUES);
  *e = (struct exchange){.server = s};
  list_init(&e->link);
  luaL_setmetatable(L, LEXCHANGE_NAME);
  lua_rawgetp(L, LUA_REGISTRYINDEX, s);
  lua_getiuservalue(L, -1, SERVER_HANDLER);
  lua_pushvalue(L, 3);
  anchor_set(L, e, 3);
  e->client = c;
  list_append(&s->ended, &e->link); /* until the task is there */
  listen_set_owner(c, e);
  exchange_name(e, listen_request(c));
  e->task = ltask_spawn(L, 1, exchange_finished, e, NEVER); /* stack: ..., server, handler, exchange */
  list_remove(&e->link);
  list_append(&s->exchanges, &e->link);
  return 0;
}

static void server_refuse(struct lserver *s, struct client *c) {
  char id[LISTEN_ID_MAX + 1];
  listen_id(s->listener, id);
  listen_problem(c, 503, id, NULL, false);
  listen_release(c);
}

static void server_begin(struct lserver *s, struct client *c) {
  lua_State *L = s->runtime->host;
  if (!lua_checkstack(L, LUA_MINSTACK)) {
    server_refuse(s, c);
    return;
  }
  lua_pushcfunction(L, exchange_begin);
  lua_pushlightuserdata(L, s);
  lua_pushlightuserdata(L, c);
  if (lua_pcall(L, 2, 0, 0) == LUA_OK) return;
  const char *why = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "(no text)";
  lruntime_log(s->runtime, "error", "a request could not be begun: %s", why);
  lua_pop(L, 1);
  if (listen_owner(c) == NULL) server_refuse(s, c);
}

/* --- the drain ----------------------------------------------------------------------------------------------------------- */

static bool server_release_ended(struct lserver *s) {
  bool did = false;
  struct list *node;
  while ((node = list_shift(&s->ended)) != NULL) {
    struct exchange *e = CONTAINER(node, struct exchange, link);
    lexchange_release(e);
    anchor_clear(s->runtime->host, e);
    did = true;
  }
  return did;
}

static void server_stopped(struct lserver *s) {
  s->stopped = true;
  struct list *node;
  while ((node = list_shift(&s->waiters)) != NULL) ltask_wake(ltask_of_scratch(node));
}

/* The grace is over: nobody is to wait for an answer that will not come. */
static void server_cut(struct lserver *s, struct client *c, struct exchange *e) {
  if (e == NULL || e->task == NULL) return; /* ended by itself just now */
  if (!listen_responded(c)) listen_problem(c, 503, e->id, "the server is stopping", false);
  ltask_cancel(e->task);
  s->cut++;
}

/* In one line for all whom one end of the grace met. */
static void server_log_cut(struct lserver *s) {
  if (s->cut == 0) return;
  lruntime_log(s->runtime, "warn", "the grace is over: %d running request%s cut off, answered 503 unless an answer had begun", s->cut,
               s->cut == 1 ? " was" : "s were");
  s->cut = 0;
}

static void server_event(struct lserver *s, enum listen_event event, struct client *c) {
  struct exchange *e = c ? listen_owner(c) : NULL;
  switch (event) {
  case LISTEN_REQUEST: server_begin(s, c); break;
  case LISTEN_GONE:
    if (e != NULL && e->task != NULL) ltask_cancel(e->task);
    break;
  case LISTEN_CUT: server_cut(s, c, e); break;
  case LISTEN_WRITABLE:
    if (e != NULL && e->writer != NULL) ltask_wake(e->writer);
    break;
  case LISTEN_TROUBLE: lruntime_log(s->runtime, "warn", "no descriptor or memory is left for another connection; new clients wait"); break;
  case LISTEN_STOPPED: server_stopped(s); break;
  default: WRONG("an event that listen_next does not tell");
  }
}

static void server_close(struct lserver *s) {
  if (s->listener == NULL) return;
  drain_remove(s->runtime->loop, &s->drain);
  listen_destroy(s->listener);
  s->listener = NULL;
}

static bool server_drain(struct drain *d) {
  struct lserver *s = CONTAINER(d, struct lserver, drain);
  bool did = server_release_ended(s);
  struct client *c;
  enum listen_event event;
  while ((event = listen_next(s->listener, &c)) != LISTEN_NONE) {
    did = true;
    server_event(s, event, c);
  }
  server_log_cut(s);
  if (!s->stopped) return did; /* once it is, no exchange holds a connection any more */
  INSIST(list_empty(&s->exchanges) && list_empty(&s->ended));
  server_close(s);
  anchor_clear(s->runtime->host, s);
  return true;
}

/* --- Lua ----------------------------------------------------------------------------------------------------------------- */

static struct lserver *server_check(lua_State *L) { return luaL_checkudata(L, 1, LSERVER_NAME); }

static lua_Integer option_integer(lua_State *L, const char *name, lua_Integer fallback, lua_Integer max) {
  int isinteger = 1;
  lua_Integer value = fallback;
  if (lua_getfield(L, 1, name) != LUA_TNIL) value = lua_tointegerx(L, -1, &isinteger);
  lua_pop(L, 1);
  if (!isinteger || value < 0 || value > max) lerror_misuse(L, "http_listen: %s must be a whole number from 0 to %d", name, (int)max);
  return value;
}

static void server_options(lua_State *L, struct listen_options *o) {
  luaL_checktype(L, 1, LUA_TTABLE);
  o->port = (int)option_integer(L, "port", 8080, 65535);
  o->body_max = (size_t)option_integer(L, "max_body", HTTP_BODY_MAX, (lua_Integer)1 << 30);
  o->max_connections = (int)option_integer(L, "max_connections", LISTEN_CONNECTIONS_MAX, 1000000);
  if (lua_getfield(L, 1, "host") == LUA_TNIL) {
    lua_pushliteral(L, "127.0.0.1");
    lua_replace(L, -2);
  }
  if (lua_type(L, -1) != LUA_TSTRING) lerror_misuse(L, "http_listen: host must be a string");
  o->host = lua_tostring(L, -1);
  if (lua_getfield(L, 1, "handler") != LUA_TFUNCTION) lerror_misuse(L, "http_listen: handler must be a function");
}

/* core.http_listen{host=, port=, handler=, max_body=, max_connections=} -> Server | nil, err */
static int server_listen(lua_State *L) {
  struct listen_options options = {0};
  lua_settop(L, 1);
  server_options(L, &options); /* stack: options, host, handler */
  struct loop *loop = ltask_loop(L); /* before the server, so that it is finalised after it */
  struct lserver *s = lua_newuserdatauv(L, sizeof *s, SERVER_VALUES);
  *s = (struct lserver){.runtime = NULL};
  list_init(&s->exchanges);
  list_init(&s->ended);
  list_init(&s->waiters);
  luaL_setmetatable(L, LSERVER_NAME);
  lua_pushvalue(L, 3);
  lua_setiuservalue(L, 4, SERVER_HANDLER);
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, 4, SERVER_HOST);
  if (getrandom(&options.id_seed, sizeof options.id_seed, 0) != (ssize_t)sizeof options.id_seed) options.id_seed = (uintptr_t)s;
  s->runtime = lruntime_get(L);
  anchor_set(L, s, 4);
  struct pool_error error;
  s->listener = listen_open(loop, &options, &error);
  if (s->listener == NULL) {
    anchor_clear(L, s);
    return lerror_return(L, &error);
  }
  s->port = listen_port(s->listener);
  s->drain.run = server_drain;
  drain_add(s->runtime->loop, &s->drain);
  return 1;
}

/* server:stop(grace = 5): begins; server:wait() sees the end. */
static int server_stop(lua_State *L) {
  struct lserver *s = server_check(L);
  lua_Number grace = luaL_optnumber(L, 2, LSERVER_GRACE);
  if (!(grace >= 0 && grace <= 1e9)) return lerror_misuse(L, "server:stop: grace must be seconds from 0 to 1e9");
  if (s->listener != NULL) listen_stop(s->listener, (usec)(grace * (lua_Number)USEC_PER_SECOND));
  return 0;
}

static void wait_abort(struct task *t) { list_remove(ltask_scratch(t)); }

static int wait_k(lua_State *L, int status, lua_KContext context) {
  (void)status;
  if (ltask_interrupted((struct task *)context) == POOL_OK) {
    lua_pushboolean(L, 1);
    return 1;
  }
  return lerror_fail(L, POOL_DEADLINE, "the deadline passed before the server had stopped");
}

/* server:wait() -> true | nil, err: until it has stopped. */
static int server_wait(lua_State *L) {
  struct lserver *s = server_check(L);
  struct task *t = ltask_enter(L);
  struct list *link = ltask_scratch(t);
  list_init(link);
  if (s->listener == NULL || s->stopped) ltask_wake(t);
  else list_append(&s->waiters, link);
  return ltask_wait(L, t, wait_abort, wait_k);
}

static int server_index(lua_State *L) {
  struct lserver *s = server_check(L);
  const char *key = luaL_checkstring(L, 2);
  if (strcmp(key, "port") == 0) lua_pushinteger(L, s->port);
  else if (strcmp(key, "host") == 0) lua_getiuservalue(L, 1, SERVER_HOST);
  else if (strcmp(key, "connections") == 0) lua_pushinteger(L, s->listener ? listen_connections(s->listener) : 0);
  else lua_getfield(L, lua_upvalueindex(1), key);
  return 1;
}

/* Only when the state is closed, or http_listen failed: a server that listens is anchored. */
static int server_gc(lua_State *L) {
  struct lserver *s = server_check(L);
  struct list *node;
  while ((node = list_shift(&s->exchanges)) != NULL || (node = list_shift(&s->ended)) != NULL) {
    struct exchange *e = CONTAINER(node, struct exchange, link);
    lexchange_release(e);
    e->server = NULL;
  }
  while (list_shift(&s->waiters) != NULL) continue;
  server_close(s);
  return 0;
}

void lserver_open(lua_State *L) {
  static const luaL_Reg methods[] = {{"stop", server_stop}, {"wait", server_wait}, {NULL, NULL}};
  lexchange_open(L);
  luaL_newmetatable(L, LSERVER_NAME);
  luaL_newlib(L, methods);
  lua_pushcclosure(L, server_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, server_gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
  lua_pushcfunction(L, server_listen);
  lua_setfield(L, -2, "http_listen");
}
