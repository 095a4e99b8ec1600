/*
** lcursor: rows one at a time, in constant memory: the iterator of c:rows and db:rows.
**
** A cursor is callable (the generic for's iterator) and closable (its fourth value): leaving the loop early stops the
** statement at the server. It reads a batch at a time and asks for the next one only when the loop wants it, so that a slow
** reader slows the server rather than filling memory. One that owns its connection (db:rows) gives it back with the last row.
** A connection may have had many cursors, and the collector finds them late: what streams on it is a cursor's own only when it
** was the last to begin there (`stream`).
*/
#include "lpool.h"

enum { CURSOR_CONNECTION = 1, CURSOR_BATCH = 2, CURSOR_VALUES = 2 };

struct lcursor {
  struct lpool *pool;
  struct lease *lease;
  uint64_t serial;
  uint64_t stream; /* its statement; 0 before it has begun */
  int row;      /* the next one of the batch */
  bool more;    /* the server had more when the last batch came */
  bool owns;    /* the connection goes back with the last row */
  bool over;
};

static struct lcursor *cursor_check(lua_State *L) { return luaL_checkudata(L, 1, LCURSOR_NAME); }

static bool cursor_has_lease(const struct lcursor *c) {
  return c->pool->engine && c->lease->serial == c->serial && c->lease->conn && c->lease->conn->lease == c->serial;
}

/* Does its statement stream still, rather than another cursor's? The connection must be leased. */
static bool cursor_streams(const struct lcursor *c) { return c->lease->conn->streaming && c->stream == c->lease->stream; }

static void cursor_end(struct lcursor *c) {
  if (c->over) return;
  c->over = true;
  if (!cursor_has_lease(c)) return;
  if (cursor_streams(c)) engine_stop_stream(c->lease->conn);
  if (c->owns) lease_end_untold(c->lease);
}

/* The same by the loop that reads it, cursor at 1: whoever listens to db:on("release") is told while the lease is there. */
static void cursor_leave(lua_State *L, struct lcursor *c) {
  if (c->over) return;
  if (c->owns && cursor_has_lease(c) && (c->pool->events & EVENT_RELEASE)) {
    c->over = true;
    if (cursor_streams(c)) engine_stop_stream(c->lease->conn);
    lua_getiuservalue(L, 1, CURSOR_CONNECTION);
    lconnection_release(L, -1);
    lua_pop(L, 1);
  } else {
    cursor_end(c);
  }
}

static int cursor_close(lua_State *L) {
  cursor_leave(L, cursor_check(L));
  return 0;
}

static int cursor_gc(lua_State *L) {
  cursor_end(cursor_check(L));
  return 0;
}

/* Moves the call's batch into a guard, kept by the cursor at `index`. */
static void cursor_take(lua_State *L, struct lcursor *c, struct lcall *q, int index) {
  struct lresult *guard = lrows_guard(L, engine_driver(q->pool->engine));
  guard->result = q->call.result;
  q->call.result = NULL;
  list_remove(&q->undelivered.link);
  lua_setiuservalue(L, index, CURSOR_BATCH);
  c->more = cursor_has_lease(c) && (cursor_streams(c) || c->lease->conn->dead);
}

static int cursor_give_row(lua_State *L, struct lcursor *c) {
  lua_getiuservalue(L, 1, CURSOR_BATCH);
  lrows_push_row(L, lua_touserdata(L, -1), c->row, c->pool->settings.host.null == NULL_SENTINEL);
  c->row++;
  return 1;
}

static bool cursor_has_row(lua_State *L, const struct lcursor *c) {
  lua_getiuservalue(L, 1, CURSOR_BATCH);
  const struct lresult *batch = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return batch && batch->result && c->row < batch->driver->rows(batch->result);
}

static int cursor_next(lua_State *L);

static int cursor_raise(lua_State *L, struct lcursor *c) {
  cursor_leave(L, c);
  return lua_error(L); /* the error value is on top */
}

