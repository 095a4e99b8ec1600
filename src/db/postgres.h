/*
** postgres: what the files of the PostgreSQL driver share. Nobody else includes it.
**
**   postgres.c          the driver's table, a database, closing
**   postgres_conninfo.c where the database is: URL, environment, service and password files, read once
**   postgres_open.c     opening: names, addresses one after another, set-up
**   postgres_query.c    a statement: send, step, stream, recovery
**   postgres_cancel.c   cancels, and reset, which may need one
**   postgres_params.c   parameters as libpq takes them
**   postgres_cache.c    prepared statements
**   postgres_result.c   results, column types
**   postgres_error.c    errors
*/
#ifndef POOL_DB_POSTGRES_H
#define POOL_DB_POSTGRES_H

#include "driver.h"
#include "worker.h"

#include <libpq-fe.h>
#include <netdb.h>

/* ---- where the database is ---- */

enum target { TARGET_ANY, TARGET_READ_WRITE, TARGET_READ_ONLY, TARGET_PRIMARY, TARGET_STANDBY, TARGET_PREFER_STANDBY };

struct pg_host {
  char *name;      /* to be looked up, or a socket's directory; NULL: libpq's default */
  char *address;   /* hostaddr: no lookup; NULL when there is none */
  char *port, *password;  /* NULL: libpq's default */
};

struct pg_conninfo {
  char **keywords, **values; /* NULL-terminated; without what differs from host to host */
  int count;
  struct pg_host *hosts;
  int nhosts;
  enum target target;
};

/* Parses the settings' URL, with the environment and the service and password files. false: POOL_SETTINGS, no secret in it. */
bool conninfo_read(struct pg_conninfo *, const char *url, struct pool_error *);
void conninfo_free(struct pg_conninfo *);

struct db {
  struct pg_conninfo where;
  struct worker_group *names, *cancels;
  int reset, statement_cache, pooler;
  bool direct;           /* an open of this pool met a server without a pooler */
  bool pooler_told;      /* the log knows of the pooler */
  uint64_t serial;       /* of prepared statements: begins anywhere, never comes twice */
  int connections;
  db_log_fn log;
  void *user;
};

/* ---- prepared statements ---- */

struct plan {
  struct list recent;    /* in the cache's order of use; alone: not in a cache */
  struct plan *next;     /* in its bucket */
  uint64_t hash;
  uint64_t serial;       /* its shape */
  bool prepared;         /* ParseComplete was seen */
  char name[24];
  int noids;
  size_t len;
  char *sql;             /* NUL-terminated, in the same block as oids */
  Oid *oids;
};

struct cache {
  struct plan **buckets; /* NULL until the first statement */
  unsigned mask;
  int count, limit;      /* limit 0: off */
  uint64_t names;        /* the last name's number */
  struct list recent;    /* most recently used first */
  struct list dropped;   /* evicted, to be closed at the server when there is an occasion */
  int ndropped;
};

void cache_init(struct cache *, int limit);
void cache_free(struct cache *);
/* The plan for this text and these types, moved to the front; NULL when there is none. */
struct plan *cache_find(struct cache *, const char *sql, size_t len, const Oid *oids, int noids, uint64_t hash);
uint64_t cache_hash(const char *sql, size_t len, const Oid *oids, int noids);
/* A new plan, not yet prepared; evicts the least recently used when there are enough. NULL when memory is short. */
struct plan *cache_add(struct cache *, const char *sql, size_t len, const Oid *oids, int noids, uint64_t hash);
/* A twin of a plan whose result type has changed, in its place; the old one is dropped. NULL: memory. */
struct plan *cache_replace(struct cache *, struct plan *);
void cache_name(struct cache *, struct plan *, uint64_t serial); /* a fresh name and shape, for a Prepare about to be sent */
void cache_forget(struct cache *, struct plan *); /* takes; the server does not have it */
void cache_lost(struct cache *);                  /* somebody deallocated behind our back: none counts as prepared */
void cache_drop(struct cache *, struct plan *);   /* takes; the server may have it: closed later */
void cache_clear(struct cache *);                 /* the server has none of them any more */
bool cache_full(const struct cache *);            /* too many are dropped and not yet closed */
struct plan *cache_dropped(struct cache *);       /* gives one to be closed, NULL when there is none */
void plan_free(struct plan *);

/* ---- parameters ---- */

struct pg_params {
  const char **values;   /* what PQsendQueryParams takes; values point into text or into themselves */
  int *lengths, *formats;
  Oid *oids;
  int count, room;
  char *text;            /* scratch, kept from statement to statement */
  size_t size;
};

bool params_set(struct pg_params *, const struct statement *, struct pool_error *); /* copies */
void params_free(struct pg_params *);

/* ---- a connection ---- */

enum operation { OP_NONE, OP_OPEN, OP_PING, OP_QUERY, OP_RESET, OP_CLOSE };
enum phase {
  PHASE_NONE,
  PHASE_NAMES,    /* open: a name is being looked up */
  PHASE_CONNECT,  /* open: PQconnectPoll */
  PHASE_SETUP,    /* open: our own first statement */
  PHASE_DRAIN,    /* reset: what was under way comes to its end */
  PHASE_UNDO,     /* reset: ROLLBACK */
  PHASE_DISCARD,  /* reset: DISCARD ALL */
  PHASE_DATESTYLE /* reset: DISCARD ALL took it back */
};

#define ADDRESSES 32     /* of one name; more are not tried */
#define BATCH_ROWS 256

