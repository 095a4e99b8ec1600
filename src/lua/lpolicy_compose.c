/*
** lpolicy_compose: compose{...}, one policy made of several.
**
** Written in Lua, below, and compiled in the state of the policy that calls it, so that it is under the same limits as the rest.
** An entry is a name of the library ("usl"), a table with a name and parameters ({"deadline", deadline = 0.5} or {policy = "deadline",
** ...}), or a policy itself ({tick = function ...}), which may have been composed too. The state of the whole is one table: the parts'
** states by their names, so that a part finds its own again after a reload that has changed the others. A part sees in s.settings what
** those before it have proposed.
*/
#include <string.h>

#include "lpolicy_internal.h"

static const char COMPOSE = 'c'; /* its address: in the registry, where the compiled function is */

static const char compose_source[] =
    "local part_named, check = ...\n"
    "\n"
    "local function is_policy(t) return t.tick or t.admit or t.on_event or t.weight end\n"
    "\n"
    "local function part_of(entry, place)\n"
    "  if type(entry) == 'string' then return part_named(entry, {}), entry end\n"
    "  if type(entry) ~= 'table' then error(('compose: entry %d is a %s: a name, or a table'):format(place, type(entry)), 0) end\n"
    "  if is_policy(entry) then return check(entry, ('compose: entry %d'):format(place)), entry.name or ('part %d'):format(place) end\n"
    "  local name = entry[1] or entry.policy\n"
    "  if type(name) ~= 'string' then\n"
    "    error(('compose: entry %d has no policy: {\"name\", ...}, {policy = \"name\", ...} or {tick = function ...}'):format(place), 0)\n"
    "  end\n"
    "  local params = {}\n"
    "  for key, value in pairs(entry) do\n"
    "    if key ~= 1 and key ~= 'policy' then params[key] = value end\n"
    "  end\n"
    "  return part_named(name, params), name\n"
    "end\n"
    "\n"
    "local function parts_of(entries)\n"
    "  if type(entries) ~= 'table' then error('compose: a table of policies is wanted, not a ' .. type(entries), 0) end\n"
    "  local parts, seen = {}, {}\n"
    "  for place, entry in ipairs(entries) do\n"
    "    local policy, name = part_of(entry, place)\n"
    "    seen[name] = (seen[name] or 0) + 1\n"
    "    parts[place] = { policy = policy, name = name, key = seen[name] > 1 and name .. ' ' .. seen[name] or name }\n"
    "  end\n"
    "  for key in pairs(entries) do\n"
    "    if not parts[key] then error(('compose: %s is no entry: entries are 1, 2, 3 ...'):format(tostring(key)), 0) end\n"
    "  end\n"
    "  if #parts == 0 then error('compose: no policy is named', 0) end\n"
    "  return parts\n"
    "end\n"
    "\n"
    "local function with(parts, hook)\n"
    "  local some = {}\n"
    "  for _, part in ipairs(parts) do\n"
    "    if part.policy[hook] then some[#some + 1] = part end\n"
    "  end\n"
    "  return #some > 0 and some or nil\n"
    "end\n"
    "\n"
    "local function state_of(state, part)\n"
    "  local own = state[part.key]\n"
    "  if own == nil then own = {} state[part.key] = own end\n"
    "  return own\n"
    "end\n"
    "\n"
    "local hooks = {}\n"
    "\n"
    "function hooks.tick(parts)\n"
    "  return function(s, state)\n"
    "    local merged, reasons = {}, {}\n"
    "    for _, part in ipairs(parts) do\n"
    "      local changes, reason = part.policy.tick(s, state_of(state, part))\n"
    "      if changes ~= nil and type(changes) ~= 'table' then\n"
    "        error(('%s: tick returned a %s: a table of settings, or nothing'):format(part.name, type(changes)), 0)\n"
    "      end\n"
    "      for name, value in pairs(changes or {}) do\n"
    "        merged[name] = value\n"
    "        if s.settings[name] ~= nil then s.settings[name] = value end\n"
    "      end\n"
    "      if reason ~= nil then reasons[#reasons + 1] = reason end\n"
    "    end\n"
    "    return merged, reasons[1] and table.concat(reasons, '; ') or nil\n"
    "  end\n"
    "end\n"
    "\n"
    "function hooks.admit(parts)\n"
    "  return function(s, request)\n"
    "    for _, part in ipairs(parts) do\n"
    "      local said = part.policy.admit(s, request)\n"
    "      if said ~= nil and said ~= true then return said end\n"
    "    end\n"
    "    return true\n"
    "  end\n"
    "end\n"
    "\n"
    "function hooks.on_event(parts)\n"
    "  return function(e, s)\n"
    "    for _, part in ipairs(parts) do part.policy.on_event(e, s) end\n"
    "  end\n"
    "end\n"
    "\n"
    "function hooks.weight(parts)\n"
    "  return function(key)\n"
    "    for _, part in ipairs(parts) do\n"
    "      local said = part.policy.weight(key)\n"
    "      if said ~= nil then return said end\n"
    "    end\n"
    "  end\n"
    "end\n"
    "\n"
    "local function load_of(parts)\n"
    "  return function(old)\n"
    "    local state = {}\n"
    "    for _, part in ipairs(parts) do\n"
    "      local own = old and old[part.key]\n"
    "      if part.policy.load then own = part.policy.load(own) end\n"
    "      state[part.key] = own or {}\n"
    "    end\n"
    "    return state\n"
    "  end\n"
    "end\n"
    "\n"
    "return function(entries)\n"
    "  local parts = parts_of(entries)\n"
    "  local whole, names = { load = load_of(parts) }, {}\n"
    "  for i, part in ipairs(parts) do\n"
    "    names[i] = part.name\n"
    "    whole.every = math.min(whole.every or math.huge, part.policy.every or 1)\n"
    "  end\n"
    "  whole.name = table.concat(names, '+')\n"
    "  for hook, make in pairs(hooks) do\n"
    "    local some = with(parts, hook)\n"
    "    if some then whole[hook] = make(some) end\n"
    "  end\n"
    "  return whole\n"
    "end\n";

