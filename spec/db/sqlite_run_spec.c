/* How statements run: transactions, streams, the cache, cancels, locks. */
#include "sqlite_support.h"

/* ---- transactions and resets ---- */

static void transaction_specs(struct home *h, struct db *db, struct db_conn *c) {
  char buffer[64];
  TEST("a transaction begins immediate unless it only reads") {
    CHECK_TEXT(D->begin(false, NULL, false, buffer, sizeof buffer), "BEGIN IMMEDIATE");
    CHECK_TEXT(D->begin(true, "serializable", true, buffer, sizeof buffer), "BEGIN /* READ ONLY */");
    CHECK_TEXT(D->begin_sql, "BEGIN IMMEDIATE");
    CHECK(D->json_arrays);
  }
  TEST("the status follows the transaction, and a reset rolls it back") {
    CHECK(done(c, "create table x(a)"));
    D->free_result(query(c, "begin immediate"));
    CHECK_INT(D->status(c), DB_IN_TRANSACTION);
    CHECK(D->needs_reset(c));
    CHECK(done(c, "insert into x values (1)"));
    CHECK(fails(c, "select * from none", "42P01"));
    CHECK_INT(D->status(c), DB_IN_TRANSACTION); /* SQLite goes on after an error */
    CHECK_INT(reset(c), DB_DONE);
    CHECK(D->result(c) == NULL);
    CHECK_INT(D->status(c), DB_IDLE);
    CHECK(!D->needs_reset(c));
    CHECK_INT(integer(c, "select count(*) from x"), 0);
    CHECK_INT(reset(c), DB_DONE); /* nothing to undo */
  }
  TEST("discard also drops what is temporary, attached or cached; none refuses to undo") {
    struct db_settings s = {.reset = RESET_DISCARD};
    D->configure(db, &s);
    CHECK(D->needs_reset(c));
    CHECK(done(c, "create temp table \"a\"\"b\"(a); create temp view w as select 1;"
                  "create temp table s(a integer primary key autoincrement);"
                  "create temp trigger g after insert on s begin select 1; end;"
                  "attach ':memory:' as other; pragma foreign_keys = off; begin"));
    CHECK_INT(reset(c), DB_DONE);
    CHECK_INT(integer(c, "select count(*) from sqlite_temp_master where name not like 'sqlite%'"), 0);
    CHECK_INT(integer(c, "select count(*) from pragma_database_list where name not in ('main', 'temp')"), 0);
    CHECK_INT(integer(c, "pragma foreign_keys"), 1);
    s.reset = RESET_NONE;
    D->configure(db, &s);
    CHECK_INT(reset(c), DB_DONE);
    CHECK(done(c, "begin"));
    CHECK_INT(reset(c), DB_FAILED);
    CHECK(strstr(last.message, "reset is none") != NULL);
    s.reset = RESET_ROLLBACK;
    D->configure(db, &s);
    CHECK_INT(reset(c), DB_DONE);
    CHECK_TEXT(h->log, "");
  }
}

static void read_only_specs(struct db_conn *c) {
  char buffer[64];
  const char *begin = D->begin(true, NULL, false, buffer, sizeof buffer);
  CHECK(done(c, "create table only(a)"));
  TEST("a read-only transaction refuses to write, by whatever way") {
    D->free_result(query(c, begin));
    CHECK(fails(c, "insert into only values (1)", "25006"));
    CHECK_TEXT(last.message, "cannot execute INSERT in a read-only transaction");
    CHECK(fails(c, "create table other(a)", "25006"));
    CHECK(fails(c, "create temp table other(a)", "25006"));
    CHECK(fails(c, "pragma user_version = 3", "25006"));
    CHECK(fails(c, begin, "25001"));
    CHECK(fails(c, "delete from only", "25006"));
    CHECK(script(c, "select 1; delete from only; select 2") == NULL);
    CHECK_TEXT(last.sqlstate, "25006");
    struct db_result *r = query(c, "explain insert into only values (1)");
    CHECK(r && D->rows(r) > 0);
    D->free_result(r);
    CHECK_INT(integer(c, "select count(*) from only"), 0);
    CHECK_INT(D->status(c), DB_IN_TRANSACTION);
    CHECK(done(c, "commit"));
    CHECK(done(c, "insert into only values (1)"));
  }
  TEST("its end, by a rollback, a reset or a script that goes on, is the end of refusing") {
    D->free_result(query(c, begin));
    CHECK(done(c, "savepoint s; rollback to s; release s"));
    CHECK(fails(c, "insert into only values (2)", "25006"));
    CHECK(done(c, "rollback; begin; insert into only values (2); commit; insert into only values (3); select 1"));
    for (int ms = 0; ms <= 5; ms += 5) {
      D->free_result(query(c, begin));
      CHECK(begin_statement(c, FOR_EVER, NULL, 0, false, false));
      if (ms) CHECK(waits(c, ms));
      CHECK_INT(reset(c), DB_DONE);
      CHECK(done(c, "insert into only values (4)"));
    }
    CHECK_INT(integer(c, "select count(*) from only"), 5);
  }
  TEST("a begin of the same words within a writing transaction changes nothing") {
    CHECK(done(c, "begin immediate"));
    CHECK(fails(c, begin, "25001"));
    CHECK(done(c, "insert into only values (6); commit"));
  }
}

