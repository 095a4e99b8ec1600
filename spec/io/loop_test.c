/*
** The loop's specs. What both loops promise runs against both (shared_specs); then what only libev's has to show (real
** sockets under one number, a host's loop, threads, signals), then what only the virtual one promises.
*/
#include "io/loop.h"
#include "support/check.h"

#include <errno.h>
#include <ev.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define MS ((usec)1000)

struct fixture {
  struct loop *loop;
  bool virtual;
  int near, far; /* a socket pair; the specs watch `near` */
};

static void fixture_begin(struct fixture *f, bool virtual) {
  int pair[2];
  INSIST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0);
  *f = (struct fixture){.virtual = virtual, .near = pair[0], .far = pair[1]};
  f->loop = virtual ? loop_virtual_create(1000 * USEC_PER_SECOND) : loop_ev_create();
  INSIST(f->loop != NULL);
}

static void fixture_end(struct fixture *f) {
  loop_destroy(f->loop);
  close(f->near);
  close(f->far);
}

static void fixture_readable(struct fixture *f) {
  if (f->virtual) loop_virtual_ready(f->loop, f->near, LOOP_READ);
  else INSIST(write(f->far, "x", 1) == 1);
}

static void fixture_writable(struct fixture *f) {
  if (f->virtual) loop_virtual_ready(f->loop, f->near, LOOP_WRITE); /* a real one always is */
}

static void turns(struct loop *l, int count) {
  for (int i = 0; i < count; i++) loop_turn(l, loop_now(l) + 2 * MS);
}

/* ---- what the specs hang on the loop ---- */

struct seen {
  struct watch watch;
  int count, events;
  bool read_it;
  struct loop *loop;
  bool stop_it;
};

static void seen_ready(struct watch *w, int events) {
  struct seen *s = CONTAINER(w, struct seen, watch);
  char byte[16];
  s->count++;
  s->events |= events;
  if (s->read_it && read(w->fd, byte, sizeof byte) < 0) s->read_it = true;
  if (s->stop_it) watch_set(s->loop, w, w->fd, 0);
}

struct note {
  struct timer timer;
  struct loop *loop;
  char **out; /* where a letter goes when it fires */
  char letter;
  int again;  /* restarts itself, as often */
  usec every, fired_at;
  struct timer *stops;
};

static void note_fire(struct timer *t) {
  struct note *n = CONTAINER(t, struct note, timer);
  n->fired_at = loop_now(n->loop);
  if (n->out) *(*n->out)++ = n->letter;
  if (n->stops) timer_stop(n->loop, n->stops);
  if (n->again-- > 0) timer_start(n->loop, t, loop_now(n->loop) + n->every);
}

struct work {
  struct drain drain;
  struct loop *loop;
  int left;     /* rounds in which it still does something */
  int runs;
  bool pending;
  struct drain *removes;
  struct drain *adds;
};

static bool work_run(struct drain *d) {
  struct work *w = CONTAINER(d, struct work, drain);
  w->runs++;
  if (w->removes) drain_remove(w->loop, w->removes);
  if (w->adds) drain_add(w->loop, w->adds);
  w->removes = w->adds = NULL;
  if (w->left == 0) return false;
  w->left--;
  return true;
}

static bool work_pending(struct drain *d) { return CONTAINER(d, struct work, drain)->pending; }

struct woken {
  struct wake wake;
  struct loop *loop;
  int count;
  bool stop_it;
};

static void woken_woken(struct wake *w) {
  struct woken *n = CONTAINER(w, struct woken, wake);
  n->count++;
  if (n->stop_it) wake_stop(n->loop, w);
}

/* ---- what both promise ---- */

