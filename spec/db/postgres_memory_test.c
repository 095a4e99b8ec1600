/*
** postgres_memory_test: the PostgreSQL driver when memory ends: its own and libpq's, OpenSSL's, the resolver's and the threads'. Against
** the real server. Each trial lets the n-th allocation fail while a connection opens, or does all that one does. What fails says
** that memory is why, or, where libpq gives the connection up, that it is lost; what does not fail is right; afterwards, with memory back,
** a reset makes the connection fit, or it is known to be dead.
**
** Under the sanitizers only the driver's own allocations fail.
*/
#include <stdlib.h>

#include "db/postgres_support.h"
#include "support/scarce.h"

enum { CACHE = 4 };

struct trial {
  struct world world;
  struct db_conn *conn;
  bool stopped; /* something has failed: the rest is not tried */
};

static const char *place; /* the URL that trials open */

/* ---- what fails ---- */

static bool tells_of_memory(const struct pool_error *e) {
  return strcmp(e->sqlstate, "53200") == 0 || strstr(e->message, "memory") || strstr(e->message, "Memory") ||
         strstr(e->message, "could not calculate client proof") || strstr(e->message, "could not verify server signature") ||
         strstr(e->message, "could not translate host name") || strstr(e->message, "no thread"); /* others' words for it */
}

static bool stop(struct trial *t, const struct pool_error *e, const char *doing) {
  bool lost = e->kind == POOL_LOST && t->conn && D->status(t->conn) == DB_DEAD;
  if (!CHECK(scarce_failed() && (lost || tells_of_memory(e))))
    printf("  %s: %s %s %s\n", doing, pool_err_name(e->kind), e->sqlstate, e->message);
  t->stopped = true;
  return false;
}

static bool ended(struct trial *t, const char *doing) {
  struct pool_error e = {0};
  return await(&t->world, t->conn, &e) == DB_DONE || stop(t, &e, doing);
}

/* ---- a connection's work ---- */

static struct db_result *ask(struct trial *t, const char *sql, const struct param *params, int count, bool script) {
  struct pool_error e = {0};
  struct statement s = statement_of(sql);
  s.params = params;
  s.nparams = count;
  s.script = script;
  if (t->stopped) return NULL;
  if (!D->send(t->conn, &s, &e)) return stop(t, &e, sql), NULL;
  return ended(t, sql) ? D->result(t->conn) : NULL;
}

static void script_of(struct trial *t, const char *sql) { D->free_result(ask(t, sql, NULL, 0, true)); }

static void expect(struct trial *t, const char *sql, const char *text) {
  struct db_result *r = ask(t, sql, NULL, 0, false);
  if (r && CHECK_INT(D->rows(r), 1)) CHECK_TEXT(cell_text(r, 0, 0), text);
  D->free_result(r);
}

static void expect_error(struct trial *t, const char *sql, const char *state) {
  struct pool_error e = {0};
  struct statement s = statement_of(sql);
  if (t->stopped) return;
  if (D->send(t->conn, &s, &e)) CHECK_INT(await(&t->world, t->conn, &e), DB_FAILED);
  if (strcmp(e.sqlstate, state) != 0) stop(t, &e, sql);
}

static void parameters(struct trial *t) {
  static char long_text[3000];
  memset(long_text, 'x', sizeof long_text - 1);
  const struct param params[] = {
    {.type = PARAM_NULL},
    {.type = PARAM_INTEGER, .integer = -42},
    {.type = PARAM_REAL, .real = 2.5},
    {.type = PARAM_BOOLEAN, .boolean = true},
    {.type = PARAM_BYTES, .text = "by\0tes", .len = 6},
    {.type = PARAM_JSON, .text = "[1]", .len = 3},
    {.type = PARAM_ARRAY, .element = PARAM_INTEGER, .text = "{1,2}", .len = 5},
    {.type = PARAM_TEXT, .text = "text", .len = 4},
    {.type = PARAM_TEXT, .text = long_text, .len = sizeof long_text - 1}};
  struct db_result *r = ask(t, "select $1::text, $2::int8, $3::float8, $4, $5, $6, $7, $8::text, length($9)", params, 9, false);
  if (!r) return;
  static const char *const texts[] = {"NULL", "-42", "2.5", "true", NULL, "[1]", "{1,2}", "text", "2999"};
  for (int i = 0; i < 9; i++)
    if (texts[i]) CHECK_TEXT(cell_text(r, 0, i), texts[i]);
  struct value bytes;
  D->cell(r, 0, 4, &bytes);
  bool decoded = bytes.type == VALUE_BYTES && bytes.len == 6 && memcmp(bytes.text, "by\0tes", 6) == 0;
  CHECK(decoded || (scarce_failed() && bytes.type == VALUE_TEXT)); /* as the server wrote it, without memory to decode it */
  D->free_result(r);
}

