/*
** lpolicy_data: what crosses between states, as plain data: parameters and state, snapshots in both directions, proposals.
**
** The snapshot's fields are rows of a table of their own, so that pushing and reading it cannot differ.
*/
#include <string.h>

#include "core/nearest.h"
#include "db/driver.h"
#include "host_settings.h"
#include "lpolicy_internal.h"

#define DEPTH_MAX 64
#define SHOWN_MAX 64

/* ---- copying ---- */

struct copy {
  lua_State *to, *from;
  bool strict;
  const char *what;
  int depth, steps;
};

static bool copy_value(struct copy *c, int index);

static void copy_table(struct copy *c, int index) {
  index = lua_absindex(c->from, index);
  if (++c->depth > DEPTH_MAX) luaL_error(c->to, "%s: tables nested deeper than %d, or one that contains itself", c->what, DEPTH_MAX);
  if (!lua_checkstack(c->from, 4)) luaL_error(c->to, "%s: not enough memory to read it", c->what);
  luaL_checkstack(c->to, 8, c->what);
  lua_newtable(c->to);
  for (lua_pushnil(c->from); lua_next(c->from, index); lua_pop(c->from, 1)) {
    if (++c->steps % 64 == 0) policy_look(c->to);
    if (lua_type(c->from, -2) == LUA_TTABLE && !c->strict) continue;
    if (lua_type(c->from, -2) == LUA_TTABLE) luaL_error(c->to, "%s: a table as a key", c->what);
    if (!copy_value(c, -2)) continue;
    if (copy_value(c, -1))
      lua_rawset(c->to, -3);
    else
      lua_pop(c->to, 1);
  }
  c->depth--;
}

/* Pushes the copy; false, and nothing pushed: it is left out. */
static bool copy_value(struct copy *c, int index) {
  size_t length;
  const char *text;
  switch (lua_type(c->from, index)) {
  case LUA_TBOOLEAN: lua_pushboolean(c->to, lua_toboolean(c->from, index)); return true;
  case LUA_TNUMBER:
    if (lua_isinteger(c->from, index))
      lua_pushinteger(c->to, lua_tointeger(c->from, index));
    else
      lua_pushnumber(c->to, lua_tonumber(c->from, index));
    return true;
  case LUA_TSTRING:
    text = lua_tolstring(c->from, index, &length);
    lua_pushlstring(c->to, text, length);
    return true;
  case LUA_TTABLE: copy_table(c, index); return true;
  default:
    if (c->strict) luaL_error(c->to, "%s: a %s is no plain data", c->what, lua_typename(c->from, lua_type(c->from, index)));
    return false;
  }
}

void policy_copy(lua_State *to, lua_State *from, int index, bool strict, const char *what) {
  struct copy c = {.to = to, .from = from, .strict = strict, .what = what};
  if (!copy_value(&c, index)) lua_pushnil(to);
}

/* ---- snapshots, out ---- */

enum field_kind { FIELD_NUMBER, FIELD_INT, FIELD_COUNT, FIELD_FLAG };

#define SNAPSHOT(kind, member) {#member, kind, offsetof(struct snapshot, member)}
#define FIGURES(kind, member) {#member, kind, offsetof(struct figures, member)}
#define GAUGE(kind, member) {#member, kind, offsetof(struct stats, member)}
#define COUNTER(member) {#member, FIELD_COUNT, offsetof(struct stats, counters.member)}

struct field {
  const char *name;
  enum field_kind kind;
  size_t offset;
};

static const struct field snapshot_fields[] = {
    SNAPSHOT(FIELD_NUMBER, now),         SNAPSHOT(FIELD_NUMBER, interval),    SNAPSHOT(FIELD_INT, size),
    SNAPSHOT(FIELD_INT, max_overflow),   SNAPSHOT(FIELD_INT, limit),          SNAPSHOT(FIELD_INT, total),
    SNAPSHOT(FIELD_INT, idle),           SNAPSHOT(FIELD_INT, leased),         SNAPSHOT(FIELD_INT, opening),
    SNAPSHOT(FIELD_INT, waiting),        SNAPSHOT(FIELD_INT, leased_max),     SNAPSHOT(FIELD_INT, waiting_max),
    SNAPSHOT(FIELD_INT, unmet),          SNAPSHOT(FIELD_COUNT, arrivals),     SNAPSHOT(FIELD_COUNT, grants),
    SNAPSHOT(FIELD_COUNT, releases),     SNAPSHOT(FIELD_COUNT, timeouts),     SNAPSHOT(FIELD_COUNT, rejected),
    SNAPSHOT(FIELD_COUNT, cancelled),    SNAPSHOT(FIELD_COUNT, errors),       SNAPSHOT(FIELD_COUNT, opens),
    SNAPSHOT(FIELD_COUNT, open_failures), SNAPSHOT(FIELD_COUNT, closes),      SNAPSHOT(FIELD_COUNT, lost),
    SNAPSHOT(FIELD_NUMBER, leased_mean), SNAPSHOT(FIELD_NUMBER, utilization), SNAPSHOT(FIELD_NUMBER, queue_age),
    SNAPSHOT(FIELD_NUMBER, loop_lag),    SNAPSHOT(FIELD_FLAG, failing),
};