static void timer_specs(struct fixture *f) {
  struct loop *l = f->loop;
  TEST("timers fire in the order of their deadlines, equal ones in the order started") {
    char out[8] = "", *at = out;
    usec now = loop_now(l);
    struct note a = {{note_fire}, l, &at, 'a'}, b = {{note_fire}, l, &at, 'b'}, c = {{note_fire}, l, &at, 'c'};
    timer_start(l, &a.timer, now + 6 * MS);
    timer_start(l, &b.timer, now + 3 * MS);
    timer_start(l, &c.timer, now + 3 * MS);
    while (a.timer.running) loop_turn(l, NEVER);
    CHECK_TEXT(out, "bca");
    CHECK(b.fired_at >= now + 3 * MS && a.fired_at >= now + 6 * MS);
  }
  TEST("a timer never fires before its time, and once") {
    struct note n = {{note_fire}, l};
    char out[8] = "", *at = out;
    n.out = &at;
    n.letter = 'x';
    for (int i = 0; i < 5; i++) {
      usec due = loop_now(l) + 1500 + 333 * i;
      timer_start(l, &n.timer, due);
      while (n.timer.running) loop_turn(l, NEVER);
      CHECK(n.fired_at >= due);
    }
    turns(l, 2);
    CHECK_TEXT(out, "xxxxx");
  }
  TEST("a stopped timer does not fire, not even when it is due in the same round") {
    struct note first = {{note_fire}, l}, second = {{note_fire}, l};
    first.stops = &second.timer;
    timer_start(l, &first.timer, loop_now(l) + MS);
    timer_start(l, &second.timer, loop_now(l) + MS);
    while (first.timer.running) loop_turn(l, NEVER);
    turns(l, 2);
    CHECK(first.fired_at > 0);
    CHECK(second.fired_at == 0);
    CHECK(!second.timer.running);
  }
  TEST("starting a running timer moves it, NEVER stops it") {
    struct note n = {{note_fire}, l};
    usec now = loop_now(l);
    timer_start(l, &n.timer, now + 3600 * USEC_PER_SECOND);
    timer_start(l, &n.timer, now + MS);
    while (n.timer.running) loop_turn(l, NEVER);
    CHECK(n.fired_at < now + 3600 * USEC_PER_SECOND);
    timer_start(l, &n.timer, now + MS);
    timer_start(l, &n.timer, NEVER);
    CHECK(!n.timer.running);
  }
  TEST("a timer that restarts itself for now does not hold the turn") {
    struct note n = {{note_fire}, l};
    n.again = 1000000;
    timer_start(l, &n.timer, loop_now(l));
    turns(l, 5);
    CHECK(n.again > 1000000 - 20);
    CHECK(n.again < 1000000 - 3);
    timer_stop(l, &n.timer);
  }
  TEST("a turn ends at its own limit") {
    struct note n = {{note_fire}, l};
    usec now = loop_now(l);
    timer_start(l, &n.timer, now + 3600 * USEC_PER_SECOND);
    for (int i = 0; i < 50 && loop_now(l) < now + 5 * MS; i++) loop_turn(l, now + 5 * MS);
    CHECK(loop_now(l) >= now + 5 * MS);
    CHECK(loop_now(l) < now + 3600 * USEC_PER_SECOND);
    CHECK(n.timer.running);
    timer_stop(l, &n.timer);
  }
}

