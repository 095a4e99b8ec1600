/*
** recorder: what each request for a connection met, written to a file as it ends, so that a day of traffic can be replayed (pool simulate)
** and asked for advice (pool advise). No SQL, no parameters, no names: times, an outcome, a priority, a key's hash.
**
** The file is text, a line a request, after a first line of JSON:
**
**   {"pool":"recording","version":1,"run":"4f...","part":1, ...}      the header; the rest of it is the opener's
**   r 1203911 250 10412 g                 arrived (usec since the recording began), waited, held (usec), outcome
**   r 1203950 0 10391 g 9d41c02b7e5a0f13 7    ... with a key's hash (or -) and a priority other than 5
**   s 10.000 {...}                        any other line: what the opener adds (recorder_line)
**
** Outcomes: g granted and given back, l granted and lost, t timed out, o overloaded, e could not connect or closed, c cancelled in line.
** Bounded: at half the limit FILE becomes FILE.1, in place of an older one, and a new FILE begins with part + 1 of the same run.
** Lines are gathered and written FLUSH at a time, by whoever ends a lease: a write to a local file, some microseconds.
*/
#ifndef POOL_IO_RECORDER_H
#define POOL_IO_RECORDER_H

#include "core/base.h"

enum { RECORDER_LEAST = 65536 }; /* bytes, the smallest limit */

struct recorded {
  usec arrived; /* loop time */
  usec waited, held;
  uint64_t key;
  uint8_t priority;
  char outcome;
};

struct recorder;

/* Gives. `limit`: bytes of both files together, at least RECORDER_LEAST. `header`: what the first line says besides, as the inside of a
   JSON object, copied. `began`: loop time that lines count from. The file is made anew, readable by its owner alone; a recording that is
   there becomes FILE.1, and anything else that is there is refused. NULL: *error (POOL_SETTINGS). */
struct recorder *recorder_open(const char *path, size_t limit, const char *header, usec began, struct pool_error *error);
void recorder_add(struct recorder *, const struct recorded *);
void recorder_line(struct recorder *, const char *line, size_t length); /* without its newline */
/* What is gathered goes to the file. Not POOL_OK: it could not be written, now or before; nothing is recorded any more. */
enum pool_err recorder_flush(struct recorder *, struct pool_error *error);
uint64_t recorder_requests(const struct recorder *);
void recorder_close(struct recorder *); /* takes; writes what is gathered; NULL is harmless */

#endif
