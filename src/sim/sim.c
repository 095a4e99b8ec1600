/*
** sim: the events of a run, the pool's orders, the callers.
**
** The loop: the next event or the pool's own deadline, whichever is earlier; time jumps there; the event feeds the pool; its orders
** are carried out until there are none. A handler of an order never calls back into the callers: it plans events, so nothing recurs.
**
** An attempt (struct request): planned -> begun -> in line -> working -> answered, or failed, or cancelled. Its caller waits with it until
** its deadline; then, unless callers leave in a way that is seen, the attempt goes on for nobody and the caller goes on to its next
** attempt, which is another struct request.
**
** Checked in every run: what was offered is accounted for to the last request, and Little's law for the line in whole microseconds: how
** many were in line, integrated over time, is what each of them has waited, summed up.
*/
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sim_internal.h"

enum { BLOCK_REQUESTS = 256 };

struct block {
  struct list link;
  struct request requests[BLOCK_REQUESTS];
};

/* ---- events ---- */

void event_plan(struct sim *sim, struct event *event, usec at, void (*fire)(struct sim *, struct event *)) {
  if (event->planned) heap_remove(&sim->events, &event->node);
  event->planned = true;
  event->fire = fire;
  heap_insert(&sim->events, &event->node, at);
}

void event_drop(struct sim *sim, struct event *event) {
  if (!event->planned) return;
  heap_remove(&sim->events, &event->node);
  event->planned = false;
}

/* ---- requests ---- */

struct request *request_new(struct sim *sim, struct source *source) {
  if (sim->free == NULL) {
    struct block *block = calloc(1, sizeof *block);
    if (block == NULL) {
      sim->short_of_memory = true;
      return NULL;
    }
    list_append(&sim->blocks, &block->link);
    for (int i = BLOCK_REQUESTS - 1; i >= 0; i--) {
      block->requests[i].next_free = sim->free;
      sim->free = &block->requests[i];
    }
  }
  struct request *r = sim->free;
  sim->free = r->next_free;
  *r = (struct request){.source = source, .key = source->is->key, .priority = source->is->priority};
  list_append(&sim->requests, &r->all);
  return r;
}

static void request_free(struct sim *sim, struct request *r) {
  event_drop(sim, &r->event);
  list_remove(&r->all);
  r->next_free = sim->free;
  sim->free = r;
}

/* ---- callers ---- */

static void think(struct sim *sim, struct source *source) {
  struct request *r = request_new(sim, source);
  if (r == NULL) return;
  r->thinker = true;
  double mean = source->is->think;
  event_plan(sim, &r->event, sim->now + (mean > 0 ? seconds_usec(sim_random_exponential(&source->arrivals, mean)) : 0), sim_begin_request);
}

static bool may_retry(const struct request *r) {
  const struct sim_source *is = r->source->is;
  if (r->attempt >= is->retries) return false;
  return is->retry_budget <= 0 || (double)(r->source->retries + 1) <= is->retry_budget * (double)r->source->firsts;
}

/* The attempt has failed its caller: another one, or none. */
static void caller_goes_on(struct sim *sim, struct request *r) {
  struct source *source = r->source;
  bool thinker = r->thinker;
  r->thinker = false;
  if (!may_retry(r)) {
    if (thinker) think(sim, source);
    return;
  }
  struct request *next = request_new(sim, source);
  if (next == NULL) return;
  source->retries++;
  sim->result->retried++;
  next->work = r->work;
  next->holding = r->holding;
  next->key = r->key;
  next->priority = r->priority;
  next->thinker = thinker;
  next->attempt = r->attempt + 1;
  double mean = source->is->retry_after * ldexp(1, r->attempt);
  event_plan(sim, &next->event, sim->now + (mean > 0 ? seconds_usec(sim_random_exponential(&source->retry, mean)) : 0), sim_begin_request);
}

