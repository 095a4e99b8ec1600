/*
** sqlite: what the files of the SQLite driver know of each other; nobody else includes it.
**
** A connection is two halves. The caller's half (sqlite.c) is what struct driver describes; the worker's half is one thread,
** the only one that calls sqlite3 for it (but for sqlite3_interrupt). They meet in a job: the caller fills `request` and
** posts, the worker fills `report` and says done. Whoever does not hold the job keeps its hands off both.
*/
#ifndef POOL_DB_SQLITE_H
#define POOL_DB_SQLITE_H

#include "core/list.h"
#include "driver.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>

enum { SQLITE_BATCH = 256 };          /* rows of a stream's batch */
enum { SQLITE_BUSY_MS = 5000 };       /* how long a locked database is waited for */
enum { SQLITE_TICK = 1000 };          /* instructions between two looks at the cancel flag */
#define SQLITE_BEGIN_READ_ONLY "BEGIN /* READ ONLY */" /* SQLite has no word for it; the worker knows the text */

/* ---- where the database is; shared by its connections, freed by whoever lets go last ---- */
struct sqlite_place {
  atomic_int owners;
  atomic_uint_fast64_t shapes; /* shape identities given out */
  bool memory, read_only;
  int statement_cache;
  pthread_mutex_t turns;       /* guards `writing`, `line`, and the turns of those in it: sqlite_turn.c */
  bool writing;                /* a connection has the turn */
  struct list line;            /* struct db_conn by in_line: who waits for it */
  char path[SETTING_TEXT_MAX + 4096]; /* absolute, or ":memory:" */
};
void place_leave(struct sqlite_place *);

/* ---- whose turn it is to write: sqlite_turn.c ---- */
bool turn_take(struct db_conn *); /* waits for it; false: cancelled, or it took too long */
void turn_give(struct db_conn *);

/* ---- what a statement's rows look like; shared by the statement and its results ---- */
struct sqlite_shape {
  atomic_int owners;
  uintptr_t identity;     /* what driver->shape says; 0 for statements that are not kept */
  int columns;
  enum value_type *types; /* VALUE_BOOLEAN and VALUE_JSON change what cells become; the others only describe */
  char **names;
};
struct sqlite_shape *shape_create(sqlite3_stmt *, uintptr_t identity); /* NULL: memory */
bool shape_same(const struct sqlite_shape *, sqlite3_stmt *);          /* still what the statement gives? */
void shape_leave(struct sqlite_shape *);                               /* from any thread; NULL is harmless */

/* ---- results ---- */
struct db_result *result_create(struct sqlite_shape *, const char *command); /* shares the shape; NULL: memory */
bool batch_add(struct db_result *, sqlite3_stmt *);                         /* copies the current row; false: memory */
void batch_affected(struct db_result *, int64_t);
int sqlite_result_rows(const struct db_result *);
int sqlite_result_columns(const struct db_result *);
void sqlite_result_column(const struct db_result *, int column, struct column *);
void sqlite_result_cell(struct db_result *, int row, int column, struct value *);
const char *sqlite_result_command(const struct db_result *);
int64_t sqlite_result_affected(const struct db_result *);
const void *sqlite_result_shape(const struct db_result *);
void sqlite_result_free(struct db_result *);

/* ---- words of SQL, as far as the driver reads it ---- */
const char *words_skip(const char *sql, const char *end); /* past white space, comments and semicolons */
enum { WORDS_COMMAND = 32 };
/* The statement's command as PostgreSQL would name it ("SELECT", "INSERT", "CREATE TABLE"), "" for none. */
void words_command(const char *sql, const char *end, char command[WORDS_COMMAND]);
/* Is the statement at `sql` one that a transaction refuses or ignores: VACUUM, and pragmas such as foreign_keys? */
bool words_outside(const char *sql, const char *end);
bool json_valid(const char *text, size_t len);            /* one JSON value (RFC 8259), at most 500 deep */

/* ---- errors: sqlite_error.c ---- */
/* What sqlite3 says went wrong, as POOL_QUERY with an SQLSTATE of PostgreSQL's; `cancelled` wins over what it looks like.
   `sql` is the text given to the last prepare, NULL when the error is not about a text. */