static void watch_specs(struct fixture *f) {
  struct loop *l = f->loop;
  TEST("a watch is told what it asked for and nothing else") {
    struct seen s = {{seen_ready}, .read_it = true};
    watch_set(l, &s.watch, f->near, LOOP_READ);
    fixture_writable(f);
    turns(l, 2);
    CHECK_INT(s.count, 0);
    fixture_readable(f);
    turns(l, 2);
    CHECK_INT(s.count, 1);
    CHECK_INT(s.events, LOOP_READ);
    watch_set(l, &s.watch, f->near, LOOP_READ | LOOP_WRITE);
    fixture_writable(f);
    turns(l, 1);
    CHECK_INT(s.events, LOOP_READ | LOOP_WRITE);
    watch_set(l, &s.watch, f->near, 0);
  }
  TEST("a stopped watch is told nothing, and can be started again") {
    struct seen s = {{seen_ready}, .read_it = true};
    watch_set(l, &s.watch, f->near, LOOP_READ);
    watch_set(l, &s.watch, f->near, 0);
    fixture_readable(f);
    turns(l, 2);
    CHECK_INT(s.count, 0);
    CHECK_INT(s.watch.events, 0);
    watch_set(l, &s.watch, f->near, LOOP_READ);
    if (f->virtual) fixture_readable(f); /* there, what nobody watched was lost */
    turns(l, 2);
    CHECK_INT(s.count, 1);
    watch_set(l, &s.watch, f->near, 0);
  }
  TEST("a watch may stop itself, and another, from inside") {
    struct seen s = {{seen_ready}, .loop = l, .stop_it = true};
    watch_set(l, &s.watch, f->near, LOOP_READ);
    fixture_readable(f);
    turns(l, 3);
    CHECK_INT(s.count, 1);
    CHECK_INT(s.watch.events, 0);
  }
  TEST("events narrowed and widened are followed") {
    struct seen s = {{seen_ready}, .read_it = true};
    watch_set(l, &s.watch, f->near, LOOP_READ | LOOP_WRITE);
    turns(l, 1);
    watch_set(l, &s.watch, f->near, LOOP_READ);
    watch_set(l, &s.watch, f->near, LOOP_WRITE);
    watch_set(l, &s.watch, f->near, LOOP_READ);
    turns(l, 1);
    s.count = s.events = 0;
    turns(l, 2);
    CHECK_INT(s.count, 0);
    fixture_readable(f);
    turns(l, 2);
    CHECK_INT(s.events, LOOP_READ);
    watch_set(l, &s.watch, f->near, 0);
  }
}

static void drain_specs(struct fixture *f) {
  struct loop *l = f->loop;
  TEST("drains run until a whole round did nothing") {
    struct work a = {{{0}, work_run}, l}, b = {{{0}, work_run}, l};
    a.left = 3;
    drain_add(l, &a.drain);
    drain_add(l, &b.drain);
    turns(l, 1);
    CHECK_INT(a.left, 0);
    CHECK(a.runs >= 4);
    CHECK_INT(b.runs, a.runs);
    drain_remove(l, &a.drain);
    drain_remove(l, &b.drain);
  }
  TEST("a turn with work before its sleep does not sleep") {
    struct work a = {{{0}, work_run}, l};
    usec before = loop_update(l);
    a.left = 1;
    drain_add(l, &a.drain);
    loop_turn(l, before + 3600 * USEC_PER_SECOND);
    CHECK(loop_update(l) < before + 60 * USEC_PER_SECOND);
    CHECK_INT(a.left, 0);
    drain_remove(l, &a.drain);
  }
  TEST("what an event queued is done before the turn ends") {
    struct work a = {{{0}, work_run}, l};
    struct note n = {{note_fire}, l};
    drain_add(l, &a.drain);
    timer_start(l, &n.timer, loop_now(l) + MS);
    for (; n.timer.running; loop_turn(l, NEVER)) a.runs = 0;
    CHECK(a.runs >= 2); /* before the sleep and after the timer */
    drain_remove(l, &a.drain);
  }
  TEST("a drain that never rests does not keep events from being seen") {
    struct work a = {{{0}, work_run}, l};
    struct seen s = {{seen_ready}, .read_it = true};
    a.left = 1000000000;
    drain_add(l, &a.drain);
    watch_set(l, &s.watch, f->near, LOOP_READ);
    fixture_readable(f);
    usec before = loop_update(l);
    for (int i = 0; i < 3; i++) loop_turn(l, before + 3600 * USEC_PER_SECOND);
    CHECK_INT(s.count, 1);
    CHECK(a.runs >= 128 && a.runs <= 6 * 64);
    CHECK(loop_update(l) < before + 60 * USEC_PER_SECOND);
    watch_set(l, &s.watch, f->near, 0);
    drain_remove(l, &a.drain);
  }
  TEST("the loop does not sleep while a drain says that there is more") {
    struct work a = {{{0}, work_run, work_pending}, l};
    usec before = loop_update(l);
    a.pending = true;
    drain_add(l, &a.drain);
    loop_turn(l, before + 3600 * USEC_PER_SECOND);
    CHECK(loop_update(l) < before + 60 * USEC_PER_SECOND);
    drain_remove(l, &a.drain);
  }
}