static void count_failure(struct sim *sim, const struct request *r, enum pool_err kind) {
  struct sim_result *result = sim->result;
  bool counted = r->counted;
  switch (kind) {
    case POOL_TIMEOUT: sim->total.timeouts++, result->timeouts += counted; break;
    case POOL_OVERLOADED: sim->total.rejected++, result->rejected += counted; break;
    case POOL_CANCELLED: sim->total.cancelled++, result->cancelled += counted; break;
    default: sim->total.errors++, result->errors += counted; break;
  }
  sim->interval.failed++;
  sim->live--;
  sim->counted_live -= counted;
}

static void request_failed(struct sim *sim, struct request *r, enum pool_err kind) {
  count_failure(sim, r, kind);
  if (!r->gone) caller_goes_on(sim, r);
  request_free(sim, r);
}

static void request_served(struct sim *sim, struct request *r) {
  struct sim_result *result = sim->result;
  sim->total.served++;
  sim->live--;
  sim->interval.served++;
  sim->interval.good += !r->gone;
  sim->interval.late += r->gone;
  if (r->counted) {
    sim->counted_live--;
    result->served++;
    result->good += !r->gone;
    histogram_record(&result->response, sim->now - r->began);
  }
  if (r->thinker) think(sim, r->source);
  request_free(sim, r);
}

/* ---- leases ---- */

static struct conn *conn_of(struct sim *sim, const struct slot *slot) { return &sim->conns[slot->index]; }

/* Its connection is the pool's again; the caller says in which state. */
static struct request *lease_end(struct sim *sim, struct conn *c, enum outcome outcome) {
  struct request *r = c->request;
  usec held = sim->now - c->granted;
  c->request = NULL;
  event_drop(sim, &c->event);
  job_drop(sim, &c->job);
  sim->leased--;
  histogram_record(&sim->query, held);
  if (r->counted) sim->hold_sum += (double)held * 1e-6, sim->holds++;
  pool_release(sim->pool, c->slot, sim->now, outcome);
  return r;
}

static void query_done(struct sim *sim, struct job *job) {
  request_served(sim, lease_end(sim, CONTAINER(job, struct conn, job), OUTCOME_CLEAN));
}

static void holding_done(struct sim *sim, struct event *event) {
  request_served(sim, lease_end(sim, CONTAINER(event, struct conn, event), OUTCOME_CLEAN));
}

static void line_left(struct sim *sim, struct request *r, usec waited) {
  INSIST(r->in_line);
  r->in_line = false;
  sim->in_line--;
  sim->line_waited += waited;
}

static void granted(struct sim *sim, struct waiter *w, struct slot *slot) {
  struct request *r = w->user;
  struct conn *c = conn_of(sim, slot);
  line_left(sim, r, w->waited);
  sim->leased++;
  if (r->counted) {
    double waited = (double)w->waited * 1e-6;
    histogram_record(&sim->result->wait, w->waited);
    sim->wait_sum += waited;
    sim->wait_squares += waited * waited;
  }
  c->request = r;
  c->granted = sim->now;
  if (r->holding) event_plan(sim, &c->event, sim->now + seconds_usec(r->work), holding_done);
  else job_begin(sim, &c->job, r->work, query_done);
}

/* ---- attempts ---- */

static void caller_gone(struct sim *sim, struct event *event) {
  struct request *r = CONTAINER(event, struct request, event);
  r->gone = true;
  caller_goes_on(sim, r);
  if (!r->source->is->leaves) return;
  if (r->in_line) {
    pool_cancel(sim->pool, &r->waiter, sim->now);
    line_left(sim, r, sim->now - r->began);
  } else {
    lease_end(sim, conn_of(sim, r->waiter.slot), OUTCOME_CLEAN);
  }
  request_failed(sim, r, POOL_CANCELLED);
}

static bool admitted(struct sim *sim, const struct waiter *w, usec timeout) {
  const struct sim_hooks *hooks = &sim->options->hooks;
  struct sim_request request = {w->key, w->priority, timeout};
  struct stats stats;
  if (hooks->admit == NULL) return true;
  pool_stats(sim->pool, &stats);
  return hooks->admit(hooks->user, &stats, &request);
}

