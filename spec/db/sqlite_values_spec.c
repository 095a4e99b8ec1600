/* What goes in and comes out: values, parameters, errors, commands. */
#include "sqlite_support.h"

/* ---- values ---- */

static void type_specs(struct db_conn *c) {
  TEST("values come back as they were stored, declared booleans and JSON as such") {
    CHECK(done(c, "create table v(i integer, r real, t text, b blob, n, yes Boolean, j JSON, jb jsonb, d numeric);"
                  "insert into v values (-9223372036854775808, 1.5, 'tëxt', x'00ff00', null, true, '{\"a\":[1,2]}', 'not json', 1.25),"
                  "(9223372036854775807, 1e300, '', x'', 'x', 2, '[', 'null', 'abc')"));
    struct db_result *r = query(c, "select * from v");
    if (!CHECK(r != NULL)) return;
    CHECK_INT(D->rows(r), 2);
    CHECK_INT(D->columns(r), 9);
    CHECK_INT(cell(r, 0, 0).integer, INT64_MIN);
    CHECK_INT(cell(r, 1, 0).integer, INT64_MAX);
    CHECK(cell(r, 0, 1).type == VALUE_REAL && cell(r, 0, 1).real == 1.5);
    CHECK(text_is(cell(r, 0, 2), VALUE_TEXT, "tëxt"));
    CHECK(text_is(cell(r, 1, 2), VALUE_TEXT, ""));
    struct value blob = cell(r, 0, 3);
    CHECK(blob.type == VALUE_BYTES && blob.len == 3 && memcmp(blob.text, "\0\xff\0", 3) == 0);
    CHECK(cell(r, 1, 3).type == VALUE_BYTES && cell(r, 1, 3).len == 0 && cell(r, 1, 3).text);
    CHECK_INT(cell(r, 0, 4).type, VALUE_NULL);
    CHECK(cell(r, 0, 5).type == VALUE_BOOLEAN && cell(r, 0, 5).boolean);
    CHECK(cell(r, 1, 5).type == VALUE_INTEGER && cell(r, 1, 5).integer == 2);
    CHECK(text_is(cell(r, 0, 6), VALUE_JSON, "{\"a\":[1,2]}"));
    CHECK(text_is(cell(r, 1, 6), VALUE_TEXT, "["));
    CHECK(text_is(cell(r, 0, 7), VALUE_TEXT, "not json"));
    CHECK(text_is(cell(r, 1, 7), VALUE_JSON, "null"));
    CHECK(cell(r, 0, 8).type == VALUE_REAL && cell(r, 0, 8).real == 1.25);
    CHECK(text_is(cell(r, 1, 8), VALUE_TEXT, "abc"));
    D->free_result(r);
  }
  TEST("columns are named and typed by their declarations, a result of no rows too") {
    struct column k;
    struct db_result *r = query(c, "select i, yes as \"Yes\", j, n, 1 + 1, t, r from v where 0");
    if (!CHECK(r != NULL)) return;
    static const enum value_type types[] = {VALUE_INTEGER, VALUE_BOOLEAN, VALUE_JSON, VALUE_TEXT, VALUE_TEXT, VALUE_TEXT, VALUE_REAL};
    CHECK_INT(D->rows(r), 0);
    for (int i = 0; i < 7; i++) {
      D->column(r, i, &k);
      CHECK_INT(k.type, types[i]);
    }
    D->column(r, 1, &k);
    CHECK_TEXT(k.name, "Yes");
    D->free_result(r);
  }
}

