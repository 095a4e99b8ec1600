/*
** postgres_cache_spec: the cache of prepared statements, against a server where things happen behind its back
*/
#include "db/postgres_support.h"

#include <stdlib.h>

static struct world w;
static struct db_conn *conn, *other;
static struct pool_error e;

static const char *count(const char *where) {
  char sql[256];
  static char text[64];
  snprintf(sql, sizeof sql, "select count(*) from pg_prepared_statements where %s /* %d */", where, rand());
  struct statement s = statement_of(sql);
  s.script = true; /* not prepared itself */
  struct db_result *r = run(&w, conn, &s, &e);
  text_copy(text, sizeof text, r ? cell_text(r, 0, 0) : e.message);
  D->free_result(r);
  return text;
}

static const void *shape(const char *sql) {
  struct statement s = statement_of(sql);
  struct db_result *r = run(&w, conn, &s, &e);
  const void *p = r ? D->shape(r) : NULL;
  D->free_result(r);
  return p;
}

static void reuse_specs(void) {
  TEST("a statement is prepared once and keeps its shape") {
    const void *first = shape("select 1 as reuse");
    CHECK(first != NULL);
    CHECK(shape("select 1 as reuse") == first);
    CHECK(shape("select 2 as reuse") != first);
    CHECK_TEXT(count("statement = 'select 1 as reuse'"), "1");
  }
  TEST("other parameter types are another plan") {
    struct param p = {.type = PARAM_BOOLEAN, .boolean = true};
    struct statement s = statement_of("select $1::text as poly");
    s.params = &p;
    s.nparams = 1;
    D->free_result(run(&w, conn, &s, &e));
    p = (struct param){.type = PARAM_INTEGER, .integer = 3};
    struct db_result *r = run(&w, conn, &s, &e);
    CHECK(r && strcmp(cell_text(r, 0, 0), "3") == 0);
    D->free_result(r);
    CHECK_TEXT(count("statement like '%as poly' and statement not like '%count%'"), "2");
  }
  TEST("a statement that cannot be parsed is not kept") {
    CHECK(fails(&w, conn, "select broken from", &e));
    CHECK(fails(&w, conn, "select broken from", &e));
    CHECK_TEXT(e.sqlstate, "42601");
    CHECK_TEXT(count("statement like 'select broken%'"), "0");
  }
  TEST("a statement that fails when run stays prepared") {
    CHECK(fails(&w, conn, "select 1/0 as zero", &e) && fails(&w, conn, "select 1/0 as zero", &e));
    CHECK_TEXT(count("statement = 'select 1/0 as zero'"), "1");
  }
}

static void eviction_specs(void) {
  char sql[64];
  TEST("the least recently used goes, also at the server") {
    for (int i = 0; i < 40; i++) {
      snprintf(sql, sizeof sql, "select %d as evict", i);
      CHECK_INT(atoi(one(&w, conn, sql)), i);
      CHECK_TEXT(one(&w, conn, "select 'kept' as evict"), "kept");
    }
    CHECK(atoi(count("true")) <= 9);
    CHECK_TEXT(count("statement = 'select ''kept'' as evict'"), "1");
  }
  TEST("in a long transaction the dropped ones are bounded, and go after it") {
    CHECK(execute(&w, conn, "begin"));
    for (int i = 0; i < 60; i++) {
      snprintf(sql, sizeof sql, "select %d as longtx", i);
      CHECK_INT(atoi(one(&w, conn, sql)), i);
    }
    CHECK(atoi(count("true")) <= 18);
    CHECK(execute(&w, conn, "commit"));
    for (int i = 0; i < 10; i++) {
      snprintf(sql, sizeof sql, "select %d as after", i);
      one(&w, conn, sql);
    }
    CHECK(atoi(count("true")) <= 9);
  }
}

static void behind_our_back_specs(void) {
  TEST("a changed result type is prepared anew, without an error") {
    CHECK(execute(&w, other, "drop table if exists plan; create table plan (a int); insert into plan values (1)"));
    const void *before = shape("select * from plan");
    CHECK(before && shape("select * from plan") == before);
    CHECK(execute(&w, other, "alter table plan add column b text default 'new'"));
    struct statement s = statement_of("select * from plan");
    struct db_result *r = run(&w, conn, &s, &e);
    CHECK(r && D->columns(r) == 2 && D->shape(r) != before);
    D->free_result(r);
    CHECK_TEXT(one(&w, conn, "select * from plan"), "1");
  }
  TEST("in a transaction it is an error, once") {
    CHECK(execute(&w, other, "alter table plan add column c int"));
    CHECK(execute(&w, conn, "begin"));
    CHECK(fails(&w, conn, "select * from plan", &e));
    CHECK_TEXT(e.sqlstate, "0A000");
    CHECK(execute(&w, conn, "rollback; begin"));
    CHECK_TEXT(one(&w, conn, "select * from plan"), "1");
    CHECK(execute(&w, conn, "commit"));
  }
}