static void request_count(struct sim *sim, struct request *r) {
  bool first = r->attempt == 0;
  r->began = sim->now;
  r->counted = sim->now >= sim->warm;
  sim->total.offered++;
  sim->live++;
  sim->interval.offered++;
  r->source->firsts += first;
  if (!r->counted) return;
  sim->counted_live++;
  sim->result->offered++;
  sim->result->requests += first;
}

static void request_begin(struct sim *sim, struct request *r) {
  const struct sim_source *is = r->source->is;
  usec timeout = sim->settings.timeout;
  request_count(sim, r);
  if (is->deadline > 0) event_plan(sim, &r->event, sim->now + seconds_usec(is->deadline), caller_gone);
  waiter_init(&r->waiter, sim->now + timeout, r);
  r->waiter.key = r->key;
  r->waiter.priority = r->priority;
  if (r->key != 0 && sim->options->hooks.weight != NULL) r->waiter.weight = sim->options->hooks.weight(sim->options->hooks.user, r->key);
  if (!admitted(sim, &r->waiter, timeout)) {
    request_failed(sim, r, POOL_OVERLOADED);
    return;
  }
  r->in_line = true;
  sim->in_line++;
  sim->result->pool_inputs++;
  pool_acquire(sim->pool, &r->waiter, sim->now);
}

/* An attempt that was planned: a retry, or a closed caller's next. */
void sim_begin_request(struct sim *sim, struct event *event) {
  struct request *r = CONTAINER(event, struct request, event);
  if (r->attempt == 0) r->work = source_work(r->source, &r->holding);
  request_begin(sim, r);
}

void request_arrive(struct sim *sim, struct request *r) { request_begin(sim, r); }

/* ---- connections ---- */

static void conn_connected(struct sim *sim, struct conn *c, bool connected) {
  if (c->connected == connected) return;
  c->connected = connected;
  sim->database.connections += connected ? 1 : -1;
}

static void open_failed(struct sim *sim, struct conn *c, const char *sqlstate, const char *why) {
  struct pool_error error;
  error_set(&error, POOL_CONNECT, "%s", why);
  text_copy(error.sqlstate, sizeof error.sqlstate, sqlstate);
  conn_connected(sim, c, false);
  sim->total_connections--;
  pool_opened(sim->pool, c->slot, sim->now, &error);
}

static void login_done(struct sim *sim, struct job *job) {
  pool_opened(sim->pool, CONTAINER(job, struct conn, job)->slot, sim->now, NULL);
}

static void open_arrived(struct sim *sim, struct event *event) {
  struct conn *c = CONTAINER(event, struct conn, event);
  if (sim->database.down) {
    open_failed(sim, c, "57P03", "the database system is starting up");
  } else if (database_refuses(sim)) {
    open_failed(sim, c, "53300", "too many clients already");
  } else {
    conn_connected(sim, c, true);
    if (sim->options->database.login_work > 0) job_begin(sim, &c->job, sim->options->database.login_work, login_done);
    else pool_opened(sim->pool, c->slot, sim->now, NULL);
  }
}

static void check_answered(struct sim *sim, struct event *event) {
  struct conn *c = CONTAINER(event, struct conn, event);
  c->checking = false;
  pool_checked(sim->pool, c->slot, sim->now, c->connected);
}

/* After a round trip; at once when that takes no time. */
static void conn_round_trip(struct sim *sim, struct conn *c, void (*arrived)(struct sim *, struct event *)) {
  double trip = sim->options->database.round_trip;
  if (trip > 0) event_plan(sim, &c->event, sim->now + seconds_usec(trip), arrived);
  else arrived(sim, &c->event);
}

static void conn_close(struct sim *sim, struct conn *c) {
  event_drop(sim, &c->event);
  job_drop(sim, &c->job);
  c->checking = false;
  conn_connected(sim, c, false);
  sim->total_connections--;
  pool_closed(sim->pool, c->slot, sim->now);
}

