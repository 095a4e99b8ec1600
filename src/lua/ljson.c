/*
** ljson: the encoder of Lua values.
**
** What is a C pointer here is anchored in Lua: the buffer and the keys being sorted live in userdata, the keys' strings in a table
** (`names`), so that an error leaks nothing and a finalizer that runs meanwhile cannot take a string away. The encoder itself
** is on the C stack: it owns nothing. Tables are read raw: no metamethod runs.
**
** A table is an array if its kind says so (lkind.h) or #t > 0, a row if it has a row's metatable, an object otherwise. An object's
** keys are sorted as bytes. A row shows its columns in select order, whatever they hold by now, then the keys added to it,
** sorted. Cycles end at LJSON_DEPTH_MAX.
**
** `keys` is one growing stack for all levels: an object works above `count`, and gives the room back when it is done.
*/
#include "ljson.h"

#include <stdlib.h>
#include <string.h>

#include "lerror.h"
#include "lkind.h"
#include "lshape.h"

#define BUFFER_NAME "pool.Buffer"
#define PLACE_MAX 200 /* characters of a place in a message */
#define STACK_NEED 12 /* slots that one level may use */

struct place {
  const char *key; /* NULL: an index */
  size_t len;
  lua_Integer index;
};

struct key {
  const char *text;
  size_t len;
  int at; /* its string in `names` */
};

struct encoder {
  lua_State *L;
  struct json_buffer *out;
  size_t start; /* out's length before us */
  int names;    /* stack index: a table, nil until there is an object */
  int memory;   /* stack index: the userdata that keys is in */
  struct key *keys;
  int count, capacity;
  int depth;
  struct place path[LJSON_DEPTH_MAX];
};

static void encoder_value(struct encoder *e, int index, bool bytes);

/* ---- the buffer ---- */

static int buffer_gc(lua_State *L) {
  json_buffer_free(lua_touserdata(L, 1));
  return 0;
}

struct json_buffer *ljson_buffer(lua_State *L) {
  struct json_buffer *b = lua_newuserdatauv(L, sizeof *b, 0);
  json_buffer_init(b);
  if (luaL_newmetatable(L, BUFFER_NAME)) {
    lua_pushcfunction(L, buffer_gc);
    lua_setfield(L, -2, "__gc");
    lua_pushliteral(L, BUFFER_NAME);
    lua_setfield(L, -2, "__metatable");
  }
  lua_setmetatable(L, -2);
  return b;
}

/* ---- refusals ---- */

static bool key_is_plain(const char *key, size_t len) {
  for (size_t i = 0; i < len; i++) {
    char c = key[i];
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    if (!letter && !(i > 0 && c >= '0' && c <= '9')) return false;
  }
  return len > 0;
}

/* One step of a path; what cannot be shown as it is (bytes that are no text) becomes "?". Returns how much was written. */
static size_t place_print(char *out, size_t size, const struct place *p) {
  char key[48];
  size_t len = p->len < sizeof key - 1 ? p->len : sizeof key - 1;
  if (!p->key) return (size_t)snprintf(out, size, "[%lld]", (long long)p->index);
  for (size_t i = 0; i < len; i++) key[i] = p->key[i] >= 0x20 && p->key[i] < 0x7f ? p->key[i] : '?';
  key[len] = '\0';
  return (size_t)snprintf(out, size, key_is_plain(key, len) ? ".%s" : "[\"%s\"]", key);
}

/* Raises: "pool.json: $.a[1] is a function, which JSON cannot hold". */
static void encoder_refuse(struct encoder *e, const char *what) {
  char place[PLACE_MAX + 64] = "$";
  size_t len = 1;
  for (int i = 0; i < e->depth && len < PLACE_MAX; i++) len += place_print(place + len, sizeof place - len, &e->path[i]);
  if (len >= PLACE_MAX) strcpy(place + PLACE_MAX, "...");
  lerror_misuse(e->L, "pool.json: %s %s", place, what);
}

static void encoder_check_size(struct encoder *e) {
  if (e->out->failed) luaL_error(e->L, "not enough memory");
  if (e->out->len - e->start > LJSON_SIZE_MAX) encoder_refuse(e, "makes the JSON larger than 64 MiB");
}

/* ---- scalars ---- */

