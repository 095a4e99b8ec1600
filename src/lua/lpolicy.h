/*
** lpolicy: a tuning policy in a lua_State of its own, where it can be wrong but not unsafe.
**
** What a policy file may use: base without load, loadfile, dofile, require, collectgarbage, print; math (math.random from the
** host's seed), table, utf8, string without dump, pack, unpack; compose{...}. No io, os, debug, coroutine. Globals and libraries are
** read-only; text chunks only, of 64 KiB at most. Every entry (load, tick, ...) has three limits: CPU time and instructions, watched by a
** hook whose kill pcall cannot catch, and memory, by the state's own allocator. Nothing is shared with the lua_State of handlers: what
** crosses is copied, as plain data.
**
** Where it differs from plain Lua, so that no one call takes long and two runs are the same: a text has at most 64 KiB, a table at most
** 4,096 keys beside 1, 2, 3 ..., pairs and the table functions go through at most 10,000 elements, the latter of tables without a
** metatable; patterns that may take long on a subject are refused; texts have no arithmetic; setmetatable takes the metamethods as they
** are when it is called, without __gc and __mode and with a function as __call; pairs and next go by integers, floats, texts,
** booleans (next is meant for `next(t) == nil`: each call goes through the table); table.sort keeps the order of equals; tostring shows no
** address. A compiled chunk, what it allocates and the parts of compose all count against the limits.
**
** A call overruns its time by one piece of C work at most: the longest known is one collection of a full state, about 8 ms with 16 MiB.
**
** A policy that was killed or failed stays usable: the next call starts afresh; whoever owns it decides whether to go on. Internal to
** the room; lua/pool/tuner.lua and lsim.c are its users.
*/
#ifndef POOL_LUA_LPOLICY_H
#define POOL_LUA_LPOLICY_H

#include <lua.h>

#include "core/proposal.h"
#include "core/snapshot.h"

struct policy;

struct policy_limits {
  usec time;            /* CPU time of one call (policy_time) */
  size_t memory;        /* bytes of the whole state (policy_memory) */
  int64_t instructions; /* of one call (policy_instructions) */
};

struct policy_figures {
  uint64_t calls, errors; /* calls of hooks; those that raised, were killed or returned what is refused */
  usec time, longest;     /* CPU, of all calls and of the longest */
  size_t memory;          /* bytes now */
};

enum policy_hook { POLICY_TICK, POLICY_ADMIT, POLICY_EVENT, POLICY_WEIGHT, POLICY_LOAD, POLICY_HOOKS };

/* Compiles `source` (text) as a chunk called `chunk`, runs it with the value at `params` of L (a plain table, copied; 0: an empty one)
   as its `...` and looks at what it returned: a table with at least one hook, name a text of 1 to 64 bytes, every a number of seconds
   from 0.01. `library` is the index in L of a table name -> source of what compose{} may name (copied), 0 none. NULL: *error, kind
   POOL_POLICY, says what and where. L is left as it was; it raises nothing. */
struct policy *policy_create(lua_State *L, const char *source, size_t length, const char *chunk, int params, int library,
                             const struct policy_limits *, uint64_t seed, struct pool_error *error);
void policy_destroy(struct policy *); /* takes; NULL is harmless */

const char *policy_name(const struct policy *); /* what the chunk's table says, NULL when it says nothing */
double policy_every(const struct policy *);     /* seconds, 1 when the chunk does not say */
bool policy_has(const struct policy *, enum policy_hook);
void policy_set_limits(struct policy *, const struct policy_limits *);
void policy_figures(const struct policy *, struct policy_figures *);

/* Calls load(old state), `old` (borrowed, not p itself) NULL: load(nil); without a load hook the state is a copy of the old one, or {}.
   Only plain data is carried: booleans, numbers, texts, tables of such, nested 64 deep at most. On failure (POOL_POLICY) p's state is
   what it was, {} at first. */
enum pool_err policy_begin(struct policy *, struct policy *old, struct pool_error *error);