struct addresses {
  char text[ADDRESSES][NI_MAXHOST];
  int count;
};

struct name_job {
  struct worker_job job;
  struct addresses found;
  int failed;            /* getaddrinfo's */
  char name[];
};

struct cancel_job {
  struct worker_job job;
  PGcancel *cancel;
  int stop;              /* an eventfd, readable: the statement has ended, ask no more */
  bool failed;
};

struct db_conn {
  struct db *db;
  PGconn *pg;            /* NULL between two attempts and after a goodbye */
  enum operation op;
  enum phase phase;
  bool dead;             /* nothing more can be had from it */
  bool pooled;           /* behind a transaction pooler */

  /* opening: where it stands; postgres_open.c */
  int pass;              /* prefer-standby goes round twice */
  int host, address;     /* the next to try */
  bool hopeful;          /* some failure so far may not last */
  struct addresses *addresses; /* of `host` */
  struct name_job *names;
  enum db_want want;     /* PQconnectPoll's last wish */
  struct pool_error cause;     /* the failure to report when nothing is left */

  /* a statement */
  bool begun;            /* sent, and step has not been here */
  bool streaming;
  bool single;           /* one statement: it has one end */
  bool ran_dry;          /* its last result came; so it is when nothing is under way */
  bool in_pipeline;
  int closing;           /* the next so many results are DEALLOCATEs' */
  bool preparing;        /* the next result after them is the Prepare's */
  bool resent;           /* recovered once: not again */
  bool discarding;       /* reset: results go nowhere */
  int reset;             /* reset: as the setting was when it began; it may change while DISCARD ALL is under way */
  int syncs;             /* pipeline syncs not yet seen */
  bool between;          /* the last thing libpq gave was no result: the end of one command's */
  size_t told;           /* length of libpq's error text when it was sent, or its last result taken */
  struct plan *plan;     /* what the statement runs, NULL: unnamed */
  struct pg_params params;
  struct cache cache;
  PGresult *last;        /* the result so far */
  struct db_result *batch;     /* a stream's rows so far */
  struct db_result *ready;     /* for result() to take */
  bool failed;
  struct pool_error error;     /* the statement's first, when failed */
  bool stale;            /* it says that a plan's result type has changed */
  bool read_only;        /* the transaction was begun read-only */
  bool fatal;            /* the server has said why it is going */
  struct pool_error doom;      /* that */

  struct cancel_job *cancel;
  bool cancelled;        /* asked for in this operation */
  bool asked;            /* a cancel was begun for this statement, by whatever operation */
  bool copy_ended;       /* a COPY from the client was refused: the statement ends by itself */
  int farewell;          /* close: the dup that sees the server go, -1 */
};

/* open */
struct db_conn *postgres_open(struct db *, struct pool_error *);
enum db_want open_step(struct db_conn *, struct pool_error *);
void open_free(struct db_conn *);
int open_fd(const struct db_conn *);
void postgres_next_address(struct db_conn *);
int postgres_addresses_left(const struct db_conn *);

/* query */
bool postgres_send(struct db_conn *, const struct statement *, struct pool_error *);
void postgres_ping(struct db_conn *);
bool query_begin(struct db_conn *, const char *sql); /* one of our own, simple protocol; false: it could not be sent */
enum db_want query_step(struct db_conn *, struct pool_error *);
enum db_want query_receive(struct db_conn *);        /* DB_DONE: every result was taken; DB_FAILED: the connection died */
void query_forget(struct db_conn *);                 /* frees the results held */
void query_look_beyond(struct db_conn *);            /* what has come after the end may say that the connection is lost */
bool query_pending_input(PGconn *);                  /* TLS holds bytes that no poll can see */

/* cancel, reset */
void postgres_cancel(struct db_conn *);
bool cancel_over(struct db_conn *);                  /* no cancel can hit any more; lets go of the job */
void cancel_leave(struct db_conn *);                 /* lets go of the job whatever it does */
void postgres_reset(struct db_conn *);
bool postgres_needs_reset(const struct db_conn *);
enum db_want reset_step(struct db_conn *, struct pool_error *);

/* result */
struct db_result *result_of(PGresult *, uint64_t shape);   /* takes the PGresult, even when NULL is returned (memory) */
struct db_result *result_batch(uint64_t shape);            /* an empty batch, NULL: memory */
int result_add(struct db_result *, PGresult *);            /* takes a single row; rows now in the batch */
bool result_finish(struct db_result *, PGresult *);        /* takes the stream's last, rowless one */
int result_rows(const struct db_result *);
int result_columns(const struct db_result *);
void result_column(const struct db_result *, int, struct column *);
void result_cell(struct db_result *, int row, int column, struct value *);
const char *result_command(const struct db_result *);
int64_t result_affected(const struct db_result *);
const void *result_shape(const struct db_result *);
void result_free(struct db_result *);

/* error */
void error_of_result(struct db_conn *, const PGresult *, struct pool_error *);
void error_of_loss(struct db_conn *, struct pool_error *);   /* the connection died */
void error_of_open(const char *text, struct pool_error *);   /* PQerrorMessage of a failed PQconnectPoll, verbose */
void error_notice(void *conn, const PGresult *);             /* PQnoticeReceiver */
void error_mask(struct db_conn *, struct pool_error *);      /* fit for a log: the statement's parameters, the password */
bool postgres_dead(const struct db_conn *);
void postgres_log(struct db *, const char *level, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
