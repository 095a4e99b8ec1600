/*
** sqlite_turn: whose turn it is to write, among the connections of one pool.
**
** SQLite's write lock goes to whoever asks at the right moment. One who finds it taken asks again every few milliseconds, and
** so loses to another connection of the same pool that has just committed and begins anew, for as long as there is work. So
** whatever begins to write takes its turn first: first come, first served, handed over in one step, and given back when
** SQLite's transaction is over. Then the lock is asked for as ever: other processes may hold it.
**
** 1. `writing` is true exactly while a connection has the turn; `line` is empty when it is not.
** 2. Who waits for a turn holds no lock of SQLite's (no transaction is open, its statement has not started), and no turn is
**    waited for inside a transaction: turns and locks cannot wait for each other in a circle.
** 3. A turn is waited for as long as a lock; what remains of that time is left for the lock. No clock is read.
** 4. Without a descriptor to be woken by there is no turn, and the lock alone decides.
*/
#include "sqlite.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { TURN_TICK_MS = 10 }; /* how soon a cancel is seen */

static bool turn_wait(struct db_conn *c) {
  struct sqlite_place *p = c->place;
  struct pollfd woken = {.fd = c->turn_event, .events = POLLIN};
  uint64_t count;
  c->turn_ms = 0;
  while (!atomic_load(&c->cancelled) && c->turn_ms < SQLITE_BUSY_MS && poll(&woken, 1, TURN_TICK_MS) == 0) c->turn_ms += TURN_TICK_MS;
  pthread_mutex_lock(&p->turns);
  bool had = c->turn;
  if (!had) list_remove(&c->in_line);
  pthread_mutex_unlock(&p->turns);
  if (had) INSIST(read(c->turn_event, &count, sizeof count) == sizeof count);
  return had;
}

bool turn_take(struct db_conn *c) {
  struct sqlite_place *p = c->place;
  INSIST(!c->turn);
  c->turn_ms = 0;
  if (c->turn_event < 0) c->turn_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (c->turn_event < 0) return true;
  pthread_mutex_lock(&p->turns);
  c->turn = !p->writing;
  p->writing = true;
  bool at_once = c->turn;
  if (!at_once) list_append(&p->line, &c->in_line);
  pthread_mutex_unlock(&p->turns);
  return at_once || turn_wait(c);
}

void turn_give(struct db_conn *c) {
  struct sqlite_place *p = c->place;
  uint64_t one = 1;
  INSIST(c->turn);
  pthread_mutex_lock(&p->turns);
  struct list *node = list_shift(&p->line);
  c->turn = false;
  p->writing = node != NULL;
  if (node) {
    struct db_conn *next = CONTAINER(node, struct db_conn, in_line);
    next->turn = true;
    INSIST(write(next->turn_event, &one, sizeof one) == sizeof one);
  }
  pthread_mutex_unlock(&p->turns);
}
