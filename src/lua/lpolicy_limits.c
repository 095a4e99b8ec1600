/*
** lpolicy_limits: the three limits of a call, and the kill.
**
** 1. Instructions and time: a hook after every 100 instructions counts them and looks at the clock. It reads the cheap one; only where that
**    says that the budget may be used up, the processor's.
** 2. A kill is for the rest of the call. `killed` is set and the hook comes at every instruction, so that whatever catches the error
**    (a __close, a C function that calls back) raises again at once; the sandbox's pcall does not catch it at all. Nothing of a policy ever
**    runs where hooks are off: no message handlers, no finalisers.
** 3. A hook cannot stop C code. So each C function is bounded, looks at the clock afterwards, and so does the allocator for each block of
**    some size and whenever it refuses one: what takes long inside Lua itself (growing tables, collecting garbage for a block that
**    does not fit) passes through there. A collection itself nobody stops: the time it may take is kept back (policy_time_kept).
** 4. Memory: bytes in use are counted. One string, one block and one table's hash have bounds of their own: what a single instruction can
**    do to them (copying, comparing, hashing, collisions made on purpose) must stay small.
*/
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/loop.h"
#include "lpolicy_internal.h"

#define INSTRUCTIONS_A_HOOK 100
#define BLOCK_LOOKED_AT 4096                 /* bytes: a block of this size costs more than reading the clock */
#define TIME_MARGIN 20                       /* 1/20 of the call's time, to end in */
#define COLLECTED_A_USEC 1000                /* bytes of small objects that a full collection goes through in a microsecond */
#define STRING_HEADER 32                     /* at least what Lua adds to a string's bytes */
#define HASH_NODE (sizeof(lua_Number) * 3)   /* a node of a table's hash; a table grows in powers of two of them */

struct policy *policy_of(lua_State *P) {
  void *ud;
  lua_getallocf(P, &ud);
  return ud;
}

/* ---- the kill ---- */

static void policy_hook(lua_State *P, lua_Debug *ar);

/* Writes down where the policy is, unless that is known. Allocates nothing: the allocator calls it too. */
static void where_note(struct policy *p) {
  lua_Debug ar;
  for (int level = 0; p->where[0] == '\0' && lua_getstack(p->P, level, &ar); level++) {
    lua_getinfo(p->P, "Sl", &ar);
    if (ar.currentline > 0) snprintf(p->where, sizeof p->where, "%s:%d: ", ar.short_src, ar.currentline);
  }
}

static void policy_kill(struct policy *p, enum policy_kill why) {
  p->killed = why;
  p->where[0] = '\0';
  lua_sethook(p->P, policy_hook, LUA_MASKCOUNT, 1);
}

/* The call's time that is kept back: a collection that begins just before the kill must still fit in. */
static usec policy_time_kept(const struct policy *p) {
  usec collection = (usec)(p->figures.memory / COLLECTED_A_USEC), most = p->limits.time * 3 / 4;
  return p->limits.time / TIME_MARGIN + (collection < most ? collection : most);
}

/* Kills when the call's time is used up; does not raise. The more memory the sooner: so it looks at half of what is left, and again. */
static void policy_time_look(struct policy *p) {
  if (!p->running || p->killed != KILL_NONE) return;
  usec now = loop_clock();
  if (now < p->look_at) return;
  usec left = p->limits.time - policy_time_kept(p) - (loop_cpu() - p->cpu);
  if (left < 0)
    policy_kill(p, KILL_TIME);
  else
    p->look_at = now + left / 2 + 1;
}

int policy_raise_kill(lua_State *P) {
  where_note(policy_of(P));
  lua_pushliteral(P, "killed");
  return lua_error(P);
}

bool policy_killed(lua_State *P) { return policy_of(P)->killed != KILL_NONE; }

void policy_look(lua_State *P) {
  struct policy *p = policy_of(P);
  policy_time_look(p);
  if (p->killed != KILL_NONE) policy_raise_kill(P);
}

static void policy_hook(lua_State *P, lua_Debug *ar) {
  struct policy *p = policy_of(P);
  (void)ar;
  if (p->killed == KILL_NONE) {
    p->instructions += INSTRUCTIONS_A_HOOK;
    if (p->instructions > p->limits.instructions) policy_kill(p, KILL_INSTRUCTIONS);
    policy_time_look(p);
  }
  if (p->killed != KILL_NONE) policy_raise_kill(P);
}

/* ---- memory ---- */

/* Lua's memory for the keys of one table: made in one piece, a power of two of nodes. */
static bool block_is_large_hash(size_t size) {
  for (size_t nodes = HASH_NODE * POLICY_HASH_MAX * 2; nodes <= size; nodes *= 2)
    if (nodes == size) return true;
  return false;
}

static bool block_fits(struct policy *p, const void *block, size_t old_size, size_t new_size) {
  size_t had = block != NULL ? old_size : 0;
  if (new_size <= had) return true;
  if (block == NULL && old_size == LUA_TSTRING && new_size > POLICY_STRING_MAX + STRING_HEADER)
    p->refused = REFUSED_STRING;
  else if (block == NULL && old_size == 0 && block_is_large_hash(new_size))
    p->refused = REFUSED_HASH;
  else if (p->figures.memory - had + new_size > p->limits.memory)
    p->refused = REFUSED_MEMORY;
  else if (new_size > p->limits.memory / POLICY_BLOCK_SHARE)
    p->refused = REFUSED_BLOCK;
  else
    return true;
  return false;
}

