/*
** sqlite_open: from a path to a connection as DESIGN section 5 wants it. On the worker's thread.
**
** The file is made here, 0600 from its first moment, and SQLite is not allowed to make it; -wal and -shm take their mode
** from it. WAL is set unless the database is in memory or opened read-only; a file system or a permission that does not let
** it is a line in the log. A locked database is waited for in small steps, so that a cancel is seen: SQLite's own
** busy_timeout sleeps through sqlite3_interrupt.
*/
#include "sqlite.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- waiting for a lock, and being told to stop ---- */

/* 1 ms at first, 10 ms at most: what a cancel waits for. Nominal time is counted, no clock is read. */
static int busy_wait(struct db_conn *c) {
  int step = c->waited_ms < 10 ? 1 : c->waited_ms < 100 ? 5 : 10;
  struct timespec nap = {.tv_nsec = step * 1000000L};
  if (atomic_load(&c->cancelled) || c->waited_ms >= SQLITE_BUSY_MS) return 0;
  nanosleep(&nap, NULL);
  c->waited_ms += step;
  return !atomic_load(&c->cancelled);
}

static int busy_handler(void *conn, int tries) {
  struct db_conn *c = conn;
  if (tries == 0) c->waited_ms = c->turn ? c->turn_ms : 0;
  return busy_wait(c);
}

static int progress_handler(void *conn) {
  struct db_conn *c = conn;
  return atomic_load_explicit(&c->cancelled, memory_order_relaxed);
}

/* ---- failing ---- */

static bool open_failed(struct db_conn *c, bool permanent, const char *sqlstate, const char *why) {
  struct pool_error *e = &c->report.error;
  error_set(e, POOL_CONNECT, "cannot open the SQLite database %.700s: %s", c->place->path, why);
  text_copy(e->sqlstate, sizeof e->sqlstate, sqlstate);
  e->permanent = permanent;
  return false;
}

static bool open_errno(struct db_conn *c, int number) {
  switch (number) {
  case ENOENT: return open_failed(c, true, "58P01", "its directory, or the file to be read, does not exist");
  case ENOTDIR: return open_failed(c, true, "58P01", "a part of its path is not a directory");
  case EISDIR: return open_failed(c, true, "58P01", "it is a directory");
  case EACCES:
  case EPERM: return open_failed(c, true, "42501", "no permission; it is to be readable and writable, and so is its directory");
  case EROFS: return open_failed(c, true, "42501", "the file system is read-only");
  case ENAMETOOLONG:
  case ELOOP: return open_failed(c, true, "58P01", strerror(number));
  default: return open_failed(c, false, "58030", strerror(number)); /* no descriptors, no space: may pass */
  }
}

static bool open_code(struct db_conn *c, int code) {
  int basic = code & 0xff;
  const char *message = c->handle ? sqlite3_errmsg(c->handle) : sqlite3_errstr(code);
  bool permanent = basic == SQLITE_NOTADB || basic == SQLITE_CORRUPT || basic == SQLITE_AUTH || basic == SQLITE_PERM ||
                   basic == SQLITE_CANTOPEN || basic == SQLITE_READONLY;
  return open_failed(c, permanent, sqlite_error_state(code, message), message);
}

/* ---- the file ---- */

/* Exclusive creation never opens a file that exists: closing such a descriptor would drop this process's locks on it. */
static bool file_create(struct db_conn *c) {
  int fd = open(c->place->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return errno == EEXIST || open_errno(c, errno);
  close(fd);
  return true;
}

static bool file_check(struct db_conn *c) {
  struct stat info;
  if (stat(c->place->path, &info) != 0) return open_errno(c, errno);
  if (S_ISDIR(info.st_mode)) return open_errno(c, EISDIR);
  return eaccess(c->place->path, c->place->read_only ? R_OK : R_OK | W_OK) == 0 || open_errno(c, errno);
}

static bool handle_open(struct db_conn *c) {
  const struct sqlite_place *p = c->place;
  sqlite3 *handle = NULL;
  int flags = SQLITE_OPEN_NOMUTEX; /* one thread uses it */
  if (p->memory) flags |= SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_MEMORY;
  else flags |= p->read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE;
  int code = sqlite3_open_v2(p->path, &handle, flags, NULL);
  pthread_mutex_lock(&c->lock);
  c->handle = handle; /* from here on cancel() may interrupt it */
  pthread_mutex_unlock(&c->lock);
  if (code != SQLITE_OK) return open_code(c, code);
  sqlite3_extended_result_codes(handle, 1);
  sqlite3_busy_handler(handle, busy_handler, c);
  sqlite3_progress_handler(handle, SQLITE_TICK, progress_handler, c);
  return true;
}

/* ---- pragmas ---- */

int sqlite_run(struct db_conn *c, const char *sql) { return sqlite3_exec(c->handle, sql, NULL, NULL, NULL); }

static int pragma_text(void *text, int columns, char **values, char **names) {
  (void)names;
  if (columns > 0 && values[0]) text_copy(text, 32, values[0]);
  return 0;
}

/* Changing the mode needs the database alone for a moment, and does not always ask the busy handler. Where it is refused, *wal is false;
   the only failure, SQLite's code, is memory: another attempt may well have it. */
static int journal_wal(struct db_conn *c, bool *wal) {
  char mode[32] = "";
  int code;
  c->waited_ms = 0;
  do code = sqlite3_exec(c->handle, "pragma journal_mode = wal", pragma_text, mode, NULL);
  while ((code & 0xff) == SQLITE_BUSY && busy_wait(c));
  *wal = code == SQLITE_OK && strcmp(mode, "wal") == 0;
  if (*wal || code == SQLITE_NOMEM) return code;
  snprintf(c->report.notice, sizeof c->report.notice, "SQLite: no write-ahead log here (%.100s): readers and writers wait for each other",
           code == SQLITE_OK ? mode : sqlite3_errmsg(c->handle));
  text_line(c->report.notice); /* the message may show what is in the file */
  return SQLITE_OK;
}

static bool pragmas_set(struct db_conn *c) {
  int code = sqlite_run(c, "pragma schema_version"); /* the first look into the file: is it a database? */
  if (code != SQLITE_OK) return open_code(c, code);
  code = sqlite_run(c, "pragma foreign_keys = on");
  if (code != SQLITE_OK) return open_code(c, code);
  if (c->place->memory || c->place->read_only) return true;
  bool wal;
  code = journal_wal(c, &wal);
  if (code == SQLITE_OK && wal) code = sqlite_run(c, "pragma synchronous = normal");
  return code == SQLITE_OK || open_code(c, code);
}

bool sqlite_open(struct db_conn *c) {
  const struct sqlite_place *p = c->place;
  if (!cache_create(&c->cache, p->statement_cache)) return open_failed(c, false, "53200", "out of memory");
  if (!p->memory && !p->read_only && !file_create(c)) return false;
  if (!p->memory && !file_check(c)) return false;
  return handle_open(c) && pragmas_set(c);
}
