/*
** driver: what the engine asks of a database client library. Poll style, never blocks, no loop, no Lua.
**
** A connection has one operation under way at a time: opening, a ping, a statement, a reset, closing. The operation's
** starter (open, ping, send, reset, close) begins it; then `step` is called at once, to learn what it wants (that costs no
** system call), and whenever what it asked for has come, until it says DB_DONE or DB_FAILED. The caller watches fd(conn) for
** what the last step wanted, and asks for fd(conn) after each step. While opening, resetting or closing, or after cancel(), it
** may have become another file even under the same number: the caller then stops its watch before the step and starts it
** afresh after. What takes a thread inside a driver (names, cancels, SQLite) signals through such a descriptor too, so that the
** caller knows no threads.
**
** Time limits are the caller's: an operation that takes too long is ended with cancel() or abandoned with abandon().
*/
#ifndef POOL_DB_DRIVER_H
#define POOL_DB_DRIVER_H

#include "core/settings.h"
#include "value.h"

enum { RESET_ROLLBACK, RESET_DISCARD, RESET_NONE };
enum { POOLER_AUTO, POOLER_NONE, POOLER_TRANSACTION };

/* The database's settings; db/settings.c keeps their table. */
struct db_settings {
  char database_url[SETTING_TEXT_MAX];
  usec connect_timeout, statement_timeout; /* the engine's timers; 0 none */
  int reset;                               /* RESET_... */
  int statement_cache;
  int pooler;                              /* POOLER_... */
};
extern const struct settings_table db_settings_table;

struct db;        /* one database: where it is, how to reach it, its worker threads; one a pool */
struct db_conn;   /* one connection, its socket and statement cache */
struct db_result; /* rows, or a batch of them */

enum db_want { DB_DONE, DB_FAILED, DB_READ, DB_WRITE, DB_READ_WRITE };
enum db_status { DB_IDLE, DB_IN_TRANSACTION, DB_IN_FAILED_TRANSACTION, DB_BUSY, DB_DEAD };

/* Where notices, warnings and other lines for the log go; called from inside driver calls, on the caller's thread, and must
   not call back into the driver. level: "debug", "info", "warn". Never holds a secret or a parameter. */
typedef void (*db_log_fn)(void *user, const char *level, const char *message);

struct statement {
  const char *sql;    /* NUL-terminated; no NUL inside (the caller has refused it) */
  size_t len;
  const struct param *params;
  int nparams;
  bool script;        /* several statements, no parameters; the result is the last one's */
  bool stream;        /* rows are delivered in batches as DB_DONE ... until finished() */
};

/* What is written on a column. */
struct column {
  const char *name;        /* NUL-terminated UTF-8 */
  enum value_type type;    /* of its cells; a cell may still differ (SQLite, text that does not fit) */
};

struct driver {
  const char *name;        /* "postgres", "sqlite" */
  bool json_arrays;        /* array parameters as JSON text rather than as {...} */
  const char *begin_sql;   /* "BEGIN"; sqlite: "BEGIN IMMEDIATE" */
  bool cancel_aborts;      /* a cancel between the batches of a stream aborts the transaction around it */

  /* A database. Parses the URL (db/url.h); a URL it cannot use: NULL, POOL_SETTINGS with a redacted message. Copies the settings. */
  struct db *(*create)(const struct db_settings *, db_log_fn, void *user, struct pool_error *);
  void (*configure)(struct db *, const struct db_settings *); /* live ones: reset */
  void (*destroy)(struct db *); /* takes; every connection must be gone. A worker thread still stuck frees what is its own later */
  int (*size_limit)(const struct db *); /* connections it can ever have: 1 for :memory:, else INT_MAX */
  void (*fit)(const struct db *, struct settings *); /* forces the pool's settings to what such a database allows (:memory:: one
                                          connection that is never closed for its age or quiet); NULL: it allows all */

  /* Begins opening. NULL: error filled (POOL_CONNECT). Gives the connection, which only step() or abandon() ends when it fails. */
  struct db_conn *(*open)(struct db *, struct pool_error *);