/* The database has ended it. */
void conn_killed(struct sim *sim, struct conn *c) {
  event_drop(sim, &c->event);
  if (c->request != NULL) {
    conn_connected(sim, c, false);
    request_failed(sim, lease_end(sim, c, OUTCOME_BROKEN), POOL_LOST);
  } else if (c->slot->state == SLOT_OPENING) {
    job_drop(sim, &c->job);
    open_failed(sim, c, "57P01", "terminating connection due to administrator command");
  } else {
    conn_connected(sim, c, false);
    if (c->checking) check_answered(sim, &c->event);
    else if (c->slot->state == SLOT_IDLE) pool_lost(sim->pool, c->slot, sim->now, true);
  }
  sim_drain(sim);
}

static void order(struct sim *sim, const struct action *a) {
  struct conn *c = a->slot != NULL ? conn_of(sim, a->slot) : NULL;
  switch (a->kind) {
    case ACTION_OPEN:
      sim->total_connections++;
      conn_round_trip(sim, c, open_arrived);
      break;
    case ACTION_CHECK:
      c->checking = true;
      conn_round_trip(sim, c, check_answered);
      break;
    case ACTION_RESET: pool_reset_done(sim->pool, a->slot, sim->now, true); break;
    case ACTION_CLOSE: conn_close(sim, c); break;
    case ACTION_GRANT: granted(sim, a->waiter, a->slot); break;
    case ACTION_FAIL:
      line_left(sim, a->waiter->user, a->waiter->waited);
      request_failed(sim, a->waiter->user, a->waiter->failed);
      break;
    default: WRONG("no such action");
  }
}

void sim_drain(struct sim *sim) {
  struct action a;
  while (pool_next(sim->pool, &a)) {
    sim->result->pool_inputs++;
    order(sim, &a);
  }
  if (sim->total_connections > sim->result->connections_max && sim->now >= sim->warm) sim->result->connections_max = sim->total_connections;
  if (sim->in_line > sim->result->line_max && sim->now >= sim->warm) sim->result->line_max = sim->in_line;
}

/* ---- figures over an interval ---- */

/* The peaks are read for two, at different times. */
static void peaks_read(struct sim *sim) {
  struct peaks p;
  pool_peaks(sim->pool, &p);
  struct peaks *both[] = {&sim->tick_peaks, &sim->timeline_peaks};
  for (int i = 0; i < 2; i++) {
    if (p.leased > both[i]->leased) both[i]->leased = p.leased;
    if (p.waiting > both[i]->waiting) both[i]->waiting = p.waiting;
  }
}

static void snapshot_read(struct sim *sim, struct snapshot *out, struct reading *before, struct peaks *peaks) {
  struct reading now;
  const struct sim_database *is = &sim->options->database;
  peaks_read(sim);
  pool_stats(sim->pool, &now.stats);
  now.query = sim->query;
  snapshot_take(out, &now, before, peaks);
  out->database_max_connections = is->max_connections > 0 ? is->max_connections : -1;
  out->database_in_use = sim->database.connections + sim->database.others;
  *before = now;
  *peaks = (struct peaks){now.stats.leased, now.stats.waiting};
}

static void propose(struct sim *sim, const struct proposal *p) {
  const struct sim_hooks *hooks = &sim->options->hooks;
  struct settings before = sim->settings, after;
  struct pool_error error;
  enum pool_err err = proposal_dispose(&before, p, &sim->options->limits, true, &after, &error);
  if (err == POOL_OK) err = pool_configure(sim->pool, &after, sim->now);
  if (err != POOL_OK) {
    sim->result->refused++;
    if (hooks->refused != NULL) hooks->refused(hooks->user, p, &error);
    return;
  }
  sim->settings = after;
  if (memcmp(&before, &after, sizeof before) == 0) return;
  sim->result->applied++;
  if (hooks->applied != NULL) hooks->applied(hooks->user, &before, &after, p);
}

