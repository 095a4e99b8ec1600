/*
** lpolicy_internal: what the files of the policy host share. `P` is always a policy's own lua_State, `L` the host's.
**
** Whatever touches P runs inside policy_run: its limits hold there, and what P raises ends there. The host's L is only read from inside
** policy_run, and only by calls that cannot raise, for an error of L's would leave P in the middle of its work.
*/
#ifndef POOL_LUA_LPOLICY_INTERNAL_H
#define POOL_LUA_LPOLICY_INTERNAL_H

#include <lauxlib.h>
#include <lua.h>

#include "lpolicy.h"
#include "sim/sim_random.h"

enum {
  POLICY_STRING_MAX = 64 * 1024,  /* bytes of one string */
  POLICY_SOURCE_MAX = 64 * 1024,  /* bytes of a policy's text */
  POLICY_BLOCK_SHARE = 16,        /* one block is at most this share of the memory */
  POLICY_ELEMENTS_MAX = 10000,    /* elements that one call of a table function, sort or pairs goes through */
  POLICY_HASH_MAX = 4096,         /* keys of a table beside 1, 2, 3 ... */
  POLICY_STEPS_MAX = 1000000,     /* of matching one pattern, by estimate */
  POLICY_NAME_MAX = 64,           /* bytes of a policy's name */
  POLICY_WHERE_MAX = 96
};

enum policy_refusal { REFUSED_MEMORY, REFUSED_BLOCK, REFUSED_STRING, REFUSED_HASH };

enum policy_kill { KILL_NONE, KILL_TIME, KILL_INSTRUCTIONS };

/* A policy that compose may name. Both texts are the policy's own copies, outside its Lua state. */
struct library_entry {
  char *name, *source;
  size_t length;
};

struct policy {
  lua_State *P;
  struct policy_limits limits;
  struct policy_figures figures;
  /* the call under way */
  bool running;
  enum policy_kill killed;       /* set once a call; from then on every instruction raises */
  usec cpu;                      /* loop_cpu when it began */
  usec look_at;                  /* by loop_clock: not before this can the time be used up */
  int64_t instructions;
  enum policy_refusal refused;   /* why memory was refused last */
  char where[POLICY_WHERE_MAX];  /* "tune.lua:12: ": where it was killed, or refused memory; "" not known */
  /* what it is */
  char chunk[POLICY_NAME_MAX];   /* as in messages: "tune.lua" */
  char name[POLICY_NAME_MAX + 1];
  double every;
  unsigned hooks;                /* bit h: has hook h */
  struct sim_random random;
  struct library_entry *library; /* library_count of them, sorted by name */
  int library_count;
};

/* ---- lpolicy_limits.c ---- */

struct policy *policy_of(lua_State *P);
/* The allocator; ud is the policy. */
void *policy_alloc(void *ud, void *block, size_t old_size, size_t new_size);
/* Calls body(P) with `argument` (a light userdata) under the limits. `what` ("tick") is for the message. On failure *error is filled
   (POOL_POLICY), the figures count it; P's stack is empty afterwards in any case. */
enum pool_err policy_run(struct policy *, lua_CFunction body, void *argument, const char *what, struct pool_error *error);
/* Raises when the call's time is used up; what a C function that takes long calls now and then, and after it. */
void policy_look(lua_State *P);
bool policy_killed(lua_State *P);
/* Raises what nothing swallows. */
int policy_raise_kill(lua_State *P);

/* ---- lpolicy_sandbox.c ---- */

/* Makes the environment: base, math, table, string, utf8, compose. Leaves the stack as it was. */
void policy_sandbox_open(lua_State *P);
/* Compiles a text chunk with the environment and pushes it. Raises for what does not compile. */
void policy_compile(lua_State *P, const char *source, size_t length, const char *chunk);
/* Pushes a proxy through which the table on top is read; pops that table. `what` is for the message. */
void policy_push_readonly(lua_State *P, const char *what);
/* tostring without addresses; pushes. */
const char *policy_tostring(lua_State *P, int index);

/* ---- lpolicy_order.c ---- */

typedef bool (*policy_less)(lua_State *P, int a, int b); /* absolute indices; may raise */

/* Sorts the `count` values on top of the stack: stable, n log n whatever `less` says, the same everywhere. Returns their order as indices
   0 .. count-1, in a userdata that it pushes. */
const uint16_t *policy_sort(lua_State *P, int count, policy_less less);
/* pairs(t) and next(t, k): numbers ascending (integers before floats), texts, booleans. Other keys raise. */
int policy_pairs(lua_State *P);
int policy_next(lua_State *P);

/* ---- lpolicy_library.c ---- */

/* Each fills the table on top from the table below it, the library as Lua has it. */
void policy_string_open(lua_State *P);
void policy_table_open(lua_State *P);
void policy_utf8_open(lua_State *P);
void policy_math_open(lua_State *P);

/* ---- lpolicy_compose.c ---- */

int policy_compose(lua_State *P); /* compose(entries) */

/* ---- lpolicy.c ---- */

/* Raises unless the value at index is a policy: a table with a hook, name and every in order. `what` begins the message. */
void policy_check_table(lua_State *P, int index, const char *what);

/* ---- lpolicy_data.c ---- */

/* Pushes on `to` a copy of the value at index of `from`, plain data only. `from` may be any state: its stack is used and not restored
   when `to` raises. What is no plain data: left out, or (`strict`) raised in `to`, which names it as `what`. A table deeper than 64, or
   one that contains itself, raises. */
void policy_copy(lua_State *to, lua_State *from, int index, bool strict, const char *what);
/* Sets in the table on top the gauges that admit sees. */
void policy_push_gauges(lua_State *P, const struct stats *);

#endif
