/*
** loop: now, timers, descriptors, wake-ups from threads, signals. Two implementations: loop_ev.c on libev, loop_virtual.c in
** virtual time. The only room with a clock. What is ready is announced by calling `ready`/`fire`; those feed state machines
** and queue work, and never run Lua: that happens in drains, which run after the events of a turn and before it sleeps.
*/
#ifndef POOL_IO_LOOP_H
#define POOL_IO_LOOP_H

#include "core/heap.h"
#include "core/list.h"

struct loop;
struct ev_loop;

enum { LOOP_READ = 1, LOOP_WRITE = 2 };

/* The caller embeds these; zero-filled is the stopped state. */
struct watch {
  void (*ready)(struct watch *, int events);
  int fd, events;         /* as last set; events 0: stopped */
  _Alignas(8) unsigned char impl[64];
};

struct timer {
  void (*fire)(struct timer *); /* called once; the timer is stopped by then and may be started again from inside */
  struct heap_node node;
  bool running;
};

struct wake { /* the one thing another thread may touch */
  void (*woken)(struct wake *);
  _Alignas(8) unsigned char impl[64];
};

struct signal {
  void (*caught)(struct signal *, int number);
  bool once; /* from the instant the signal comes a second one, of this number or of another watched so, has its default action, though
                the loop may not have turned; not on a host's loop */
  _Alignas(8) unsigned char impl[64];
};

/* Work that is done after the events of a turn and before the loop sleeps: a queue of actions, of ready coroutines. */
struct drain {
  struct list link;
  bool (*run)(struct drain *); /* does what is there now; true when it did something */
  bool (*pending)(struct drain *); /* NULL, or: is there more that must not wait for an event? the loop then does not sleep */
};

struct loop *loop_ev_create(void);                  /* its own ev_loop; EVFLAG_NOENV | EVFLAG_FORKCHECK */
struct loop *loop_ev_attach(struct ev_loop *host);  /* borrows; the host runs it: drains run in prepare and check watchers.
                                                       Running watches and timers keep the host's ev_run going; wakes and
                                                       signals alone do not. Both ignore SIGPIPE if it has its default action */
struct loop *loop_virtual_create(usec start);
void loop_destroy(struct loop *);                   /* takes; every watch, timer, drain must be stopped */

usec loop_now(const struct loop *);  /* the turn's now; never goes back */
usec loop_update(struct loop *);     /* reads the clock again, after long work; returns it */
bool loop_attached(const struct loop *); /* somebody else runs it */

/* Two clocks for limits on work, never for scheduling: they belong to no loop and run on in virtual time. */
usec loop_clock(void);               /* monotonic; cheap */
usec loop_cpu(void);                 /* what this thread has had of the processor; a system call */

void watch_set(struct loop *, struct watch *, int fd, int events); /* events 0 stops. The same fd and events: does nothing. */
void watch_renew(struct loop *, struct watch *, int fd, int events); /* as set, for a descriptor that may be another file under
                                                                       the same number: registers afresh. Stop it before closing the file */
void timer_start(struct loop *, struct timer *, usec at); /* absolute; restarts a running one; NEVER stops it */
void timer_stop(struct loop *, struct timer *);
void wake_start(struct loop *, struct wake *);
void wake_stop(struct loop *, struct wake *);
void wake_send(struct loop *, struct wake *);       /* from any thread: the one call that is; a driver with a descriptor needs none */
void signal_start(struct loop *, struct signal *, int number); /* one loop of a process only may watch a signal; never caught on
                                                                  a virtual one */
void signal_stop(struct loop *, struct signal *);
void drain_add(struct loop *, struct drain *);      /* run in the order added */
void drain_remove(struct loop *, struct drain *);

/* One turn: timers that are due and drains until none did anything (at most a fixed number of rounds); then waits for events
   at most until `until` (absolute; NEVER) and dispatches them; then timers and drains again. It only polls where the first
   drains or timers did anything or more is pending: `while (!done) loop_turn(l, NEVER)` never sleeps over what set `done`.
   Never on an attached loop. */
void loop_turn(struct loop *, usec until);

/* Virtual loops only: what a script drives them with. */
bool loop_virtual_ready(struct loop *, int fd, int events); /* fd becomes ready at the next turn, once; false: no memory */
bool loop_virtual_idle(const struct loop *);                /* nothing ready, no timer: loop_turn would wait for ever */

#endif