static void tick_fire(struct sim *sim, struct event *event) {
  const struct sim_hooks *hooks = &sim->options->hooks;
  struct snapshot snapshot;
  struct proposal p;
  event_plan(sim, event, sim->now + seconds_usec(hooks->every), tick_fire);
  pool_tick(sim->pool, sim->now);
  snapshot_read(sim, &snapshot, &sim->tick_reading, &sim->tick_peaks);
  sim->result->ticks++;
  memset(&p, 0, sizeof p);
  if (hooks->tick(hooks->user, &snapshot, &sim->settings, &p) && p.given != 0) propose(sim, &p);
}

static void timeline_fire(struct sim *sim, struct event *event) {
  event_plan(sim, event, sim->now + seconds_usec(sim->options->timeline_every), timeline_fire);
  pool_tick(sim->pool, sim->now);
  snapshot_read(sim, &sim->interval.snapshot, &sim->timeline_reading, &sim->timeline_peaks);
  sim->interval.speed = sim->database.speed;
  sim->interval.others = sim->database.others;
  sim->options->timeline(sim->options->hooks.user, &sim->interval);
  sim->interval = (struct sim_interval){.served = 0};
}

static void add_areas(struct sim *sim, usec until) {
  const struct database *d = &sim->database;
  usec from = sim->now > sim->warm ? sim->now : sim->warm;
  double t = until > from ? (double)(until - from) : 0;
  int most = sim->options->database.max_connections;
  sim->line_area += (until - sim->now) * sim->in_line;
  sim->area_line += t * sim->in_line;
  sim->area_leased += t * sim->leased;
  sim->area_connections += t * sim->total_connections;
  sim->area_database += t * d->running;
  if (most > 0 && d->connections + d->others > most) sim->area_over += t;
}

static void sim_move(struct sim *sim, usec at) {
  if (at <= sim->now) return;
  add_areas(sim, at);
  sim->now = at;
}

/* ---- a run ---- */

static void sim_loop(struct sim *sim) {
  while (!sim->short_of_memory) {
    struct heap_node *first = heap_first(&sim->events);
    usec due = pool_deadline(sim->pool), at = first != NULL ? first->at : NEVER;
    if ((due < at ? due : at) >= sim->end) break;
    sim->result->events++;
    if (due < at) {
      sim_move(sim, due);
      pool_tick(sim->pool, sim->now);
    } else {
      struct event *event = CONTAINER(first, struct event, node);
      sim_move(sim, at);
      heap_remove(&sim->events, first);
      event->planned = false;
      event->fire(sim, event);
    }
    sim_drain(sim);
    if (sim->options->checked) pool_assert(sim->pool);
  }
  sim_move(sim, sim->end);
}

static void sim_begin(struct sim *sim) {
  const struct sim_options *o = sim->options;
  sim->settings = o->settings;
  sim->warm = seconds_usec(o->warmup);
  sim->end = seconds_usec(o->duration);
  for (int i = 0; i < o->settings.size_limit; i++) sim->conns[i].slot = pool_slot(sim->pool, i);
  database_begin(sim); /* before the pool opens what min_idle wants */
  pool_tick(sim->pool, 0);
  sim_drain(sim);
  for (int i = 0; i < o->source_count; i++) source_begin(sim, i);
  if (o->hooks.tick != NULL && o->hooks.every > 0) event_plan(sim, &sim->tick, seconds_usec(o->hooks.every), tick_fire);
  if (o->timeline != NULL && o->timeline_every > 0) event_plan(sim, &sim->timeline, seconds_usec(o->timeline_every), timeline_fire);
}

