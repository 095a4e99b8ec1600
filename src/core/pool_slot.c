/*
** pool_slot: the moves of one slot.
**
** slot_move() alone changes a slot's state, and with it the counts and the lists. Who calls it:
**
**   EMPTY     -> OPENING    slot_open
**   OPENING   -> EMPTY      slot_elide (not begun), slot_failed
**   OPENING   -> IDLE       slot_opened        RESETTING -> IDLE   slot_settle
**   CHECKING  -> IDLE       slot_settle        LEASED    -> IDLE   slot_settle
**   IDLE      -> CHECKING   slot_check         IDLE      -> LEASED slot_lease
**   LEASED    -> RESETTING  slot_reset         CLOSING   -> EMPTY  slot_closed
**   OPENING, IDLE, CHECKING, LEASED, RESETTING -> CLOSING  slot_close
**
** What hangs on the state is kept here too: a slot is in `grace` only while CHECKING or RESETTING, in `due` only while IDLE,
** expired and without relief; `relief` and `relieves` point at each other or nowhere; an order not taken yet (CHECK, RESET)
** is withdrawn when CLOSE overtakes it. A slot never has two orders.
*/
#include "pool_internal.h"

#define MOVE(to) (1u << (to))

static const unsigned slot_moves[SLOT_STATES] = {
  [SLOT_EMPTY] = MOVE(SLOT_OPENING),
  [SLOT_OPENING] = MOVE(SLOT_EMPTY) | MOVE(SLOT_IDLE) | MOVE(SLOT_CLOSING),
  [SLOT_IDLE] = MOVE(SLOT_CHECKING) | MOVE(SLOT_LEASED) | MOVE(SLOT_CLOSING),
  [SLOT_CHECKING] = MOVE(SLOT_IDLE) | MOVE(SLOT_CLOSING),
  [SLOT_LEASED] = MOVE(SLOT_IDLE) | MOVE(SLOT_RESETTING) | MOVE(SLOT_CLOSING),
  [SLOT_RESETTING] = MOVE(SLOT_IDLE) | MOVE(SLOT_CLOSING),
  [SLOT_CLOSING] = MOVE(SLOT_EMPTY),
};

void todo_add(struct pool *p, struct todo *todo, enum action_kind kind) {
  INSIST(todo->kind == ACTION_NONE);
  todo->kind = kind;
  list_append(&p->actions, &todo->link);
}

void todo_drop(struct todo *todo) {
  if (todo->kind == ACTION_NONE) return;
  todo->kind = ACTION_NONE;
  list_remove(&todo->link);
}

/* Puts the slot among the due or takes it off, as its state, age and relief say. */
static void slot_due(struct pool *p, struct slot *s) {
  bool due = s->state == SLOT_IDLE && s->expires <= p->now && s->relief == NULL;
  if (due == !list_empty(&s->due)) return;
  if (due) list_append(&p->due, &s->due);
  else list_remove(&s->due);
}

static struct list *slot_row(struct pool *p, const struct slot *s) {
  return s->state == SLOT_IDLE && s->generation < p->generation ? &p->suspects : &p->states[s->state];
}

static void slot_enter_grace(struct pool *p, struct slot *s) {
  if (s->retire) return;
  list_append(&p->grace, &s->grace);
  p->young++;
  p->young_checks += s->state == SLOT_CHECKING;
}

static void slot_move(struct pool *p, struct slot *s, enum slot_state to) {
  const unsigned brief = MOVE(SLOT_CHECKING) | MOVE(SLOT_RESETTING), stacked = MOVE(SLOT_IDLE) | MOVE(SLOT_EMPTY);
  enum slot_state from = s->state;
  INSIST(slot_moves[from] & MOVE(to));
  INSIST(p->counts[from] > 0);
  if (MOVE(from) & brief) slot_age(p, s);
  if (from == SLOT_OPENING && s->retire) p->retiring_opens--;
  list_remove(&s->link);
  p->counts[from]--;
  p->counts[to]++;
  s->state = to;
  s->since = p->now;
  if (MOVE(to) & stacked) list_prepend(slot_row(p, s), &s->link);
  else list_append(&p->states[to], &s->link);
  if (MOVE(to) & brief) slot_enter_grace(p, s);
  if (s->expires <= p->now) slot_due(p, s);
}

