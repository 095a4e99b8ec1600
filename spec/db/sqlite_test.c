/*
** The SQLite driver's specs: driven as the engine drives it, with poll() on its descriptor, on real files in a directory of
** its own.
*/
#include "sqlite_support.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

struct pool_error last;

/* ---- opening ---- */

static int mode_of(const char *path) {
  struct stat info;
  return stat(path, &info) == 0 ? (int)(info.st_mode & 0777) : -1;
}

static void open_specs(struct home *h) {
  char path[128];
  struct db *db = database(h, h->url, 16, RESET_ROLLBACK);
  mode_t mask = umask(0);
  struct db_conn *c = connect_to(db);
  TEST("the file, its log and its index are the owner's alone, whatever the umask") {
    CHECK(done(c, "create table t(a); insert into t values (1)"));
    CHECK_INT(mode_of(h->file), 0600);
    snprintf(path, sizeof path, "%s-wal", h->file);
    CHECK_INT(mode_of(path), 0600);
    snprintf(path, sizeof path, "%s-shm", h->file);
    CHECK_INT(mode_of(path), 0600);
  }
  umask(mask);
  TEST("a connection has a write-ahead log, foreign keys and synchronous = normal") {
    struct db_result *r = query(c, "pragma journal_mode");
    CHECK(r && text_is(cell(r, 0, 0), VALUE_TEXT, "wal"));
    D->free_result(r);
    CHECK_INT(integer(c, "pragma foreign_keys"), 1);
    CHECK_INT(integer(c, "pragma synchronous"), 1);
    CHECK_TEXT(h->log, "");
    CHECK_INT(D->pid(c), 0);
    CHECK_INT(D->size_limit(db), INT_MAX);
    struct settings s;
    settings_defaults(&pool_settings_table, &s);
    D->fit(db, &s);
    CHECK(s.size == 10 && s.max_overflow == 20 && s.recycle > 0 && s.shrink_after > 0);
  }
  TEST("a ping is answered, and gives no result") {
    struct pool_error e;
    D->ping(c);
    CHECK_INT(finish(c, &e), DB_DONE);
    CHECK(D->result(c) == NULL);
    CHECK_INT(D->status(c), DB_IDLE);
  }
  disconnect(c);
  D->destroy(db);
}

static bool refuses(struct home *h, const char *url, const char *words) {
  struct pool_error e = {0};
  struct db *db = database(h, url, 16, RESET_ROLLBACK);
  struct db_conn *c = D->open(db, &e);
  enum db_want want = finish(c, &e);
  bool as_said = want == DB_FAILED && e.kind == POOL_CONNECT && e.permanent && strstr(e.message, words) && D->status(c) == DB_DEAD;
  if (!as_said) printf("%s: kind %d: %s\n", url, e.kind, e.message);
  D->abandon(c);
  D->destroy(db);
  return as_said;
}

