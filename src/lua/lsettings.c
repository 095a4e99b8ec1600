/*
** lsettings: see lsettings.h.
**
** A table from Lua is gone through twice: once by its keys, so that no name goes unnoticed, then by the rooms' rows, so that of
** several wrong values the same one is always reported. Only raw access: a metatable cannot interfere between the two.
** Nothing here allocates but through Lua, so a raise leaves nothing behind.
*/
#include "lsettings.h"

#include <string.h>
#include <sys/stat.h>

#include "db/url.h"
#include "lerror.h"
#include "llater.h"

#define NAME_SHOWN_MAX 64
#define ROOMS 3

static const struct settings_table *const room_tables[ROOMS] = {&pool_settings_table, &db_settings_table, &host_settings_table};

/* The room's struct inside *all. */
static void *room_values(struct all_settings *all, int room) {
  void *const values[ROOMS] = {&all->pool, &all->db, &all->host};
  return values[room];
}

/* The row called exactly `name`, NULL when there is none. */
static const struct setting *row_find(const char *name, int *room) {
  for (*room = 0; *room < ROOMS; ++*room) {
    const struct setting *row = settings_find(room_tables[*room], name);
    if (row != NULL) return strcmp(row->name, name) == 0 ? row : NULL;
  }
  return NULL;
}

/* A name may be anything, a password too: only what looks like a name is shown. */
static bool name_showable(const char *name) {
  size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
  return length > 0 && length <= NAME_SHOWN_MAX && name[length] == '\0';
}

/* Pushes the message for a name that no setting has. */
static const char *name_push_unknown(lua_State *L, const char *name) {
  const char *with = llater_with(LATER_SETTING, name);
  if (with != NULL) return lua_pushfstring(L, "%s is not there yet: it comes with %s", name, with);
  const char *nearest = settings_nearest(room_tables, ROOMS, name);
  if (!name_showable(name)) return lua_pushliteral(L, "unknown setting (its name is not shown, for it may be a secret)");
  if (nearest == NULL) return lua_pushfstring(L, "unknown setting \"%s\"", name);
  return lua_pushfstring(L, "unknown setting \"%s\"; did you mean \"%s\"?", name, nearest);
}

/* ---- values ---- */

static bool value_fits(const struct setting *row, int lua_type) {
  switch (row->type) {
  case SETTING_FLAG: return lua_type == LUA_TBOOLEAN;
  case SETTING_CHOICE:
  case SETTING_TEXT: return lua_type == LUA_TSTRING;
  default: return lua_type == LUA_TNUMBER;
  }
}

/* Raises for the value at index, which is of a type the setting does not take. */
static void value_misfit(lua_State *L, int index, const struct setting *row) {
  struct pool_error error;
  char given[32];
  int type = lua_type(L, index);
  if (type == LUA_TSTRING) {
    struct all_settings scratch;
    if (setting_parse(row, &scratch, lua_tostring(L, index), &error) == POOL_OK)
      error_set(&error, POOL_SETTINGS, "%s: the string \"%s\" is not what is wanted: write it without quotes", row->name,
                lua_tostring(L, index));
  } else if (type == LUA_TNUMBER) {
    setting_number(row, NULL, lua_tonumber(L, index), &error); /* always refuses here, and stores nothing */
  } else if (type == LUA_TBOOLEAN) {
    setting_flag(row, NULL, lua_toboolean(L, index), &error);
  } else {
    lua_pushfstring(L, "a %s", lua_typename(L, type));
    text_copy(given, sizeof given, lua_tostring(L, -1));
    setting_refuse(row, given, &error);
  }
  lerror_misuse(L, "%s", error.message);
}

/* Stores the value at index, which is of a type that fits. */
static enum pool_err value_take(lua_State *L, int index, const struct setting *row, void *values, struct pool_error *error) {
  const char *text;
  size_t length;
  INSIST(value_fits(row, lua_type(L, index)));
  switch (row->type) {
  case SETTING_FLAG: return setting_flag(row, values, lua_toboolean(L, index), error);
  case SETTING_CHOICE:
  case SETTING_TEXT:
    text = lua_tolstring(L, index, &length);
    if (strlen(text) != length) return error_set(error, POOL_SETTINGS, "%s: a text with a NUL in it", row->name);
    return setting_parse(row, values, text, error);
  default: return setting_number(row, values, lua_tonumber(L, index), error);
  }
}

static void value_push(lua_State *L, const struct setting *row, const void *values) {
  char text[SETTING_TEXT_MAX];
  switch (row->type) {
  case SETTING_COUNT: lua_pushinteger(L, (lua_Integer)setting_value(row, values)); break;
  case SETTING_DURATION:
  case SETTING_RATIO: lua_pushnumber(L, setting_value(row, values)); break;
  case SETTING_FLAG: lua_pushboolean(L, strcmp(setting_format(row, values, text, sizeof text), "true") == 0); break;
  default: lua_pushstring(L, setting_format(row, values, text, sizeof text)); break;
  }
}