static void encoder_word(struct encoder *e, const char *word) { json_append(e->out, word, strlen(word)); }

static void encoder_text(struct encoder *e, const char *text, size_t len, const char *refusal) {
  if (!utf8_valid(text, len)) encoder_refuse(e, refusal);
  json_append_string(e->out, text, len);
}

static void encoder_string(struct encoder *e, int index, bool bytes) {
  size_t len;
  const char *text = lua_tolstring(e->L, index, &len);
  if (bytes)
    json_append_bytes(e->out, text, len);
  else
    encoder_text(e, text, len, "is not UTF-8 text; pool.bytes(s) writes base64");
}

static void encoder_number(struct encoder *e, int index) {
  if (lua_isinteger(e->L, index))
    json_append_integer(e->out, lua_tointeger(e->L, index));
  else
    json_append_real(e->out, lua_tonumber(e->L, index));
}

static void encoder_userdata(struct encoder *e, int index) {
  size_t len;
  enum lkind kind = lkind_of(e->L, index);
  if (kind != LKIND_BYTES && kind != LKIND_JSONB) encoder_refuse(e, "is a userdata, which JSON cannot hold");
  lua_getiuservalue(e->L, index, 1);
  const char *text = lua_tolstring(e->L, -1, &len);
  if (kind == LKIND_BYTES)
    json_append_bytes(e->out, text, len);
  else
    json_append(e->out, text, len);
  lua_pop(e->L, 1);
}

static void encoder_other(struct encoder *e, int index) {
  char what[64];
  snprintf(what, sizeof what, "is a %s, which JSON cannot hold", luaL_typename(e->L, index));
  encoder_refuse(e, what);
}

/* ---- tables: going in and out ---- */

static struct place *encoder_enter(struct encoder *e) {
  if (e->depth == LJSON_DEPTH_MAX) encoder_refuse(e, "is nested deeper than 128 levels, or in itself");
  luaL_checkstack(e->L, STACK_NEED, "JSON");
  e->path[e->depth] = (struct place){0};
  return &e->path[e->depth++];
}

static void encoder_leave(struct encoder *e) { e->depth--; }

static void encoder_array(struct encoder *e, int index, bool bytes) {
  const char *wrong;
  lua_Integer n = lkind_length(e->L, index, &wrong);
  if (n < 0) {
    char what[160];
    snprintf(what, sizeof what, "cannot be a JSON array: %s", wrong);
    encoder_refuse(e, what);
  }
  struct place *place = encoder_enter(e);
  encoder_word(e, "[");
  for (lua_Integer i = 1; i <= n; i++) {
    if (i > 1) encoder_word(e, ",");
    place->index = i;
    lua_rawgeti(e->L, index, i);
    encoder_value(e, lua_gettop(e->L), bytes);
    lua_pop(e->L, 1);
  }
  encoder_word(e, "]");
  encoder_leave(e);
}

/* ---- keys ---- */

static void keys_grow(struct encoder *e) {
  lua_State *L = e->L;
  int capacity = e->capacity ? e->capacity * 2 : 32;
  struct key *keys = lua_newuserdatauv(L, (size_t)capacity * sizeof *keys, 0);
  if (e->count > 0) memcpy(keys, e->keys, (size_t)e->count * sizeof *keys);
  lua_replace(L, e->memory);
  e->keys = keys;
  e->capacity = capacity;
  if (!lua_istable(L, e->names)) {
    lua_newtable(L);
    lua_replace(L, e->names);
  }
}

/* Keeps the key at index (a string, not converted). */
static void keys_add(struct encoder *e, int index) {
  struct key key = {.at = e->count + 1};
  if (e->count == e->capacity) keys_grow(e);
  lua_pushvalue(e->L, index);
  key.text = lua_tolstring(e->L, -1, &key.len);
  lua_rawseti(e->L, e->names, key.at);
  e->keys[e->count++] = key;
}

static int keys_compare(const void *left, const void *right) {
  const struct key *a = left, *b = right;
  int order = memcmp(a->text, b->text, a->len < b->len ? a->len : b->len);
  return order ? order : (a->len > b->len) - (a->len < b->len);
}