static void many_rows(struct trial *t) {
  struct db_result *r = ask(t, "select i, 'row ' || i as name from generate_series(1, 500) i", NULL, 0, false);
  if (!r) return;
  struct column column;
  D->column(r, 1, &column);
  CHECK_TEXT(column.name, "name");
  CHECK_INT(D->rows(r), 500);
  for (int i = 0; i < D->rows(r); i++) CHECK(atoi(cell_text(r, i, 0)) == i + 1 && atoi(cell_text(r, i, 1) + 4) == i + 1);
  D->free_result(r);
}

/* All of it, or as far as it goes. */
static void stream(struct trial *t, int most) {
  struct pool_error e = {0};
  struct statement s = statement_of("select i, 'row ' || i from generate_series(1, 270) i");
  int seen = 0;
  s.stream = true;
  if (t->stopped) return;
  if (!D->send(t->conn, &s, &e)) {
    stop(t, &e, "a stream");
    return;
  }
  do {
    if (!ended(t, "a stream")) return;
    struct db_result *r = D->result(t->conn);
    for (int i = 0; r && i < D->rows(r); i++) CHECK_INT(atoi(cell_text(r, i, 0)), ++seen);
    D->free_result(r);
  } while (!D->finished(t->conn) && seen < most);
  CHECK(D->finished(t->conn) ? seen == 270 : seen >= most);
}

/* Every field that an error can have. */
static void a_full_error(struct trial *t) {
  struct pool_error e = {0};
  struct statement s = statement_of("insert into memory_task(id, name) values (1, 'again')");
  if (t->stopped) return;
  if (D->send(t->conn, &s, &e)) CHECK_INT(await(&t->world, t->conn, &e), DB_FAILED);
  if (strcmp(e.sqlstate, "23505") != 0) {
    stop(t, &e, s.sql);
    return;
  }
  bool whole = e.detail[0] && strcmp(e.constraint, "memory_task_pkey") == 0 && strcmp(e.table, "memory_task") == 0 && e.schema[0];
  CHECK(whole || scarce_failed()); /* the fields that libpq had no memory for are missing */
}

static void cancelled(struct trial *t) {
  struct pool_error e = {0};
  struct statement s = statement_of("select pg_sleep(0.3)");
  if (t->stopped) return;
  if (!D->send(t->conn, &s, &e)) {
    stop(t, &e, "a cancel");
    return;
  }
  D->cancel(t->conn);
  if (await(&t->world, t->conn, &e) == DB_DONE) CHECK(scarce_failed()), D->free_result(D->result(t->conn)); /* the cancel was not sent */
  else if (strcmp(e.sqlstate, "57014") != 0) stop(t, &e, "a cancel");
}

/* false: the connection is gone, and says so. */
static bool put_in_order(struct trial *t, const char *doing) {
  struct pool_error e = {0};
  if (D->status(t->conn) == DB_DEAD) return false;
  D->reset(t->conn);
  if (await(&t->world, t->conn, &e) == DB_DONE) {
    CHECK_INT(D->status(t->conn), DB_IDLE);
    return true;
  }
  stop(t, &e, doing);
  return false;
}

static void work(struct trial *t) {
  script_of(t, "create temp table memory_task(id int primary key, name text not null); insert into memory_task values (1, 'one')");
  parameters(t);
  expect(t, "select name from memory_task", "one");
  expect(t, "select name from memory_task", "one"); /* prepared by now */
  many_rows(t);
  a_full_error(t);
  expect_error(t, "selec", "42601");
  expect_error(t, "copy memory_task from stdin", "0A000");
  for (int i = 0; i < CACHE + 2; i++) {
    char sql[32], text[16];
    snprintf(sql, sizeof sql, "select %d", i);
    snprintf(text, sizeof text, "%d", i);
    expect(t, sql, text);
  }
  script_of(t, "do $$ begin raise notice 'a notice'; raise warning 'a warning'; end $$");
  stream(t, 270);
  script_of(t, "begin; set local work_mem = 1000");
  stream(t, 256);
  if (!t->stopped) put_in_order(t, "a reset");
  expect_error(t, "select * from memory_task", "42P01"); /* discarded */
  expect(t, "select 0", "0"); /* and what was prepared */
  if (!t->stopped) D->ping(t->conn), ended(t, "a ping");
  cancelled(t);
}

/* ---- trials ---- */

