/*
** lpool: "pool.Pool" itself: making one, changing it while it runs, closing it, and what the engine tells it.
**
** The engine's events come while no Lua may run: what Lua is to hear of them (a set-up, a closed connection) is noted and
** told by deferred work. Ends: db:close drains, waits, cuts what is left after the grace and returns when the server has
** let go of everything; the collector cuts at once. Both leave an object on which every call is answered with `closed`.
*/
#include "lpool.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "llater.h"
#include "lscripted.h"
#include "lview.h"

static const char pools_key = 0; /* registry: address -> Pool, weak */
static const char pool_brand = 0;

struct lpool *lpool_check(lua_State *L, int index) {
  struct lask ask;
  struct lpool *p = lruntime_branded(L, index, &pool_brand, sizeof *p);
  if (p) {
    lview_none(&p->ask);
  } else if (lview_resolve(L, index, &ask)) {
    p = lua_touserdata(L, index);
    p->ask = ask;
  }
  if (!p) lerror_misuse(L, "a pool is wanted (call its methods with a colon: db:query), not %s", luaL_typename(L, index));
  if (!p->engine) lerror_misuse(L, "this pool is gone");
  return p;
}

usec lpool_patience(const struct lpool *p) {
  return lruntime_after(loop_now(p->runtime->loop), p->ask.timeout >= 0 ? p->ask.timeout : p->settings.pool.timeout);
}

/* Pushes the Pool of a struct lpool; nil when the collector is about to take it. */
static void lpool_push(lua_State *L, const struct lpool *p) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &pools_key);
  lua_rawgetp(L, -1, p);
  lua_remove(L, -2);
}

/* ---- db:on ---- */

void lpool_emit(lua_State *L, int index, const char *event, int nargs) {
  index = lua_absindex(L, index);
  struct lpool *p = luaL_checkudata(L, index, LPOOL_NAME);
  int base = lua_gettop(L) - nargs;
  lua_getiuservalue(L, index, LPOOL_HANDLERS);
  lua_getfield(L, -1, "emit");
  lua_remove(L, -2);
  lua_insert(L, base + 1);
  lua_pushstring(L, event);
  lua_insert(L, base + 2);
  p->runtime->barred++;
  int status = lua_pcall(L, nargs + 1, 0, 0);
  p->runtime->barred--;
  if (status != LUA_OK) lruntime_log(p->runtime, "error", "db:on(\"%s\"): %s", event, luaL_tolstring(L, -1, NULL));
  lua_settop(L, base);
}

/* core.listen_events(pool, handlers, {event = true, ...}) */
static int pool_set_handlers(lua_State *L) {
  static const struct {
    const char *name;
    int bit;
  } events[] = {{"connect", EVENT_CONNECT}, {"acquire", EVENT_ACQUIRE}, {"release", EVENT_RELEASE},
                {"close", EVENT_CLOSE},     {"timeout", EVENT_TIMEOUT}, {"settings", EVENT_SETTINGS}};
  struct lpool *p = lpool_check(L, 1);
  lua_settop(L, 3);
  p->events = 0;
  for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
    if (lua_getfield(L, 3, events[i].name) != LUA_TNIL) p->events |= events[i].bit;
    lua_pop(L, 1);
  }
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, 1, LPOOL_HANDLERS);
  engine_setup_wanted(p->engine, (p->events & EVENT_CONNECT) != 0);
  return 0;
}

/* ---- the engine's events ---- */

static void pool_log(void *user, const char *level, const char *message) {
  struct lpool *p = user;
  lruntime_log(p->runtime, level, "%s", message);
}

void lpool_note(struct lpool *p, int event_bit, const char *event, uint64_t id, const char *reason) {
  if (!(p->events & event_bit)) return;
  struct note *note = malloc(sizeof *note);
  if (!note) return;
  *note = (struct note){.event = event, .id = id, .reason = reason};
  list_append(&p->noted, &note->link);
  lruntime_defer(p->runtime, &p->notes);
}

static void pool_closed_event(void *user, struct conn *c, const char *reason) {
  lpool_note(user, EVENT_CLOSE, "close", c->id, reason);
}

/* Pushes an event's first argument: close(id, reason), release(conn, outcome). */
static void note_push(lua_State *L, struct lpool *p, const struct note *note, int index) {
  if (strcmp(note->event, "release") == 0)
    lconnection_push_gone(L, p, note->id, index);
  else
    lua_pushinteger(L, (lua_Integer)note->id);
}