/* Writes the members of the table at index whose keys are those from `base` on, sorted; gives the keys' room back. */
static void keys_write(struct encoder *e, int index, int base, bool comma) {
  struct place *place = &e->path[e->depth - 1];
  if (e->count > base) qsort(e->keys + base, (size_t)(e->count - base), sizeof *e->keys, keys_compare);
  for (int i = base, end = e->count; i < end; i++, comma = true) {
    struct key key = e->keys[i]; /* the array may move */
    *place = (struct place){.key = key.text, .len = key.len};
    if (comma) encoder_word(e, ",");
    encoder_text(e, key.text, key.len, "has a key that is not UTF-8");
    encoder_word(e, ":");
    lua_rawgeti(e->L, e->names, key.at);
    lua_rawget(e->L, index);
    encoder_value(e, lua_gettop(e->L), false);
    lua_pop(e->L, 1);
  }
  e->count = base;
}

static void key_refuse(struct encoder *e, int index) {
  char what[160];
  e->depth--; /* the table is at fault, not a member of it */
  if (lua_isinteger(e->L, index))
    snprintf(what, sizeof what,
             "has the integer key %lld but is no sequence: JSON has no sparse arrays; use pool.array{..., n = its length} or string keys",
             (long long)lua_tointeger(e->L, index));
  else
    snprintf(what, sizeof what, "has a key that is a %s: JSON's keys are strings", luaL_typename(e->L, index));
  encoder_refuse(e, what);
}

/* ---- objects and rows ---- */

static void encoder_object(struct encoder *e, int index) {
  lua_State *L = e->L;
  int base = e->count;
  encoder_enter(e);
  lua_pushnil(L);
  while (lua_next(L, index)) {
    lua_pop(L, 1);
    if (lua_type(L, -1) != LUA_TSTRING) key_refuse(e, -1);
    keys_add(e, lua_gettop(L));
  }
  encoder_word(e, "{");
  keys_write(e, index, base, false);
  encoder_word(e, "}");
  encoder_leave(e);
}

/* The columns; returns how many of them the row has a value for. */
static int row_columns(struct encoder *e, int index, const struct lshape *s) {
  struct place *place = &e->path[e->depth - 1];
  int found = 0, shown = 0;
  for (int i = 0; i < s->count; i++) {
    const struct lshape_column *c = &s->columns[i];
    if (!c->first) continue;
    *place = (struct place){.key = c->name, .len = c->len};
    if (!c->json) encoder_refuse(e, "has a name that is not UTF-8");
    json_append(e->out, c->json + (shown == 0), c->json_len - (shown == 0));
    shown++;
    lua_rawgeti(e->L, index + 1, i + 1);
    found += lua_rawget(e->L, index) != LUA_TNIL;
    encoder_value(e, lua_gettop(e->L), s->columns[c->source].bytes);
    lua_pop(e->L, 1);
  }
  return found;
}

static bool row_has_column(const struct lshape *s, const char *key, size_t len) {
  for (int i = 0; i < s->count; i++)
    if (s->columns[i].len == len && memcmp(s->columns[i].name, key, len) == 0) return true;
  return false;
}

/* Does the key at index belong to the row's columns by position? Raises if it is neither that nor a string. */
static bool row_key_is_position(struct encoder *e, int index, const struct lshape *s) {
  if (lua_type(e->L, index) == LUA_TSTRING) return false;
  lua_Integer n = lua_isinteger(e->L, index) ? lua_tointeger(e->L, index) : 0;
  if (!lshape_duplicates(s) || n < 1 || n > s->count) key_refuse(e, index);
  return true;
}

/* How many string keys the row has: more than `found` columns means that some were added. */
static int row_count(struct encoder *e, int index, const struct lshape *s) {
  int count = 0;
  lua_pushnil(e->L);
  while (lua_next(e->L, index)) {
    lua_pop(e->L, 1);
    count += !row_key_is_position(e, -1, s);
  }
  return count;
}

static void row_collect_added(struct encoder *e, int index, const struct lshape *s) {
  lua_State *L = e->L;
  lua_pushnil(L);
  while (lua_next(L, index)) {
    size_t len;
    lua_pop(L, 1);
    if (lua_type(L, -1) != LUA_TSTRING) continue;
    const char *key = lua_tolstring(L, -1, &len);
    if (!row_has_column(s, key, len)) keys_add(e, lua_gettop(L));
  }
}