static void json_spec(struct db_conn *c) {
  static const char *const good[] = {"1", " -0.5e+3 ", "\"\\u00e9\\n\"", "[]", "{}", "[[],{\"a\":{}}]",
                                     "{\"a\":1,\"b\":[true,false,null]}"};
  static const char *const bad[] = {"", "01", "1.", "-", "[1,]", "{\"a\"}", "{\"a\":1,}", "{1:2}", "[1}", "tru", "\"a", "\"\\x\"",
                                    "\"\\u12\"", "1 2", "[1 2]", "{,}", "nul", "]", "1e", "\"\n\""};
  TEST("only a JSON text in a column declared JSON comes back as JSON") {
    CHECK(done(c, "create table j(d json, t text)"));
    for (size_t i = 0; i < sizeof good / sizeof *good + sizeof bad / sizeof *bad; i++) {
      bool is = i < sizeof good / sizeof *good;
      const char *json = is ? good[i] : bad[i - sizeof good / sizeof *good];
      struct param p[] = {text(json)};
      CHECK(done(c, "delete from j"));
      D->free_result(with(c, "insert into j values ($1, $1)", p, 1));
      struct db_result *r = query(c, "select d, t from j");
      if (!CHECK(r != NULL)) return;
      enum value_type type = cell(r, 0, 0).type;
      bool numeric = type == VALUE_INTEGER || type == VALUE_REAL; /* the column's affinity has made a number of it */
      if (!CHECK(numeric ? is || json[0] == '0' || json[0] == '1' : type == (is ? VALUE_JSON : VALUE_TEXT))) printf("%s\n", json);
      CHECK_INT(cell(r, 0, 1).type, VALUE_TEXT);
      D->free_result(r);
    }
  }
  TEST("JSON nested past all bounds is text, and nothing overflows") {
    enum { DEEP = 100000 };
    char *deep = malloc(DEEP);
    memset(deep, '[', DEEP);
    struct param p = {.type = PARAM_JSON, .text = deep, .len = DEEP};
    CHECK(done(c, "delete from j"));
    D->free_result(with(c, "insert into j(d) values ($1)", &p, 1));
    struct db_result *r = query(c, "select d from j");
    CHECK(r && cell(r, 0, 0).type == VALUE_TEXT && cell(r, 0, 0).len == DEEP);
    D->free_result(r);
    free(deep);
  }
}

static void param_specs(struct db_conn *c) {
  TEST("parameters go by name: $2 before $1 is right, and one may come twice") {
    struct param p[] = {text("one"), text("two"), text("three")};
    struct db_result *r = with(c, "select $2, $1, $3, $2", p, 3);
    if (!CHECK(r != NULL)) return;
    CHECK(text_is(cell(r, 0, 0), VALUE_TEXT, "two"));
    CHECK(text_is(cell(r, 0, 1), VALUE_TEXT, "one"));
    CHECK(text_is(cell(r, 0, 2), VALUE_TEXT, "three"));
    CHECK(text_is(cell(r, 0, 3), VALUE_TEXT, "two"));
    D->free_result(r);
    r = with(c, "select ?2, ?1", p, 2);
    CHECK(r && text_is(cell(r, 0, 0), VALUE_TEXT, "two"));
    D->free_result(r);
    r = with(c, "select ?, ?", p, 2);
    CHECK(r && text_is(cell(r, 0, 0), VALUE_TEXT, "one") && text_is(cell(r, 0, 1), VALUE_TEXT, "two"));
    D->free_result(r);
  }
  TEST("every type of parameter arrives") {
    struct param p[] = {{.type = PARAM_NULL},
                        number(INT64_MIN),
                        {.type = PARAM_REAL, .real = 0.1},
                        {.type = PARAM_BOOLEAN, .boolean = true},
                        text(""),
                        {.type = PARAM_BYTES, .text = "\0\1", .len = 2},
                        {.type = PARAM_JSON, .text = "[1]", .len = 3},
                        {.type = PARAM_ARRAY, .text = "[1,2]", .len = 5},
                        {.type = PARAM_BYTES}};
    struct db_result *r = with(c, "select $1, $2, $3, $4, $5, $6, $7, $8, typeof($4), typeof($9), length($9)", p, 9);
    if (!CHECK(r != NULL)) return;
    CHECK_INT(cell(r, 0, 0).type, VALUE_NULL);
    CHECK_INT(cell(r, 0, 1).integer, INT64_MIN);
    CHECK(cell(r, 0, 2).real == 0.1);
    CHECK_INT(cell(r, 0, 3).integer, 1);
    CHECK(text_is(cell(r, 0, 4), VALUE_TEXT, ""));
    CHECK(cell(r, 0, 5).type == VALUE_BYTES && cell(r, 0, 5).len == 2);
    CHECK(text_is(cell(r, 0, 6), VALUE_TEXT, "[1]"));
    CHECK(text_is(cell(r, 0, 7), VALUE_TEXT, "[1,2]"));
    CHECK(text_is(cell(r, 0, 8), VALUE_TEXT, "integer"));
    CHECK(text_is(cell(r, 0, 9), VALUE_TEXT, "blob"));
    D->free_result(r);
  }
}

