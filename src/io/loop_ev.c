/*
** loop_ev: the loop on libev, and the only file that knows libev or reads the clock.
**
** A loop of its own (loop_ev_create) is run by loop_turn: one ev_run(ONCE) a turn. An attached one is run by its host:
** drains run when the host's events have been dispatched (a check watcher of the lowest priority, hence after the host's
** own callbacks) and again before it sleeps (a prepare watcher of the lowest priority), so that work added in the host's
** callbacks, or outside ev_run altogether, is done before the loop sleeps or returns. While work remains that may not wait
** an idle watcher is active: it is what keeps libev from sleeping, its callback does nothing.
**
** 1. One ev_timer stands for all timers. Its callback does nothing, it only ends the sleep; what is due is fired by
**    loop_work. It is set anew only when the earliest time changed, and only before a sleep.
** 2. `now` is read once after each sleep, before any callback (a check watcher of the highest priority). libev's cached
**    time is read at the same moment; a timer that libev thinks due some microseconds early is simply set again.
** 3. Descriptors: libev turns changes into epoll_ctl calls when it next sleeps, and drops those that cancel out. A watch
**    that starts is set with ev_io_set, whose EV__IOFDSET makes libev register even where number and events are as they
**    were (the file may be another); one that merely changes its events uses ev_io_modify, which does not.
** 4. On a host's loop, what this file adds counts as reference only for watches and timers (and the idle watcher, while
**    there is work): prepare, check, wakes and signals are unref'd and do not keep the host's ev_run from returning.
** 5. Destroying an attached loop leaves the host's as it was before.
**
** SIGPIPE is ignored from the first loop on, an attached one too, if it has its default action: libpq and a socket closed
** by its peer must not end the process. A handler of the host's is left alone. A signal can be watched by one loop of a
** process only (libev's rule), and the callback runs in that loop's thread. What it does not do: children, file watches.
*/
#include "loop_internal.h"

#include <errno.h>
#include <ev.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#ifndef ev_io_modify /* libev before 4.32: one epoll_ctl more */
#define ev_io_modify(io, wanted) ev_io_set((io), (io)->fd, (wanted))
#endif

struct loop_ev {
  struct loop base;
  struct ev_loop *ev;
  ev_check awake;     /* reads the clock after a sleep */
  ev_check done;      /* attached: drains after the events */
  ev_prepare ready;   /* attached: drains before the sleep */
  ev_idle busy;       /* attached: active while the loop must not sleep */
  ev_timer timer;     /* the earliest of all timers */
  usec armed;         /* what `timer` is set to, NEVER when stopped */
};

_Static_assert(sizeof(ev_io) <= sizeof(((struct watch *)0)->impl), "a watch holds an ev_io");
_Static_assert(sizeof(ev_async) <= sizeof(((struct wake *)0)->impl), "a wake holds an ev_async");
_Static_assert(sizeof(ev_signal) <= sizeof(((struct signal *)0)->impl), "a signal holds an ev_signal");
_Static_assert((int)LOOP_READ == (int)EV_READ && (int)LOOP_WRITE == (int)EV_WRITE, "events are libev's");

static struct loop_ev *loop_ev(struct loop *l) { return CONTAINER(l, struct loop_ev, base); }

/* libev counts every started watcher as a reason to go on; on a host's loop ours are not (invariant 4). */
static void loop_ev_unref(struct loop_ev *l) {
  if (l->base.attached) ev_unref(l->ev);
}

static void loop_ev_ref(struct loop_ev *l) {
  if (l->base.attached) ev_ref(l->ev);
}

static usec clock_of(clockid_t id) {
  struct timespec t;
  INSIST(clock_gettime(id, &t) == 0);
  return (usec)t.tv_sec * USEC_PER_SECOND + t.tv_nsec / 1000;
}

static usec clock_read(void) { return clock_of(CLOCK_MONOTONIC); }

usec loop_clock(void) { return clock_read(); }

usec loop_cpu(void) { return clock_of(CLOCK_THREAD_CPUTIME_ID); }

static usec loop_ev_clock(struct loop *base) {
  ev_now_update(loop_ev(base)->ev); /* both caches move together: timers are set relative to libev's */
  return clock_read();
}

/* ---- sleeping ---- */

static void timer_nothing(struct ev_loop *ev, ev_timer *w, int events) {
  (void)ev, (void)events;
  CONTAINER(w, struct loop_ev, timer)->armed = NEVER; /* it ran out */
}

static void busy_nothing(struct ev_loop *ev, ev_idle *w, int events) { (void)ev, (void)w, (void)events; }

