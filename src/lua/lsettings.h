/*
** lsettings: every room's settings as one, between Lua and C. Outside, a setting is name = value in a table (durations in
** seconds, choices as their names); inside it is a struct a room.
**
** Misuse (an unknown name, a value of the wrong type) raises at the caller's line. A value that is out of range raises too when
** a pool is made, and is returned as an error when one is changed. Where a value came from (flag, environment, .env) is not
** known here: lua/pool/config.lua gathers them and gives one table.
*/
#ifndef POOL_LUA_LSETTINGS_H
#define POOL_LUA_LSETTINGS_H

#include <lauxlib.h>
#include <lua.h>

#include "core/settings.h"
#include "db/driver.h"
#include "host_settings.h"

struct all_settings {
  struct settings pool;
  struct db_settings db;
  struct host_settings host;
};

/* Fills *all: the defaults, then the table at index (nil: none). A connect_timeout in the URL's query stands in for the
   setting's default. Checked as a whole; raises on anything wrong, and *all is then of no use. */
void lsettings_read(lua_State *L, int index, struct all_settings *all);

/* For configure: *all with the changes of the table at index, all or nothing. Raises for misuse; POOL_SETTINGS (and *all as it
   was) for a value out of range, settings that do not go together, or one that cannot change while the pool runs (naming it a
   second time with the value it has is no change). */
enum pool_err lsettings_change(lua_State *L, int index, struct all_settings *all, struct pool_error *error);

/* Pushes a table name -> value; database_url redacted. */
void lsettings_push(lua_State *L, const struct all_settings *all);

/* Sets in the table on top of the stack:
     settings() -> { {name, env, type, unit?, default, min?, max?, zero?, choices?, live, secret, help, room}, ... }
     parse_setting(name, text) -> value | nil, message      text as in the environment; a message begins with "NAME: "
     check_settings(table) -> table                         as lsettings_read: raises, or gives every setting's value
     change_settings(table, changes) -> table | nil, message   what lsettings_change would make of a pool with these settings */
void lsettings_open(lua_State *L);

#endif
