/*
** engine: the pool's side: creation, the core's actions, live changes, the end.
**
** Every input (a call, an event, a timer) is fed to the core and followed by engine_settle, which carries out actions until
** there are none and arms one timer for the core's next deadline. Carrying out an action may feed the core again (an open that
** fails at once): that only adds actions, never recurses. Invariants: a slot that is not EMPTY has a driver connection, but
** while its OPEN has just failed; a conn's job and its slot's state agree (OPENING, SETUP: SLOT_OPENING; LEASED, RUNNING,
** STOPPING: SLOT_LEASED; the others by name) between two settles.
*/
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine_internal.h"

static void engine_act(struct engine *e, const struct action *a) {
  switch (a->kind) {
    case ACTION_OPEN: conn_open(slot_conn(a->slot)); return;
    case ACTION_CHECK: conn_check(slot_conn(a->slot)); return;
    case ACTION_RESET: conn_reset(slot_conn(a->slot)); return;
    case ACTION_CLOSE: conn_close(slot_conn(a->slot)); return;
    case ACTION_GRANT: call_granted(e, a->waiter, a->slot); return;
    case ACTION_FAIL: call_refused(e, a->waiter); return;
    case ACTION_NONE: break;
  }
  WRONG("an action");
}

/* A deadline that moved further away leaves the timer where it is: every lease moves it, and one early tick is cheaper than that. */
static void engine_arm(struct engine *e) {
  usec at = pool_deadline(e->core);
  if (at == NEVER)
    timer_stop(e->loop, &e->tick);
  else if (!e->tick.running || at < e->tick.node.at)
    timer_start(e->loop, &e->tick, at);
}

void engine_settle(struct engine *e) {
  struct action a;
  while (pool_next(e->core, &a)) engine_act(e, &a);
  engine_arm(e);
  if (e->empty && pool_empty(e->core)) {
    void (*empty)(void *) = e->empty;
    e->empty = NULL;
    empty(e->empty_user);
  }
}

void engine_refresh(struct engine *e) {
  pool_tick(e->core, engine_now(e));
  engine_settle(e);
}

static void engine_ticked(struct timer *t) { engine_refresh(CONTAINER(t, struct engine, tick)); }

static void engine_log(void *user, const char *level, const char *message) {
  struct engine *e = user;
  if (e->events.log) e->events.log(e->user, level, message);
}

/* ---- creation ---- */

static bool engine_make_conns(struct engine *e) {
  e->conn_count = pool_settings(e->core)->size_limit;
  e->conns = calloc((size_t)e->conn_count, sizeof *e->conns);
  if (!e->conns) return false;
  for (int i = 0; i < e->conn_count; i++) conn_init(&e->conns[i], e, pool_slot(e->core, i));
  return true;
}

/* What somebody asked for (a default is nobody's wish) and does not get. */
static size_t fit_note(char *note, size_t size, size_t used, const struct setting *row, const struct settings *const of[3]) {
  char wanted[64], fitted[64], usual[64];
  setting_format(row, of[0], wanted, sizeof wanted);
  setting_format(row, of[1], fitted, sizeof fitted);
  setting_format(row, of[2], usual, sizeof usual);
  if (strcmp(wanted, fitted) == 0 || strcmp(wanted, usual) == 0 || used >= size) return used;
  return used + (size_t)snprintf(note + used, size - used, "%s%s %s instead of %s", used ? ", " : "", row->name, fitted, wanted);
}

/* The settings as such a database allows them. */
static struct settings engine_fit(struct engine *e, const struct settings *wanted) {
  static const char tail[] = ": this database allows nothing else";
  struct settings fitted = *wanted, usual;
  const struct settings *const of[3] = {wanted, &fitted, &usual};
  char note[512];
  size_t used = 0;
  if (!e->driver->fit) return fitted;
  e->driver->fit(e->db, &fitted);
  settings_defaults(&pool_settings_table, &usual);
  for (int i = 0; i < pool_settings_table.count; i++)
    used = fit_note(note, sizeof note - sizeof tail, used, &pool_settings_table.rows[i], of);
  if (used >= sizeof note - sizeof tail) used = sizeof note - sizeof tail - 1;
  if (used == 0) return fitted;
  memcpy(note + used, tail, sizeof tail);
  engine_log(e, "info", note);
  return fitted;
}

