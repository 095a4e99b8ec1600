/*
** postgres_cancel_spec: cancels, and resets from every state
*/
#include "db/postgres_support.h"

#include <signal.h>
#include <stdlib.h>

static struct world w;
static struct db_conn *conn;
static struct pool_error e;

enum { ROUNDS = 2000 };

static bool begin(const char *sql) {
  struct statement s = statement_of(sql);
  return CHECK(D->send(conn, &s, &e));
}

static void cancel_ends(void) {
  TEST("a cancelled statement fails with cancelled, and the connection is fit") {
    begin("select pg_sleep(20)");
    CHECK(D->step(conn, &e) == DB_READ);
    D->cancel(conn);
    CHECK(await(&w, conn, &e) == DB_FAILED);
    CHECK_INT(e.kind, POOL_CANCELLED);
    CHECK_TEXT(e.sqlstate, "57014");
    CHECK(D->status(conn) == DB_IDLE);
  }
  TEST("a statement that shrugs off a cancel is asked again") {
    begin("do $$ begin for i in 1..1 loop begin perform pg_sleep(20); exception when query_canceled then null; end; end loop;"
          " perform pg_sleep(20); end $$");
    D->step(conn, &e);
    D->cancel(conn);
    CHECK(await(&w, conn, &e) == DB_FAILED);
    CHECK_INT(e.kind, POOL_CANCELLED);
  }
  TEST("a cancel with nothing under way does nothing") {
    D->cancel(conn);
    CHECK_TEXT(one(&w, conn, "select 1"), "1");
  }
  TEST("a cancel never hits the next statement, in 2,000 rounds") {
    int hit = 0, cancelled = 0;
    for (int i = 0; i < ROUNDS; i++) {
      begin(i % 2 ? "select 1 as victim" : "select pg_sleep(0.0008) as victim");
      D->step(conn, &e);
      D->cancel(conn);
      D->cancel(conn);
      enum db_want want = await(&w, conn, &e);
      cancelled += want == DB_FAILED;
      D->free_result(D->result(conn));
      if (want == DB_FAILED && e.kind != POOL_CANCELLED) hit++;
      struct statement s = statement_of("select 2 as bystander");
      struct db_result *r = run(&w, conn, &s, &e);
      if (!r) hit++;
      D->free_result(r);
    }
    CHECK_INT(hit, 0);
    printf("of %d cancels %d were in time\n", ROUNDS, cancelled);
  }
  TEST("a connection can be abandoned with its cancel under way") {
    struct db_conn *victim = must_connect(&w);
    struct statement s = statement_of("select pg_sleep(20)");
    CHECK(D->send(victim, &s, &e));
    D->cancel(victim);
    D->abandon(victim);
  }
}

static void fit_again(void) {
  CHECK(await_reset(&w, conn, &e));
  CHECK(D->status(conn) == DB_IDLE && !D->needs_reset(conn));
  CHECK(D->result(conn) == NULL);
  CHECK_TEXT(one(&w, conn, "select count(*) from pg_stat_activity where pid = pg_backend_pid() and backend_xid is null"), "1");
}

/* Fit, or given up where the cancel met the COPY: never one answer behind. */
static void copy_in_reset(void) {
  struct db_conn *copying = must_connect(&w);
  for (int i = 0; i < 200; i++) {
    CHECK(execute(&w, copying, "create temp table if not exists rcopy (n int)"));
    struct statement s = statement_of("copy rcopy from stdin");
    CHECK(D->send(copying, &s, &e));
    if (await_reset(&w, copying, &e)) {
      CHECK_TEXT(one(&w, copying, "select 'in step'"), "in step");
      continue;
    }
    CHECK(D->status(copying) == DB_DEAD);
    D->abandon(copying);
    copying = must_connect(&w);
  }
  D->abandon(copying);
}