static void notes_run(lua_State *L, struct deferred *d) {
  struct lpool *p = CONTAINER(d, struct lpool, notes);
  lpool_push(L, p);
  int index = lua_gettop(L);
  struct list *node;
  while ((node = list_shift(&p->noted)) != NULL) {
    struct note note = *CONTAINER(node, struct note, link);
    free(CONTAINER(node, struct note, link));
    if (lua_isnil(L, index)) continue;
    if (!list_empty(&p->noted)) lruntime_defer(p->runtime, d); /* they are told even if memory is too short for this one */
    note_push(L, p, &note, index);
    lua_pushstring(L, note.reason);
    lpool_emit(L, index, note.event, 2);
  }
}

/* A lease is cut by db:close: its Connection is no longer anybody's. */
static void pool_lost_event(void *user, struct conn *c) {
  struct lease *l = lpool_lease(user, c);
  if (!l) return;
  list_remove(&l->holding.link);
  l->cut = l->serial;
  l->serial = 0;
  l->conn = NULL;
  l->task = NULL;
}

/* ---- set-up: db:on("connect") ---- */

static void pool_setup_event(void *user, struct conn *c) {
  struct lpool *p = user;
  (void)c;
  lruntime_defer(p->runtime, &p->setups);
}

/* Whatever the functions did with the Connection (release it, detach it), the open is answered here. */
static void setup_finished(struct task *t, void *user) {
  struct lease *l = user;
  struct conn *c = l->setup;
  if (c->lease != l->setup_lease) return; /* cut meanwhile */
  struct pool_error error;
  const char *why = ltask_failure(t);
  if (ltask_failed(t)) error_set(&error, POOL_CONNECT, "db:on(\"connect\") failed: %s", why ? why : "cancelled");
  if (l->serial == l->setup_lease) lease_end(l);
  engine_setup_done(c, ltask_failed(t) ? &error : NULL);
  ltask_forget_failure(t);
}

/* Protected. Stack: the Pool, lightuserdata conn. What can raise comes before the lease; a finaliser may cut the connection meanwhile. */
static int setup_start(lua_State *L) {
  struct lpool *p = luaL_checkudata(L, 1, LPOOL_NAME);
  struct conn *c = lua_touserdata(L, 2);
  struct lease *l = &p->leases[c->slot->index];
  usec patience = p->settings.db.connect_timeout;
  usec deadline = patience > 0 ? lruntime_after(loop_now(p->runtime->loop), patience) : NEVER;
  lconnection_push_gone(L, p, 0, 1);
  lua_getiuservalue(L, 1, LPOOL_HANDLERS);
  lua_getfield(L, -1, "setup");
  lua_pushvalue(L, 3);
  struct task *t = ltask_spawn(L, 1, setup_finished, l, deadline);
  if (c->lease != l->setup_lease) {
    ltask_cancel(t);
    return 0;
  }
  lease_begin(p, c, p->runtime->self);
  list_remove(&l->holding.link);
  lconnection_fill(L, 3, l);
  l->task = t;
  return 0;
}

/* Memory was too short to begin it: the open has failed, and is tried again. */
static void setup_refuse(lua_State *L, const struct lease *l) {
  struct pool_error error;
  error_set(&error, POOL_CONNECT, "db:on(\"connect\") could not be begun: %s", lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "?");
  if (l->setup->lease == l->setup_lease) engine_setup_done(l->setup, &error);
}

static void setups_run(lua_State *L, struct deferred *d) {
  struct lpool *p = CONTAINER(d, struct lpool, setups);
  lpool_push(L, p);
  if (lua_isnil(L, -1)) return;
  int index = lua_gettop(L);
  for (int i = 0; p->engine && i < p->settings.pool.size_limit; i++) {
    struct conn *c = pool_slot(engine_pool(p->engine), i)->user;
    struct lease *l = &p->leases[i];
    if (c->job != CONN_SETUP || l->setup_lease == c->lease) continue;
    l->setup = c;
    l->setup_lease = c->lease;
    lua_pushcfunction(L, setup_start);
    lua_pushvalue(L, index);
    lua_pushlightuserdata(L, c);
    if (lua_pcall(L, 2, 0, 0) != LUA_OK) setup_refuse(L, l);
    lua_settop(L, index);
  }
}