static void param_refusal_specs(struct db_conn *c) {
  TEST("too few, too many or misnamed parameters are refused, and so are casts of PostgreSQL's and NUL in text") {
    struct param p[] = {text("one"), {.type = PARAM_TEXT, .text = "a\0b", .len = 3}};
    CHECK(with(c, "select $2", p, 1) == NULL);
    CHECK_TEXT(last.sqlstate, "08P01");
    CHECK_TEXT(last.message, "the statement has 2 parameters, and 1 was given");
    CHECK_INT(last.kind, POOL_QUERY);
    CHECK(with(c, "select 1", p, 1) == NULL);
    CHECK_TEXT(last.sqlstate, "08P01");
    CHECK(with(c, "select :name", p, 1) == NULL);
    CHECK_TEXT(last.sqlstate, "42P02");
    CHECK(with(c, "select $0", p, 1) == NULL);
    CHECK_TEXT(last.sqlstate, "42P02");
    CHECK(with(c, "select $1::int", p, 1) == NULL);
    CHECK_TEXT(last.sqlstate, "42601");
    CHECK(with(c, "select $1, $2", p, 2) == NULL);
    CHECK_TEXT(last.sqlstate, "22021");
    CHECK(strstr(last.message, "$2") != NULL);
    CHECK_INT(D->status(c), DB_IDLE);
  }
  TEST("five megabytes go in and come out") {
    enum { LARGE = 5 << 20 };
    char *large = malloc(LARGE);
    memset(large, 'x', LARGE);
    struct param p = {.type = PARAM_TEXT, .text = large, .len = LARGE};
    struct db_result *r = with(c, "select $1, length($1)", &p, 1);
    CHECK(r && cell(r, 0, 0).len == LARGE && memcmp(cell(r, 0, 0).text, large, LARGE) == 0);
    D->free_result(r);
    CHECK_INT(integer(c, "select 1"), 1);
    free(large);
  }
}

/* ---- errors and commands ---- */