static bool make(struct trial *t) {
  struct pool_error e = {0};
  t->world.patience = 3000; /* an answer that libpq has lost never comes */
  t->world.settings.reset = RESET_DISCARD;
  t->world.settings.statement_cache = CACHE;
  if (world_open(&t->world, place, &e)) return true;
  CHECK_INT(e.kind, POOL_SETTINGS);
  return stop(t, &e, "create");
}

static bool open_one(struct trial *t) {
  struct pool_error e = {0};
  t->conn = D->open(t->world.db, &e);
  if (t->conn && await(&t->world, t->conn, &e) == DB_DONE) return true;
  CHECK(e.kind == POOL_CONNECT && !e.permanent);
  stop(t, &e, "open");
  if (t->conn) D->abandon(t->conn);
  t->conn = NULL;
  return false;
}

/* With memory back. */
static void check_afterwards(struct trial *t) {
  t->stopped = false;
  if (!t->world.db) make(t);
  if (t->conn && !put_in_order(t, "the reset afterwards")) D->abandon(t->conn), t->conn = NULL;
  if (!t->conn) open_one(t);
  CHECK(t->conn && !t->stopped);
  expect(t, "select 7", "7");
  expect_error(t, "select * from memory_task", "42P01");
  script_of(t, "select 1; select 2");
  CHECK(!t->stopped);
  goodbye(&t->world, t->conn);
  t->world.slowest_step = 0; /* proofs on a busy machine: others look for blocking */
  world_close(&t->world);
}

static void try_create(void *user) {
  struct trial t = {.conn = NULL};
  (void)user;
  scarce_on();
  make(&t);
  scarce_off();
  if (t.world.db) world_close(&t.world);
}

static void try_open(void *user) {
  struct trial t = {.conn = NULL};
  (void)user;
  make(&t);
  scarce_on();
  if (open_one(&t)) expect(&t, "select 1", "1");
  scarce_off();
  check_afterwards(&t);
}

static void try_work(void *user) {
  struct trial t = {.conn = NULL};
  (void)user;
  make(&t);
  open_one(&t);
  scarce_on();
  work(&t);
  scarce_off();
  check_afterwards(&t);
}

static void try_end(void *user) {
  struct trial t = {.conn = NULL};
  struct pool_error e = {0};
  struct statement s = statement_of("select pg_sleep(0.3)");
  bool abandon = user != NULL;
  make(&t);
  open_one(&t);
  CHECK(D->send(t.conn, &s, &e));
  D->step(t.conn, &e);
  scarce_on();
  if (!abandon) D->close(t.conn), CHECK_INT(await(&t.world, t.conn, &e), DB_DONE);
  D->abandon(t.conn);
  scarce_off();
  world_close(&t.world);
}

/* Threads at once leave stacks that later ones use again: what a stack costs is not a leak. */
static void warm_up(void) {
  struct trial t = {.conn = NULL};
  struct db_conn *c[4];
  struct pool_error e;
  make(&t);
  for (int i = 0; i < 4; i++) c[i] = D->open(t.world.db, &e); /* each with a name to be looked up */
  for (int i = 0; i < 4; i++) await(&t.world, c[i], &e), goodbye(&t.world, c[i]);
  t.world.slowest_step = 0;
  world_close(&t.world);
}

int main(int argc, char **argv) {
  char socket[1024], named[1024];
  bool all = scarce_all(argc, argv);
  const struct url_parts by_socket = {0},
                         by_name = {.host = "localhost", .options = "&sslmode=disable&gssencmode=disable&application_name=memory"};
  url_of(&by_socket, socket, sizeof socket);
  url_of(&by_name, named, sizeof named);
  place = named;
  TEST("a database that cannot be made for want of memory says so") {
    warm_up();
    scarce_sweep("create", try_create, NULL);
  }
  TEST("a name cannot be looked up, a password not be proved: the open fails, and the next one does not") {
    scarce_sweep_thin("open by name", try_open, NULL, all ? 1 : 17, all ? 200 : 3); /* a proof takes 4096 rounds */
  }
  place = socket;
  TEST("an open that is short of memory fails, and the next one does not") scarce_sweep_by("open", try_open, NULL, all ? 1 : 3);
  TEST("a connection that is short of memory says so, or that it is lost, and works again or is known to be dead") {
    scarce_sweep_by("a connection's work", try_work, NULL, all ? 1 : 31);
  }
  TEST("a connection is closed and abandoned without memory") {
    scarce_sweep("close", try_end, NULL);
    scarce_sweep("abandon", try_end, argv);
  }
  return check_done();
}