void sqlite_error_fill(struct pool_error *, sqlite3 *, int code, bool cancelled, const char *sql);
void sqlite_error_query(struct pool_error *, const char *sqlstate, const char *format, ...) __attribute__((format(printf, 3, 4)));
const char *sqlite_error_state(int code, const char *message); /* the SQLSTATE alone */
bool sqlite_error_memory(struct pool_error *);                 /* "out of memory"; returns false */

/* ---- statements: sqlite_statement.c ---- */
struct sqlite_statement {
  struct list bucket, recent;
  uint64_t hash;
  sqlite3_stmt *stmt;         /* NULL: nothing but white space */
  struct sqlite_shape *shape; /* NULL until its first row or end */
  int *numbers;               /* which parameter each of SQLite's variables is, from 1 */
  int variables, parameters;  /* how many of each */
  bool kept;                  /* in the cache */
  bool begins_read_only;      /* it is SQLITE_BEGIN_READ_ONLY */
  char command[WORDS_COMMAND];
  size_t len;
  char *sql;                  /* in the same piece of memory; "" when not to be kept */
};

struct sqlite_cache {
  struct list recent;   /* most recently used first */
  struct list *buckets; /* NULL when limit is 0 */
  size_t mask;
  int count, limit;
};
bool cache_create(struct sqlite_cache *, int limit);
void statements_clear(struct sqlite_cache *);
void cache_destroy(struct sqlite_cache *);

struct sqlite_request {
  const char *sql;
  size_t len;
  struct param *params;
  int nparams;
  bool script, stream;
  int reset;       /* RESET_... */
  void *memory;    /* where all of it is; reused */
  size_t capacity;
};

struct sqlite_report {
  bool failed, gone;       /* gone: the worker has nothing open and ends */
  bool in_transaction;
  bool finished;           /* false: a stream has more */
  struct db_result *result;
  struct pool_error error; /* when failed */
  char notice[512];        /* for the log, "" for none */
};

enum sqlite_job { JOB_NONE, JOB_OPEN, JOB_STATEMENT, JOB_MORE, JOB_PING, JOB_RESET, JOB_CLOSE };

struct db_conn {
  atomic_int owners;           /* the caller and the worker */
  struct sqlite_place *place;  /* shared */
  atomic_bool cancelled;       /* the job under way is to end; the caller sets it, and clears it between operations */

  pthread_mutex_t lock;        /* guards from here ... */
  pthread_cond_t posted;
  enum sqlite_job job;         /* JOB_NONE between jobs; the caller's to write */
  bool done;                   /* the worker's report is there, and `event` is readable */
  bool leaving;                /* abandoned: the worker cleans up alone */
  int event;                   /* an eventfd; -1 once abandoned */
  sqlite3 *handle;             /* the worker's to use; the caller interrupts it under the lock */
                               /* ... to here */
  struct sqlite_request request;
  struct sqlite_report report;

  /* the worker's */
  struct sqlite_cache cache;
  struct sqlite_statement *running; /* a stream's, between its batches */
  bool row_ready;                   /* it stands on a row not yet delivered */
  int waited_ms;                    /* in the busy handler */
  bool read_only;                   /* in a transaction begun read-only */
  bool turn;                        /* it is its turn to write; while it is in line, the place's `turns` guards it */
  struct list in_line;
  int turn_event;                   /* an eventfd that says it is; -1 until first needed */
  int turn_ms;                      /* how long the turn was waited for */

  /* the caller's */
  struct db *db;
  pthread_t thread;
  enum sqlite_job next;        /* what follows when the job under way has ended: a reset or close that came while busy */
  enum db_status status;       /* as of the last step */
  bool streaming;              /* between two batches */
};

void *sqlite_worker_main(void *conn); /* sqlite_worker.c */
void sqlite_conn_leave(struct db_conn *); /* takes one share; from either thread */

bool sqlite_open(struct db_conn *);   /* sqlite_open.c: file, handle, pragmas. false: the report says why; handle may be set */
int sqlite_run(struct db_conn *, const char *sql); /* a text of the driver's own; SQLite's code */

bool sqlite_statement_begin(struct db_conn *); /* runs the request; false: failed. report.finished: see above */
bool sqlite_statement_more(struct db_conn *);  /* a stream's next batch */
void sqlite_statement_end(struct db_conn *);   /* lets go of a stream half read */

#endif