static void error_specs(struct db_conn *c) {
  CHECK(done(c, "create table task(id integer primary key, title text not null unique, n integer check (n > 0), a, b, unique(a, b));"
                "create table child(id integer references task(id)); insert into task values (1, 'x', 1, 1, 1);"
                "create unique index odd on task(n + 100);"
                "create trigger stop before delete on task begin select raise(abort, 'not this one'); end"));
  TEST("constraints are named as PostgreSQL names them") {
    CHECK(fails(c, "insert into task(title) values ('x')", "23505"));
    CHECK_TEXT(last.table, "task");
    CHECK_TEXT(last.column, "title");
    CHECK_TEXT(last.message, "UNIQUE constraint failed: task.title");
    CHECK(fails(c, "insert into task(id, title) values (1, 'y')", "23505"));
    CHECK_TEXT(last.column, "id");
    CHECK(fails(c, "insert into task(title, a, b) values ('z', 1, 1)", "23505"));
    CHECK_TEXT(last.table, "task");
    CHECK_TEXT(last.column, "");
    CHECK(fails(c, "insert into task(title) values (null)", "23502"));
    CHECK_TEXT(last.column, "title");
    CHECK(fails(c, "insert into task(title, n) values ('n', 0)", "23514"));
    CHECK_TEXT(last.constraint, "n > 0");
    CHECK(fails(c, "insert into task(title, n) values ('n', 1)", "23505"));
    CHECK_TEXT(last.constraint, "odd");
    CHECK(fails(c, "insert into child values (99)", "23503"));
    CHECK(fails(c, "delete from task", "P0001"));
    CHECK_TEXT(last.message, "not this one");
    CHECK(!last.retryable && !last.disconnect);
  }
  TEST("mistakes in a statement have PostgreSQL's states, names and positions") {
    CHECK(fails(c, "selec 1", "42601"));
    CHECK_INT(last.position, 1);
    CHECK(fails(c, "select 'é', from task", "42601"));
    CHECK_INT(last.position, 13);
    CHECK(fails(c, "select 1 from (", "42601"));
    CHECK(fails(c, "select * from none", "42P01"));
    CHECK_TEXT(last.table, "none");
    CHECK(fails(c, "select missing from task", "42703"));
    CHECK_TEXT(last.column, "missing");
    CHECK(fails(c, "insert into task(missing) values (1)", "42703"));
    CHECK_TEXT(last.table, "task");
    CHECK_TEXT(last.column, "missing");
    CHECK(fails(c, "select nofunction(1)", "42883"));
    CHECK(fails(c, "create table task(a)", "42P07"));
    CHECK(fails(c, "commit", "25P01"));
    CHECK(fails(c, "insert into task(id, title) values ('abc', 'abc')", "42804"));
    CHECK(fails(c, "select zeroblob(2000000000)", "54000"));
    CHECK(fails(c, "select abs(-9223372036854775808)", "22003"));
  }
  TEST("several statements in a query are refused, before any has run; a script takes them") {
    CHECK(fails(c, "insert into child values (1); select 1", "42601"));
    CHECK_TEXT(last.message, "cannot insert multiple commands into a prepared statement");
    CHECK_INT(integer(c, "select count(*) from child; -- and that is all\n ; /* really */ "), 0);
    struct db_result *r = script(c, "insert into child values (1); /* ; */ select 5 as five;\n select 7, 8; -- end");
    CHECK(r && D->rows(r) == 1 && D->columns(r) == 2 && cell(r, 0, 1).integer == 8);
    D->free_result(r);
    r = script(c, " -- nothing\n");
    CHECK(r && D->columns(r) == 0 && strcmp(D->command(r), "") == 0);
    D->free_result(r);
    CHECK(script(c, "delete from child; select * from none; delete from task") == NULL);
    CHECK_TEXT(last.sqlstate, "42P01");
    CHECK_INT(integer(c, "select count(*) from child"), 1); /* all of it or nothing */
    CHECK(done(c, "delete from child"));
  }
}

static bool answers(struct db_conn *c, const char *sql, const char *command, int64_t affected) {
  struct db_result *r = query(c, sql);
  bool as_said = r && strcmp(D->command(r), command) == 0 && D->affected(r) == affected;
  if (!as_said) printf("%s: %s %lld\n", sql, r ? D->command(r) : last.message, r ? (long long)D->affected(r) : 0);
  D->free_result(r);
  return as_said;
}

static void command_specs(struct db_conn *c) {
  TEST("a result says its command and how many rows it touched") {
    CHECK(answers(c, "create table k(a)", "CREATE TABLE", 0));
    CHECK(answers(c, "/* a */ -- b\n insert into k values (1), (2), (3)", "INSERT", 3));
    CHECK(answers(c, "select * from k", "SELECT", 3));
    CHECK(answers(c, "values (1), (2)", "SELECT", 2));
    CHECK(answers(c, "with x(a) as (select 9) insert into k select a from x", "INSERT", 1));
    CHECK(answers(c, "with \"insert\"(a) as (select ')') select * from \"insert\"", "SELECT", 1));
    CHECK(answers(c, "update k set a = a + 1 returning a", "UPDATE", 4));
    CHECK(answers(c, "Delete from k where a > 3", "DELETE", 2));
    CHECK(answers(c, "create unique index ka on k(a)", "CREATE INDEX", 0));
    CHECK(answers(c, "drop index ka", "DROP INDEX", 0));
    CHECK(answers(c, "begin", "BEGIN", 0));
    CHECK(answers(c, "end", "COMMIT", 0));
    CHECK(answers(c, "", "", 0));
    CHECK(answers(c, "drop table k", "DROP TABLE", 0));
  }
}

void sqlite_values_specs(struct db_conn *c) {
  type_specs(c);
  json_spec(c);
  param_specs(c);
  param_refusal_specs(c);
  error_specs(c);
  command_specs(c);
}