static void drain_change_specs(struct fixture *f) {
  struct loop *l = f->loop;
  TEST("a drain may remove itself, or the next, and add another, while it runs") {
    struct work a = {{{0}, work_run}, l}, b = {{{0}, work_run}, l}, c = {{{0}, work_run}, l};
    drain_add(l, &a.drain);
    drain_add(l, &b.drain);
    a.removes = &b.drain;
    a.adds = &c.drain;
    turns(l, 1);
    CHECK_INT(b.runs, 0);
    CHECK(c.runs > 0);
    c.removes = &c.drain;
    c.left = 1;
    int before = c.runs;
    turns(l, 2);
    CHECK_INT(c.runs, before + 1);
    drain_remove(l, &b.drain); /* no longer there: harmless */
    drain_remove(l, &a.drain);
  }
}

static void wake_specs(struct fixture *f) {
  struct loop *l = f->loop;
  TEST("a wake that was sent is delivered, several sent before the turn as one") {
    struct woken a = {{woken_woken}, l}, b = {{woken_woken}, l};
    wake_start(l, &a.wake);
    wake_start(l, &b.wake);
    wake_start(l, &b.wake);
    turns(l, 1);
    wake_send(l, &a.wake);
    wake_send(l, &a.wake);
    turns(l, 2);
    CHECK_INT(a.count, 1);
    CHECK_INT(b.count, 0);
    wake_send(l, &a.wake);
    turns(l, 1);
    CHECK_INT(a.count, 2);
    wake_stop(l, &a.wake);
    wake_stop(l, &a.wake);
    wake_stop(l, &b.wake);
  }
  TEST("a wake may stop itself from inside, and what it was sent is forgotten when it is stopped") {
    struct woken a = {{woken_woken}, l, .stop_it = true};
    wake_start(l, &a.wake);
    wake_send(l, &a.wake);
    turns(l, 2);
    CHECK_INT(a.count, 1);
    a.stop_it = false;
    wake_start(l, &a.wake);
    wake_send(l, &a.wake);
    wake_stop(l, &a.wake);
    turns(l, 1);
    CHECK_INT(a.count, 1);
  }
}

static void shared_specs(bool virtual) {
  struct fixture f;
  void (*const groups[])(struct fixture *) = {timer_specs, watch_specs, drain_specs, drain_change_specs, wake_specs};
  for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
    fixture_begin(&f, virtual);
    groups[i](&f);
    fixture_end(&f);
  }
  fixture_begin(&f, virtual);
  TEST("time does not go back, and loop_update keeps up with it") {
    usec before = loop_now(f.loop);
    CHECK(loop_update(f.loop) >= before);
    CHECK(loop_now(f.loop) >= before);
    CHECK(!loop_attached(f.loop));
  }
  fixture_end(&f);
}

/* ---- libev's loop ---- */

static void pair_make(int pair[2]) { INSIST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0); }