static void script_specs(struct db_conn *a, struct db *db) {
  struct db_conn *b = connect_to(db);
  CHECK(done(a, "create table s(a)"));
  TEST("a script that only reads, or writes last, waits for no writer before that") {
    CHECK(done(b, "begin immediate"));
    CHECK(done(a, "select 1; select count(*) from s"));
    CHECK(begin_statement(a, "select 1; insert into s values (1); insert into s values (2)", NULL, 0, true, false));
    CHECK(waits(a, 50));
    CHECK(done(b, "insert into s values (0); commit"));
    CHECK_INT(finish(a, &last), DB_DONE);
    D->free_result(D->result(a));
    CHECK_INT(integer(b, "select count(*) from s"), 3);
  }
  TEST("a script cancelled at any moment has done all or nothing, and holds no lock") {
    for (int i = 0; i < 100; i++) {
      int64_t before = integer(b, "select count(*) from s");
      CHECK(begin_statement(a, "insert into s values (1); insert into s values (2); insert into s values (3)", NULL, 0, true, false));
      for (int spin = 0; spin < i * 50; spin++) (void)D->fd(a);
      D->cancel(a);
      enum db_want want = finish(a, &last);
      D->free_result(D->result(a));
      CHECK_INT(D->status(a), DB_IDLE);
      CHECK_INT(integer(b, "select count(*) from s") - before, want == DB_DONE ? 3 : 0);
      CHECK(done(b, "begin immediate; rollback"));
    }
  }
  TEST("a script that waited in vain for the lock has done nothing, and may be tried again") {
    int64_t before = integer(b, "select count(*) from s");
    CHECK(done(b, "begin immediate"));
    CHECK(script(a, "create table never(a); insert into s values (1)") == NULL);
    CHECK_TEXT(last.sqlstate, "55P03");
    CHECK(last.retryable);
    CHECK_INT(D->status(a), DB_IDLE);
    CHECK(done(b, "rollback"));
    CHECK_INT(integer(a, "select count(*) from s"), before);
  }
  TEST("blanks are SQLite's: a byte order mark is one, an opening comment at the very end is none") {
    CHECK(done(a, "\xef\xbb\xbfvacuum; \xef\xbb\xbf select 1"));
    struct db_result *r = query(a, "\xef\xbb\xbfselect 1; -- \xef\xbb\xbf");
    CHECK(r && strcmp(D->command(r), "SELECT") == 0 && D->affected(r) == 1);
    D->free_result(r);
    CHECK(query(a, "select 1;/*") == NULL && strcmp(last.sqlstate, "42601") == 0);
    CHECK((r = query(a, "select 1;/* ")) != NULL);
    D->free_result(r);
  }
  TEST("a script of many statements takes no time for its length alone") {
    enum { MANY = 20000 };
    char *sql = malloc(MANY * 40 + 1), *at = sql;
    for (int i = 0; i < MANY; i++) at += sprintf(at, "insert into s values (%08d);\n", i);
    long long since = milliseconds();
    CHECK(done(a, sql));
    CHECK(milliseconds() - since < 30000);
    free(sql);
  }
  disconnect(b);
}