/* A duration for people: a tenth of a second is precise enough from one second on; below, two digits that say something. */
static const char *seconds_text(char *buffer, size_t size, usec t) {
  double s = (double)t / USEC_PER_SECOND;
  snprintf(buffer, size, s < 1 ? "%.2g" : "%.1f", s);
  return buffer;
}

/* ---- leases that grow old ---- */

/* The lease is copied: what is pushed may run finalisers, and they may end it. */
static void leak_report(lua_State *L, struct lpool *p, struct lease *l, usec now) {
  char held[32];
  l->reported = true;
  seconds_text(held, sizeof held, now - l->since);
  unsigned long long id = l->conn->id;
  const struct lease was = *l;
  if (l->task)
    ltask_push_traceback(L, l->task);
  else
    lua_pushliteral(L, "");
  lruntime_log(p->runtime, "warn", "connection %llu, acquired at %s:%d, has been held for %s s (leak_after)%s%s%s", id,
               was.source, was.line, held, was.task ? "" : " by nobody's task", lua_rawlen(L, -1) > 0 ? "\n" : "", lua_tostring(L, -1));
  lua_pop(L, 1);
}

/* The first lease that is old and not reported yet, NULL when there is none; *next: when another will be old. */
static struct lease *leak_next(struct lpool *p, usec now, usec *next) {
  usec after = p->settings.host.leak_after;
  LIST_EACH(node, engine_leases(p->engine)) {
    struct lease *l = lpool_lease(p, CONTAINER(node, struct conn, leased));
    if (!l || l->reported) continue;
    if (now - l->since >= after) return l;
    usec at = lruntime_after(l->since, after);
    if (at < *next) *next = at;
  }
  return NULL;
}

static void leaks_run(lua_State *L, struct deferred *d) {
  struct lpool *p = CONTAINER(d, struct lpool, leaks_due);
  usec now = loop_now(p->runtime->loop), next = NEVER;
  struct lease *l;
  if (p->settings.host.leak_after == 0) return;
  lpool_push(L, p); /* stays, then, while reports are made */
  if (lua_isnil(L, -1)) return;
  while ((l = leak_next(p, now, &next)) != NULL) leak_report(L, p, l, now); /* anew each time: a report may end others */
  if (next != NEVER) timer_start(p->runtime->loop, &p->leak_timer, next);
}

static void leak_timer_fired(struct timer *t) {
  struct lpool *p = CONTAINER(t, struct lpool, leak_timer);
  lruntime_defer(p->runtime, &p->leaks_due);
}

/* leak_after has changed: those already out are looked at again. */
static void leaks_again(struct lpool *p) {
  timer_stop(p->runtime->loop, &p->leak_timer);
  if (p->settings.host.leak_after > 0) lruntime_defer(p->runtime, &p->leaks_due);
}

void lpool_watch_leaks(struct lpool *p) {
  usec after = p->settings.host.leak_after;
  if (after > 0 && !p->leak_timer.running) timer_start(p->runtime->loop, &p->leak_timer, lruntime_after(loop_now(p->runtime->loop), after));
}

/* ---- time-outs explained ---- */

static const char *conn_where(struct lpool *p, const struct conn *c, char *buffer, size_t size) {
  const struct lease *l = lpool_lease(p, c);
  buffer[0] = '\0';
  if (l && l->line > 0)
    snprintf(buffer, size, "%s:%d", l->source, l->line);
  else if (c->borrower)
    ltask_where(c->borrower, buffer, size);
  return buffer;
}

/* Does every holder wait in this same line? */
static bool pool_deadlocked(struct lpool *p) {
  int holders = 0;
  LIST_EACH(node, engine_leases(p->engine)) {
    const struct conn *c = CONTAINER(node, struct conn, leased);
    if (!c->borrower || c->call || ltask_line(c->borrower) != p) return false; /* a call under way: db:query's, which left the line */
    holders++;
  }
  return holders > 0;
}