static void reset_specs(void) {
  TEST("an idle connection is reset without a round trip") { fit_again(); }
  TEST("a transaction is rolled back") {
    CHECK(execute(&w, conn, "begin; create table should_not_stay (n int)"));
    CHECK(D->needs_reset(conn));
    fit_again();
    CHECK_TEXT(one(&w, conn, "select to_regclass('should_not_stay')"), "NULL");
  }
  TEST("a failed transaction is rolled back") {
    CHECK(execute(&w, conn, "begin"));
    CHECK(fails(&w, conn, "select 1/0", &e));
    fit_again();
  }
  TEST("a running statement is cancelled") {
    usec before = clock_now();
    begin("select pg_sleep(20)");
    fit_again();
    CHECK(clock_now() - before < 10 * USEC_PER_SECOND);
  }
  TEST("a statement in a transaction is cancelled and rolled back") {
    CHECK(execute(&w, conn, "begin"));
    begin("select pg_sleep(20)");
    D->step(conn, &e);
    fit_again();
  }
  TEST("an answer that nobody read is thrown away") {
    begin("select 1 as unread");
    pause_for(20);
    fit_again();
  }
  TEST("a stream given up in its middle is cancelled") {
    struct statement s = statement_of("select i, repeat('x', 1000) from generate_series(1, 10000000) i");
    s.stream = true;
    struct db_result *r = run(&w, conn, &s, &e);
    CHECK(r && !D->finished(conn));
    D->free_result(r);
    fit_again();
  }
  TEST("a batch that nobody took is freed") {
    struct statement s = statement_of("select i from generate_series(1, 100000) i");
    s.stream = true;
    CHECK(D->send(conn, &s, &e));
    CHECK(await(&w, conn, &e) == DB_DONE);
    fit_again();
  }
  TEST("a cancel under way is waited for") {
    begin("select pg_sleep(20)");
    D->step(conn, &e);
    D->cancel(conn);
    fit_again();
  }
  TEST("a COPY begun is ended") {
    copy_in_reset();
    begin("copy (select i from generate_series(1, 1000000) i) to stdout");
    pause_for(20);
    fit_again();
  }
  TEST("a first use, prepare and all, is drained") {
    begin("select pg_sleep(0) as fresh");
    fit_again();
    CHECK_TEXT(one(&w, conn, "select 'ok' from (select pg_sleep(0) as fresh) x"), "ok");
  }
}

static void setting_specs(void) {
  TEST("discard throws away what a session left") {
    w.settings.reset = RESET_DISCARD;
    D->configure(w.db, &w.settings);
    CHECK(execute(&w, conn, "create temp table discarded (n int); set work_mem = '123MB'; select pg_advisory_lock(7)"));
    CHECK_TEXT(one(&w, conn, "select 'p' as prepared"), "p");
    CHECK(await_reset(&w, conn, &e));
    CHECK_TEXT(one(&w, conn, "select to_regclass('discarded')"), "NULL");
    CHECK(strcmp(one(&w, conn, "show work_mem"), "123MB") != 0);
    CHECK_TEXT(one(&w, conn, "select 'p' as prepared"), "p");
    CHECK_TEXT(one(&w, conn, "select count(*) from pg_locks where locktype = 'advisory'"), "0");
  }
  TEST("none fails when there is something to undo; the server is waited for then as at any goodbye") {
    w.settings.reset = RESET_NONE;
    D->configure(w.db, &w.settings);
    CHECK(await_reset(&w, conn, &e));
    CHECK(execute(&w, conn, "begin"));
    int pid = D->pid(conn);
    CHECK(!await_reset(&w, conn, &e));
    CHECK(D->status(conn) != DB_DEAD && strstr(e.message, "reset = none") != NULL);
    kill(pid, SIGSTOP);
    D->close(conn);
    CHECK_INT(D->step(conn, &e), DB_READ);
    pause_for(20);
    CHECK_INT(D->step(conn, &e), DB_READ);
    kill(pid, SIGCONT);
    CHECK_INT(await(&w, conn, &e), DB_DONE);
  }
}

void cancel_specs(void) {
  world_open(&w, NULL, &e);
  conn = must_connect(&w);
  cancel_ends();
  reset_specs();
  setting_specs();
  D->abandon(conn);
  world_close(&w);
}
