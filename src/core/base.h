/*
** base: the words every room shares: time, kinds of error, a filled-in error, assertions.
**
** Nothing here allocates, prints or reads a clock. Times are `usec`, microseconds on a monotonic clock that only the io room
** reads; a deadline is an absolute usec, NEVER when there is none. `struct pool_error` has a fixed size so that reporting an
** error cannot itself fail: what does not fit is cut at a character's boundary and ends in an ellipsis.
*/
#ifndef POOL_CORE_BASE_H
#define POOL_CORE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef int64_t usec;

#define USEC_PER_SECOND ((usec)1000000)
#define NEVER INT64_MAX

/* The kinds of error, in the order of DESIGN section 4. A kind's name is what Lua sees as `err.kind`. */
enum pool_err {
  POOL_OK = 0,
  POOL_TIMEOUT,    /* no connection in time */
  POOL_OVERLOADED, /* the line is full */
  POOL_CONNECT,    /* could not open a connection */
  POOL_LOST,       /* the connection died */
  POOL_QUERY,      /* the server's own error, or data it could not have taken */
  POOL_DEADLINE,   /* the caller's deadline or statement_timeout passed */
  POOL_CANCELLED,  /* the task or the statement was cancelled */
  POOL_CLOSED,     /* the pool is closed or closing */
  POOL_SETTINGS,   /* settings refused */
  POOL_POLICY,     /* a policy refused */
  POOL_JSON,       /* malformed JSON */
  POOL_ERR_KINDS
};

/* An error with its detail. Every text is NUL-terminated UTF-8, "" when unknown. Holds no pointer: copy it freely. */
struct pool_error {
  enum pool_err kind;
  bool permanent;    /* of an open: trying again cannot help (28xxx, 3D000, 42501, TLS, bad conninfo) */
  bool retryable;    /* the statement cannot have run */
  bool disconnect;   /* says that every older connection is suspect (57P01..03, a lost connection) */
  int position;      /* 1-based character in the statement, 0 unknown */
  char sqlstate[6];  /* five characters or "" */
  char message[1024];
  char detail[1024]; /* may hold a row's values: never logged */
  char hint[512];
  char constraint[64], schema[64], table[64], column[64];
};

/* "timeout", "overloaded", ... ; "ok" for POOL_OK. Never NULL for a kind of the enum. */
const char *pool_err_name(enum pool_err);

/* Clears *e and fills kind and message (printf). Copies; cuts what does not fit, cleans what is not UTF-8. Returns kind, so that a
   caller can `return error_set(e, ...)`. e may be NULL. */
enum pool_err error_set(struct pool_error *e, enum pool_err kind, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Copies `text` into a field of `size` bytes, cut at a UTF-8 boundary with an ellipsis when too long. NULL copies "". */
void text_copy(char *field, size_t size, const char *text);

/* In place: what is not UTF-8 becomes question marks; text_line: and a control character a blank, so that a log's line stays one. */
void text_clean(char *text);
void text_line(char *text);

/* Both stay in release builds: a broken invariant ends the process rather than lend a connection twice. */
#define INSIST(condition) ((condition) ? (void)0 : base_failed(#condition, __FILE__, __LINE__))
#define WRONG(why) base_failed(why, __FILE__, __LINE__)
_Noreturn void base_failed(const char *what, const char *file, int line);

#define CONTAINER(pointer, type, member) ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

#endif