void lpool_explain_timeout(struct lpool *p, usec waited, struct pool_error *error, bool *deadlock) {
  struct stats s;
  pool_stats(engine_pool(p->engine), &s);
  char where[LUA_IDSIZE + 16], held[32], oldest[LUA_IDSIZE + 96] = "", patience[32];
  const struct list *leases = engine_leases(p->engine);
  if (!list_empty(leases)) {
    const struct conn *c = CONTAINER(leases->next, struct conn, leased);
    conn_where(p, c, where, sizeof where);
    seconds_text(held, sizeof held, loop_now(p->runtime->loop) - c->leased_at);
    snprintf(oldest, sizeof oldest, ", oldest lease %s s%s%s", held, where[0] ? " at " : "", where);
  }
  *deadlock = waited > 0 && s.leased >= s.limit && pool_deadlocked(p);
  error_set(error, POOL_TIMEOUT, "timed out after %s s waiting for a connection: size %d overflow %d%s, %d leased, %d waiting%s%s%s",
            seconds_text(patience, sizeof patience, waited), s.size, s.max_overflow, s.total >= s.limit ? " reached" : "", s.leased,
            s.waiting, s.opening > 0 ? ", more are being opened" : "", oldest,
            *deadlock ? "; every holder of a connection waits in this same line (deadlock)" : "");
  error->retryable = true;
}

void lpool_explain_overload(struct lpool *p, const struct waiter *w, struct pool_error *error) {
  struct stats s;
  char waited[32];
  error->retryable = true;
  if (w->crowded) {
    error_set(error, POOL_OVERLOADED, "too many of this key wait for a connection: %d are in line (max_waiting_per_key)",
              p->settings.pool.max_waiting_per_key);
    error->retryable = true;
    return;
  }
  pool_stats(engine_pool(p->engine), &s);
  error_set(error, POOL_OVERLOADED, "too many wait for a connection: %d in line (max_waiting %d), %d leased, size %d overflow %d",
            s.waiting, p->settings.pool.max_waiting, s.leased, s.size, s.max_overflow);
  if (w->shed)
    error_set(error, POOL_OVERLOADED,
              "shed after %s s in line: nobody was served within queue_target for queue_interval: %d waiting, %d leased, size %d + %d",
              seconds_text(waited, sizeof waited, w->waited), s.waiting, s.leased, s.size, s.max_overflow);
  error->retryable = true;
}

/* ---- creation and the end ---- */

static int pool_gc(lua_State *L) {
  struct lpool *p = luaL_checkudata(L, 1, LPOOL_NAME);
  if (!p->engine) return 0;
  struct engine *e = p->engine;
  p->engine = NULL;
  p->closed = true;
  timer_stop(p->runtime->loop, &p->leak_timer);
  list_remove(&p->setups.link);
  list_remove(&p->notes.link);
  list_remove(&p->leaks_due.link);
  struct list *node;
  while ((node = list_shift(&p->noted)) != NULL) free(CONTAINER(node, struct note, link));
  for (int i = 0; i < p->settings.pool.size_limit; i++)
    if (p->leases[i].serial) list_remove(&p->leases[i].holding.link);
  engine_destroy(e);
  free(p->leases);
  p->leases = NULL;
  return 0;
}

/* __close: every lease and every wait ends now; the goodbyes are the engine's work afterwards. */
static int pool_leave(lua_State *L) {
  struct lpool *p = luaL_checkudata(L, 1, LPOOL_NAME);
  if (!p->engine || p->closed) return 0;
  engine_drain(p->engine);
  engine_cut(p->engine);
  return 0;
}

static uint64_t seed_fresh(void) {
  uint64_t seed = 1;
  if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != (ssize_t)sizeof seed) seed = (uint64_t)(uintptr_t)&seed;
  return seed;
}

static void deferred_init(struct deferred *d, void (*run)(lua_State *, struct deferred *)) {
  list_init(&d->link);
  d->run = run;
}

static void pool_register(lua_State *L, const struct lpool *p) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &pools_key);
  lua_pushvalue(L, -2);
  lua_rawsetp(L, -2, p);
  lua_pop(L, 1);
}

/* A function in place of a database (lscripted.h). The Pool is on top. */
static void pool_script(lua_State *L, int function, struct engine_options *options) {
  lscripted_push(L, function, options->db.database_url);
  options->driver = &lscripted_driver;
  options->seed = 1; /* the same test twice is the same */
  lua_setiuservalue(L, -2, LPOOL_SCRIPT);
}

