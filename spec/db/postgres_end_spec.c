/*
** postgres_end_spec: how connections end: killed, idle, closed. Nothing stays at the server, no descriptor here
*/
#include "db/postgres_support.h"

#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>

static struct world w;
static struct db_conn *conn, *killer;
static struct pool_error e;

static int descriptors(void) {
  int n = 0;
  DIR *dir = opendir("/proc/self/fd");
  while (readdir(dir)) n++;
  closedir(dir);
  return n;
}

static void terminate(struct db_conn *victim) {
  char sql[128];
  snprintf(sql, sizeof sql, "select pg_terminate_backend(%d)", D->pid(victim));
  CHECK(execute(&w, killer, sql));
}

static bool hears(void) {
  struct pollfd at = {.fd = D->fd(conn), .events = POLLIN};
  return poll(&at, 1, 10000) > 0;
}

static enum db_want idle_until_dead(void) {
  enum db_want want;
  do want = hears() ? D->idle(conn, &e) : DB_DONE;
  while (want == DB_READ);
  return want;
}

static void loss_specs(void) {
  TEST("a backend terminated in mid-query: lost, with the server's reason") {
    struct statement s = statement_of("select pg_sleep(20)");
    conn = must_connect(&w);
    CHECK(D->send(conn, &s, &e));
    D->step(conn, &e);
    terminate(conn);
    CHECK(await(&w, conn, &e) == DB_FAILED);
    CHECK_INT(e.kind, POOL_LOST);
    CHECK_TEXT(e.sqlstate, "57P01");
    CHECK(e.disconnect && !e.retryable && D->status(conn) == DB_DEAD);
    D->abandon(conn);
  }
  TEST("a backend killed with -9 in mid-query: lost") {
    struct statement s = statement_of("select pg_sleep(20)");
    conn = must_connect(&w);
    CHECK(D->send(conn, &s, &e));
    D->step(conn, &e);
    kill(D->pid(conn), SIGKILL);
    CHECK(await(&w, conn, &e) == DB_FAILED);
    CHECK(e.kind == POOL_LOST && e.disconnect && D->status(conn) == DB_DEAD);
    D->abandon(conn);
    do { /* the whole server restarts after a crash */
      pause_for(50);
      conn = connect_to(&w, &e);
    } while (!conn && !e.permanent);
    D->abandon(conn);
    D->abandon(killer);
    killer = must_connect(&w);
  }
  TEST("an idle connection that was terminated is seen, with its reason") {
    conn = must_connect(&w);
    terminate(conn);
    CHECK(idle_until_dead() == DB_FAILED);
    CHECK(e.kind == POOL_LOST && e.disconnect && D->status(conn) == DB_DEAD);
    CHECK_TEXT(e.sqlstate, "57P01");
    struct statement s = statement_of("select 1");
    CHECK(!D->send(conn, &s, &e));
    CHECK(e.kind == POOL_LOST && e.retryable);
    D->abandon(conn);
  }
}

static void idle_specs(void) {
  TEST("idle_session_timeout concerns its connection alone") {
    conn = must_connect(&w);
    CHECK(execute(&w, conn, "set idle_session_timeout = 20"));
    CHECK(idle_until_dead() == DB_FAILED);
    CHECK_TEXT(e.sqlstate, "57P05");
    CHECK(!e.disconnect);
    D->abandon(conn);
  }
  TEST("a notification on an idle connection is no harm") {
    conn = must_connect(&w);
    CHECK(execute(&w, conn, "listen ch"));
    CHECK(execute(&w, killer, "notify ch, 'x'"));
    CHECK(hears() && D->idle(conn, &e) == DB_READ);
    CHECK_TEXT(one(&w, conn, "select 1"), "1");
    goodbye(&w, conn);
  }
  TEST("a reset, a ping and a statement on a dead connection fail at once") {
    conn = must_connect(&w);
    terminate(conn);
    CHECK(idle_until_dead() == DB_FAILED);
    CHECK(D->needs_reset(conn) && !await_reset(&w, conn, &e));
    D->ping(conn);
    CHECK(await(&w, conn, &e) == DB_FAILED && e.kind == POOL_LOST);
    D->close(conn);
    CHECK(await(&w, conn, &e) == DB_DONE);
    D->abandon(conn);
  }
  TEST("a ping on a terminated connection that nobody watched says lost") {
    conn = must_connect(&w);
    terminate(conn);
    hears();
    D->ping(conn);
    CHECK(await(&w, conn, &e) == DB_FAILED && e.kind == POOL_LOST);
    CHECK_TEXT(e.sqlstate, "57P01");
    D->abandon(conn);
  }
}

static void close_specs(void) {
  TEST("after close the server has let go, every time") {
    int left = 0;
    for (int i = 0; i < 100; i++) {
      char sql[128];
      conn = must_connect(&w);
      snprintf(sql, sizeof sql, "select count(*) from pg_stat_activity where pid = %d", D->pid(conn));
      goodbye(&w, conn);
      left += strcmp(one(&w, killer, sql), "0") != 0;
    }
    CHECK_INT(left, 0);
  }
  TEST("close while a statement runs ends it") {
    struct statement s = statement_of("select pg_sleep(20)");
    usec before = clock_now();
    conn = must_connect(&w);
    CHECK(D->send(conn, &s, &e));
    D->step(conn, &e);
    goodbye(&w, conn);
    CHECK(clock_now() - before < 10 * USEC_PER_SECOND);
  }
  TEST("close in a transaction, and in a stream") {
    struct statement s = statement_of("select i from generate_series(1, 1000000) i");
    conn = must_connect(&w);
    CHECK(execute(&w, conn, "begin"));
    s.stream = true;
    D->free_result(run(&w, conn, &s, &e));
    goodbye(&w, conn);
  }
}

void end_specs(void) {
  world_open(&w, NULL, &e);
  killer = must_connect(&w);
  pause_for(100); /* the workers of the tests before are letting go of their descriptors */
  int before = descriptors();
  loss_specs();
  idle_specs();
  close_specs();
  TEST("nothing is left at the server but the one who looks") {
    CHECK_TEXT(one(&w, killer, "select count(*) from pg_stat_activity where application_name = 'pool' and pid <> pg_backend_pid()"), "0");
  }
  TEST("no descriptor is left") {
    pause_for(100);
    CHECK_INT(descriptors(), before);
  }
  goodbye(&w, killer);
  world_close(&w);
}
