/*
** postgres_types_spec: values both ways
*/
#include "db/postgres_support.h"

#include <math.h>
#include <stdlib.h>

static struct world w;
static struct db_conn *conn;
static struct pool_error e;

static struct db_result *with(const char *sql, const struct param *params, int nparams) {
  struct statement s = statement_of(sql);
  s.params = params;
  s.nparams = nparams;
  struct db_result *r = run(&w, conn, &s, &e);
  if (!r) printf("%s: %s %s\n", sql, e.sqlstate, e.message);
  return r;
}

static void is_cell(const char *sql, enum value_type type, enum value_type element, const char *text) {
  struct db_result *r = with(sql, NULL, 0);
  struct value v;
  struct column c;
  if (!CHECK(r != NULL)) return;
  D->column(r, 0, &c);
  D->cell(r, 0, 0, &v);
  CHECK_INT(c.type, type);
  CHECK_INT(v.type, type);
  if (type == VALUE_ARRAY) CHECK_INT(v.element, element);
  CHECK_TEXT(cell_text(r, 0, 0), text);
  D->free_result(r);
}

static void cell_specs(void) {
  static const struct { const char *sql; enum value_type type, element; const char *text; } cells[] = {
    {"select 9223372036854775807", VALUE_INTEGER, 0, "9223372036854775807"},
    {"select (-9223372036854775808)::int8", VALUE_INTEGER, 0, "-9223372036854775808"},
    {"select 7::int2", VALUE_INTEGER, 0, "7"}, {"select 4294967295::oid", VALUE_INTEGER, 0, "4294967295"},
    {"select 0.1::float8", VALUE_REAL, 0, "0.10000000000000001"}, {"select 0.5::float4", VALUE_REAL, 0, "0.5"},
    {"select 'NaN'::float8", VALUE_REAL, 0, "nan"}, {"select '-Infinity'::float8", VALUE_REAL, 0, "-inf"},
    {"select 123456789012345678901234567890.123450::numeric", VALUE_NUMERIC, 0, "123456789012345678901234567890.123450"},
    {"select 'NaN'::numeric", VALUE_NUMERIC, 0, "NaN"}, {"select true", VALUE_BOOLEAN, 0, "true"},
    {"select '{\"a\": 1}'::json", VALUE_JSON, 0, "{\"a\": 1}"}, {"select '[1,2]'::jsonb", VALUE_JSON, 0, "[1, 2]"},
    {"select ''::text", VALUE_TEXT, 0, ""}, {"select date '2024-02-29'", VALUE_TEXT, 0, "2024-02-29"},
    {"select '\\x6869'::bytea", VALUE_BYTES, 0, "hi"}, {"select ''::bytea", VALUE_BYTES, 0, ""},
    {"select '{1,NULL,3}'::int[]", VALUE_ARRAY, VALUE_INTEGER, "{1,NULL,3}"},
    {"select '{{1,2},{3,4}}'::int8[]", VALUE_ARRAY, VALUE_INTEGER, "{{1,2},{3,4}}"},
    {"select '{}'::text[]", VALUE_ARRAY, VALUE_TEXT, "{}"}, {"select array['a,b', null]", VALUE_ARRAY, VALUE_TEXT, "{\"a,b\",NULL}"},
    {"select array[1.5::float8]", VALUE_ARRAY, VALUE_REAL, "{1.5}"}, {"select array[true]", VALUE_ARRAY, VALUE_BOOLEAN, "{t}"},
    {"select array['{}'::jsonb]", VALUE_ARRAY, VALUE_JSON, "{\"{}\"}"}, {"select array[1.10]", VALUE_ARRAY, VALUE_NUMERIC, "{1.10}"},
    {"select array['00000000-0000-0000-0000-000000000000'::uuid]", VALUE_ARRAY, VALUE_TEXT, "{00000000-0000-0000-0000-000000000000}"},
    {"select array['\\x00'::bytea]", VALUE_ARRAY, VALUE_BYTES, "{\"\\\\x00\"}"},
    {"select '{a,b}'::mood[]", VALUE_TEXT, 0, "{a,b}"}, {"select 5::posint", VALUE_INTEGER, 0, "5"}};
  TEST("cells come as their column's type says") {
    CHECK(execute(&w, conn, "create type mood as enum ('a', 'b'); create domain posint as int check (value > 0)"));
    for (size_t i = 0; i < sizeof cells / sizeof *cells; i++) is_cell(cells[i].sql, cells[i].type, cells[i].element, cells[i].text);
    CHECK(execute(&w, conn, "drop type mood; drop domain posint"));
  }
  TEST("a box array says that its delimiter is a semicolon") {
    struct value v;
    struct db_result *r = with("select array['(1,1),(0,0)'::box]", NULL, 0);
    D->cell(r, 0, 0, &v);
    CHECK(v.type == VALUE_ARRAY && v.delimiter == ';');
    D->free_result(r);
  }
  TEST("bytea comes decoded in both of its formats") {
    struct value v;
    for (int i = 0; i < 2; i++) {
      CHECK(execute(&w, conn, i ? "set bytea_output = escape" : "set bytea_output = hex"));
      struct db_result *r = with("select '\\x00ff5c61275c3031'::bytea", NULL, 0);
      D->cell(r, 0, 0, &v);
      CHECK(v.type == VALUE_BYTES && v.len == 8 && memcmp(v.text, "\0\377\\a'\\01", 8) == 0);
      D->free_result(r);
    }
    CHECK(execute(&w, conn, "reset bytea_output"));
  }
}

