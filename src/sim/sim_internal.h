/*
** sim_internal: what the files of this room share.
**
** An event is threaded into the one heap by what it is part of (a source, a request, a connection, the database); it fires once.
*/
#ifndef POOL_SIM_SIM_INTERNAL_H
#define POOL_SIM_SIM_INTERNAL_H

#include "core/heap.h"
#include "core/list.h"
#include "sim.h"
#include "sim_random.h"

struct sim;

struct event {
  struct heap_node node;
  void (*fire)(struct sim *, struct event *);
  bool planned;
};

/* Work inside the database: it is done when the database's clock V has gone `work` further. */
struct job {
  struct heap_node node;
  void (*done)(struct sim *, struct job *);
  bool running;
};

struct source {
  struct event event;       /* the next arrival */
  struct event turn;        /* MMPP: the next change of the rate */
  struct sim_random arrivals, service, retry;
  const struct sim_source *is;
  int number;
  double shares;            /* the sum of its services' shares */
  double rate_max;          /* of POISSON and DIURNAL */
  size_t traced;
  int phase;                /* MMPP: 0 or 1 */
  uint64_t firsts, retries; /* for the retry budget */
};

/* One attempt of a caller. Free ones are kept in a list. */
struct request {
  struct event event;       /* the caller's deadline; before the attempt: its beginning */
  struct waiter waiter;
  struct source *source;
  struct request *next_free;
  struct list all;          /* among those not free */
  usec began;               /* this attempt */
  double work;              /* seconds */
  uint64_t key;
  uint8_t priority;
  bool holding, gone;       /* gone: its caller does not wait any more */
  bool counted;             /* it began after the warm-up */
  bool thinker;             /* of a closed source: its answer makes the next request */
  bool in_line;
  int attempt;              /* 0, 1, ... */
};

struct conn {
  struct event event;       /* a round trip, a pure delay */
  struct job job;           /* a log-in, a query */
  struct slot *slot;
  struct request *request;  /* whose query it does */
  usec granted;
  bool connected;           /* the database counts it */
  bool checking;
};

struct database {
  double v, rate;           /* its clock, in seconds of work; how fast it goes for each job */
  usec at;                  /* as of when v is */
  struct heap jobs;
  int running;
  struct event next;        /* the next job's end */
  double speed;
  bool down;
  int connections, others;
  struct event faults[SIM_FAULTS_MAX], mends[SIM_FAULTS_MAX];
};

struct sim {
  const struct sim_options *options;
  struct sim_result *result;
  struct pool *pool;
  struct settings settings;         /* the pool's, as they are now */
  struct heap events;
  usec now, warm, end;
  struct source sources[SIM_SOURCES_MAX];
  struct database database;
  struct conn *conns;               /* one a slot */
  struct list requests;             /* not free */
  struct request *free;
  struct list blocks;               /* of requests */
  struct event tick, timeline, warmed;
  struct reading tick_reading, timeline_reading; /* at the last tick, at the last step of the timeline */
  struct peaks tick_peaks, timeline_peaks;
  struct histogram query;
  struct sim_interval interval;
  struct { uint64_t offered, served, timeouts, rejected, errors, cancelled; } total; /* of the whole run */
  int in_line, leased, total_connections;
  usec line_area, line_waited;      /* of the whole run: how many were in line x time; and the same summed up caller by caller */
  double area_line, area_leased, area_connections, area_database, area_over; /* usec x how many, after the warm-up */
  double wait_sum, wait_squares, hold_sum; /* seconds */
  uint64_t holds, counted_live, live;
  bool short_of_memory;
};

void event_plan(struct sim *, struct event *, usec at, void (*fire)(struct sim *, struct event *));
void event_drop(struct sim *, struct event *);
static inline usec seconds_usec(double s) { return s >= 9e12 ? NEVER / 4 : (usec)(s * 1e6 + 0.5); }

/* ---- sim_arrival.c ---- */
void source_begin(struct sim *, int number);
double source_work(struct source *, bool *holding);      /* draws a request's service */

/* ---- sim.c ---- */
void request_arrive(struct sim *, struct request *);     /* its work is set */
void sim_begin_request(struct sim *, struct event *);
struct request *request_new(struct sim *, struct source *);
void conn_killed(struct sim *, struct conn *);
void sim_drain(struct sim *);

/* ---- sim_database.c ---- */
void database_begin(struct sim *);
void job_begin(struct sim *, struct job *, double work, void (*done)(struct sim *, struct job *));
void job_drop(struct sim *, struct job *);
bool database_refuses(const struct sim *);                /* another connection, now */

/* ---- sim_check.c ---- */
enum pool_err sim_check(const struct sim_options *, struct pool_error *);

#endif