static void thrown_away_specs(void) {
  TEST("DEALLOCATE ALL behind our back is recovered from") {
    CHECK_TEXT(one(&w, conn, "select 'x' as back"), "x");
    CHECK(execute(&w, conn, "deallocate all"));
    CHECK_TEXT(one(&w, conn, "select 'x' as back"), "x");
    CHECK_TEXT(one(&w, conn, "select * from plan"), "1");
    CHECK(execute(&w, conn, "do 'begin execute ''deallocate all''; end'"));
    CHECK(execute(&w, conn, "begin"));
    CHECK(fails(&w, conn, "select 'x' as back", &e));
    CHECK_TEXT(e.sqlstate, "26000");
    CHECK(execute(&w, conn, "rollback; begin"));
    CHECK_TEXT(one(&w, conn, "select * from plan"), "1");
    CHECK_TEXT(one(&w, conn, "select 'x' as back"), "x");
    CHECK(execute(&w, conn, "commit"));
  }
  TEST("DEALLOCATE ALL and DISCARD ALL by a statement of ours cost the next transaction nothing") {
    const char *const ways[] = {"deallocate all", "discard all"};
    for (int i = 0; i < 4; i++) {
      CHECK_TEXT(one(&w, conn, "select 'x' as back"), "x");
      if (i < 2) CHECK(execute(&w, conn, ways[i]));
      else CHECK_TEXT(one(&w, conn, ways[i - 2]), "no row");
      CHECK(execute(&w, conn, "begin"));
      CHECK_TEXT(one(&w, conn, "select 'x' as back"), "x");
      CHECK_TEXT(one(&w, conn, "select * from plan"), "1");
      CHECK(execute(&w, conn, "commit"));
    }
  }
  TEST("and so they do when nobody waited for the end of that statement") {
    const char *const ways[] = {"deallocate all; select pg_sleep(20)", "discard all"};
    for (int i = 0; i < 2; i++) {
      CHECK_TEXT(one(&w, conn, "select 'x' as back"), "x");
      struct statement s = statement_of(ways[i]);
      s.script = i == 0;
      CHECK(D->send(conn, &s, &e));
      if (i == 0) pause_for(50); /* the first of the two is over */
      CHECK(await_reset(&w, conn, &e));
      CHECK(execute(&w, conn, "begin"));
      CHECK_TEXT(one(&w, conn, "select 'x' as back"), "x");
      CHECK(execute(&w, conn, "commit"));
    }
    CHECK(execute(&w, conn, "drop table plan"));
  }
  TEST("a user's own EXECUTE of nothing stays an error") {
    CHECK(fails(&w, conn, "execute nothing_like_it", &e));
    CHECK_TEXT(e.sqlstate, "26000");
    CHECK_TEXT(one(&w, conn, "select 'x' as back"), "x");
  }
  TEST("what cannot run in a transaction block can be prepared") {
    CHECK_TEXT(one(&w, conn, "vacuum"), "no row");
    CHECK_TEXT(one(&w, conn, "vacuum"), "no row");
  }
}

static void off_specs(void) {
  TEST("with the cache off, or a transaction pooler, nothing is prepared") {
    for (int i = 0; i < 2; i++) {
      struct world plain = {.settings = {.statement_cache = i ? 16 : -1, .pooler = i ? POOLER_TRANSACTION : POOLER_NONE}};
      CHECK(world_open(&plain, NULL, &e));
      struct db_conn *c = must_connect(&plain);
      struct statement s = statement_of("select count(*) from pg_prepared_statements");
      struct db_result *r = run(&plain, c, &s, &e);
      CHECK(r && strcmp(cell_text(r, 0, 0), "0") == 0 && D->shape(r) == NULL);
      D->free_result(r);
      goodbye(&plain, c);
      world_close(&plain);
    }
  }
}

void cache_specs(void) {
  w.settings.statement_cache = 8;
  world_open(&w, NULL, &e);
  conn = must_connect(&w);
  other = must_connect(&w);
  reuse_specs();
  eviction_specs();
  behind_our_back_specs();
  thrown_away_specs();
  off_specs();
  TEST("the cache goes with its connection") {
    goodbye(&w, conn);
    goodbye(&w, other);
  }
  world_close(&w);
}