static int cursor_next_k(lua_State *L, int status, lua_KContext context) {
  (void)status;
  struct task *t = (struct task *)context;
  struct lcall *q = ltask_scratch(t);
  struct lcursor *c = cursor_check(L);
  if (!lquery_ok(L, t, q, 1)) return cursor_raise(L, c);
  cursor_take(L, c, q, 1);
  c->row = 0;
  return cursor_next(L);
}

static int cursor_next(lua_State *L) {
  struct lcursor *c = cursor_check(L);
  lua_settop(L, 1);
  if (c->over) return 0;
  if (!cursor_has_lease(c)) {
    if (c->pool->engine && c->lease->cut != c->serial)
      return lerror_misuse(L, "the connection was released while its rows were being read");
    lerror_fail(L, POOL_CLOSED, "the pool was closed while rows were being read");
    return cursor_raise(L, c);
  }
  if (cursor_has_row(L, c)) return cursor_give_row(L, c);
  if (!c->more) {
    cursor_leave(L, c);
    return 0;
  }
  struct task *t = ltask_enter(L);
  if (engine_busy(c->lease->conn)) return lerror_misuse(L, "two tasks read the same rows");
  if (!cursor_streams(c) && !c->lease->conn->dead) { /* the task that asked for its next rows was cancelled */
    lerror_fail(L, POOL_CANCELLED, "the statement was cancelled while its rows were being read");
    return cursor_raise(L, c);
  }
  struct lcall *q = lquery_begin(L, t, c->pool);
  engine_fetch(c->lease->conn, (q->call.conn = c->lease->conn, &q->call));
  return lquery_wait(L, t, cursor_next_k);
}

/* Stack: the Connection, the arguments …, the cursor on top (kept at index 2 by cursor_begin). */
static int cursor_begun_k(lua_State *L, int status, lua_KContext context) {
  (void)status;
  struct task *t = (struct task *)context;
  struct lcall *q = ltask_scratch(t);
  struct lcursor *c = lua_touserdata(L, 2);
  if (!lquery_ok(L, t, q, 1)) {
    c->over = true;
    return lua_error(L);
  }
  cursor_take(L, c, q, 2);
  lua_pushvalue(L, 2);
  lua_pushnil(L);
  lua_pushnil(L);
  lua_pushvalue(L, 2);
  return 4;
}

static int cursor_begin(lua_State *L) {
  struct lease *l;
  if (!lconnection_fit(L, "c:rows", &l)) return lua_error(L);
  struct task *t = ltask_enter(L);
  lconnection_check_free(L, l, "c:rows");
  if (lquery_late(L, t)) return lua_error(L);
  struct lcursor *c = lua_newuserdatauv(L, sizeof *c, CURSOR_VALUES);
  *c = (struct lcursor){.pool = l->pool, .lease = l, .serial = l->serial};
  luaL_setmetatable(L, LCURSOR_NAME);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, CURSOR_CONNECTION);
  lua_insert(L, 2);
  struct lcall *q = lquery_begin(L, t, l->pool);
  q->call.statement.stream = true;
  if (!lquery_statement(L, q, 3, "c:rows")) return lua_error(L);
  c->stream = ++l->stream;
  engine_run(l->conn, &q->call);
  return lquery_wait(L, t, cursor_begun_k);
}

/* core.cursor_own(cursor): its connection goes back with the last row. */
static int cursor_own(lua_State *L) {
  cursor_check(L)->owns = true;
  lua_settop(L, 1);
  return 1;
}

void lcursor_open(lua_State *L) {
  static const luaL_Reg meta[] = {{"__gc", cursor_gc}, {"__close", cursor_close}, {"__call", cursor_next}, {NULL, NULL}};
  static const luaL_Reg methods[] = {{"rows", cursor_begin}, {"_own_cursor", cursor_own}, {NULL, NULL}};
  luaL_newmetatable(L, LCURSOR_NAME);
  luaL_setfuncs(L, meta, 0);
  lua_pop(L, 1);
  luaL_setfuncs(L, methods, 0);
}
