/*
** lparam: Lua values as a statement's parameters, and what the user says their types with: pool.array, pool.bytes, pool.jsonb.
**
** Misuse raises, naming the parameter; what the world's data does wrong (text with a NUL, or not UTF-8) is an error of the
** kind that the server would give, 22021. An array is written as text at once, in the driver's notation: PostgreSQL's {...} or
** JSON. All its elements are of one sort: integers with floats among them are reals, nulls go with anything.
*/
#include <math.h>
#include <string.h>

#include "lerror.h"
#include "ljson.h"
#include "lkind.h"
#include "lrows.h"

#define NESTING_MAX 16

enum sort { SORT_NONE, SORT_INTEGERS, SORT_REALS, SORT_BOOLEANS, SORT_STRINGS, SORT_BYTES, SORT_MIXED };

/* An array on its way into text. */
struct writer {
  lua_State *L;
  struct json_buffer *out;
  struct pool_error *error;
  int number; /* the parameter's */
  bool json;  /* the notation */
  enum sort sort;
};

/* ---- text ---- */

static bool text_check(const char *text, size_t len, int number, struct pool_error *error) {
  const char *wrong = memchr(text, '\0', len) ? "has a NUL byte" : !utf8_valid(text, len) ? "is not UTF-8" : NULL;
  if (!wrong) return true;
  error_set(error, POOL_QUERY, "parameter $%d: the text %s, which no text in the database can be; pool.bytes(s) sends bytes as they are",
            number, wrong);
  text_copy(error->sqlstate, sizeof error->sqlstate, "22021");
  return false;
}

/* ---- arrays ---- */

static enum sort sort_of(lua_State *L, int index) {
  switch (lua_type(L, index)) {
  case LUA_TNUMBER: return lua_isinteger(L, index) ? SORT_INTEGERS : SORT_REALS;
  case LUA_TBOOLEAN: return SORT_BOOLEANS;
  case LUA_TSTRING: return SORT_STRINGS;
  case LUA_TUSERDATA: return lkind_of(L, index) == LKIND_BYTES ? SORT_BYTES : SORT_MIXED;
  default: return SORT_MIXED;
  }
}

static enum sort sort_join(enum sort a, enum sort b) {
  if (a == b || a == SORT_NONE) return b;
  bool numbers = (a == SORT_INTEGERS || a == SORT_REALS) && (b == SORT_INTEGERS || b == SORT_REALS);
  return numbers ? SORT_REALS : SORT_MIXED;
}

static void writer_word(struct writer *w, const char *word) { json_append(w->out, word, strlen(word)); }

/* In a literal every string is quoted, so that no word (NULL) and no bracket in it means anything. */
static void write_quoted(struct writer *w, const char *text, size_t len) {
  writer_word(w, "\"");
  for (size_t i = 0, run; i < len; i += run) {
    for (run = 0; i + run < len && text[i + run] != '"' && text[i + run] != '\\'; run++) {
    }
    json_append(w->out, text + i, run);
    if (i + run < len) {
      json_append(w->out, (char[]){'\\', text[i + run]}, 2);
      run++;
    }
  }
  writer_word(w, "\"");
}

static void write_hex(struct writer *w, const char *bytes, size_t len) {
  static const char digits[] = "0123456789abcdef";
  writer_word(w, "\"\\\\x");
  for (size_t i = 0; i < len; i++) {
    unsigned char c = (unsigned char)bytes[i];
    json_append(w->out, (char[]){digits[c >> 4], digits[c & 15]}, 2);
  }
  writer_word(w, "\"");
}

/* A whole real goes without its ".0", as a lone parameter does: it may be meant for an integer. */
static void write_real(struct writer *w, double d) {
  char text[32];
  size_t len = real_format(text, d);
  if (w->json && !isfinite(d))
    writer_word(w, "null");
  else
    json_append(w->out, text, len > 2 && !w->json && memcmp(text + len - 2, ".0", 2) == 0 ? len - 2 : len);
}

static bool write_string(struct writer *w, int index, bool bytes) {
  size_t len;
  const char *text = lua_tolstring(w->L, index, &len);
  if (bytes) {
    (w->json ? json_append_bytes(w->out, text, len) : write_hex(w, text, len));
    return true;
  }
  if (!text_check(text, len, w->number, w->error)) return false;
  if (w->json)
    json_append_string(w->out, text, len);
  else
    write_quoted(w, text, len);
  return true;
}

static void writer_refuse(struct writer *w, const char *what) {
  lerror_misuse(w->L,
                "parameter $%d: an array of %s; pool.array holds integers and floats, or booleans, or strings, or pool.bytes, "
                "or arrays of one of these, and pool.null",
                w->number, what);
}