/* As value_push, fit for a log. */
static void value_push_redacted(lua_State *L, const struct setting *row, const void *values) {
  char text[SETTING_TEXT_MAX], redacted[SETTING_TEXT_MAX + 64];
  if (row->secret)
    lua_pushstring(L, url_redact(setting_format(row, values, text, sizeof text), redacted, sizeof redacted));
  else
    value_push(L, row, values);
}

/* ---- a table of them ---- */

/* Raises for a key of the table at index that is no setting's name. */
static void keys_check(lua_State *L, int index) {
  int room;
  for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
    const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : NULL;
    if (name == NULL && lua_type(L, -1) == LUA_TSTRING)
      lerror_misuse(L, "settings: a text without a name; a URL is given alone or as database_url = ...");
    if (name == NULL) lerror_misuse(L, "settings: a name is a string, not a %s", luaL_typename(L, -2));
    if (strlen(name) != lua_rawlen(L, -2) || row_find(name, &room) == NULL) lerror_misuse(L, "%s", name_push_unknown(L, name));
  }
}

/* Pushes the value that the table at index has for the row; nil when it has none. Raises when its type does not fit. */
static bool table_get(lua_State *L, int index, const struct setting *row) {
  lua_pushstring(L, row->name);
  if (lua_rawget(L, index) == LUA_TNIL) return false;
  if (!value_fits(row, lua_type(L, -1))) value_misfit(L, -1, row);
  return true;
}

/* Takes every value of the table at index. The first one refused ends it. */
static enum pool_err table_take(lua_State *L, int index, struct all_settings *all, struct pool_error *error) {
  enum pool_err err = POOL_OK;
  for (int room = 0; room < ROOMS; room++)
    for (int i = 0; i < room_tables[room]->count; i++) {
      const struct setting *row = &room_tables[room]->rows[i];
      bool there = table_get(L, index, row); /* of all of them, so that misuse raises whatever else is wrong */
      if (there && err == POOL_OK) err = value_take(L, -1, row, room_values(all, room), error);
      lua_pop(L, 1);
    }
  return err;
}

static int table_check(lua_State *L, int index) {
  index = lua_absindex(L, index);
  luaL_checkstack(L, 8, "settings");
  if (!lua_istable(L, index)) lerror_misuse(L, "settings: a table is wanted, not a %s", luaL_typename(L, index));
  keys_check(L, index);
  return index;
}

static enum pool_err url_timeout_take(struct all_settings *all, struct pool_error *error) {
  struct pool_error inner;
  char text[64];
  if (!url_connect_timeout(all->db.database_url, text, sizeof text)) return POOL_OK;
  if (setting_parse(settings_find(&db_settings_table, "connect_timeout"), &all->db, text, &inner) == POOL_OK) return POOL_OK;
  return error_set(error, POOL_SETTINGS, "database_url: in its query, %s", inner.message);
}

void lsettings_read(lua_State *L, int index, struct all_settings *all) {
  struct pool_error error;
  enum pool_err err = POOL_OK;
  bool timeout_given = false;
  for (int room = 0; room < ROOMS; room++) settings_defaults(room_tables[room], room_values(all, room));
  if (!lua_isnoneornil(L, index)) {
    index = table_check(L, index);
    err = table_take(L, index, all, &error);
    lua_pushliteral(L, "connect_timeout");
    timeout_given = lua_rawget(L, index) != LUA_TNIL;
    lua_pop(L, 1);
  }
  if (err == POOL_OK && !timeout_given) err = url_timeout_take(all, &error);
  if (err == POOL_OK) err = settings_check(&all->pool, &error);
  if (err != POOL_OK) lerror_misuse(L, "%s", error.message);
}

/* ---- a change ---- */

/* Whether the row's value in `b` is that in `a`. A redacted URL is what we show of it ourselves: it is no change. */
static bool value_same(const struct setting *row, const void *a, const void *b) {
  char one[SETTING_TEXT_MAX], other[SETTING_TEXT_MAX], redacted[SETTING_TEXT_MAX + 64];
  setting_format(row, a, one, sizeof one);
  setting_format(row, b, other, sizeof other);
  return strcmp(one, other) == 0 || (row->secret && strcmp(url_redact(one, redacted, sizeof redacted), other) == 0);
}

static enum pool_err change_check(struct all_settings *before, struct all_settings *after, struct pool_error *error) {
  for (int room = 0; room < ROOMS; room++)
    for (int i = 0; i < room_tables[room]->count; i++) {
      const struct setting *row = &room_tables[room]->rows[i];
      if (!row->live && !value_same(row, room_values(before, room), room_values(after, room)))
        return error_set(error, POOL_SETTINGS, "%s: cannot change while the pool runs", row->name);
    }
  return settings_check(&after->pool, error);
}

enum pool_err lsettings_change(lua_State *L, int index, struct all_settings *all, struct pool_error *error) {
  struct all_settings changed = *all;
  enum pool_err err = table_take(L, table_check(L, index), &changed, error);
  if (err == POOL_OK) err = change_check(all, &changed, error);
  if (err != POOL_OK) return err;
  memcpy(changed.db.database_url, all->db.database_url, sizeof changed.db.database_url); /* the same, or its redacted form */
  *all = changed;
  return POOL_OK;
}

