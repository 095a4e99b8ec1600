/*
** theory_test: the simulator against exact theory. Each row is run with ten seeds; its deviation from the theory is printed with its
** standard error (of the ten means), and must be within four of them. theory_test [requests a seed, default 100000].
*/
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/sim.h"
#include "support/check.h"

enum { SEEDS = 10 };
#define S 0.010 /* mean service, seconds */

static double requests = 100000;

/* ---- theory ---- */

static double erlang_b(int c, double a) {
  double b = 1;
  for (int k = 1; k <= c; k++) b = a * b / (k + a * b);
  return b;
}

static double erlang_c(int c, double a) {
  double b = erlang_b(c, a), rho = a / c;
  return b / (1 - rho * (1 - b));
}

static double mmc_wait(int c, double rho) { return erlang_c(c, rho * c) * S / (c * (1 - rho)); }

/* The time below which a share p of the waits is: P(W > t) = C exp(-(c - a) t / S). */
static double mmc_quantile(int c, double rho, double p) {
  double above = erlang_c(c, rho * c);
  return above <= 1 - p ? 0 : log(above / (1 - p)) * S / (c - rho * c);
}

/* Pollaczek, Khinchine: one server, coefficient of variation cv. */
static double mg1_wait(double rho, double cv) { return rho * S * (1 + cv * cv) / (2 * (1 - rho)); }

/* M/M/c with impatience after a fixed time T (Barrer 1957): the share that gives up. Below c requests the states are those of M/M/c, p(k)
   falling as a^k / k!. With all servers busy the virtual wait x has, up to T, the density lambda p(c-1) exp(-(c mu - lambda) x); beyond
   T nobody
   joins, and it runs down at the servers' pace. Work is done at the rate of the busy servers, and comes at the rate of those who stay. */
static double impatient_lost(int c, double a, double T) {
  double p = 1, sum = 0, busy = 0, lambda = a / S, gap = c / S - lambda;
  for (int k = 0; k < c; k++) {
    if (k > 0) p *= a / k;
    sum += p;
    busy += k * p;
  }
  double within = fabs(gap) < 1e-9 ? T : (1 - exp(-gap * T)) / gap;
  double full = p * lambda * within + p * exp(-gap * T) * lambda * S / c;
  return 1 - (busy + c * full) / (sum + full) / a;
}

/* Machine repair, M/M/c//N: mean wait in line of a request. */
static double closed_wait(int c, int n, double think) {
  double p = 1, sum = 0, line = 0, rate = 0, r = S / think;
  for (int k = 0; k <= n; k++) {
    if (k > 0) p *= (n - k + 1) * r / (k < c ? k : c);
    sum += p;
    line += k > c ? (k - c) * p : 0;
    rate += (n - k) / think * p;
  }
  return line / rate;
}

/* Birth and death with c servers that slow each other down, rate n r(n) / S, and a line without end: mean wait. */
static double usl_wait(int c, double lambda, double sigma, double kappa) {
  double p = 1, sum = 0, line = 0;
  for (int n = 0; n < 20000; n++) {
    int k = n < c ? n : c;
    if (n > 0) p *= lambda * S * (1 + sigma * (k - 1) + kappa * k * (k - 1.0)) / k;
    sum += p;
    line += n > c ? (n - c) * p : 0;
    if (p < sum * 1e-14 && n > 10 * c) break;
  }
  return line / sum / lambda;
}

/* ---- runs ---- */

static struct sim_options options_of(int c, double rate) {
  static struct sim_options o;
  memset(&o, 0, sizeof o);
  settings_defaults(&pool_settings_table, &o.settings);
  limits_defaults(&o.limits);
  o.settings.size = c;
  o.settings.max_overflow = 0;
  o.settings.size_limit = c;
  o.settings.max_waiting = 100000000;
  o.settings.timeout = 100000 * USEC_PER_SECOND;
  o.settings.max_opening = c;
  o.source_count = 1;
  struct sim_source *s = &o.sources[0];
  s->kind = SIM_POISSON;
  s->points[0].rate = rate;
  s->point_count = 1;
  s->priority = WAITER_PRIORITY;
  s->services[0] = (struct sim_service){.share = 1, .kind = SIM_EXPONENTIAL, .mean = S};
  s->service_count = 1;
  o.duration = requests / rate * 1.2;
  o.warmup = requests / rate * 0.2;
  return o;
}

enum figure { WAIT, WAITED, P95, LOST };