static void loop_ev_arm(struct loop_ev *l, usec at) {
  if (at == l->armed) return;
  ev_timer_stop(l->ev, &l->timer);
  l->armed = at;
  if (at == NEVER) return;
  usec after = at > l->base.now ? at - l->base.now : 0;
  ev_timer_set(&l->timer, (double)after / (double)USEC_PER_SECOND, 0.);
  ev_timer_start(l->ev, &l->timer);
}

static void loop_ev_wait(struct loop *base, usec until) {
  struct loop_ev *l = loop_ev(base);
  bool poll = until <= base->now;
  if (!poll) loop_ev_arm(l, until);
  ev_run(l->ev, poll ? EVRUN_NOWAIT : EVRUN_ONCE);
}

static void loop_ev_awake(struct ev_loop *ev, ev_check *w, int events) {
  struct loop_ev *l = CONTAINER(w, struct loop_ev, awake);
  usec now = clock_read(); /* not loop_update: libev has just read its own */
  (void)ev, (void)events;
  if (now > l->base.now) l->base.now = now;
}

/* ---- a host's loop ---- */

static void loop_ev_done(struct ev_loop *ev, ev_check *w, int events) {
  (void)ev, (void)events;
  struct loop_ev *l = CONTAINER(w, struct loop_ev, done);
  loop_work(&l->base);
  if (loop_pending(&l->base)) ev_idle_start(l->ev, &l->busy); /* ev_run would return if nothing else were active */
  loop_ev_arm(l, timers_first(&l->base.timers));
}

static void loop_ev_ready(struct ev_loop *ev, ev_prepare *w, int events) {
  (void)ev, (void)events;
  struct loop_ev *l = CONTAINER(w, struct loop_ev, ready);
  loop_update(&l->base);
  loop_work(&l->base);
  if (loop_pending(&l->base)) ev_idle_start(l->ev, &l->busy);
  else ev_idle_stop(l->ev, &l->busy);
  loop_ev_arm(l, timers_first(&l->base.timers));
}

static void loop_ev_attach_watchers(struct loop_ev *l) {
  ev_prepare_init(&l->ready, loop_ev_ready);
  ev_check_init(&l->done, loop_ev_done);
  ev_idle_init(&l->busy, busy_nothing);
  ev_set_priority(&l->ready, EV_MINPRI);
  ev_set_priority(&l->done, EV_MINPRI);
  ev_set_priority(&l->busy, EV_MINPRI); /* the host's own idle watchers still get their turn */
  ev_prepare_start(l->ev, &l->ready);
  loop_ev_unref(l);
  ev_check_start(l->ev, &l->done);
  loop_ev_unref(l);
}

static void loop_ev_detach(struct loop_ev *l) {
  loop_ev_ref(l);
  ev_prepare_stop(l->ev, &l->ready);
  loop_ev_ref(l);
  ev_check_stop(l->ev, &l->done);
  loop_ev_ref(l);
  ev_check_stop(l->ev, &l->awake);
  ev_idle_stop(l->ev, &l->busy);
  ev_timer_stop(l->ev, &l->timer);
}

/* ---- watches, wakes, signals ---- */

static ev_io *watch_io(struct watch *w) { return (ev_io *)(void *)w->impl; }

static void watch_ready(struct ev_loop *ev, ev_io *io, int events) {
  (void)ev;
  struct watch *w = CONTAINER(io, struct watch, impl);
  int ready = events & w->events;
  if (events & EV_ERROR) { /* the kernel would not have it and libev stopped it: reading or writing will say why */
    struct loop_ev *l = io->data;
    ready = w->events;
    w->events = 0;
    l->base.watches--;
  }
  if (ready) w->ready(w, ready);
}

static void loop_ev_watch_start(struct loop *base, struct watch *w) {
  ev_io *io = watch_io(w);
  ev_io_init(io, watch_ready, w->fd, w->events);
  io->data = loop_ev(base);
  ev_io_start(loop_ev(base)->ev, io);
}

static void loop_ev_watch_change(struct loop *base, struct watch *w) {
  struct ev_loop *ev = loop_ev(base)->ev;
  ev_io *io = watch_io(w);
  ev_io_stop(ev, io);
  ev_io_modify(io, w->events);
  ev_io_start(ev, io);
}

static void loop_ev_watch_stop(struct loop *base, struct watch *w) { ev_io_stop(loop_ev(base)->ev, watch_io(w)); }

static ev_async *wake_async(struct wake *w) { return (ev_async *)(void *)w->impl; }

static void wake_woken(struct ev_loop *ev, ev_async *async, int events) {
  (void)ev, (void)events;
  struct wake *w = CONTAINER(async, struct wake, impl);
  w->woken(w);
}