static const struct field figures_fields[] = {FIGURES(FIELD_COUNT, count), FIGURES(FIELD_NUMBER, mean), FIGURES(FIELD_NUMBER, p50),
                                              FIGURES(FIELD_NUMBER, p95),  FIGURES(FIELD_NUMBER, p99),  FIGURES(FIELD_NUMBER, max)};

static const struct figure_group {
  const char *name;
  size_t offset;
} snapshot_groups[] = {{"wait", offsetof(struct snapshot, wait)},
                       {"hold", offsetof(struct snapshot, hold)},
                       {"open_time", offsetof(struct snapshot, open_time)},
                       {"query", offsetof(struct snapshot, query)}};

static const struct field database_fields[] = {{"max_connections", FIELD_INT, offsetof(struct snapshot, database_max_connections)},
                                               {"in_use", FIELD_INT, offsetof(struct snapshot, database_in_use)}};

static const struct field gauge_fields[] = {GAUGE(FIELD_INT, size),    GAUGE(FIELD_INT, max_overflow), GAUGE(FIELD_INT, limit),
                                            GAUGE(FIELD_INT, total),   GAUGE(FIELD_INT, idle),         GAUGE(FIELD_INT, leased),
                                            GAUGE(FIELD_INT, opening), GAUGE(FIELD_INT, waiting),      COUNTER(arrivals),
                                            COUNTER(grants),           COUNTER(timeouts),              COUNTER(rejected)};

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

static void fields_push(lua_State *L, const struct field *fields, int count, const void *from) {
  for (int i = 0; i < count; i++) {
    const char *place = (const char *)from + fields[i].offset;
    switch (fields[i].kind) {
    case FIELD_NUMBER: lua_pushnumber(L, *(const double *)(const void *)place); break;
    case FIELD_INT: lua_pushinteger(L, *(const int *)(const void *)place); break;
    case FIELD_COUNT: lua_pushinteger(L, (lua_Integer) * (const uint64_t *)(const void *)place); break;
    case FIELD_FLAG: lua_pushboolean(L, *(const bool *)(const void *)place); break;
    default: WRONG("field kind");
    }
    lua_setfield(L, -2, fields[i].name);
  }
}

static void setting_push(lua_State *L, const struct setting *row, const void *values) {
  const char *place = (const char *)values + row->offset;
  switch (row->type) {
  case SETTING_COUNT: lua_pushinteger(L, *(const int *)(const void *)place); break;
  case SETTING_FLAG: lua_pushboolean(L, *(const bool *)(const void *)place); break;
  case SETTING_CHOICE: lua_pushstring(L, row->choices[*(const int *)(const void *)place]); break;
  default: lua_pushnumber(L, setting_value(row, values)); break;
  }
}

static void settings_push(lua_State *L, const struct settings *now) {
  lua_createtable(L, 0, pool_settings_table.count);
  for (int i = 0; i < pool_settings_table.count; i++) {
    setting_push(L, &pool_settings_table.rows[i], now);
    lua_setfield(L, -2, pool_settings_table.rows[i].name);
  }
}

void policy_push_snapshot(lua_State *L, const struct snapshot *s, const struct settings *now) {
  luaL_checkstack(L, 6, "snapshot");
  lua_createtable(L, 0, COUNT(snapshot_fields) + COUNT(snapshot_groups) + 2);
  fields_push(L, snapshot_fields, COUNT(snapshot_fields), s);
  for (int i = 0; i < COUNT(snapshot_groups); i++) {
    lua_createtable(L, 0, COUNT(figures_fields));
    fields_push(L, figures_fields, COUNT(figures_fields), (const char *)s + snapshot_groups[i].offset);
    lua_setfield(L, -2, snapshot_groups[i].name);
  }
  lua_createtable(L, 0, 2);
  if (s->database_max_connections >= 0) fields_push(L, &database_fields[0], 1, s);
  if (s->database_in_use >= 0) fields_push(L, &database_fields[1], 1, s);
  lua_setfield(L, -2, "database");
  settings_push(L, now);
  lua_setfield(L, -2, "settings");
}