/* ---- large, streamed, cached ---- */

static void stream_specs(struct db_conn *c) {
  TEST("100,000 rows at once") {
    struct db_result *r = query(c, SERIES("100000") "select i, 'row ' || i from s");
    if (!CHECK(r != NULL)) return;
    CHECK_INT(D->rows(r), 100000);
    CHECK_INT(D->affected(r), 100000);
    CHECK_INT(cell(r, 99999, 0).integer, 100000);
    CHECK(text_is(cell(r, 77776, 1), VALUE_TEXT, "row 77777"));
    D->free_result(r);
  }
  TEST("a stream comes in batches of 256, in order, to its end") {
    int64_t next = 1;
    int batches = 0;
    bool more = CHECK(begin_statement(c, SERIES("100000") "select i from s", NULL, 0, false, true));
    while (more) {
      if (!CHECK_INT(finish(c, &last), DB_DONE)) break;
      struct db_result *r = D->result(c);
      CHECK(D->rows(r) == (next + 256 <= 100001 ? 256 : 100000 % 256));
      for (int i = 0; i < D->rows(r); i++)
        if (cell(r, i, 0).integer != next++) CHECK(false);
      D->free_result(r);
      batches++;
      more = !D->finished(c);
      CHECK_INT(D->status(c), more ? DB_BUSY : DB_IDLE);
    }
    CHECK_INT(next, 100001);
    CHECK_INT(batches, 391);
  }
  TEST("a stream of exactly one batch is finished with it, an empty one has its columns") {
    CHECK(begin_statement(c, SERIES("256") "select i from s", NULL, 0, false, true));
    CHECK_INT(finish(c, &last), DB_DONE);
    CHECK(D->finished(c));
    D->free_result(D->result(c));
    CHECK(begin_statement(c, "select 1 as one where 0", NULL, 0, false, true));
    CHECK_INT(finish(c, &last), DB_DONE);
    CHECK(D->finished(c));
    struct db_result *r = D->result(c);
    CHECK(D->rows(r) == 0 && D->columns(r) == 1);
    D->free_result(r);
  }
  TEST("a stream left in the middle, its batch taken or not, is reset; what it read stays readable") {
    for (int taken = 0; taken < 2; taken++) {
      CHECK(begin_statement(c, SERIES("100000") "select i from s", NULL, 0, false, true));
      CHECK_INT(finish(c, &last), DB_DONE);
      struct db_result *r = taken ? D->result(c) : NULL;
      CHECK(!D->finished(c));
      CHECK_INT(reset(c), DB_DONE);
      CHECK_INT(D->status(c), DB_IDLE);
      CHECK(D->finished(c));
      CHECK_INT(integer(c, "select 5"), 5);
      if (taken) CHECK_INT(cell(r, 255, 0).integer, 256);
      D->free_result(r);
    }
  }
  TEST("a stream that fails later fails then") {
    CHECK(begin_statement(c, SERIES("1000") "select abs(iif(i = 700, -9223372036854775808, i)) from s", NULL, 0, false, true));
    CHECK_INT(finish(c, &last), DB_DONE);
    D->free_result(D->result(c));
    CHECK_INT(finish(c, &last), DB_DONE);
    D->free_result(D->result(c));
    CHECK_INT(finish(c, &last), DB_FAILED);
    CHECK_TEXT(last.sqlstate, "22003");
    CHECK_INT(D->status(c), DB_IDLE);
  }
}

static char *columns_sql(int count) {
  char *sql = malloc((size_t)count * 2 + 16), *at = sql + sprintf(sql, "select 1");
  for (int i = 1; i < count; i++) at += sprintf(at, ",1");
  return sql;
}

static void column_spec(struct db_conn *c) {
  TEST("2,000 columns are had, 2,001 are an error") {
    char *sql = columns_sql(2000);
    struct db_result *r = query(c, sql);
    CHECK(r && D->columns(r) == 2000 && cell(r, 0, 1999).integer == 1);
    D->free_result(r);
    free(sql);
    sql = columns_sql(2001);
    CHECK(fails(c, sql, "54011"));
    free(sql);
  }
}