/* A quantile, linear within its bucket: histogram_percentile gives the bucket's end. */
static double quantile(const struct histogram *h, double fraction) {
  double rank = fraction * (double)h->count, seen = 0;
  if (h->count == 0) return 0;
  usec last = histogram_percentile(h, fraction), first = last;
  for (int i = 0; i < HISTOGRAM_BUCKETS; i++) {
    if (seen + h->buckets[i] < rank) {
      seen += h->buckets[i];
      continue;
    }
    if (i >= 16) first = last - (((usec)1 << (i / 16 - 1)) - 1) < 0 ? 0 : last - (((usec)1 << (i / 16 - 1)) - 1);
    double within = h->buckets[i] > 0 ? (rank - seen) / h->buckets[i] : 1;
    return ((double)first + within * (double)(last - first)) * 1e-6;
  }
  return (double)last * 1e-6;
}

static void result_fill(struct sim *sim) {
  struct sim_result *r = sim->result;
  double span = (double)(sim->end - sim->warm), count = (double)r->wait.count;
  const double fractions[] = {0.50, 0.95, 0.99};
  struct stats s;
  pool_tick(sim->pool, sim->end - 1 > sim->now ? sim->end - 1 : sim->now);
  pool_stats(sim->pool, &s);
  r->in_system = sim->counted_live;
  r->wait_mean = count > 0 ? sim->wait_sum / count : 0;
  r->wait_variance = count > 1 ? (sim->wait_squares - count * r->wait_mean * r->wait_mean) / (count - 1) : 0;
  r->hold_mean = sim->holds > 0 ? sim->hold_sum / (double)sim->holds : 0;
  for (int i = 0; i < 3; i++) r->wait_quantiles[i] = quantile(&r->wait, fractions[i]);
  r->line_mean = sim->area_line / span;
  r->leased_mean = sim->area_leased / span;
  r->connections_mean = sim->area_connections / span;
  r->in_database_mean = sim->area_database / span;
  r->over_budget = sim->area_over / span;
  r->utilization = r->leased_mean / (s.size + s.max_overflow);
  r->opens = s.counters.opens;
  r->open_failures = s.counters.open_failures;
  r->closes = s.counters.closes;
}

/* To the last request, and to the last microsecond. */
static void sim_verify(struct sim *sim) {
  usec waiting = 0;
  LIST_EACH(l, &sim->requests) {
    const struct request *r = CONTAINER(l, struct request, all);
    if (r->in_line) waiting += sim->end - r->began;
  }
  INSIST(sim->total.offered == sim->total.served + sim->total.timeouts + sim->total.rejected + sim->total.errors +
                                   sim->total.cancelled + sim->live);
  INSIST(sim->line_area == sim->line_waited + waiting);
}

static void sim_end(struct sim *sim) {
  struct list *l;
  if (sim->pool != NULL) {
    pool_drain(sim->pool, sim->now);
    pool_destroy(sim->pool);
  }
  while ((l = list_shift(&sim->blocks)) != NULL) free(CONTAINER(l, struct block, link));
  free(sim->conns);
  free(sim);
}

enum pool_err sim_run(const struct sim_options *options, struct sim_result *result, struct pool_error *error) {
  enum pool_err err = sim_check(options, error);
  memset(result, 0, sizeof *result);
  if (err != POOL_OK) return err;
  struct sim *sim = calloc(1, sizeof *sim);
  if (sim == NULL) return error_set(error, POOL_OVERLOADED, "not enough memory");
  sim->options = options;
  sim->result = result;
  heap_init(&sim->events);
  list_init(&sim->requests);
  list_init(&sim->blocks);
  sim->conns = calloc((size_t)options->settings.size_limit, sizeof *sim->conns);
  sim->pool = pool_create(&options->settings, options->seed);
  if (sim->conns != NULL && sim->pool != NULL) {
    sim_begin(sim);
    sim_loop(sim);
  } else {
    sim->short_of_memory = true;
  }
  if (sim->short_of_memory) {
    err = error_set(error, POOL_OVERLOADED, "not enough memory");
  } else {
    sim_verify(sim);
    result_fill(sim);
  }
  sim_end(sim);
  return err;
}