/* Undoes the pairing of a replacement with the slot it was to relieve; given the replacement. */
static struct slot *slot_unpair(struct pool *p, struct slot *replacement) {
  struct slot *expired = replacement->relieves;
  if (expired == NULL) return NULL;
  expired->relief = NULL;
  replacement->relieves = NULL;
  replacement->replacement = false;
  p->replacing--;
  slot_due(p, expired);
  return expired;
}

static void slot_spare(struct pool *p, struct slot *s) {
  if (!s->retire) return;
  s->retire = false;
  p->retiring--;
}

void slot_age(struct pool *p, struct slot *s) {
  if (list_empty(&s->grace)) return;
  list_remove(&s->grace);
  p->young--;
  p->young_checks -= s->state == SLOT_CHECKING;
}

void slot_expiry(struct pool *p, struct slot *s, usec expires) {
  if (s->timed) heap_remove(&p->expiry, &s->by_expiry);
  s->expires = expires;
  s->timed = expires != NEVER && expires > p->now;
  if (s->timed) heap_insert(&p->expiry, &s->by_expiry, expires);
  slot_due(p, s);
}

/* Nothing of the connection that was here is left. */
static void slot_clear(struct pool *p, struct slot *s) {
  INSIST(s->todo.kind == ACTION_NONE && s->relief == NULL && list_empty(&s->due) && list_empty(&s->grace));
  slot_unpair(p, s);
  slot_expiry(p, s, NEVER);
  s->proven = s->dead = s->reopen = false;
  s->opened = 0;
  s->uses = 0;
}

struct slot *slot_open(struct pool *p, struct slot *expired) {
  INSIST(line_may_open(p) && !list_empty(&p->states[SLOT_EMPTY]));
  struct slot *s = CONTAINER(p->states[SLOT_EMPTY].next, struct slot, link);
  slot_clear(p, s);
  slot_move(p, s, SLOT_OPENING);
  s->generation = p->generation;
  if (expired != NULL) {
    INSIST(expired->relief == NULL);
    s->replacement = true;
    s->relieves = expired;
    expired->relief = s;
    p->replacing++;
    slot_due(p, expired);
  }
  p->unbegun++;
  todo_add(p, &s->todo, ACTION_OPEN);
  return s;
}

static void slot_vacate(struct pool *p, struct slot *s) {
  slot_unpair(p, s);
  slot_move(p, s, SLOT_EMPTY);
  slot_spare(p, s);
  slot_clear(p, s);
  p->ceiling = int_max(p->limit, int_min(p->ceiling, pool_total(p)));
}

void slot_elide(struct pool *p, struct slot *s) {
  INSIST(s->state == SLOT_OPENING && s->todo.kind == ACTION_OPEN);
  todo_drop(&s->todo);
  p->unbegun--;
  p->counters.elided++;
  slot_vacate(p, s);
}

void slot_failed(struct pool *p, struct slot *s) {
  INSIST(s->state == SLOT_OPENING && s->todo.kind == ACTION_NONE);
  slot_vacate(p, s);
}

void slot_opened(struct pool *p, struct slot *s) {
  INSIST(s->state == SLOT_OPENING && s->todo.kind == ACTION_NONE);
  struct slot *expired = slot_unpair(p, s);
  s->opened = p->now;
  s->reopen = false;
  slot_expiry(p, s, usec_after(p->now, idle_lifetime(p)));
  p->counters.opens++;
  if (expired != NULL && !s->retire) {
    p->counters.recycled += !expired->retire;
    if (expired->state == SLOT_IDLE) slot_close(p, expired);
    else slot_retire(p, expired);
  }
  slot_settle(p, s, true);
}