static const struct library_entry *library_find(const struct policy *p, const char *name) {
  for (int i = 0; i < p->library_count; i++)
    if (strcmp(p->library[i].name, name) == 0) return &p->library[i];
  return NULL;
}

static int library_unknown(lua_State *P, const char *name) {
  const struct policy *p = policy_of(P);
  luaL_Buffer b;
  luaL_buffinit(P, &b);
  for (int i = 0; i < p->library_count; i++) {
    if (i > 0) luaL_addstring(&b, ", ");
    luaL_addstring(&b, p->library[i].name);
  }
  luaL_pushresult(&b);
  const char *list = lua_tostring(P, -1);
  lua_pushfstring(P, "compose: there is no policy \"%s\"; there is %s", name, list[0] ? list : "none");
  return lua_error(P);
}

/* part_named(name, params): runs the library's chunk; what it returns. */
static int part_named(lua_State *P) {
  const char *name = luaL_checkstring(P, 1);
  const struct library_entry *entry = library_find(policy_of(P), name);
  if (entry == NULL) return library_unknown(P, name);
  policy_compile(P, entry->source, entry->length, entry->name);
  lua_pushvalue(P, 2);
  lua_call(P, 1, 1);
  policy_check_table(P, -1, name);
  return 1;
}

/* check(policy, what): raises unless it is one. */
static int part_check(lua_State *P) {
  policy_check_table(P, 1, luaL_checkstring(P, 2));
  lua_settop(P, 1);
  return 1;
}

int policy_compose(lua_State *P) {
  lua_settop(P, 1);
  if (lua_rawgetp(P, LUA_REGISTRYINDEX, &COMPOSE) == LUA_TNIL) {
    lua_pop(P, 1);
    policy_compile(P, compose_source, sizeof compose_source - 1, "compose");
    lua_pushcfunction(P, part_named);
    lua_pushcfunction(P, part_check);
    lua_call(P, 2, 1);
    lua_pushvalue(P, -1);
    lua_rawsetp(P, LUA_REGISTRYINDEX, &COMPOSE);
  }
  lua_insert(P, 1);
  lua_call(P, 1, 1);
  return 1;
}