static void column_specs(void) {
  struct column c;
  TEST("duplicate columns are all there") {
    struct db_result *r = with("select 1 as a, 2 as a", NULL, 0);
    D->column(r, 1, &c);
    CHECK(D->columns(r) == 2 && strcmp(c.name, "a") == 0);
    CHECK_TEXT(cell_text(r, 0, 1), "2");
    D->free_result(r);
  }
  TEST("rows without columns are counted") {
    struct db_result *r = with("select from generate_series(1, 3)", NULL, 0);
    CHECK(D->columns(r) == 0 && D->rows(r) == 3 && D->affected(r) == 3);
    D->free_result(r);
  }
  TEST("1,600 columns come back") {
    char *sql = malloc(32 * 1600), *at = sql;
    at += sprintf(at, "select ");
    for (int i = 0; i < 1600; i++) at += sprintf(at, "%s%d as c%d", i ? "," : "", i, i);
    struct db_result *r = with(sql, NULL, 0);
    CHECK_INT(D->columns(r), 1600);
    D->column(r, 1599, &c);
    CHECK_TEXT(c.name, "c1599");
    CHECK_TEXT(cell_text(r, 0, 1599), "1599");
    D->free_result(r);
    free(sql);
  }
}

static const char *echo(const char *sql, struct param p) {
  struct db_result *r = with(sql, &p, 1);
  static char text[256];
  snprintf(text, sizeof text, "%s", r ? cell_text(r, 0, 0) : e.sqlstate);
  D->free_result(r);
  return text;
}

static struct param real_of(double x) { return (struct param){.type = PARAM_REAL, .real = x}; }
static struct param int_of(int64_t x) { return (struct param){.type = PARAM_INTEGER, .integer = x}; }
static struct param text_of(enum param_type type, const char *x) { return (struct param){.type = type, .text = x, .len = strlen(x)}; }