static bool write_scalar(struct writer *w, int index, bool bytes) {
  lua_State *L = w->L;
  enum sort sort = sort_of(L, index);
  if (bytes && sort == SORT_STRINGS) sort = SORT_BYTES;
  if (sort == SORT_MIXED) writer_refuse(w, luaL_typename(L, index));
  w->sort = sort_join(w->sort, sort);
  if (w->sort == SORT_MIXED) writer_refuse(w, "different types");
  if (sort == SORT_INTEGERS)
    json_append_integer(w->out, lua_tointeger(L, index));
  else if (sort == SORT_REALS)
    write_real(w, lua_tonumber(L, index));
  else if (sort == SORT_BOOLEANS)
    writer_word(w, lua_toboolean(L, index) ? "true" : "false");
  else if (lua_type(L, index) == LUA_TSTRING)
    return write_string(w, index, sort == SORT_BYTES);
  else {
    lua_getiuservalue(L, index, 1);
    write_string(w, -1, true);
    lua_pop(L, 1);
  }
  return true;
}

static bool write_array(struct writer *w, int index, int depth);

static bool write_element(struct writer *w, int index, bool bytes, int depth) {
  lua_State *L = w->L;
  if (lua_isnil(L, index) || (lua_islightuserdata(L, index) && !lua_touserdata(L, index))) {
    writer_word(w, w->json ? "null" : "NULL");
    return true;
  }
  return lua_istable(L, index) ? write_array(w, index, depth + 1) : write_scalar(w, index, bytes);
}

static bool write_array(struct writer *w, int index, int depth) {
  lua_State *L = w->L;
  const char *wrong = NULL;
  enum lkind kind = lkind_of(L, index);
  lua_Integer n = kind == LKIND_ROW ? -1 : lkind_length(L, index, &wrong);
  if (kind == LKIND_ROW || depth > NESTING_MAX) writer_refuse(w, kind == LKIND_ROW ? "rows" : "arrays nested too deep");
  if (n < 0) lerror_misuse(L, "parameter $%d: pool.array wants a sequence, but %s", w->number, wrong);
  luaL_checkstack(L, 8, "an array parameter");
  writer_word(w, w->json ? "[" : "{");
  for (lua_Integer i = 1; i <= n; i++) {
    if (i > 1) writer_word(w, ",");
    lua_rawgeti(L, index, i);
    if (!write_element(w, lua_gettop(L), kind == LKIND_BYTES_ARRAY, depth)) return false;
    lua_pop(L, 1);
    if (w->out->failed || w->out->len > LJSON_SIZE_MAX)
      lerror_misuse(L, "parameter $%d: the array is larger than 64 MiB as text", w->number);
  }
  writer_word(w, w->json ? "]" : "}");
  return true;
}

static enum param_type sort_param(enum sort sort) {
  switch (sort) {
  case SORT_INTEGERS: return PARAM_INTEGER;
  case SORT_REALS: return PARAM_REAL;
  case SORT_BOOLEANS: return PARAM_BOOLEAN;
  case SORT_STRINGS: return PARAM_TEXT;
  case SORT_NONE:
  case SORT_BYTES: return PARAM_NULL; /* the server's to infer */
  case SORT_MIXED:
  default: WRONG("an array of mixed sorts went through");
  }
}

/* Pushes the array's text, or nothing when it is false. */
static bool array_param(struct writer *w, int index, struct param *out) {
  lua_State *L = w->L;
  w->out = ljson_buffer(L);
  int base = lua_gettop(L);
  bool fine = write_array(w, index, 1);
  if (fine) {
    lua_pushlstring(L, w->out->data, w->out->len);
    lua_copy(L, -1, base);
  }
  json_buffer_free(w->out);
  lua_settop(L, fine ? base : base - 1);
  if (fine) {
    *out = (struct param){.type = PARAM_ARRAY, .element = sort_param(w->sort)};
    out->text = lua_tolstring(L, base, &out->len);
  }
  return fine;
}

/* ---- one parameter ---- */

static void string_param(lua_State *L, int index, enum param_type type, struct param *out) {
  *out = (struct param){.type = type};
  out->text = lua_tolstring(L, index, &out->len);
}

/* The user value is kept by the userdata, which the caller keeps: nothing need stay pushed. */
static void wrapped_param(lua_State *L, int index, int number, struct param *out) {
  enum lkind kind = lkind_of(L, index);
  if (kind != LKIND_BYTES && kind != LKIND_JSONB) lerror_misuse(L, "parameter $%d: a userdata cannot be sent to the database", number);
  lua_getiuservalue(L, index, 1);
  string_param(L, -1, kind == LKIND_BYTES ? PARAM_BYTES : PARAM_JSON, out);
  lua_pop(L, 1);
}

static void plain_table_refuse(lua_State *L, int number) {
  lerror_misuse(L,
                "parameter $%d: a table has no type of its own: say pool.array{...} for an array, pool.jsonb(t) for JSON, "
                "or pool.bytes(s) for bytes",
                number);
}