struct engine *engine_create(struct loop *loop, const struct engine_options *o, struct pool_error *error) {
  struct engine *e = calloc(1, sizeof *e);
  if (!e) goto fail;
  e->loop = loop;
  e->events = o->events;
  e->user = o->user;
  e->db_settings = o->db;
  list_init(&e->leases);
  e->tick.fire = engine_ticked;
  e->driver = o->driver ? o->driver : driver_for(o->db.database_url, error);
  if (!e->driver) goto fail_told;
  e->db = e->driver->create(&o->db, engine_log, e, error);
  if (!e->db) goto fail_told;
  struct settings fitted = engine_fit(e, &o->pool);
  e->core = pool_create(&fitted, o->seed);
  if (!e->core || !engine_make_conns(e)) goto fail;
  int most = e->driver->size_limit(e->db);
  if (most < fitted.size + fitted.max_overflow) pool_allow(e->core, most, engine_now(e));
  if (o->pool.min_idle > 0) timer_start(loop, &e->tick, engine_now(e)); /* opened ahead, but not from in here */
  return e;
fail:
  error_set(error, POOL_SETTINGS, "not enough memory for %d connections (size_limit)", o->pool.size_limit);
fail_told:
  if (e && e->core) pool_destroy(e->core);
  if (e && e->db) e->driver->destroy(e->db);
  free(e);
  return NULL;
}

void engine_destroy(struct engine *e) {
  e->empty = NULL;
  pool_drain(e->core, engine_now(e));
  struct action a;
  while (pool_next(e->core, &a))
    if (a.kind == ACTION_FAIL || a.kind == ACTION_GRANT) waiter_call(a.waiter)->state = CALL_OUT;
  for (int i = 0; i < e->conn_count; i++) {
    struct conn *c = &e->conns[i];
    if (c->call) c->call->state = CALL_OUT;
    if (c->held) c->held->state = CALL_OUT;
    conn_discard(c);
  }
  timer_stop(e->loop, &e->tick);
  pool_destroy(e->core);
  e->driver->destroy(e->db);
  free(e->conns);
  free(e);
}

/* ---- live changes ---- */

static enum pool_err engine_check_fixed(const struct db_settings *now, const struct db_settings *wanted, struct pool_error *error) {
  const char *name = strcmp(now->database_url, wanted->database_url) != 0 ? "database_url"
                     : now->pooler != wanted->pooler                      ? "pooler"
                     : now->statement_cache != wanted->statement_cache    ? "statement_cache"
                                                                          : NULL;
  return name ? error_set(error, POOL_SETTINGS, "%s cannot change while the pool is open: make a new pool", name) : POOL_OK;
}

enum pool_err engine_configure(struct engine *e, const struct settings *pool, const struct db_settings *db, struct pool_error *error) {
  if (engine_check_fixed(&e->db_settings, db, error) != POOL_OK || settings_check(pool, error) != POOL_OK) return POOL_SETTINGS;
  if (pool->size_limit != pool_settings(e->core)->size_limit)
    return error_set(error, POOL_SETTINGS, "size_limit cannot change while the pool is open: it is %d", pool_settings(e->core)->size_limit);
  struct settings fitted = engine_fit(e, pool);
  enum pool_err err = pool_configure(e->core, &fitted, engine_now(e));
  INSIST(err == POOL_OK);
  e->db_settings = *db;
  e->driver->configure(e->db, db);
  engine_settle(e);
  return POOL_OK;
}

void engine_invalidate(struct engine *e) {
  pool_invalidate(e->core, engine_now(e));
  engine_settle(e);
}

void engine_pause(struct engine *e) {
  pool_pause(e->core, engine_now(e));
  engine_settle(e);
}

void engine_resume(struct engine *e) {
  pool_resume(e->core, engine_now(e));
  engine_settle(e);
}

void engine_allow(struct engine *e, int cap) {
  int most = e->driver->size_limit(e->db);
  pool_allow(e->core, cap < most ? cap : most, engine_now(e));
  engine_settle(e);
}

void engine_drain(struct engine *e) {
  pool_drain(e->core, engine_now(e));
  engine_settle(e);
}

void engine_cut(struct engine *e) {
  engine_drain(e);
  e->cutting = true;
  while (!list_empty(&e->leases)) {
    struct conn *c = CONTAINER(e->leases.next, struct conn, leased);
    engine_retire(c);
    if (e->events.lost) e->events.lost(e->user, c);
    engine_release(c);
  }
  for (int i = 0; i < e->conn_count; i++) conn_cut(&e->conns[i]);
  e->cutting = false;
  engine_settle(e);
}

void engine_when_empty(struct engine *e, void (*done)(void *), void *user) {
  e->empty = done;
  e->empty_user = user;
  if (done) engine_settle(e);
}

void engine_record(struct engine *e, struct recorder *recorder) { e->recorder = recorder; }
struct recorder *engine_recorder(const struct engine *e) { return e->recorder; }

void engine_setup_wanted(struct engine *e, bool wanted) { e->setup_wanted = wanted; }

struct pool *engine_pool(const struct engine *e) { return e->core; }
const struct driver *engine_driver(const struct engine *e) { return e->driver; }
const struct db_settings *engine_db_settings(const struct engine *e) { return &e->db_settings; }
void *engine_user(const struct engine *e) { return e->user; }
struct list *engine_leases(struct engine *e) { return &e->leases; }
usec engine_last_alive(const struct engine *e) { return e->alive; }