/* As a user who may do nothing here: root may do everything. */
static bool by_stranger(struct home *h, bool (*holds)(struct home *h)) {
  pid_t child = fork();
  if (child == 0) {
    if (getuid() == 0 && setuid(65534) != 0) _exit(2);
    bool ok = holds(h);
    fflush(stdout);
    _exit(ok ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  return status == 0;
}

static bool no_permission(struct home *h) { return refuses(h, h->url, "no permission"); }

static bool no_log(struct home *h) {
  struct db *db = database(h, h->url, 16, RESET_ROLLBACK);
  struct db_conn *c = connect_to(db);
  bool ok = integer(c, "select count(*) from sqlite_master") == 0;
  disconnect(c);
  D->destroy(db);
  return ok && strncmp(h->log, "warn: SQLite: no write-ahead log here", 37) == 0;
}

/* In the file, wherever it stands. */
static void file_patch(const char *path, const char *from, const char *to) {
  static char bytes[65536];
  FILE *f = fopen(path, "r+b");
  size_t len = fread(bytes, 1, sizeof bytes, f);
  for (char *at = bytes; (at = memmem(at, len - (size_t)(at - bytes), from, strlen(from))); at++) memcpy(at, to, strlen(to));
  rewind(f);
  CHECK(fwrite(bytes, 1, len, f) == len && fclose(f) == 0);
}

static void broken_spec(struct home *h) {
  TEST("what a broken file says of itself is one line of the log") {
    struct db *db = database(h, h->url, 0, RESET_ROLLBACK);
    struct db_conn *c = connect_to(db);
    D->free_result(query(c, "create table qqq(a)"));
    disconnect(c);
    file_patch(h->file, "CREATE TABLE", "CREATE TABLX");
    file_patch(h->file, "qqq", "q\nq");
    h->log[0] = '\0';
    disconnect(connect_to(db));
    D->destroy(db);
    CHECK(strstr(h->log, "(q q)") != NULL && strchr(h->log, '\n') == h->log + strlen(h->log) - 1);
    CHECK_INT(unlink(h->file), 0);
  }
}

static void refusal_specs(struct home *h) {
  char url[256];
  TEST("a missing directory, a directory, a file that is no database: refused for good, saying so") {
    snprintf(url, sizeof url, "sqlite:///%s/none/t.db", h->directory);
    CHECK(refuses(h, url, "does not exist"));
    snprintf(url, sizeof url, "sqlite:///%s", h->directory);
    CHECK(refuses(h, url, "it is a directory"));
    FILE *f = fopen(h->file, "w");
    for (int i = 0; i < 1000; i++) fputs("not a database at all\n", f);
    fclose(f);
    CHECK(refuses(h, h->url, "file is not a database"));
    CHECK_INT(unlink(h->file), 0);
  }
  TEST("a file that may not be written, or not be made, is refused for good") {
    CHECK_INT(chmod(h->directory, 0755), 0);
    CHECK(by_stranger(h, no_permission));
    FILE *f = fopen(h->file, "w");
    fclose(f);
    CHECK_INT(chmod(h->file, 0444), 0);
    CHECK(by_stranger(h, no_permission));
    CHECK_INT(unlink(h->file), 0);
  }
  TEST("where no log can be kept, a line says so and the connection works") {
    FILE *f = fopen(h->file, "w");
    fclose(f);
    CHECK_INT(chmod(h->file, 0666), 0);
    CHECK(by_stranger(h, no_log));
    CHECK_INT(unlink(h->file), 0);
  }
  TEST("mode=ro reads and does not write, and makes no file") {
    snprintf(url, sizeof url, "%s?mode=ro", h->url);
    CHECK(refuses(h, url, "does not exist"));
    struct db *db = database(h, h->url, 16, RESET_ROLLBACK), *ro = database(h, url, 16, RESET_ROLLBACK);
    struct db_conn *c = connect_to(db);
    CHECK(done(c, "create table t(a); insert into t values (7)"));
    struct db_conn *r = connect_to(ro);
    CHECK_INT(integer(r, "select a from t"), 7);
    CHECK(fails(r, "insert into t values (8)", "25006"));
    disconnect(r);
    disconnect(c);
    D->destroy(ro);
    D->destroy(db);
  }
  TEST("a host in the URL is refused at creation") {
    struct pool_error e = {0};
    struct db_settings s = {.database_url = "sqlite://host/t.db"};
    CHECK(D->create(&s, home_log, h, &e) == NULL);
    CHECK_INT(e.kind, POOL_SETTINGS);
  }
}

static void memory_specs(struct home *h) {
  struct db *db = database(h, "sqlite:///:memory:", 16, RESET_ROLLBACK);
  TEST("a database in memory is one connection's, and needs no log") {
    struct settings s;
    settings_defaults(&pool_settings_table, &s);
    s.size = s.min_idle = 0;
    D->fit(db, &s);
    CHECK(s.size == 1 && s.max_overflow == 0 && s.recycle == 0 && s.shrink_after == 0 && s.min_idle == 0 && s.idle_timeout > 0);
    s.min_idle = 2;
    D->fit(db, &s);
    CHECK_INT(s.min_idle, 1);
    CHECK_INT(D->size_limit(db), 1);
    struct db_conn *c = connect_to(db);
    CHECK(done(c, "create table t(a); insert into t values (3)"));
    CHECK_INT(integer(c, "select a from t"), 3);
    CHECK_TEXT(h->log, "");
    disconnect(c);
    CHECK(access(":memory:", F_OK) != 0);
  }
  D->destroy(db);
}

/* ---- outliving and leaving ---- */

static void uncached_spec(struct home *h) {
  struct db *db = database(h, h->url, 0, RESET_ROLLBACK);
  TEST("without a cache it works the same, and results have no identity; they outlive connection and database") {
    struct db_conn *c = connect_to(db);
    struct param p[] = {text("kept")};
    struct db_result *r = with(c, "select $1 as name", p, 1);
    CHECK_INT(integer(c, "select 1"), 1);
    disconnect(c);
    D->destroy(db);
    struct column k;
    CHECK(r && D->shape(r) == NULL && text_is(cell(r, 0, 0), VALUE_TEXT, "kept"));
    D->column(r, 0, &k);
    CHECK_TEXT(k.name, "name");
    D->free_result(r);
  }
}

static void leave_specs(struct home *h) {
  struct db *db = database(h, h->url, 16, RESET_ROLLBACK);
  struct pool_error e;
  TEST("abandoning blocks nobody: while opening, running, streaming, idle, in a transaction") {
    long long since = milliseconds();
    for (int i = 0; i < 5; i++) {
      D->abandon(D->open(db, &e));
      struct db_conn *c = connect_to(db);
      if (i == 1) CHECK(begin_statement(c, FOR_EVER, NULL, 0, false, false));
      if (i == 2) CHECK(begin_statement(c, SERIES("5000") "select i from s", NULL, 0, false, true) && finish(c, &e) == DB_DONE);
      if (i == 3) CHECK(done(c, "begin immediate"));
      if (i == 4) D->reset(c);
      D->abandon(c);
    }
    CHECK(milliseconds() - since < 15000);
  }
  TEST("close follows what is running, and may come while the connection opens") {
    struct db_conn *c = connect_to(db);
    CHECK(begin_statement(c, FOR_EVER, NULL, 0, false, false));
    disconnect(c);
    disconnect(D->open(db, &e));
    c = connect_to(db);
    CHECK(done(c, "begin immediate"));
    disconnect(c);
    c = connect_to(db); /* that transaction is gone with its connection */
    CHECK(done(c, "begin immediate; rollback"));
    disconnect(c);
  }
  D->destroy(db);
}

static void signal_spec(struct home *h) {
  struct db *db = database(h, h->url, 16, RESET_ROLLBACK);
  TEST("a connection's thread takes none of the process's signals") {
    sigset_t set, before;
    struct db_conn *c = connect_to(db);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, &before);
    CHECK_INT(kill(getpid(), SIGUSR2), 0); /* would end the process on a thread that does not block it */
    CHECK_INT(integer(c, "select 1"), 1);
    CHECK_INT(sigwaitinfo(&set, NULL), SIGUSR2);
    sigprocmask(SIG_SETMASK, &before, NULL);
    disconnect(c);
  }
  D->destroy(db);
}

static void shared_specs(struct home *h) {
  struct db *db = database(h, h->url, 16, RESET_ROLLBACK);
  struct db_conn *c = connect_to(db);
  sqlite_values_specs(c);
  sqlite_run_specs(h, db, c);
  disconnect(c);
  D->destroy(db);
}

int main(void) {
  static void (*const groups[])(struct home *) = {open_specs,   refusal_specs, broken_spec, memory_specs, shared_specs,
                                                  uncached_spec, leave_specs,  signal_spec};
  for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
    struct home h;
    home_begin(&h);
    groups[i](&h);
    home_end(&h);
  }
  return check_done();
}