/* core.new(settings, script?) -> Pool, Script?. Raises for settings that are refused. */
static int pool_new(lua_State *L) {
  lua_settop(L, 2);
  struct runtime *r = lruntime_get(L);
  struct lpool *p = lua_newuserdatauv(L, sizeof *p, LPOOL_VALUES);
  memset(p, 0, sizeof *p);
  p->brand = &pool_brand;
  luaL_setmetatable(L, LPOOL_NAME);
  luaL_getmetatable(L, LCONNECTION_NAME);
  lua_setiuservalue(L, -2, LPOOL_CONNECTION_META);
  p->runtime = r;
  p->key_seed = seed_fresh();
  list_init(&p->noted);
  list_init(&p->closers);
  deferred_init(&p->setups, setups_run);
  deferred_init(&p->notes, notes_run);
  deferred_init(&p->leaks_due, leaks_run);
  p->leak_timer.fire = leak_timer_fired;
  lsettings_read(L, 1, &p->settings);
  struct engine_options options = {.pool = p->settings.pool, .db = p->settings.db, .user = p, .seed = seed_fresh()};
  options.events = (struct engine_events){pool_setup_event, pool_closed_event, pool_log, pool_lost_event};
  if (!lua_isnil(L, 2)) pool_script(L, 2, &options);
  p->settings.db = options.db;
  struct pool_error error;
  p->leases = calloc((size_t)p->settings.pool.size_limit, sizeof *p->leases);
  if (!p->leases) return luaL_error(L, "not enough memory");
  for (int i = 0; i < p->settings.pool.size_limit; i++) list_init(&p->leases[i].holding.link);
  p->engine = engine_create(r->loop, &options, &error);
  if (!p->engine) {
    free(p->leases);
    p->leases = NULL;
    return lerror_misuse(L, "pool.new: %s", error.message);
  }
  p->driver = engine_driver(p->engine);
  p->settings.pool = *pool_settings(engine_pool(p->engine)); /* as the database allows them */
  pool_register(L, p);
  if (lua_getiuservalue(L, -1, LPOOL_SCRIPT) == LUA_TNIL) return lua_pop(L, 1), 1;
  lscripted_begin(L);
  return 2;
}

/* ---- db:close ---- */

struct closer {
  struct list link;
  struct lpool *pool;
  struct task *task;
};

static void closers_wake(void *user) {
  struct lpool *p = user;
  struct list *node;
  p->closed = true;
  while ((node = list_shift(&p->closers)) != NULL) ltask_wake(CONTAINER(node, struct closer, link)->task);
}

static void close_abort(struct task *t) {
  struct closer *c = ltask_scratch(t);
  list_remove(&c->link);
}

static int close_wait(lua_State *L, struct lpool *p, struct task *t, usec until, lua_KFunction k) {
  struct closer *c = ltask_scratch(t);
  *c = (struct closer){.pool = p, .task = t};
  list_append(&p->closers, &c->link);
  engine_when_empty(p->engine, closers_wake, p);
  return ltask_wait_until(L, t, until, close_abort, k);
}

static int close_done(lua_State *L) {
  lua_pushboolean(L, true);
  return 1;
}

static int close_late(lua_State *L) { return lerror_fail(L, POOL_DEADLINE, "the deadline passed while the pool was closing"); }

static int close_cut_k(lua_State *L, int status, lua_KContext context) {
  (void)status;
  const struct lpool *p = luaL_checkudata(L, 1, LPOOL_NAME);
  return p->closed || ltask_interrupted((struct task *)context) == POOL_OK ? close_done(L) : close_late(L);
}

/* What ended the wait: the last connection, the grace, or a deadline of the caller's own, which cuts nobody's lease. */
static int close_k(lua_State *L, int status, lua_KContext context) {
  (void)status;
  struct task *t = (struct task *)context;
  struct lpool *p = luaL_checkudata(L, 1, LPOOL_NAME);
  if (p->closed || !p->engine) return close_done(L);
  if (ltask_deadline(t) <= loop_now(p->runtime->loop)) return close_late(L);
  engine_cut(p->engine);
  ltask_again(t);
  return close_wait(L, p, t, NEVER, close_cut_k);
}

static int pool_close(lua_State *L) {
  struct lask ask;
  lview_resolve(L, 1, &ask);
  struct lpool *p = luaL_checkudata(L, 1, LPOOL_NAME);
  usec grace = lua_isnoneornil(L, 2) ? 5 * USEC_PER_SECOND : lruntime_check_seconds(L, 2, "db:close grace");
  if (!p->engine || p->closed) return close_done(L);
  struct task *t = ltask_enter(L);
  engine_drain(p->engine);
  return close_wait(L, p, t, lruntime_after(loop_now(p->runtime->loop), grace), close_k);
}