/* On the stack meanwhile: a copy of the row, and right above it its metatable, which has the names and keeps the shape. */
static void encoder_row(struct encoder *e, int row) {
  lua_State *L = e->L;
  const struct lshape *s = lshape_of(L, row);
  int base = e->count;
  encoder_enter(e);
  lua_pushvalue(L, row);
  int index = lua_gettop(L);
  lua_getmetatable(L, row);
  int keys = row_count(e, index, s);
  encoder_word(e, "{");
  int found = row_columns(e, index, s);
  if (keys > found) {
    row_collect_added(e, index, s);
    keys_write(e, index, base, s->count > 0);
  }
  encoder_word(e, "}");
  lua_settop(L, index - 1);
  encoder_leave(e);
}

static void encoder_table(struct encoder *e, int index, bool bytes) {
  switch (lkind_of(e->L, index)) {
  case LKIND_ROW: encoder_row(e, index); break;
  case LKIND_ARRAY: encoder_array(e, index, bytes); break;
  case LKIND_BYTES_ARRAY: encoder_array(e, index, true); break;
  case LKIND_NONE:
    if (lua_rawlen(e->L, index) > 0)
      encoder_array(e, index, bytes);
    else
      encoder_object(e, index);
    break;
  case LKIND_BYTES:
  case LKIND_JSONB:
  default: WRONG("a table with a userdata's kind");
  }
}

/* bytes: a string here is bytes, and so it is in an array here. index is absolute. */
static void encoder_value(struct encoder *e, int index, bool bytes) {
  switch (lua_type(e->L, index)) {
  case LUA_TNIL: encoder_word(e, "null"); break;
  case LUA_TBOOLEAN: encoder_word(e, lua_toboolean(e->L, index) ? "true" : "false"); break;
  case LUA_TNUMBER: encoder_number(e, index); break;
  case LUA_TSTRING: encoder_string(e, index, bytes); break;
  case LUA_TTABLE: encoder_table(e, index, bytes); break;
  case LUA_TUSERDATA: encoder_userdata(e, index); break;
  case LUA_TLIGHTUSERDATA:
    if (lua_touserdata(e->L, index)) encoder_other(e, index);
    encoder_word(e, "null");
    break;
  default: encoder_other(e, index);
  }
  encoder_check_size(e);
}

void ljson_append(lua_State *L, int index, struct json_buffer *out) {
  struct encoder e;
  index = lua_absindex(L, index);
  luaL_checkstack(L, STACK_NEED, "JSON");
  e.L = L;
  e.out = out;
  e.start = out->len;
  e.keys = NULL;
  e.count = e.capacity = e.depth = 0;
  lua_pushnil(L);
  e.names = lua_gettop(L);
  lua_pushnil(L);
  e.memory = lua_gettop(L);
  encoder_value(&e, index, false);
  lua_settop(L, e.names - 1);
}

void ljson_push_text(lua_State *L, int index) {
  index = lua_absindex(L, index);
  luaL_checkstack(L, STACK_NEED, "JSON");
  struct json_buffer *b = ljson_buffer(L);
  ljson_append(L, index, b);
  lua_pushlstring(L, b->data, b->len);
  json_buffer_free(b);
  lua_replace(L, -2);
}

/* ---- for Lua ---- */

static int json_encode(lua_State *L) {
  if (lua_isnone(L, 1)) lerror_misuse(L, "pool.json.encode wants a value");
  ljson_push_text(L, 1);
  return 1;
}

static int json_decode(lua_State *L) {
  struct pool_error error;
  size_t len;
  if (lua_type(L, 1) != LUA_TSTRING) lerror_misuse(L, "pool.json.decode wants a string, not %s", luaL_typename(L, 1));
  const char *text = lua_tolstring(L, 1, &len);
  return ljson_decode(L, text, len, &error) ? 1 : lerror_return(L, &error);
}

void ljson_push_null(lua_State *L) { lua_pushlightuserdata(L, NULL); }

void ljson_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"encode", json_encode}, {"decode", json_decode}, {NULL, NULL}};
  luaL_newlib(L, functions);
  lua_setfield(L, -2, "json");
}
