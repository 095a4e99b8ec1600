/*
** sim: a day of traffic in a second. Callers, a modelled database and virtual time around the very same core.
**
** One run: sources of arrivals put requests before a struct pool; a granted request works in a database whose speed depends on how
** many work in it (Universal Scalability Law, processor sharing); once an interval a tuning policy sees a snapshot and proposes.
** Discrete events on an integer clock (usec), one heap ordered by time and then by when they were planned, so that ties are
** deterministic; one random stream a source of chance (each source's arrivals, its service, opens, jitter of retries), so that two
** policies meet the same arrivals. The same options give the same bytes. This room includes core only: it knows no Lua, no loop;
** memory is allocated as the line grows.
**
** sim.c the events and the pool; sim_arrival.c when requests come; sim_database.c how long they work; sim_random.c chance.
*/
#ifndef POOL_SIM_SIM_H
#define POOL_SIM_SIM_H

#include "core/pool.h"
#include "core/proposal.h"
#include "core/snapshot.h"

enum { SIM_SOURCES_MAX = 8, SIM_SERVICES_MAX = 8, SIM_POINTS_MAX = 64, SIM_FAULTS_MAX = 32 };

/* ---- callers ---- */

enum sim_arrival {
  SIM_POISSON, /* the rate follows `points`; thinned (Lewis, Shedler 1979) */
  SIM_EVEN,    /* the same with equal gaps of 1 / rate */
  SIM_DIURNAL, /* Poisson, low + (high - low) (1 - cos(2 pi t / period)) / 2 */
  SIM_MMPP,    /* Poisson at rates[0] and rates[1] in turn, for exponential times of means[0] and means[1] seconds; begins with 0 */
  SIM_BATCH,   /* `batch` at once, at `first` and every `every` seconds after (0: once) */
  SIM_TRACE,   /* at trace[i].at, served as trace[i].service says, with that key and priority */
  SIM_CLOSED   /* `clients`, each thinking an exponential time of mean `think` between an answer and its next request */
};

struct sim_point { double at, rate; };      /* seconds; requests a second; linear between points, constant outside */
struct sim_traced { usec at, service; uint64_t key; uint8_t priority; }; /* since the trace's beginning; as the waiter's */

enum sim_distribution { SIM_EXPONENTIAL, SIM_DETERMINISTIC, SIM_LOGNORMAL, SIM_HYPEREXPONENTIAL, SIM_ERLANG };

struct sim_service {
  double share;    /* of the requests, relative to the others of its source */
  enum sim_distribution kind;
  double mean;     /* seconds of work alone in the database; 0: none */
  double cv;       /* coefficient of variation: LOGNORMAL (> 0), HYPEREXPONENTIAL (> 1; two phases, balanced means) */
  int k;           /* ERLANG: phases */
  bool holding;    /* true: a pure delay (a lock, think time in a transaction), no work in the database */
};

struct sim_source {
  enum sim_arrival kind;
  struct sim_point points[SIM_POINTS_MAX];
  int point_count;
  double low, high, period;          /* DIURNAL */
  double rates[2], means[2];         /* MMPP */
  bool fixed_periods;                /* MMPP: the times are exactly the means */
  int batch; double first, every;    /* BATCH */
  const struct sim_traced *trace;    /* TRACE: borrows, in the order of `at` */
  size_t trace_count;
  int clients; double think;         /* CLOSED */
  struct sim_service services[SIM_SERVICES_MAX];
  int service_count;
  uint64_t key; uint8_t priority;    /* as the waiter's; weight by the hook */
  double deadline;                   /* seconds after which the caller is gone; 0: never */
  bool leaves;                       /* at its deadline the caller leaves the line and its query is cancelled (a client's hang-up that
                                        is seen); false: what it has asked for goes on, for nobody */
  int retries;                       /* attempts after the first, when one failed or its deadline passed */
  double retry_after;                /* mean of the exponential pause before one; doubled each time */
  double retry_budget;               /* retries at most this share of first attempts; 0: no budget */
};

/* ---- the database ---- */

enum sim_fault_kind { SIM_RESTART /* kills all, refuses for `seconds` */, SIM_SPEED /* works at `value` times its speed for `seconds` */,
                      SIM_OTHERS /* others hold `value` connections for `seconds` */ };
struct sim_fault { enum sim_fault_kind kind; double at, seconds, value; };

struct sim_database {
  double round_trip, login_work; /* an open: a round trip, then work inside the database; both 0: at once, in the same instant */
  int max_connections;           /* more are refused with 53300; 0: no bound */
  double sigma, kappa;           /* each of n queries progresses at speed / (1 + sigma (n-1) + kappa n (n-1)) */
  struct sim_fault faults[SIM_FAULTS_MAX];
  int fault_count;
};

/* ---- a run ---- */

struct sim_request { uint64_t key; uint8_t priority; usec timeout; }; /* what an admit hook is told */

/* The policy's side. Each function may be NULL. `now` figures are the pool's own. */
struct sim_hooks {
  void *user;
  double every;                        /* seconds between ticks; 0: never */
  /* false: nothing proposed. The proposal is disposed of by proposal_dispose with slew and applied at once. */
  bool (*tick)(void *user, const struct snapshot *, const struct settings *now, struct proposal *out);
  bool (*admit)(void *user, const struct stats *, const struct sim_request *);
  uint8_t (*weight)(void *user, uint64_t key);
  void (*applied)(void *user, const struct settings *before, const struct settings *after, const struct proposal *);
  void (*refused)(void *user, const struct proposal *, const struct pool_error *);
};

struct sim_interval {                  /* one step of the timeline */
  struct snapshot snapshot;
  uint64_t offered, served, good, late, failed;
  double speed;                        /* of the database */
  int others;
};

struct sim_options {
  struct settings settings;            /* checked; size_limit too */
  struct limits limits;
  struct sim_source sources[SIM_SOURCES_MAX];
  int source_count;
  struct sim_database database;
  double duration, warmup;             /* seconds; figures are of [warmup, duration) */
  uint64_t seed;
  double timeline_every;               /* seconds; 0: none */
  void (*timeline)(void *user, const struct sim_interval *);
  struct sim_hooks hooks;
  bool checked;                        /* pool_assert after every event: slow */
};

struct sim_result {
  /* attempts after the warm-up; offered = served + timeouts + rejected + errors + cancelled + in_system (over the whole run: total_...) */
  uint64_t requests;                   /* first attempts */
  uint64_t offered, served, good, timeouts, rejected, errors, cancelled, in_system;
  uint64_t retried;
  struct histogram wait, response;     /* usec: of all grants, zeros included; from the attempt to its answer, of the served */
  double wait_mean, wait_variance;     /* exact, seconds */
  double hold_mean;
  double wait_quantiles[3];            /* p50, p95, p99 in seconds, linear within a bucket */
  double line_mean, leased_mean, connections_mean, in_database_mean; /* time averages, for Little's law */
  int connections_max, line_max;
  uint64_t opens, open_failures, closes;
  double utilization, over_budget;     /* over_budget: share of the time with more connections than max_connections less others' */
  uint64_t events, pool_inputs;
  uint64_t ticks, applied, refused;
};

/* Runs it. POOL_SETTINGS: an option does not make sense; *error names it. POOL_OVERLOADED: memory is short. */
enum pool_err sim_run(const struct sim_options *, struct sim_result *, struct pool_error *error);

/* The most requests a second a database of this contention does with connections for all, and how many it takes (N*); 0: unbounded. */
double sim_best_concurrency(double sigma, double kappa);

#endif