static void cache_specs(struct db_conn *c) {
  TEST("a kept statement has an identity, which changes when the table does") {
    CHECK(done(c, "create table g(a)"));
    struct db_result *one = query(c, "select * from g"), *two = query(c, "select * from g"), *other = query(c, "select a from g");
    if (!CHECK(one && two && other)) return;
    CHECK(D->shape(one) != NULL && D->shape(one) == D->shape(two));
    CHECK(D->shape(other) != D->shape(one));
    CHECK(done(c, "alter table g add column b boolean; insert into g values (1, true)"));
    struct db_result *after = query(c, "select * from g");
    CHECK(after && D->columns(after) == 2 && cell(after, 0, 1).type == VALUE_BOOLEAN && D->shape(after) != D->shape(one));
    CHECK_INT(D->columns(one), 1);
    D->free_result(one);
    D->free_result(two);
    D->free_result(other);
    D->free_result(after);
  }
  TEST("more statements than the cache holds, and the same ones again") {
    char sql[64];
    for (int round = 0; round < 3; round++)
      for (int i = 0; i < 100; i++) {
        snprintf(sql, sizeof sql, "select %d + $1", i);
        struct param p = number(round);
        struct db_result *r = with(c, sql, &p, 1);
        if (!CHECK(r && cell(r, 0, 0).integer == i + round)) return;
        D->free_result(r);
      }
  }
}

static const void *shape_of(struct db_conn *c, const char *sql) {
  struct db_result *r = query(c, sql);
  if (!CHECK(r != NULL)) return NULL;
  const void *shape = D->shape(r);
  D->free_result(r);
  return shape;
}

static void eviction_spec(struct db_conn *c) { /* its cache holds 16 */
  TEST("the cache keeps what was used last and lets the rest go") {
    char sql[64];
    const void *old = shape_of(c, "select 'old'"), *used = shape_of(c, "select 'used'");
    for (int i = 0; i < 15; i++) {
      snprintf(sql, sizeof sql, "select 'other %d'", i);
      shape_of(c, sql);
      CHECK(shape_of(c, "select 'used'") == used);
    }
    CHECK(shape_of(c, "select 'old'") != old);
    CHECK(shape_of(c, "select 'used'") == used);
  }
}

/* ---- cancels and locks ---- */

static void cancel_specs(struct db_conn *c) {
  TEST("a statement that would never end is cancelled, and the next one is not") {
    for (int ms = 0; ms <= 40; ms += 20) {
      CHECK(begin_statement(c, FOR_EVER, NULL, 0, false, false));
      if (ms) CHECK(waits(c, ms));
      long long since = milliseconds();
      D->cancel(c);
      CHECK_INT(finish(c, &last), DB_FAILED);
      CHECK(milliseconds() - since < 3000);
      CHECK_INT(last.kind, POOL_CANCELLED);
      CHECK_TEXT(last.sqlstate, "57014");
      CHECK_INT(D->status(c), DB_IDLE);
      CHECK_INT(integer(c, "select 3"), 3);
    }
  }
  TEST("a cancel that comes too late, or with nothing to cancel, hurts nothing") {
    for (int i = 0; i < 200; i++) {
      CHECK(begin_statement(c, "select 4", NULL, 0, false, false));
      if (i % 2) waits(c, 1);
      D->cancel(c);
      enum db_want want = finish(c, &last);
      CHECK(want == DB_DONE || last.kind == POOL_CANCELLED);
      D->free_result(D->result(c));
      D->cancel(c);
      CHECK_INT(integer(c, SERIES("2000") "select count(*) from s"), 2000);
    }
  }
  TEST("a stream is cancelled between its batches, however little is left; what it changed is undone") {
    CHECK(done(c, "create table w(a); " SERIES("300") "insert into w select i from s"));
    CHECK(begin_statement(c, "select a from w", NULL, 0, false, true));
    CHECK_INT(finish(c, &last), DB_DONE);
    D->free_result(D->result(c));
    D->cancel(c);
    CHECK_INT(finish(c, &last), DB_FAILED);
    CHECK_INT(last.kind, POOL_CANCELLED);
    CHECK(begin_statement(c, "insert into w select a from w returning a", NULL, 0, false, true));
    CHECK_INT(finish(c, &last), DB_DONE);
    D->free_result(D->result(c));
    D->cancel(c);
    CHECK_INT(finish(c, &last), DB_FAILED);
    CHECK_INT(integer(c, "select count(*) from w"), 300);
  }
  TEST("a long stream is cancelled between its batches") {
    CHECK(begin_statement(c, SERIES("100000") "select i from s", NULL, 0, false, true));
    CHECK_INT(finish(c, &last), DB_DONE);
    D->free_result(D->result(c));
    D->cancel(c);
    CHECK_INT(finish(c, &last), DB_FAILED);
    CHECK_INT(last.kind, POOL_CANCELLED);
    CHECK_INT(D->status(c), DB_IDLE);
  }
  TEST("a reset or a close stops what is running first") {
    CHECK(begin_statement(c, FOR_EVER, NULL, 0, false, false));
    CHECK(waits(c, 5));
    CHECK_INT(reset(c), DB_DONE);
    CHECK_INT(D->status(c), DB_IDLE);
    CHECK_INT(integer(c, "select 6"), 6);
  }
}