static void param_specs(void) {
  TEST("numbers take the type that the statement gives them") {
    CHECK_TEXT(echo("select $1::int8", int_of(INT64_MIN)), "-9223372036854775808");
    CHECK_TEXT(echo("select $1::int8", int_of(INT64_MAX)), "9223372036854775807");
    CHECK_TEXT(echo("select $1::int4", real_of(3.0)), "3");
    CHECK_TEXT(echo("select substr('abcdef', $1)", int_of(4)), "def");
    CHECK_TEXT(echo("select $1::float8", real_of(0.1)), "0.10000000000000001");
    CHECK_TEXT(echo("select $1::float8", real_of(1e300)), "1.0000000000000001e+300");
    CHECK_TEXT(echo("select $1::float8", real_of(-0.0)), "-0");
    CHECK_TEXT(echo("select $1::float8", real_of((double)NAN)), "nan");
    CHECK_TEXT(echo("select $1::float8", real_of(-HUGE_VAL)), "-inf");
    CHECK_TEXT(echo("select $1::numeric", real_of(2.5)), "2.5");
  }
  TEST("booleans, json and bytes are typed") {
    struct param yes = {.type = PARAM_BOOLEAN, .boolean = true};
    struct param bytes = {.type = PARAM_BYTES, .text = "\0\1'\377", .len = 4};
    CHECK_TEXT(echo("select pg_typeof($1)::text", yes), "boolean");
    CHECK_TEXT(echo("select not $1", yes), "false");
    CHECK_TEXT(echo("select pg_typeof($1)::text", text_of(PARAM_JSON, "{}")), "jsonb");
    CHECK_TEXT(echo("select $1 -> 'a'", text_of(PARAM_JSON, "{\"a\": [1]}")), "[1]");
    CHECK_TEXT(echo("select encode($1, 'hex')", bytes), "000127ff");
    CHECK_TEXT(echo("select length($1)", (struct param){.type = PARAM_BYTES}), "0");
  }
  TEST("arrays are typed by their elements") {
    struct param p = text_of(PARAM_ARRAY, "{1,2,NULL}");
    static const char *const names[] = {"bigint[]", "double precision[]", "text[]"};
    static const enum param_type elements[] = {PARAM_INTEGER, PARAM_REAL, PARAM_TEXT};
    for (int i = 0; i < 3; i++) {
      p.element = elements[i];
      CHECK_TEXT(echo("select pg_typeof($1)::text", p), names[i]);
    }
    p.element = PARAM_NULL;
    CHECK_TEXT(echo("select array_length($1::int[], 1)", p), "3");
    struct param flags = text_of(PARAM_ARRAY, "{t,f}");
    flags.element = PARAM_BOOLEAN;
    CHECK_TEXT(echo("select $1", flags), "{t,f}");
  }
  TEST("nil is NULL, first and last") {
    struct param p[3] = {{.type = PARAM_NULL}, {.type = PARAM_INTEGER, .integer = 5}, {.type = PARAM_NULL}};
    struct db_result *r = with("select $1::int, $2::int, $3::text", p, 3);
    CHECK_TEXT(cell_text(r, 0, 0), "NULL");
    CHECK_TEXT(cell_text(r, 0, 1), "5");
    CHECK_TEXT(cell_text(r, 0, 2), "NULL");
    D->free_result(r);
  }
  TEST("65,535 parameters go through") {
    size_t room = 65535 * 8 + 64;
    char *sql = malloc(room), *at = sql;
    struct param *p = calloc(65535, sizeof *p);
    at += sprintf(at, "select cardinality(array[");
    for (int i = 0; i < 65535; i++) {
      p[i] = text_of(PARAM_TEXT, "x");
      at += sprintf(at, "%s$%d", i ? "," : "", i + 1);
    }
    sprintf(at, "])");
    struct db_result *r = with(sql, p, 65535);
    CHECK(r && strcmp(cell_text(r, 0, 0), "65535") == 0);
    D->free_result(r);
    free(sql);
    free(p);
  }
}

void type_specs(void) {
  world_open(&w, NULL, &e);
  conn = must_connect(&w);
  cell_specs();
  column_specs();
  param_specs();
  TEST("types leave the connection clean") {
    CHECK(D->status(conn) == DB_IDLE);
    goodbye(&w, conn);
  }
  world_close(&w);
}