void policy_push_gauges(lua_State *P, const struct stats *s) {
  lua_createtable(P, 0, COUNT(gauge_fields) + 1);
  fields_push(P, gauge_fields, COUNT(gauge_fields), s);
  lua_pushnumber(P, (double)s->queue_age / (double)USEC_PER_SECOND);
  lua_setfield(P, -2, "queue_age");
}

/* ---- snapshots, in ---- */

static void field_misfit(lua_State *L, const struct field *field, const char *wanted) {
  luaL_error(L, "snapshot: %s is not %s", field->name, wanted);
}

/* The field's value is on top. */
static void field_take(lua_State *L, const struct field *field, void *place) {
  if (field->kind == FIELD_FLAG) {
    if (!lua_isboolean(L, -1)) field_misfit(L, field, "true or false");
    *(bool *)place = lua_toboolean(L, -1);
    return;
  }
  int whole;
  double number = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : -1;
  if (field->kind == FIELD_NUMBER) {
    if (!(number >= 0 && number <= 1e15)) field_misfit(L, field, "a number from 0");
    *(double *)place = number;
    return;
  }
  lua_Integer n = lua_tointegerx(L, -1, &whole);
  if (!whole || n < 0 || (field->kind == FIELD_INT && n > INT32_MAX)) field_misfit(L, field, "a whole number from 0");
  if (field->kind == FIELD_INT)
    *(int *)place = (int)n;
  else
    *(uint64_t *)place = (uint64_t)n;
}

/* What the table at index does not have stays as it is. */
static void fields_take(lua_State *L, int index, const struct field *fields, int count, void *into) {
  for (int i = 0; i < count; i++) {
    lua_pushstring(L, fields[i].name);
    if (lua_rawget(L, index) != LUA_TNIL) field_take(L, &fields[i], (char *)into + fields[i].offset);
    lua_pop(L, 1);
  }
}

/* Pushes the inner table of that name; false, and nothing pushed, when there is none. */
static bool inner_push(lua_State *L, int index, const char *name) {
  lua_pushstring(L, name);
  int type = lua_rawget(L, index);
  if (type != LUA_TTABLE && type != LUA_TNIL) luaL_error(L, "snapshot: %s is a %s, not a table", name, luaL_typename(L, -1));
  if (type == LUA_TNIL) lua_pop(L, 1);
  return type == LUA_TTABLE;
}

static enum pool_err setting_take(lua_State *L, int index, const struct setting *row, void *values, struct pool_error *error);

static void settings_take(lua_State *L, int index, struct settings *out) {
  struct pool_error error;
  for (int i = 0; i < pool_settings_table.count; i++) {
    lua_pushstring(L, pool_settings_table.rows[i].name);
    if (lua_rawget(L, index) != LUA_TNIL && setting_take(L, -1, &pool_settings_table.rows[i], out, &error) != POOL_OK)
      luaL_error(L, "settings: %s", error.message);
    lua_pop(L, 1);
  }
}

void policy_check_settings(lua_State *L, int index, struct settings *out) {
  index = lua_absindex(L, index);
  if (!lua_istable(L, index)) luaL_error(L, "settings: a table is wanted, not a %s", luaL_typename(L, index));
  settings_defaults(&pool_settings_table, out);
  settings_take(L, index, out);
}

void policy_push_settings(lua_State *L, const struct settings *settings) { settings_push(L, settings); }

void policy_check_snapshot(lua_State *L, int index, struct snapshot *s, struct settings *now) {
  const struct lsnapshot *made = luaL_testudata(L, index, LSNAPSHOT_NAME);
  if (made != NULL) {
    *s = made->snapshot;
    *now = made->settings;
    return;
  }
  index = lua_absindex(L, index);
  luaL_checkstack(L, 4, "snapshot");
  if (!lua_istable(L, index)) luaL_error(L, "snapshot: a pool.Snapshot or its table is wanted, not a %s", luaL_typename(L, index));
  *s = (struct snapshot){.database_max_connections = -1, .database_in_use = -1};
  settings_defaults(&pool_settings_table, now);
  fields_take(L, index, snapshot_fields, COUNT(snapshot_fields), s);
  for (int i = 0; i < COUNT(snapshot_groups); i++) {
    if (!inner_push(L, index, snapshot_groups[i].name)) continue;
    fields_take(L, lua_gettop(L), figures_fields, COUNT(figures_fields), (char *)s + snapshot_groups[i].offset);
    lua_pop(L, 1);
  }
  if (inner_push(L, index, "database")) {
    fields_take(L, lua_gettop(L), database_fields, COUNT(database_fields), s);
    lua_pop(L, 1);
  }
  if (inner_push(L, index, "settings")) {
    settings_take(L, lua_gettop(L), now);
    lua_pop(L, 1);
  }
}