  /* Opening tries one address after another, and an address that never answers must not eat the whole of connect_timeout.
     So, while opening: whenever addresses_left() (those not yet begun, as far as known) has changed after open, a step or
     next_address, the caller arms its timer anew to (what is left of connect_timeout) / (addresses_left + 1). When that timer
     comes and addresses_left is still > 0, it stops its watch, calls next_address() (gives the address up, begins the next
     one) and then step() at once; at 0 the open has failed. Both NULL: the driver has but one address. */
  int (*addresses_left)(const struct db_conn *);
  void (*next_address)(struct db_conn *);

  void (*ping)(struct db_conn *);                            /* begins a round trip */
  bool (*send)(struct db_conn *, const struct statement *, struct pool_error *); /* begins a statement; false: nothing was
                             begun, the connection is as it was (unless status says DB_DEAD). Borrows the statement during the call only */
  void (*reset)(struct db_conn *);   /* begins what makes it fit for the next lease, from ANY status: unread results, a cancel
                                        still under way, an open transaction. What it does follows the reset setting:
                                        rollback, discard (nothing of the session stays), none (fails where a transaction is open).
                                        After a failure the caller closes it */
  bool (*needs_reset)(const struct db_conn *); /* status is not DB_IDLE, or the reset setting is discard */
  void (*cancel)(struct db_conn *);  /* asks the server to stop the statement under way; it then fails with 57014 or still
                                        ends well. The operation is over (DB_DONE/DB_FAILED) only when the cancel can no longer
                                        hit the next statement */
  void (*close)(struct db_conn *);   /* begins a polite goodbye; step() until DB_DONE (or DB_FAILED): the server has let go.
                                        The caller bounds it by 1 s and then abandons */
  void (*abandon)(struct db_conn *); /* takes; ends it at once from any state, freeing everything, the file descriptor included */

  enum db_want (*step)(struct db_conn *, struct pool_error *); /* carries the operation on as far as it goes without waiting.
                              DB_FAILED fills the error; whether the connection survived is status()'s to say.
                              When opening fails, or after DB_DONE of close: the caller calls abandon() */
  enum db_want (*idle)(struct db_conn *, struct pool_error *); /* an idle connection became readable: DB_READ all is well,
                              DB_FAILED it is dead or doomed (error->disconnect says whether others are suspect) */
  int (*fd)(const struct db_conn *);
  enum db_status (*status)(const struct db_conn *);
  int (*pid)(const struct db_conn *);                          /* the server's process, 0 when there is none */
  bool (*encrypted)(const struct db_conn *);

  /* After DB_DONE of a statement: gives its result (NULL after a ping or reset). For a stream: the next batch, at most 256
     rows; then, unless finished(), step() goes on to the next. */
  struct db_result *(*result)(struct db_conn *);
  bool (*finished)(const struct db_conn *); /* false while a stream has more to come */

  /* A result. Indices from 0. Results outlive their connection. */
  int (*rows)(const struct db_result *);
  int (*columns)(const struct db_result *);
  void (*column)(const struct db_result *, int column, struct column *);
  void (*cell)(struct db_result *, int row, int column, struct value *);
  const char *(*command)(const struct db_result *);            /* "SELECT", "INSERT", "CREATE TABLE", "" unknown */
  int64_t (*affected)(const struct db_result *);               /* rows selected or changed; 0 when it makes no sense */
  const void *(*shape)(const struct db_result *);              /* equal, non-NULL pointers while the connection lives mean equal columns: a
                                                                  prepared statement's identity; NULL when unknown */
  void (*free_result)(struct db_result *);                     /* takes; NULL is harmless */
  const char *(*begin)(bool read_only, const char *isolation, bool deferrable, char *buffer, size_t size);
                     /* the statement that begins such a transaction, in `buffer`; isolation: NULL or one of "read committed",
                        "repeatable read", "serializable", "read uncommitted" */
};

extern const struct driver postgres_driver, sqlite_driver;

/* The driver for a URL's scheme; NULL: *error says which schemes are known. */
const struct driver *driver_for(const char *url, struct pool_error *error);

#endif