void *policy_alloc(void *ud, void *block, size_t old_size, size_t new_size) {
  struct policy *p = ud;
  size_t had = block != NULL ? old_size : 0;
  if (new_size == 0) {
    free(block);
    p->figures.memory -= had;
    return NULL;
  }
  bool fits = block_fits(p, block, old_size, new_size);
  if (!fits || (new_size >= BLOCK_LOOKED_AT && new_size > had)) policy_time_look(p);
  void *made = fits ? realloc(block, new_size) : NULL;
  if (made != NULL) p->figures.memory += new_size - had;
  if (made == NULL && p->running && p->killed == KILL_NONE) {
    p->where[0] = '\0';
    where_note(p);
  }
  return made;
}

/* ---- a call ---- */

static void policy_enter(struct policy *p) {
  INSIST(!p->running && lua_gettop(p->P) == 0);
  p->running = true;
  p->killed = KILL_NONE;
  p->instructions = 0;
  p->where[0] = '\0';
  p->cpu = loop_cpu();
  p->look_at = loop_clock() + (p->limits.time - policy_time_kept(p)) / 2;
  lua_sethook(p->P, policy_hook, LUA_MASKCOUNT, INSTRUCTIONS_A_HOOK);
}

static void policy_leave(struct policy *p) {
  usec used = loop_cpu() - p->cpu;
  if (used > p->limits.time && p->killed == KILL_NONE) p->killed = KILL_TIME; /* it ended in something long */
  p->running = false;
  p->figures.time += used;
  if (used > p->figures.longest) p->figures.longest = used;
}

/* "tune.lua:12: ", or "tune.lua: " where the line is not known. Returns buffer. */
static const char *place_write(const struct policy *p, char *buffer, size_t size) {
  snprintf(buffer, size, p->where[0] ? "%s" : "%s: ", p->where[0] ? p->where : p->chunk);
  return buffer;
}

static enum pool_err killed_error(const struct policy *p, const char *what, struct pool_error *error) {
  char where[POLICY_WHERE_MAX];
  place_write(p, where, sizeof where);
  if (p->killed == KILL_INSTRUCTIONS)
    return error_set(error, POOL_POLICY, "%s%s was killed: more than %lld instructions (policy_instructions)", where, what,
                     (long long)p->limits.instructions);
  if (policy_time_kept(p) > p->limits.time / 4)
    return error_set(error, POOL_POLICY,
                     "%s%s was killed: more than %.2g s of processor time (policy_time, less what collecting %.1f MiB takes)", where, what,
                     (double)(p->limits.time - policy_time_kept(p)) / (double)USEC_PER_SECOND,
                     (double)p->figures.memory / (1024 * 1024));
  return error_set(error, POOL_POLICY, "%s%s was killed: more than %g s of processor time (policy_time)", where, what,
                   (double)p->limits.time / (double)USEC_PER_SECOND);
}

static enum pool_err memory_error(const struct policy *p, const char *what, struct pool_error *error) {
  char where[POLICY_WHERE_MAX];
  place_write(p, where, sizeof where);
  switch (p->refused) {
  case REFUSED_STRING: return error_set(error, POOL_POLICY, "%s%s: a text of more than %d bytes", where, what, (int)POLICY_STRING_MAX);
  case REFUSED_HASH:
    return error_set(error, POOL_POLICY, "%s%s: a table of more than %d keys beside 1, 2, 3 ...", where, what, (int)POLICY_HASH_MAX);
  case REFUSED_BLOCK:
    return error_set(error, POOL_POLICY, "%s%s: a table or a stack of more than %zu bytes, 1/%d of policy_memory", where, what,
                     p->limits.memory / POLICY_BLOCK_SHARE, (int)POLICY_BLOCK_SHARE);
  default: return error_set(error, POOL_POLICY, "%s%s: more than %zu bytes (policy_memory)", where, what, p->limits.memory);
  }
}

static int message_body(lua_State *P) {
  policy_tostring(P, 1);
  return 1;
}

/* The error value on top of the stack as a text, which may be the policy's own __tostring's work: under the limits still. */
static void raised_error(struct policy *p, struct pool_error *error) {
  lua_State *P = p->P;
  lua_pushcfunction(P, message_body);
  lua_insert(P, -2);
  const char *text = lua_pcall(P, 1, 1, 0) == LUA_OK ? lua_tostring(P, -1) : NULL;
  bool placed = text != NULL && strncmp(text, p->chunk, strlen(p->chunk)) == 0;
  error_set(error, POOL_POLICY, "%s%s%s", placed ? "" : p->chunk, placed ? "" : ": ",
            text != NULL ? text : "the error is a value that says nothing of itself");
  if (error != NULL) text_line(error->message);
}

enum pool_err policy_run(struct policy *p, lua_CFunction body, void *argument, const char *what, struct pool_error *error) {
  policy_enter(p);
  lua_pushcfunction(p->P, body);
  lua_pushlightuserdata(p->P, argument);
  int status = lua_pcall(p->P, 1, 0, 0);
  if (status == LUA_ERRMEM && p->killed == KILL_NONE)
    memory_error(p, what, error);
  else if (status != LUA_OK && p->killed == KILL_NONE)
    raised_error(p, error);
  policy_leave(p);
  if (p->killed != KILL_NONE) killed_error(p, what, error);
  lua_settop(p->P, 0);
  return status == LUA_OK && p->killed == KILL_NONE ? POOL_OK : POOL_POLICY;
}