void slot_check(struct pool *p, struct slot *s) {
  INSIST(s->state == SLOT_IDLE);
  s->generation = p->generation;
  slot_move(p, s, SLOT_CHECKING);
  p->counters.checks++;
  todo_add(p, &s->todo, ACTION_CHECK);
}

/* The same disconnect found by several checks raises the generation once: a check sent before it was raised says nothing new. */
void slot_check_failed(struct pool *p, struct slot *s, bool disconnect) {
  INSIST(s->state == SLOT_CHECKING);
  p->counters.check_failures++;
  p->counters.lost++;
  if (disconnect && s->generation == p->generation) slots_suspect(p);
  slot_close(p, s);
}

void slot_lease(struct pool *p, struct slot *s) {
  INSIST(s->state == SLOT_IDLE && s->generation == p->generation && !s->retire);
  s->proven = false;
  s->uses++;
  slot_move(p, s, SLOT_LEASED);
  if (p->counts[SLOT_LEASED] > p->peaks.leased) p->peaks.leased = p->counts[SLOT_LEASED];
}

void slot_reset(struct pool *p, struct slot *s) {
  INSIST(s->state == SLOT_LEASED);
  if (p->draining || s->retire || pool_excess(p) > 0) {
    slot_close(p, s);
    return;
  }
  slot_move(p, s, SLOT_RESETTING);
  p->counters.resets++;
  todo_add(p, &s->todo, ACTION_RESET);
}

void slot_settle(struct pool *p, struct slot *s, bool proven) {
  INSIST(s->todo.kind == ACTION_NONE);
  if (p->draining || s->retire || pool_excess(p) > 0) {
    slot_close(p, s);
  } else if (!proven && s->expires <= p->now && idle_retires_on_return(p, s)) {
    p->counters.recycled++;
    s->reopen = true;
    slot_close(p, s);
  } else {
    s->proven = proven;
    slot_move(p, s, SLOT_IDLE);
  }
}

void slot_close(struct pool *p, struct slot *s) {
  INSIST(s->todo.kind != ACTION_OPEN);
  todo_drop(&s->todo);
  if (s->relief != NULL) slot_unpair(p, s->relief);
  slot_unpair(p, s);
  slot_move(p, s, SLOT_CLOSING);
  slot_spare(p, s);
  slot_expiry(p, s, NEVER);
  p->counters.closes++;
  todo_add(p, &s->todo, ACTION_CLOSE);
}

void slot_closed(struct pool *p, struct slot *s) {
  INSIST(s->state == SLOT_CLOSING && s->todo.kind == ACTION_NONE);
  bool reopen = s->reopen;
  slot_vacate(p, s);
  if (reopen) idle_reopen(p);
}

void slot_retire(struct pool *p, struct slot *s) {
  INSIST(s->state != SLOT_EMPTY && s->state != SLOT_IDLE && s->state != SLOT_CLOSING);
  if (s->retire) return;
  s->retire = true;
  p->retiring++;
  p->retiring_opens += s->state == SLOT_OPENING;
  slot_age(p, s);
  slot_unpair(p, s);
}

/* Two rows, most recently used first, become one. */
static void slots_merge(struct list *into, struct list *from) {
  struct list merged;
  list_init(&merged);
  while (!list_empty(into) || !list_empty(from)) {
    const struct slot *a = CONTAINER(into->next, struct slot, link), *b = CONTAINER(from->next, struct slot, link);
    bool first = list_empty(from) || (!list_empty(into) && a->since >= b->since);
    list_append(&merged, list_shift(first ? into : from));
  }
  while (!list_empty(&merged)) list_append(into, list_shift(&merged));
}

void slots_suspect(struct pool *p) {
  p->generation++;
  slots_merge(&p->suspects, &p->states[SLOT_IDLE]);
}
