/*
** values: what PostgreSQL may send as a cell, as a row of Lua and as JSON (db/value.c, db/postgres_result.c, db/json_text.c, lua/lrows.c,
** lua/ljson.c).
**
** The bytes make a result of libpq's own: columns of any type, any text in a cell. Whichever way it goes, as rows that are then encoded or
** straight as JSON, the text is the same, or both refuse it. Only json cells may differ, for they are inserted as the server wrote them:
** decoded they are the same; and a result with json that is none is not compared (that the server's json is JSON is its own promise).
*/
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "db/json_text.h"
#include "db/postgres.h"
#include "fuzz/fuzz.h"
#include "fuzz/lua.h"
#include "lua/ljson.h"
#include "lua/lrows.h"

enum { COLUMNS_MAX = 5, ROWS_MAX = 3 };
enum compared { SAME, SAME_DECODED, NOT_COMPARED };

/* What is compared is made outside of any protected call: what raises is passed through here. */
static int encode(lua_State *L) {
  ljson_push_text(L, 1);
  return 1;
}

static Oid oid_take(struct fuzz *f) {
  static const Oid oids[] = {16,   17,   20,   21,   23,   26,   700,  701,  1700, 114,  3802, 25,   1043, 1082, 1184, 1186, 2950,
                             1000, 1001, 1005, 1007, 1016, 1021, 1022, 1231, 199,  3807, 1009, 1015, 1020, 1182, 2951, 600,  0};
  unsigned which = fuzz_byte(f);
  return which < 200 ? oids[which % (sizeof oids / sizeof oids[0])] : (Oid)fuzz_number(f, 2);
}

/* Gives the result; *json: it has a column of json. */
static PGresult *result_take(struct fuzz *f, bool *json) {
  PGresult *r = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);
  PGresAttDesc columns[COLUMNS_MAX];
  char *names[COLUMNS_MAX];
  int n = (int)fuzz_below(f, COLUMNS_MAX) + 1, rows = (int)fuzz_below(f, ROWS_MAX) + 1;
  for (int i = 0; i < n; i++) {
    unsigned kind = fuzz_byte(f);
    names[i] = kind < 200 ? strdup((const char[][2]){"a", "b", "c"}[kind % 3]) : fuzz_take(f, kind % 16, NULL);
    columns[i] = (PGresAttDesc){.name = names[i], .typid = oid_take(f), .typlen = -1, .atttypmod = -1};
    *json = *json || columns[i].typid == 114 || columns[i].typid == 3802 || columns[i].typid == 199 || columns[i].typid == 3807;
  }
  HOLDS(PQsetResultAttrs(r, n, columns));
  for (int i = 0; i < n; i++) free(names[i]);
  for (int i = 0; i < rows * n; i++) {
    size_t len, wanted = fuzz_byte(f);
    char *text = fuzz_take(f, wanted > 250 ? fuzz_left(f) : wanted, &len);
    HOLDS(PQsetvalue(r, i / n, i % n, wanted == 250 ? NULL : text, wanted == 250 ? -1 : (int)len));
    free(text);
  }
  return r;
}

/* An integer is exact, to the last digit of its text. */
static void integer_check(const struct value *v) {
  char digits[32];
  const char *text = v->text, *end = v->text + v->len, *own = digits;
  snprintf(digits, sizeof digits, "%lld", (long long)v->integer);
  bool minus = *text == '-';
  text += minus || *text == '+';
  while (text < end - 1 && *text == '0') text++;
  own += *own == '-';
  HOLDS((digits[0] == '-') == (minus && *text != '0'));
  HOLDS((size_t)(end - text) == strlen(own) && memcmp(text, own, strlen(own)) == 0);
}

static bool text_same(lua_State *L, int a, int b) { return lua_rawequal(L, a, b) != 0; }

/* The JSON texts at a and b, decoded and encoded again. Where one is no JSON there is nothing to compare. */
static bool decoded_same(lua_State *L, int a, int b) {
  struct pool_error error;
  size_t len;
  for (int i = 0; i < 2; i++) {
    lua_pushcfunction(L, encode);
    const char *text = lua_tolstring(L, i == 0 ? a : b, &len);
    if (!ljson_decode(L, text, len, &error)) return true;
    lua_call(L, 1, 1);
  }
  return text_same(L, -1, -2);
}

/* Looks at each cell. false: one of json holds what Lua cannot hold exactly (a number past 64 bits, ...), or no JSON: such a one comes to
   rows as its text. */
static bool cells_check(lua_State *L, struct db_result *r) {
  struct pool_error error;
  bool exact = true;
  for (int i = 0; i < result_rows(r) * result_columns(r); i++) {
    struct value v;
    result_cell(r, i / result_columns(r), i % result_columns(r), &v);
    int top = lua_gettop(L);
    if (v.type == VALUE_INTEGER) integer_check(&v);
    if (v.type == VALUE_JSON) exact = ljson_decode(L, v.text, v.len, &error) && exact;
    exact = exact && !(v.type == VALUE_ARRAY && v.element == VALUE_JSON);
    lua_settop(L, top);
  }
  return exact;
}

static void both_ways(lua_State *L, struct lresult *guard, enum compared compared) {
  struct pool_error error = {.message = ""};
  struct json_buffer *b = ljson_buffer(L);
  bool fine = json_append_result(b, &postgres_driver, guard->result, &error);
  if (fine)
    lua_pushlstring(L, b->data, b->len);
  else
    lua_pushnil(L);
  json_buffer_free(b);
  HOLDS(fine || (error.kind == POOL_JSON && utf8_valid(error.message, strlen(error.message))));
  int json = lua_gettop(L);
  HOLDS(!fine || utf8_valid(lua_tostring(L, json), lua_rawlen(L, json)));
  lrows_push(L, guard, false);
  lua_pushcfunction(L, encode);
  lua_insert(L, -2);
  bool encoded = lua_pcall(L, 1, 1, 0) == LUA_OK;
  HOLDS(fine == encoded);
  if (!fine) return;
  if (compared == SAME) HOLDS(text_same(L, json, lua_gettop(L)));
  if (compared == SAME_DECODED) HOLDS(decoded_same(L, json, lua_gettop(L)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  lua_State *L = fuzz_lua(NULL);
  struct fuzz f = fuzz_of(data, size);
  bool json = false;
  struct lresult *guard = lrows_guard(L, &postgres_driver);
  guard->result = result_of(result_take(&f, &json), 0);
  HOLDS(guard->result != NULL);
  bool exact = cells_check(L, guard->result);
  both_ways(L, guard, !json ? SAME : exact ? SAME_DECODED : NOT_COMPARED);
  lua_settop(L, 0);
  lua_gc(L, LUA_GCSTEP, 0);
  return 0;
}