static double figure_of(const struct sim_result *r, enum figure figure) {
  switch (figure) {
    case WAIT: return r->wait_mean;
    case WAITED: return 1 - (double)r->wait.buckets[0] / (double)r->wait.count;
    case P95: return r->wait_quantiles[1];
    default: return (double)r->timeouts / (double)r->offered;
  }
}

/* Runs ten seeds and checks the figure's mean against the theory; `slack`: what the measuring itself is off by. */
static void against(const char *name, struct sim_options *o, enum figure figure, double theory, double slack) {
  double sum = 0, squares = 0;
  struct sim_result *r = malloc(sizeof *r);
  struct pool_error error;
  for (int i = 0; i < SEEDS; i++) {
    o->seed = 1000 + (uint64_t)i;
    enum pool_err err = sim_run(o, r, &error);
    CHECK_TEXT(err == POOL_OK ? "" : error.message, "");
    double x = figure_of(r, figure);
    sum += x;
    squares += x * x;
  }
  double mean = sum / SEEDS, error_of_mean = sqrt(fmax(0, squares / SEEDS - mean * mean) / (SEEDS - 1));
  double off = mean - theory;
  printf("  %-34s %10.6f %10.6f  off %+7.2f %%  standard error %5.2f %%  (%+.1f)\n", name, mean, theory, theory ? 100 * off / theory : 0,
         theory ? 100 * error_of_mean / theory : 0, error_of_mean > 0 ? off / error_of_mean : 0);
  CHECK(fabs(off) <= 4 * error_of_mean + slack);
  free(r);
}

static void open_lines(void) {
  const int servers[] = {1, 5, 10, 30};
  const double loads[] = {0.5, 0.8, 0.95};
  char name[64];
  TEST("M/M/c: mean wait by Erlang C, who waits at all, the 95 % quantile") {
    for (int i = 0; i < 4; i++) {
      for (int j = 0; j < 3; j++) {
        int c = servers[i];
        struct sim_options o = options_of(c, loads[j] * c / S);
        snprintf(name, sizeof name, "M/M/%d %.2f wait", c, loads[j]);
        against(name, &o, WAIT, mmc_wait(c, loads[j]), 1e-6);
        snprintf(name, sizeof name, "M/M/%d %.2f share that waits", c, loads[j]);
        against(name, &o, WAITED, erlang_c(c, loads[j] * c), 2e-4);
        double p95 = mmc_quantile(c, loads[j], 0.95);
        snprintf(name, sizeof name, "M/M/%d %.2f p95", c, loads[j]);
        if (p95 > 0) against(name, &o, P95, p95, p95 / 100);
      }
    }
  }
  TEST("M/G/1: mean wait by Pollaczek and Khinchine") {
    static const struct { const char *name; struct sim_service s; double cv; } kinds[] = {
      {"M/D/1", {.share = 1, .kind = SIM_DETERMINISTIC, .mean = S}, 0},
      {"M/E3/1", {.share = 1, .kind = SIM_ERLANG, .mean = S, .k = 3}, 0.5773502691896258},
      {"M/H2/1 (cv 2)", {.share = 1, .kind = SIM_HYPEREXPONENTIAL, .mean = S, .cv = 2}, 2},
      {"M/lognormal/1 (cv 1.5)", {.share = 1, .kind = SIM_LOGNORMAL, .mean = S, .cv = 1.5}, 1.5}};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
      struct sim_options o = options_of(1, 0.8 / S);
      o.sources[0].services[0] = kinds[i].s;
      against(kinds[i].name, &o, WAIT, mg1_wait(0.8, kinds[i].cv), 1e-6);
    }
  }
  TEST("LIFO has FIFO's mean wait") {
    struct sim_options o = options_of(5, 0.8 * 5 / S);
    o.settings.queue = QUEUE_LIFO;
    o.settings.queue_interval = 0;
    against("M/M/5 0.80 lifo", &o, WAIT, mmc_wait(5, 0.8), 1e-6);
  }
  TEST("a pure delay (a lock held) is a server like any other") {
    struct sim_options o = options_of(5, 0.8 * 5 / S);
    o.sources[0].services[0].holding = true;
    o.database.sigma = 0.5; /* does not count */
    against("M/M/5 0.80 holding", &o, WAIT, mmc_wait(5, 0.8), 1e-6);
  }
}