static void number_specs(void) {
  struct loop *l = loop_ev_create();
  int one[2], two[2];
  pair_make(one);
  pair_make(two);
  TEST("a renewed watch hears another file under the same number, replaced while it was watched") {
    struct seen s = {{seen_ready}};
    watch_set(l, &s.watch, one[0], LOOP_READ);
    turns(l, 2); /* it is registered now */
    INSIST(dup2(two[0], one[0]) == one[0]);
    watch_renew(l, &s.watch, one[0], LOOP_READ);
    INSIST(write(two[1], "x", 1) == 1);
    turns(l, 3);
    CHECK(s.count > 0);
    watch_set(l, &s.watch, one[0], 0);
  }
  TEST("a watch stopped and started in one turn hears another file under the same number") {
    struct seen s = {{seen_ready}, .read_it = true};
    int three[2];
    watch_set(l, &s.watch, two[0], LOOP_READ);
    turns(l, 2);
    s.count = 0;
    int number = two[0];
    watch_set(l, &s.watch, number, 0);
    close(number);
    pair_make(three);
    INSIST(dup2(three[0], number) == number);
    watch_set(l, &s.watch, number, LOOP_READ);
    turns(l, 1);
    s.count = 0;
    INSIST(write(three[1], "x", 1) == 1);
    turns(l, 3);
    CHECK(s.count > 0);
    watch_set(l, &s.watch, number, 0);
    close(three[0]);
    close(three[1]);
  }
  TEST("a renewed watch with other events than before hears the new file") {
    struct seen s = {{seen_ready}};
    int three[2];
    pair_make(three);
    watch_set(l, &s.watch, one[0], LOOP_WRITE);
    turns(l, 2);
    s.count = 0;
    INSIST(dup2(three[0], one[0]) == one[0]);
    watch_renew(l, &s.watch, one[0], LOOP_READ);
    INSIST(write(three[1], "x", 1) == 1);
    turns(l, 3);
    CHECK(s.count > 0);
    CHECK_INT(s.events & LOOP_READ, LOOP_READ);
    watch_set(l, &s.watch, one[0], 0);
    close(three[0]);
    close(three[1]);
  }
  TEST("the peer's close is readable") {
    struct seen s = {{seen_ready}};
    int three[2];
    pair_make(three);
    watch_set(l, &s.watch, three[0], LOOP_READ);
    close(three[1]);
    turns(l, 2);
    CHECK(s.events & LOOP_READ);
    watch_set(l, &s.watch, three[0], 0);
    close(three[0]);
  }
  loop_destroy(l);
  for (int i = 0; i < 2; i++) close(one[i]), close(two[i]);
}

struct sender {
  struct loop *loop;
  struct wake *wake;
};

static void *sender_main(void *arg) {
  struct sender *s = arg;
  usleep(3000);
  for (int i = 0; i < 1000; i++) wake_send(s->loop, s->wake);
  return NULL;
}

static void signal_caught(struct signal *s, int number);
struct caught {
  struct signal signal;
  int number;
};
static void signal_caught(struct signal *s, int number) { CONTAINER(s, struct caught, signal)->number = number; }

static void thread_specs(void) {
  struct loop *l = loop_ev_create();
  TEST("another thread wakes a sleeping loop") {
    struct woken w = {{woken_woken}, l};
    struct sender s = {l, &w.wake};
    pthread_t thread;
    usec before = loop_update(l);
    wake_start(l, &w.wake);
    INSIST(pthread_create(&thread, NULL, sender_main, &s) == 0);
    while (w.count == 0) loop_turn(l, before + 30 * USEC_PER_SECOND);
    pthread_join(thread, NULL);
    CHECK(w.count >= 1);
    CHECK(loop_update(l) < before + 20 * USEC_PER_SECOND);
    wake_stop(l, &w.wake);
  }
  TEST("a signal is caught in the loop") {
    struct caught c = {{signal_caught}};
    signal_start(l, &c.signal, SIGUSR1);
    INSIST(raise(SIGUSR1) == 0);
    for (int i = 0; i < 10 && !c.number; i++) turns(l, 1);
    CHECK_INT(c.number, SIGUSR1);
    signal_stop(l, &c.signal);
    signal_stop(l, &c.signal);
  }
  TEST("a loop with nothing to wait for sleeps until its limit rather than spin") {
    usec before = loop_update(l);
    loop_turn(l, before + 20 * MS);
    CHECK(loop_update(l) >= before + 19 * MS);
  }
  TEST("SIGPIPE has been ignored") {
    struct sigaction action;
    INSIST(sigaction(SIGPIPE, NULL, &action) == 0);
    CHECK(action.sa_handler == SIG_IGN);
  }
  loop_destroy(l);
}