/* ---- live changes ---- */

/* `by`: who does it, for db:on("settings"). */
static int pool_configure_as(lua_State *L, const char *by) {
  struct lpool *p = lpool_check(L, 1);
  if (!lua_istable(L, 2)) return lerror_misuse(L, "db:configure: a table of settings is wanted, not %s", luaL_typename(L, 2));
  struct all_settings *wanted = lua_newuserdatauv(L, sizeof *wanted, 0);
  *wanted = p->settings;
  struct pool_error error;
  if (lsettings_change(L, 2, wanted, &error) != POOL_OK) return lerror_return(L, &error);
  if (engine_configure(p->engine, &wanted->pool, &wanted->db, &error) != POOL_OK) return lerror_return(L, &error);
  lsettings_push(L, &p->settings);
  p->settings = *wanted;
  p->settings.pool = *pool_settings(engine_pool(p->engine)); /* as the database allows them */
  leaks_again(p);
  lsettings_push(L, &p->settings);
  if (p->events & EVENT_SETTINGS) {
    lua_pushvalue(L, -1);
    lua_pushvalue(L, -3);
    lua_pushstring(L, by);
    lpool_emit(L, 1, "settings", 3);
  }
  return 1;
}

static int pool_configure_live(lua_State *L) { return pool_configure_as(L, "configure"); }

/* core.configure_by(db, changes, by): for pool's own files. */
static int pool_configure_by(lua_State *L) { return pool_configure_as(L, luaL_checkstring(L, 3)); }

static int pool_pause_now(lua_State *L) {
  engine_pause(lpool_check(L, 1)->engine);
  return 0;
}

static int pool_resume_now(lua_State *L) {
  engine_resume(lpool_check(L, 1)->engine);
  return 0;
}

static int pool_invalidate_now(lua_State *L) {
  engine_invalidate(lpool_check(L, 1)->engine);
  return 0;
}

/* core.begin_sql(pool, isolation?, read_only?, deferrable?) -> the statement that begins such a transaction */
static int pool_begin_sql(lua_State *L) {
  struct lpool *p = lpool_check(L, 1);
  char buffer[128];
  const char *isolation = luaL_optstring(L, 2, NULL);
  lua_pushstring(L, engine_driver(p->engine)->begin(lua_toboolean(L, 3), isolation, lua_toboolean(L, 4), buffer, sizeof buffer));
  return 1;
}

static int pool_index(lua_State *L) {
  lua_pushvalue(L, 2);
  if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL) return 1;
  static const char *const fields[] = {"driver", NULL};
  if (lua_type(L, 2) != LUA_TSTRING || strcmp(lua_tostring(L, 2), "driver") != 0) {
    llater_check(L, LATER_POOL, "db:", 2);
    return lerror_no_field(L, "a Pool", 2, fields, lua_upvalueindex(1));
  }
  lua_pushstring(L, engine_driver(lpool_check(L, 1)->engine)->name);
  return 1;
}

static void weak_table(lua_State *L) {
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "v");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &pools_key);
}

void lpool_open(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"new", pool_new}, {"set_handlers", pool_set_handlers}, {"begin_sql", pool_begin_sql},
      {"configure_by", pool_configure_by}, {NULL, NULL}};
  static const luaL_Reg methods[] = {{"acquire", lconnection_acquire}, {"configure", pool_configure_live}, {"pause", pool_pause_now},
                                     {"resume", pool_resume_now},      {"invalidate", pool_invalidate_now}, {"close", pool_close},
                                     {NULL, NULL}};
  static const luaL_Reg meta[] = {{"__gc", pool_gc}, {"__close", pool_leave}, {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
  weak_table(L);
  luaL_newmetatable(L, LPOOL_NAME);
  luaL_setfuncs(L, meta, 0);
  luaL_newlib(L, methods);
  lquery_open(L);
  lstats_open(L);
  lview_methods(L);
  lua_pushvalue(L, -1);
  lua_setfield(L, -4, "pool_methods");
  lua_pushcclosure(L, pool_index, 1);
  lua_pushvalue(L, -1);
  lua_setfield(L, -3, "__index");
  luaL_newmetatable(L, LVIEW_NAME);
  lua_insert(L, -2);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 2);
  lview_open(L);
}
