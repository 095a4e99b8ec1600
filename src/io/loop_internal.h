/*
** loop_internal: what loop.c and the two implementations know of each other; nobody else includes it.
**
** An implementation embeds a struct loop as its first member and fills a table of operations. It owns the clock, the
** descriptors and the sleeping; the order of a turn, the timers and the drains are loop.c's, the same for both.
*/
#ifndef POOL_IO_LOOP_INTERNAL_H
#define POOL_IO_LOOP_INTERNAL_H

#include "timers.h"

struct loop_ops {
  void (*destroy)(struct loop *);                     /* takes */
  usec (*clock)(struct loop *);                       /* what time it is; may go back, loop.c does not let it */
  void (*wait)(struct loop *, usec until);            /* sleeps for events at most until then, dispatches them; until <= now: polls */
  void (*watch_start)(struct loop *, struct watch *); /* fd and events are in the watch; it is stopped */
  void (*watch_change)(struct loop *, struct watch *);/* a running one: other events on the same file */
  void (*watch_stop)(struct loop *, struct watch *);
  void (*wake_start)(struct loop *, struct wake *);
  void (*wake_stop)(struct loop *, struct wake *);
  void (*wake_send)(struct loop *, struct wake *);
  void (*signal_start)(struct loop *, struct signal *, int number);
  void (*signal_stop)(struct loop *, struct signal *);
};

struct loop {
  const struct loop_ops *ops;
  usec now;              /* the turn's; only loop_update changes it */
  struct timers timers;
  struct list drains;    /* in the order added */
  struct list *cursor;   /* the next drain of the round under way: drain_remove moves it on */
  int watches;           /* running; 0 at destruction */
  bool attached;         /* a host runs it */
  bool draining;         /* a drain is running: neither rounds nor turns nest */
  bool restless;         /* the last loop_work ended because it had its rounds, not because all was quiet */
};

void loop_init(struct loop *, const struct loop_ops *, usec now, bool attached);

/* Fires the timers that are due and runs the drains until none does anything or LOOP_ROUNDS are over; true when anything
   was done. */
bool loop_work(struct loop *);

/* Is there work that must not wait for an event? */
bool loop_pending(const struct loop *);

#define LOOP_ROUNDS 64 /* rounds of drains before events are looked at again, so that a busy task cannot starve sockets */

#endif