/* A host: a one-shot timer that queues work on the attached loop. */
struct host {
  ev_timer timer;
  struct work *work;
};

static void host_fire(struct ev_loop *ev, ev_timer *t, int events) {
  (void)ev, (void)events;
  CONTAINER(t, struct host, timer)->work->left = 100;
}

static void host_specs(void) {
  struct ev_loop *ev = ev_loop_new(EVFLAG_NOENV);
  struct loop *l = loop_ev_attach(ev);
  struct work a = {{{0}, work_run, work_pending}, l};
  drain_add(l, &a.drain);
  TEST("an attached loop alone does not keep the host's loop running") {
    struct woken w = {{woken_woken}, l};
    struct caught c = {{signal_caught}};
    wake_start(l, &w.wake);
    signal_start(l, &c.signal, SIGUSR1);
    CHECK(loop_attached(l));
    CHECK(!ev_run(ev, 0));
    wake_stop(l, &w.wake);
    signal_stop(l, &c.signal);
    CHECK(!ev_run(ev, 0));
  }
  TEST("work queued before the host runs its loop is done, and then the loop ends") {
    a.left = 10;
    ev_run(ev, 0);
    CHECK_INT(a.left, 0);
  }
  TEST("work that outlasts the rounds is done to its end") {
    a.left = 1000;
    ev_run(ev, 0);
    CHECK_INT(a.left, 0);
  }
  TEST("work queued in the host's last callback is done before its loop returns") {
    struct host h = {.work = &a};
    ev_timer_init(&h.timer, host_fire, 0.002, 0.);
    ev_timer_start(ev, &h.timer);
    ev_run(ev, 0);
    CHECK_INT(a.left, 0);
  }
  TEST("a timer keeps the host's loop running until it has fired") {
    struct note n = {{note_fire}, l};
    n.again = 3;
    n.every = 2 * MS;
    usec due = loop_update(l) + 2 * MS;
    timer_start(l, &n.timer, due);
    ev_run(ev, 0);
    CHECK(n.fired_at >= due + 6 * MS);
    CHECK(!n.timer.running);
  }
  TEST("a watch keeps the host's loop running until it is stopped") {
    int pair[2];
    pair_make(pair);
    struct seen s = {{seen_ready}, .loop = l, .stop_it = true};
    watch_set(l, &s.watch, pair[0], LOOP_READ);
    INSIST(write(pair[1], "x", 1) == 1);
    ev_run(ev, 0);
    CHECK_INT(s.count, 1);
    close(pair[0]);
    close(pair[1]);
  }
  drain_remove(l, &a.drain);
  loop_destroy(l);
  TEST("the host's loop is as it was once ours is destroyed") {
    struct work b = {{{0}, work_run}, NULL};
    struct host h = {.work = &b};
    CHECK_INT((int)ev_pending_count(ev), 0);
    CHECK(!ev_run(ev, 0));
    ev_timer_init(&h.timer, host_fire, 0.001, 0.);
    ev_timer_start(ev, &h.timer);
    CHECK(!ev_run(ev, 0));
    CHECK_INT(b.left, 100);
  }
  ev_loop_destroy(ev);
}

/* ---- the virtual loop ---- */

struct chain {
  struct watch watch;
  struct loop *loop;
  int fd, left, count;
};

static void chain_ready(struct watch *w, int events) {
  struct chain *c = CONTAINER(w, struct chain, watch);
  c->count++;
  if (c->left-- > 0) loop_virtual_ready(c->loop, c->fd, events);
}

