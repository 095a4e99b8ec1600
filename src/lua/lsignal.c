/*
** lsignal: signals are watched only while somebody waits: after the first one the default action is back, so that a second
** ends the process at once even if Lua code never yields. It is back from the instant the first one comes (`once`), not only when
** the loop sees it: a handler that never ends keeps the loop from turning.
*/
#include "lsignal.h"

#include <signal.h>
#include <string.h>

#include "io/loop.h"
#include "lerror.h"
#include "ltask.h"

enum { SIGNALS_MAX = 4 };

static const struct {
  const char *name;
  int number;
} NAMES[] = {{"TERM", SIGTERM}, {"INT", SIGINT}, {"HUP", SIGHUP}, {"USR1", SIGUSR1}, {"USR2", SIGUSR2}};

struct caught {
  struct signal signal;
  struct signals *of;
};

/* One call's watches; a userdata below the wait, kept by the waiting coroutine's stack. */
struct signals {
  struct loop *loop;
  struct task *task; /* NULL when it does not wait */
  struct caught caught[SIGNALS_MAX];
  int count, number;
};

static void signals_stop(struct signals *s) {
  for (int i = 0; i < s->count; i++) signal_stop(s->loop, &s->caught[i].signal);
  s->count = 0;
  s->task = NULL;
}

static void signals_caught(struct signal *sig, int number) {
  struct signals *s = CONTAINER(sig, struct caught, signal)->of;
  if (s->number == 0) s->number = number;
  if (s->task != NULL) ltask_wake(s->task);
}

static int signal_number(lua_State *L, int index) {
  const char *name = luaL_checkstring(L, index);
  for (size_t i = 0; i < sizeof NAMES / sizeof NAMES[0]; i++)
    if (strcmp(NAMES[i].name, name) == 0) return NAMES[i].number;
  return lerror_misuse(L, "wait_signal: %s is none of TERM, INT, HUP, USR1, USR2", name);
}

static void signals_abort(struct task *t) { signals_stop(*(struct signals **)ltask_scratch(t)); }

static int signals_k(lua_State *L, int status, lua_KContext context) {
  struct signals *s = lua_touserdata(L, -1);
  int number = s->number;
  (void)status;
  signals_stop(s);
  if (ltask_interrupted((struct task *)context) != POOL_OK)
    return lerror_fail(L, POOL_DEADLINE, "the deadline passed before a signal came");
  for (size_t i = 0; i < sizeof NAMES / sizeof NAMES[0]; i++)
    if (NAMES[i].number == number) lua_pushstring(L, NAMES[i].name);
  return 1;
}

/* core.wait_signal(name, ...) -> name | nil, err */
static int signals_wait(lua_State *L) {
  int count = lua_gettop(L), numbers[SIGNALS_MAX];
  if (count < 1 || count > SIGNALS_MAX) return lerror_misuse(L, "wait_signal: from one to %d names", SIGNALS_MAX);
  for (int i = 0; i < count; i++) numbers[i] = signal_number(L, i + 1);
  struct signals *s = lua_newuserdatauv(L, sizeof *s, 0);
  memset(s, 0, sizeof *s);
  struct task *t = ltask_enter(L);
  s->loop = ltask_loop(L);
  s->task = t;
  *(struct signals **)ltask_scratch(t) = s;
  for (int i = 0; i < count; i++) {
    s->caught[i] = (struct caught){.signal = {.caught = signals_caught, .once = true}, .of = s};
    s->count++;
    signal_start(s->loop, &s->caught[i].signal, numbers[i]);
  }
  return ltask_wait(L, t, signals_abort, signals_k);
}

void lsignal_open(lua_State *L) {
  lua_pushcfunction(L, signals_wait);
  lua_setfield(L, -2, "wait_signal");
}