static void other_refuse(lua_State *L, int index, int number) {
  lerror_misuse(L, "parameter $%d: a %s cannot be sent to the database", number, luaL_typename(L, index));
}

int lrows_param(lua_State *L, int index, int number, const struct driver *driver, struct param *out, bool *ok, struct pool_error *error) {
  index = lua_absindex(L, index);
  luaL_checkstack(L, 8, "a parameter");
  *ok = true;
  *out = (struct param){.type = PARAM_NULL};
  switch (lua_type(L, index)) {
  case LUA_TNONE:
  case LUA_TNIL: break;
  case LUA_TBOOLEAN:
    out->type = PARAM_BOOLEAN;
    out->boolean = lua_toboolean(L, index);
    break;
  case LUA_TNUMBER:
    out->type = lua_isinteger(L, index) ? PARAM_INTEGER : PARAM_REAL;
    if (out->type == PARAM_INTEGER)
      out->integer = lua_tointeger(L, index);
    else
      out->real = lua_tonumber(L, index);
    break;
  case LUA_TSTRING:
    string_param(L, index, PARAM_TEXT, out);
    *ok = text_check(out->text, out->len, number, error);
    break;
  case LUA_TLIGHTUSERDATA:
    if (lua_touserdata(L, index)) other_refuse(L, index, number);
    break;
  case LUA_TUSERDATA: wrapped_param(L, index, number, out); break;
  case LUA_TTABLE: {
    enum lkind kind = lkind_of(L, index);
    if (kind != LKIND_ARRAY && kind != LKIND_BYTES_ARRAY) plain_table_refuse(L, number);
    struct writer w = {.L = L, .error = error, .number = number, .json = driver->json_arrays};
    *ok = array_param(&w, index, out);
    return *ok;
  }
  default: other_refuse(L, index, number);
  }
  return 0;
}

/* ---- what the user says ---- */

static int param_array(lua_State *L) {
  if (!lua_istable(L, 1)) lerror_misuse(L, "pool.array wants a table, not %s: pool.array{1, 2, 3}", luaL_typename(L, 1));
  enum lkind kind = lkind_of(L, 1);
  lua_settop(L, 1);
  if (kind == LKIND_ARRAY || kind == LKIND_BYTES_ARRAY) return 1;
  if (lua_getmetatable(L, 1))
    lerror_misuse(L, "pool.array wants a plain table, and this one has a metatable%s", kind == LKIND_ROW ? ": it is a row" : "");
  lkind_set(L, LKIND_ARRAY);
  return 1;
}

/* A typed parameter: a userdata that holds the value on top of the stack, which it replaces. */
static int param_wrap(lua_State *L, enum lkind kind) {
  lua_newuserdatauv(L, 0, 1);
  lua_insert(L, -2);
  lua_setiuservalue(L, -2, 1);
  lkind_set(L, kind);
  return 1;
}

static int param_bytes(lua_State *L) {
  if (lua_type(L, 1) != LUA_TSTRING) lerror_misuse(L, "pool.bytes wants a string, not %s", luaL_typename(L, 1));
  lua_settop(L, 1);
  return param_wrap(L, LKIND_BYTES);
}

static int param_jsonb(lua_State *L) {
  if (lua_isnone(L, 1)) lerror_misuse(L, "pool.jsonb wants a value: pool.jsonb{a = 1}");
  lua_settop(L, 1);
  ljson_push_text(L, 1);
  return param_wrap(L, LKIND_JSONB);
}

static void identifier_check(lua_State *L) {
  if (lua_type(L, 1) != LUA_TSTRING) lerror_misuse(L, "pool.identifier wants a string, not %s", luaL_typename(L, 1));
  size_t len;
  const char *name = lua_tolstring(L, 1, &len);
  if (len == 0) lerror_misuse(L, "pool.identifier wants a name, and this one is empty");
  if (memchr(name, '\0', len) || !utf8_valid(name, len)) lerror_misuse(L, "pool.identifier wants a name in UTF-8 without NUL bytes");
}

static int param_identifier(lua_State *L) {
  size_t len;
  luaL_Buffer b;
  identifier_check(L);
  const char *name = lua_tolstring(L, 1, &len);
  luaL_buffinit(L, &b);
  luaL_addchar(&b, '"');
  for (size_t i = 0; i < len; i++) {
    if (name[i] == '"') luaL_addchar(&b, '"');
    luaL_addchar(&b, name[i]);
  }
  luaL_addchar(&b, '"');
  luaL_pushresult(&b);
  return 1;
}

void lrows_open(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"array", param_array}, {"bytes", param_bytes}, {"jsonb", param_jsonb}, {"identifier", param_identifier}, {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
  ljson_push_null(L);
  lua_setfield(L, -2, "null");
}