static void lock_specs(struct db *db, struct db_conn *a) {
  struct db_conn *b = connect_to(db);
  CHECK(done(a, "create table l(a)"));
  TEST("a lock is waited for, and had when it is given back") {
    CHECK(done(a, "begin immediate; insert into l values (1)"));
    CHECK(begin_statement(b, "insert into l values (2)", NULL, 0, false, false));
    CHECK(waits(b, 50));
    CHECK_INT(integer(a, "select count(*) from l"), 1);
    CHECK(done(a, "commit"));
    CHECK_INT(finish(b, &last), DB_DONE);
    D->free_result(D->result(b));
    CHECK_INT(integer(a, "select count(*) from l"), 2);
  }
  TEST("waiting for a lock is cancelled at once") {
    CHECK(done(a, "begin immediate"));
    CHECK(begin_statement(b, "begin immediate", NULL, 0, false, false));
    CHECK(waits(b, 50));
    long long since = milliseconds();
    D->cancel(b);
    CHECK_INT(finish(b, &last), DB_FAILED);
    CHECK(milliseconds() - since < 3000);
    CHECK_INT(last.kind, POOL_CANCELLED);
    CHECK_INT(D->status(b), DB_IDLE);
  }
  TEST("a lock that is not given back in five seconds is 55P03, to be tried again") {
    long long since = milliseconds();
    CHECK(fails(b, "insert into l values (3)", "55P03"));
    CHECK(milliseconds() - since >= 4900);
    CHECK(last.retryable);
    CHECK_INT(last.kind, POOL_QUERY);
    CHECK_INT(reset(a), DB_DONE);
    CHECK(done(b, "insert into l values (3)"));
  }
  TEST("a transaction that read before another wrote must start again: 40001, at once") {
    CHECK(done(a, "begin"));
    integer(a, "select count(*) from l");
    CHECK(done(b, "insert into l values (4)"));
    long long since = milliseconds();
    CHECK(fails(a, "insert into l values (5)", "40001"));
    CHECK(milliseconds() - since < 3000);
    CHECK_INT(reset(a), DB_DONE);
  }
  disconnect(b);
}