/* tick(s, state) -> changes, reason. *out is what it proposes: out->given 0 when nothing, or when there is no such hook. POOL_POLICY: it
   raised or was killed, or what it returned is no proposal (each value must be valid for its setting; unknown names, NaN, settings
   that no policy may change refuse it all). */
enum pool_err policy_tick(struct policy *, const struct snapshot *, const struct settings *now, struct proposal *out,
                          struct pool_error *error);

/* admit(s, request): s has the gauges alone (size, max_overflow, limit, total, idle, leased, opening, waiting, queue_age, arrivals,
   grants, timeouts, rejected), request = {key, priority, timeout}; no timeout for NEVER. A hook that fails admits. `key` NULL: none.
   Returns what it said; only nil or true admit. */
bool policy_admit(struct policy *, const struct stats *, const char *key, size_t key_length, int priority, usec timeout);

/* on_event(e, s): e = {kind = ..., message = ...}; kinds: settings, timeout, overloaded, connect, lost. Nothing is returned. */
enum pool_err policy_event(struct policy *, const char *kind, const char *message, const struct snapshot *, const struct settings *now,
                           struct pool_error *error);

/* on_event for what happened in a snapshot's interval: one a kind, with how many there were as its message; before the tick. */
enum pool_err policy_tell(struct policy *, const struct snapshot *, const struct settings *now, struct pool_error *error);

/* weight(key) -> 1..255, 1 when it fails or says nothing. */
uint8_t policy_weight(struct policy *, const char *key, size_t length);

/* Pushes in L what a snapshot is to a policy, db:stats-like: plain fields and wait, hold, open_time, query, database, settings. Shared
   with recordings and tests, so that all see the same. */
void policy_push_snapshot(lua_State *L, const struct snapshot *, const struct settings *now);
/* The reverse, from a table (missing fields are 0): for recordings and tests. Raises for what is not a snapshot. */
void policy_check_snapshot(lua_State *L, int index, struct snapshot *, struct settings *now);

/* The same for settings alone: the pool's own, by name, in outside units. What a table does not have is its default; raises. */
void policy_push_settings(lua_State *L, const struct settings *);
void policy_check_settings(lua_State *L, int index, struct settings *);

/* A snapshot as a userdata, for whoever keeps many of them: snapshot:table() is its table. */
#define LSNAPSHOT_NAME "pool.Snapshot"
struct lsnapshot {
  struct snapshot snapshot;
  struct settings settings; /* as they were then */
};
void lsnapshot_push(lua_State *L, const struct snapshot *, const struct settings *now); /* copies */

/* The policy of the pool.Policy at index; raises when it is none, or closed. */
struct policy *lpolicy_check(lua_State *L, int index);

/* *limits: the defaults, and over them the table at index (nil: none), name = {low, high}. Raises for what makes no sense. */
void policy_read_limits(lua_State *L, int index, struct limits *limits);

/* Reads changes (the table at index) into *out; what is no proposal fills *error and returns POOL_POLICY. Raises only for memory. */
enum pool_err policy_read_changes(lua_State *L, int index, struct proposal *out, struct pool_error *error);

/* Sets in the table on top:
     policy(source, chunk, {params=, library=, seed=, time=, memory=, instructions=}) -> pool.Policy | nil, err
       p:begin(old?) -> true | nil, err        p:tick(snapshot) -> changes | nil (nothing), reason | nil, err
       p:admit(snapshot, key?, priority, timeout) -> boolean    p:weight(key) -> 1..255
       p:event(kind, message, snapshot) -> true | nil, err     p:figures() -> {calls, errors, mean, longest, memory}; seconds, bytes
       p:close()       p.name p.every p.hooks = {tick = true, ...}
     policy_text(path) -> text | nil, what is wrong: of a file of at most 64 KiB; a pipe, a device, a directory is none
     dispose(settings, changes, limits?, slew?) -> settings as they would be | nil, err        (proposal_dispose)
     snapshot(table) -> pool.Snapshot
     where a snapshot is a pool.Snapshot or its table; limits = { size = {low, high}, ... }, those not named as limits_defaults says. */
void lpolicy_open(lua_State *L);

#endif