/* ---- proposals ---- */

/* One value from Lua, of the type that its setting wants. */
static enum pool_err setting_take(lua_State *L, int index, const struct setting *row, void *values, struct pool_error *error) {
  char given[32];
  size_t length;
  int type = lua_type(L, index);
  bool text_wanted = row->type == SETTING_CHOICE || row->type == SETTING_TEXT;
  if (type == LUA_TNUMBER) return setting_number(row, values, lua_tonumber(L, index), error);
  if (type == LUA_TBOOLEAN) return setting_flag(row, values, lua_toboolean(L, index), error);
  if (type == LUA_TSTRING && text_wanted) {
    const char *text = lua_tolstring(L, index, &length);
    if (strlen(text) == length) return setting_parse(row, values, text, error);
  }
  snprintf(given, sizeof given, "a %s", type == LUA_TSTRING ? "text" : lua_typename(L, type));
  return setting_refuse(row, given, error);
}

static enum pool_err name_refuse(const char *name, struct pool_error *error) {
  const struct settings_table *const tables[] = {&pool_settings_table, &db_settings_table, &host_settings_table};
  char shown[SHOWN_MAX];
  for (int i = 0; i < COUNT(tables); i++) {
    const struct setting *row = settings_find(tables[i], name);
    if (row != NULL && strcmp(row->name, name) == 0)
      return error_set(error, POOL_POLICY, "%s: %s", name,
                       i == 0 ? "it cannot change while the pool runs" : "it is no setting that a policy may change");
  }
  const char *nearest = settings_nearest(tables, 1, name);
  text_copy(shown, sizeof shown, name);
  text_line(shown);
  if (nearest != NULL) return error_set(error, POOL_POLICY, "unknown setting \"%s\"; did you mean \"%s\"?", shown, nearest);
  return error_set(error, POOL_POLICY, "unknown setting \"%s\"", shown);
}

/* The row that the key at index names exactly and that a policy may change, NULL when there is none. */
static const struct setting *key_row(lua_State *L, int index) {
  const char *name = lua_type(L, index) == LUA_TSTRING ? lua_tostring(L, index) : NULL;
  const struct setting *row = name != NULL ? settings_find(&pool_settings_table, name) : NULL;
  if (row == NULL || strcmp(row->name, name) != 0 || lua_rawlen(L, index) != strlen(name)) return NULL;
  return proposal_row(row) >= 0 ? row : NULL;
}

/* Of several wrong names the same one is always reported: the first in the order of their bytes. */
static enum pool_err keys_check(lua_State *L, int index, struct pool_error *error) {
  const char *first = NULL;
  int other = LUA_TNONE;
  for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
    if (key_row(L, -2) != NULL) continue;
    if (lua_type(L, -2) != LUA_TSTRING) {
      other = lua_type(L, -2);
    } else if (first == NULL || strcmp(lua_tostring(L, -2), first) < 0) {
      first = lua_tostring(L, -2); /* the table holds it */
    }
  }
  if (other != LUA_TNONE) return error_set(error, POOL_POLICY, "the name of a setting is a text, not a %s", lua_typename(L, other));
  return first != NULL ? name_refuse(first, error) : POOL_OK;
}

enum pool_err policy_read_changes(lua_State *L, int index, struct proposal *out, struct pool_error *error) {
  index = lua_absindex(L, index);
  memset(out, 0, sizeof *out);
  luaL_checkstack(L, 4, "changes");
  enum pool_err err = keys_check(L, index, error);
  for (int i = 0; i < pool_settings_table.count && err == POOL_OK; i++) {
    lua_pushstring(L, pool_settings_table.rows[i].name);
    if (lua_rawget(L, index) != LUA_TNIL) {
      err = setting_take(L, -1, &pool_settings_table.rows[i], &out->values, error);
      out->given |= (uint64_t)1 << i;
    }
    lua_pop(L, 1);
  }
  if (err == POOL_OK) return POOL_OK;
  out->given = 0;
  if (error != NULL) error->kind = POOL_POLICY;
  return POOL_POLICY;
}