static void turn_specs(struct db *db, struct db_conn *a) {
  static const char *const begins[] = {"begin immediate", "insert into turns values (1)", "insert into turns values (2) returning a"};
  struct db_conn *b = connect_to(db), *c = connect_to(db);
  CHECK(done(a, "create table turns(a)"));
  TEST("who waits to write comes before one who begins again") {
    for (int i = 0; i < 9; i++) {
      CHECK(done(a, "begin immediate"));
      CHECK(begin_statement(b, begins[i % 3], NULL, 0, i % 2, false));
      CHECK(waits(b, 20));
      CHECK(begin_statement(c, "begin immediate", NULL, 0, false, false));
      CHECK(waits(c, 20));
      CHECK(done(a, i % 2 ? "commit" : "rollback"));
      CHECK(begin_statement(a, "begin immediate", NULL, 0, false, false));
      CHECK_INT(finish(b, &last), DB_DONE);
      D->free_result(D->result(b));
      CHECK_INT(reset(b), DB_DONE);
      CHECK_INT(finish(c, &last), DB_DONE);
      D->free_result(D->result(c));
      CHECK(waits(a, 20));
      CHECK_INT(reset(c), DB_DONE);
      CHECK_INT(finish(a, &last), DB_DONE);
      D->free_result(D->result(a));
      CHECK_INT(reset(a), DB_DONE);
    }
  }
  TEST("who leaves the line, or ends with its turn, holds nobody up") {
    CHECK(done(a, "begin immediate"));
    CHECK(begin_statement(b, "begin immediate", NULL, 0, false, false));
    CHECK(waits(b, 20));
    CHECK(begin_statement(c, "begin immediate", NULL, 0, false, false));
    CHECK(waits(c, 20));
    D->cancel(b);
    CHECK_INT(finish(b, &last), DB_FAILED);
    CHECK_INT(last.kind, POOL_CANCELLED);
    D->abandon(c);
    CHECK(begin_statement(b, "begin immediate", NULL, 0, false, false));
    CHECK(waits(b, 20));
    D->abandon(a);
    CHECK_INT(finish(b, &last), DB_DONE);
    D->free_result(D->result(b));
    CHECK(done(b, "rollback"));
  }
  disconnect(b);
}

/* One of ten that write at once: begins, inserts, commits, over and over. */
struct writer {
  struct db_conn *c;
  int at; /* statements done */
};

enum { WRITERS = 10, WRITES = 20 };

static void writer_send(struct writer *w) {
  static const char *const sqls[] = {"begin immediate", "insert into many values ($1)", "commit"};
  struct param p = number(w->at);
  CHECK(begin_statement(w->c, sqls[w->at % 3], &p, w->at % 3 == 1, false, false));
}

/* True while it has more to do. */
static bool writer_step(struct writer *w) {
  struct pool_error e;
  enum db_want want = D->step(w->c, &e);
  if (want == DB_READ) return true;
  if (!CHECK_INT(want, DB_DONE)) return false;
  D->free_result(D->result(w->c));
  if (++w->at == 3 * WRITES) return false;
  writer_send(w);
  return true;
}

static void writers_spec(struct db *db, struct db_conn *c) {
  TEST("ten connections that write at once each get their turn") {
    struct writer writers[WRITERS] = {{NULL, 0}};
    struct pollfd fds[WRITERS];
    int left = WRITERS;
    CHECK(done(c, "create table many(a)"));
    for (int i = 0; i < WRITERS; i++) {
      writers[i].c = connect_to(db);
      writer_send(&writers[i]);
      fds[i] = (struct pollfd){.fd = D->fd(writers[i].c), .events = POLLIN};
    }
    while (left > 0 && CHECK(poll(fds, WRITERS, 20000) > 0))
      for (int i = 0; i < WRITERS; i++) {
        if (fds[i].fd < 0 || !fds[i].revents || writer_step(&writers[i])) continue;
        fds[i].fd = -1;
        left--;
      }
    for (int i = 0; i < WRITERS; i++) disconnect(writers[i].c);
    CHECK_INT(integer(c, "select count(*) from many"), WRITERS * WRITES);
  }
}

static void depth_spec(struct db_conn *c) {
  TEST("what recurses inside SQLite has stack enough") {
    enum { PAIRS = 24000 };
    char *pattern = malloc(2 * PAIRS + 1);
    for (int i = 0; i < PAIRS; i++) memcpy(pattern + 2 * i, "%a", 3);
    struct param p = text(pattern);
    struct db_result *r = with(c, "select replace($1, '%', '') like $1", &p, 1);
    CHECK(r && cell(r, 0, 0).integer == 1);
    D->free_result(r);
    free(pattern);
  }
}

void sqlite_run_specs(struct home *h, struct db *db, struct db_conn *c) {
  transaction_specs(h, db, c);
  read_only_specs(c);
  script_specs(c, db);
  stream_specs(c);
  column_spec(c);
  cache_specs(c);
  eviction_spec(c);
  cancel_specs(c);
  lock_specs(db, c);
  turn_specs(db, connect_to(db));
  writers_spec(db, c);
  depth_spec(c);
}