static void virtual_specs(void) {
  struct loop *l = loop_virtual_create(5);
  TEST("virtual time jumps to the earliest timer, or to the turn's limit") {
    struct note n = {{note_fire}, l};
    CHECK_INT(loop_now(l), 5);
    timer_start(l, &n.timer, 100 * USEC_PER_SECOND);
    loop_turn(l, 50 * USEC_PER_SECOND);
    CHECK_INT(loop_now(l), 50 * USEC_PER_SECOND);
    loop_turn(l, NEVER);
    CHECK_INT(loop_now(l), 100 * USEC_PER_SECOND);
    CHECK_INT(n.fired_at, 100 * USEC_PER_SECOND);
    loop_turn(l, NEVER);
    loop_turn(l, 1);
    CHECK_INT(loop_now(l), 100 * USEC_PER_SECOND);
  }
  TEST("no time passes in a turn that delivers something") {
    struct note n = {{note_fire}, l};
    struct seen s = {{seen_ready}};
    timer_start(l, &n.timer, 200 * USEC_PER_SECOND);
    watch_set(l, &s.watch, 7, LOOP_READ);
    loop_virtual_ready(l, 7, LOOP_READ);
    loop_turn(l, NEVER);
    CHECK_INT(s.count, 1);
    CHECK_INT(loop_now(l), 100 * USEC_PER_SECOND);
    watch_set(l, &s.watch, 7, 0);
    timer_stop(l, &n.timer);
  }
  TEST("readiness scripted from inside a callback comes a turn later") {
    struct chain c = {{chain_ready}, l, .fd = 7, .left = 40};
    watch_set(l, &c.watch, 7, LOOP_READ);
    loop_virtual_ready(l, 7, LOOP_READ);
    for (int i = 1; i <= 41; i++) {
      loop_turn(l, NEVER);
      CHECK_INT(c.count, i);
    }
    CHECK(loop_virtual_idle(l));
    watch_set(l, &c.watch, 7, 0);
  }
  loop_destroy(l);
}

static void virtual_idle_specs(void) {
  struct loop *l = loop_virtual_create(5);
  TEST("idle means that a turn would wait for ever") {
    struct note n = {{note_fire}, l};
    struct woken w = {{woken_woken}, l};
    struct work a = {{{0}, work_run, work_pending}, l};
    CHECK(loop_virtual_idle(l));
    loop_virtual_ready(l, 9, LOOP_READ);
    CHECK(!loop_virtual_idle(l));
    loop_turn(l, NEVER); /* nobody watches 9: lost */
    CHECK(loop_virtual_idle(l));
    timer_start(l, &n.timer, loop_now(l) + 1);
    CHECK(!loop_virtual_idle(l));
    timer_stop(l, &n.timer);
    wake_start(l, &w.wake);
    CHECK(loop_virtual_idle(l));
    wake_send(l, &w.wake);
    CHECK(!loop_virtual_idle(l));
    wake_stop(l, &w.wake);
    CHECK(loop_virtual_idle(l));
    a.pending = true;
    drain_add(l, &a.drain);
    CHECK(!loop_virtual_idle(l));
    drain_remove(l, &a.drain);
  }
  TEST("readiness is delivered in the order scripted, to watches in the order started") {
    struct seen a = {{seen_ready}}, b = {{seen_ready}, .loop = l, .stop_it = true};
    watch_set(l, &a.watch, 3, LOOP_READ | LOOP_WRITE);
    watch_set(l, &b.watch, 3, LOOP_READ);
    loop_virtual_ready(l, 3, LOOP_READ);
    loop_virtual_ready(l, 3, LOOP_WRITE);
    loop_turn(l, NEVER);
    CHECK_INT(a.count, 2);
    CHECK_INT(b.count, 1);
    watch_set(l, &a.watch, 3, 0);
  }
  loop_destroy(l);
}

int main(void) {
  shared_specs(false);
  shared_specs(true);
  number_specs();
  thread_specs();
  host_specs();
  virtual_specs();
  virtual_idle_specs();
  return check_done();
}