static void loop_ev_wake_start(struct loop *base, struct wake *w) {
  struct loop_ev *l = loop_ev(base);
  ev_async *async = wake_async(w);
  if (ev_is_active(async)) return;
  ev_async_init(async, wake_woken);
  ev_async_start(l->ev, async);
  loop_ev_unref(l);
}

static void loop_ev_wake_stop(struct loop *base, struct wake *w) {
  struct loop_ev *l = loop_ev(base);
  if (!ev_is_active(wake_async(w))) return;
  loop_ev_ref(l);
  ev_async_stop(l->ev, wake_async(w));
}

static void loop_ev_wake_send(struct loop *base, struct wake *w) { ev_async_send(loop_ev(base)->ev, wake_async(w)); }

static ev_signal *signal_ev(struct signal *s) { return (ev_signal *)(void *)s->impl; }

static void signal_caught(struct ev_loop *ev, ev_signal *w, int events) {
  (void)ev, (void)events;
  struct signal *s = CONTAINER(w, struct signal, impl);
  s->caught(s, w->signum);
}

/* The first of those watched with `once`: of all of them a second one has its default action. Only what a handler may do. */
static void signal_first(int number) {
  int saved = errno;
  for (int each = 1; each < NSIG; each++) {
    struct sigaction action;
    if (sigaction(each, NULL, &action) != 0 || action.sa_handler != signal_first) continue;
    action.sa_handler = SIG_DFL;
    sigaction(each, &action, NULL);
  }
  ev_feed_signal(number);
  errno = saved;
}

static void loop_ev_signal_start(struct loop *base, struct signal *s, int number) {
  struct loop_ev *l = loop_ev(base);
  ev_signal *w = signal_ev(s);
  INSIST(!ev_is_active(w));
  ev_signal_init(w, signal_caught, number);
  ev_signal_start(l->ev, w);
  loop_ev_unref(l);
  struct sigaction action;
  if (!s->once || base->attached || sigaction(number, NULL, &action) != 0) return;
  action.sa_handler = signal_first;
  sigaction(number, &action, NULL);
}

static void loop_ev_signal_stop(struct loop *base, struct signal *s) {
  struct loop_ev *l = loop_ev(base);
  if (!ev_is_active(signal_ev(s))) return;
  loop_ev_ref(l);
  ev_signal_stop(l->ev, signal_ev(s));
}

/* ---- creation and destruction ---- */

static void loop_ev_destroy(struct loop *base) {
  struct loop_ev *l = loop_ev(base);
  if (base->attached) loop_ev_detach(l);
  else ev_loop_destroy(l->ev);
  free(l);
}

static const struct loop_ops loop_ev_ops = {
  .destroy = loop_ev_destroy,
  .clock = loop_ev_clock,
  .wait = loop_ev_wait,
  .watch_start = loop_ev_watch_start,
  .watch_change = loop_ev_watch_change,
  .watch_stop = loop_ev_watch_stop,
  .wake_start = loop_ev_wake_start,
  .wake_stop = loop_ev_wake_stop,
  .wake_send = loop_ev_wake_send,
  .signal_start = loop_ev_signal_start,
  .signal_stop = loop_ev_signal_stop,
};

static void sigpipe_ignore(void) {
  struct sigaction action;
  if (sigaction(SIGPIPE, NULL, &action) != 0 || (action.sa_flags & SA_SIGINFO) || action.sa_handler != SIG_DFL) return;
  action = (struct sigaction){.sa_handler = SIG_IGN};
  sigaction(SIGPIPE, &action, NULL);
}

static struct loop *loop_ev_new(struct ev_loop *ev, bool attached) {
  struct loop_ev *l = calloc(1, sizeof *l);
  if (!l) return NULL;
  sigpipe_ignore();
  loop_init(&l->base, &loop_ev_ops, clock_read(), attached);
  l->ev = ev;
  l->armed = NEVER;
  ev_timer_init(&l->timer, timer_nothing, 0., 0.);
  ev_check_init(&l->awake, loop_ev_awake);
  ev_set_priority(&l->awake, EV_MAXPRI);
  ev_check_start(ev, &l->awake); /* on a loop of our own its reference keeps ev_run asleep where nothing else is active */
  loop_ev_unref(l);
  if (attached) loop_ev_attach_watchers(l);
  return &l->base;
}

struct loop *loop_ev_create(void) {
  struct ev_loop *ev = ev_loop_new(EVFLAG_NOENV | EVFLAG_FORKCHECK);
  if (!ev) return NULL;
  struct loop *l = loop_ev_new(ev, false);
  if (!l) ev_loop_destroy(ev);
  return l;
}

struct loop *loop_ev_attach(struct ev_loop *host) {
  INSIST(host != NULL);
  return loop_ev_new(host, true);
}