static void other_lines(void) {
  TEST("time-outs are impatience: M/M/c + D, the share that gives up (Barrer)") {
    struct sim_options o = options_of(5, 0.9 * 5 / S);
    o.settings.timeout = 20000;
    against("M/M/5 0.90, 20 ms", &o, LOST, impatient_lost(5, 0.9 * 5, 0.020), 1e-4);
    o = options_of(5, 1.2 * 5 / S);
    o.settings.timeout = 20000;
    against("M/M/5 1.20, 20 ms", &o, LOST, impatient_lost(5, 1.2 * 5, 0.020), 1e-4);
  }
  TEST("closed callers are machine repair: M/M/c//N") {
    struct sim_options o = options_of(5, 1);
    o.sources[0].kind = SIM_CLOSED;
    o.sources[0].clients = 50;
    o.sources[0].think = 0.080;
    o.duration = requests * 0.09 / 50 * 1.2;
    o.warmup = o.duration / 6;
    against("M/M/5//50, think 80 ms", &o, WAIT, closed_wait(5, 50, 0.080), 1e-6);
  }
  TEST("contention is birth and death at rate n r(n)") {
    struct sim_options o = options_of(10, 350);
    o.database.sigma = 0.05;
    o.database.kappa = 0.01;
    against("USL, 10 connections, 350/s", &o, WAIT, usl_wait(10, 350, 0.05, 0.01), 1e-6);
    o = options_of(30, 600);
    o.database.sigma = 0.08;
    o.database.kappa = 0.0008;
    against("USL, 30 connections, 600/s", &o, WAIT, usl_wait(30, 600, 0.08, 0.0008), 1e-6);
  }
}

/* The same options give the same bytes, and one source's arrivals do not depend on another's. */
static void determinism(void) {
  static struct sim_result a, b;
  struct pool_error error;
  struct sim_options o = options_of(5, 300);
  o.duration = 30;
  o.warmup = 0;
  o.checked = true;
  TEST("the same options give the same result, byte for byte") {
    sim_run(&o, &a, &error);
    sim_run(&o, &b, &error);
    CHECK(memcmp(&a, &b, sizeof a) == 0 && a.served > 8000);
    o.seed = 2;
    sim_run(&o, &b, &error);
    CHECK(memcmp(&a, &b, sizeof a) != 0);
  }
  TEST("a second source changes nothing of the first one's arrivals") {
    o.seed = 0;
    o.sources[1] = o.sources[0];
    o.sources[1].points[0].rate = 0;
    o.source_count = 2;
    sim_run(&o, &b, &error);
    CHECK(memcmp(&a, &b, sizeof a) == 0);
  }
}

/* W12: HikariCP's spike, 50 at once upon 5 idle connections, 2 ms each: exact where no open comes in time. */
static void spike(void) {
  static struct sim_result r;
  struct pool_error error;
  struct sim_options o = options_of(5, 1);
  struct sim_source *s = &o.sources[0];
  TEST("the spike upon 5 connections waits 0, 2 ... 18 ms, 9 ms in the mean, and is over in 20 ms") {
    s->kind = SIM_BATCH;
    s->batch = 50;
    s->first = 1;
    s->services[0] = (struct sim_service){.share = 1, .kind = SIM_DETERMINISTIC, .mean = 0.002};
    o.settings.min_idle = 5;
    o.database.round_trip = 0.15;
    o.duration = 5;
    o.warmup = 0;
    CHECK_INT(sim_run(&o, &r, &error), POOL_OK);
    CHECK_INT(r.served, 50);
    CHECK_INT(r.opens, 5);
    CHECK(fabs(r.wait_mean - 0.009) < 1e-9);
    CHECK_INT(r.wait.max, 18000);
    CHECK_INT(r.response.max, 20000);
  }
  TEST("with room for 50 it opens more, and nobody waits longer for it") {
    o.settings.size = 50;
    o.settings.size_limit = 50;
    CHECK_INT(sim_run(&o, &r, &error), POOL_OK);
    CHECK_INT(r.served, 50);
    CHECK(r.wait.max <= 18000);
    CHECK(r.opens <= 10); /* those begun at once, and no more: the line was gone before they were there */
  }
}

static void login(void) {
  static struct sim_result r;
  struct pool_error error;
  struct sim_options o = options_of(5, 1);
  TEST("connections wanted from the start are opened at the database's pace, also where the way there takes no time") {
    o.sources[0].kind = SIM_BATCH;
    o.sources[0].batch = 5;
    o.settings.min_idle = 5;
    o.database.login_work = 0.15;
    o.duration = 5;
    o.warmup = 0;
    CHECK_INT(sim_run(&o, &r, &error), POOL_OK);
    CHECK_INT(r.opens, 5);
    CHECK_INT(r.wait.max, 150000);
  }
}

int main(int argc, char **argv) {
  if (argc > 1) requests = atof(argv[1]);
  determinism();
  spike();
  login();
  open_lines();
  other_lines();
  return check_done();
}