/* ---- for Lua ---- */

void lsettings_push(lua_State *L, const struct all_settings *all) {
  const void *const values[ROOMS] = {&all->pool, &all->db, &all->host};
  luaL_checkstack(L, 4, "settings");
  lua_newtable(L);
  for (int room = 0; room < ROOMS; room++)
    for (int i = 0; i < room_tables[room]->count; i++) {
      const struct setting *row = &room_tables[room]->rows[i];
      value_push_redacted(L, row, values[room]);
      lua_setfield(L, -2, row->name);
    }
}

static void field_text(lua_State *L, const char *name, const char *text) {
  if (text == NULL) return;
  lua_pushstring(L, text);
  lua_setfield(L, -2, name);
}

static void field_flag(lua_State *L, const char *name, bool flag) {
  lua_pushboolean(L, flag);
  lua_setfield(L, -2, name);
}

static void field_number(lua_State *L, const char *name, const struct setting *row, double number) {
  if (row->type == SETTING_COUNT)
    lua_pushinteger(L, (lua_Integer)number);
  else
    lua_pushnumber(L, number);
  lua_setfield(L, -2, name);
}

/* The choices as an array; no field when there is none. */
static void field_choices(lua_State *L, const char *name, const struct setting *row) {
  int count = 0;
  lua_newtable(L);
  for (int i = 0; row->choices != NULL && row->choices[i] != NULL; i++) {
    lua_pushstring(L, row->choices[i]);
    lua_rawseti(L, -2, ++count);
  }
  if (count > 0)
    lua_setfield(L, -2, name);
  else
    lua_pop(L, 1);
}

static void row_push(lua_State *L, const struct setting *row, int room) {
  static const char *const types[] = {"duration", "count", "ratio", "flag", "choice", "text"};
  struct all_settings all;
  settings_defaults(room_tables[room], room_values(&all, room));
  lua_createtable(L, 0, 14);
  field_text(L, "name", row->name);
  field_text(L, "env", row->env);
  field_text(L, "type", types[row->type]);
  field_text(L, "unit", row->type == SETTING_DURATION ? "seconds" : NULL);
  value_push(L, row, room_values(&all, room));
  lua_setfield(L, -2, "default");
  if (row->type == SETTING_DURATION || row->type == SETTING_COUNT || row->type == SETTING_RATIO) {
    field_number(L, "min", row, row->min);
    field_number(L, "max", row, row->max);
  }
  field_text(L, "zero", row->zero);
  field_choices(L, "choices", row);
  field_flag(L, "live", row->live);
  field_flag(L, "secret", row->secret);
  field_text(L, "help", row->help);
  field_text(L, "room", room_tables[room]->title);
}

/* settings() */
static int settings_list(lua_State *L) {
  int count = 0;
  lua_newtable(L);
  for (int room = 0; room < ROOMS; room++)
    for (int i = 0; i < room_tables[room]->count; i++) {
      row_push(L, &room_tables[room]->rows[i], room);
      lua_rawseti(L, -2, ++count);
    }
  return 1;
}

/* parse_setting(name, text) */
static int settings_parse(lua_State *L) {
  size_t length;
  const char *name = luaL_checkstring(L, 1), *text = luaL_checklstring(L, 2, &length);
  struct all_settings all;
  struct pool_error error;
  int room;
  const struct setting *row = row_find(name, &room);
  lua_pushnil(L);
  if (row == NULL) {
    name_push_unknown(L, name);
    return 2;
  }
  if (strlen(text) != length)
    error_set(&error, POOL_SETTINGS, "%s: a text with a NUL in it", row->name);
  else if (setting_parse(row, room_values(&all, room), text, &error) == POOL_OK) {
    value_push(L, row, room_values(&all, room));
    return 1;
  }
  lua_pushstring(L, error.message);
  return 2;
}

/* check_settings(table) */
static int settings_checked(lua_State *L) {
  struct all_settings all;
  lsettings_read(L, 1, &all);
  lsettings_push(L, &all);
  return 1;
}

/* change_settings(table, changes) */
static int settings_changed(lua_State *L) {
  struct all_settings all;
  struct pool_error error;
  lsettings_read(L, 1, &all);
  if (lsettings_change(L, 2, &all, &error) != POOL_OK) {
    lua_pushnil(L);
    lua_pushstring(L, error.message);
    return 2;
  }
  lsettings_push(L, &all);
  return 1;
}

/* others_may_read(path): whether everybody on this machine may, as far as the file's own mode says. */
static int settings_others_may_read(lua_State *L) {
  struct stat info;
  lua_pushboolean(L, stat(luaL_checkstring(L, 1), &info) == 0 && (info.st_mode & S_IROTH) != 0);
  return 1;
}

void lsettings_open(lua_State *L) {
  static const luaL_Reg functions[] = {{"settings", settings_list},
                                       {"parse_setting", settings_parse},
                                       {"check_settings", settings_checked},
                                       {"change_settings", settings_changed},
                                       {"others_may_read", settings_others_may_read},
                                       {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}
