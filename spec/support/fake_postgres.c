/*
** fake_postgres: the body of a scripted PostgreSQL server, for specs (support/fake_postgres.lua starts it).
**
**   fake_postgres LISTEN DIR OWNER PATH     LISTEN as in address.h; DIR holds `script.lua`, takes `notes`; PATH is Lua's package.path
**
** A process accepts; each connection is a child's, with a copy of the Lua into which the script was loaded, run over the functions
** below (a table, `wire`) by support/fake_server.lua, so that a script is straight-line code that may block and
** die without another connection noticing.
** What a script writes with note() is appended to DIR/notes in one write, so that lines of several children never mix.
**
** A cancel is SIGUSR1 from one child to another: blocked, and seen by sleep() alone, so that none is lost and none comes too late
** unnoticed. A child lives a minute at most and dies with the server; the server dies with its OWNER.
*/
#include "support/address.h"

#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <time.h>

enum { READ_MOST = 1 << 20, LIFE_SECONDS = 60 };

/* Everything below finds the connection's descriptor in its first upvalue: an integer in a userdata, -1 once closed. */
static int *wire_fd(lua_State *L) { return lua_touserdata(L, lua_upvalueindex(1)); }

static int wire_failed(lua_State *L, const char *what) {
  lua_pushnil(L);
  lua_pushstring(L, what);
  return 2;
}

/* recv(most) -> bytes | nil, "eof" | "reset" | "closed": what has come, at least one byte, waiting for it. */
static int wire_recv(lua_State *L) {
  lua_Integer most = luaL_checkinteger(L, 1);
  luaL_Buffer b;
  ssize_t n;
  luaL_argcheck(L, most > 0 && most <= READ_MOST, 1, "1 byte to 1 MiB");
  if (*wire_fd(L) < 0) return wire_failed(L, "closed");
  char *bytes = luaL_buffinitsize(L, &b, (size_t)most);
  do n = recv(*wire_fd(L), bytes, (size_t)most, 0);
  while (n < 0 && errno == EINTR);
  if (n <= 0) return wire_failed(L, n == 0 ? "eof" : "reset");
  luaL_pushresultsize(&b, (size_t)n);
  return 1;
}

/* send(bytes) -> true | nil, "reset" | "closed": all of it, waiting for the client to take it. */
static int wire_send(lua_State *L) {
  size_t len;
  const char *bytes = luaL_checklstring(L, 1, &len);
  if (*wire_fd(L) < 0) return wire_failed(L, "closed");
  while (len > 0) {
    ssize_t n = send(*wire_fd(L), bytes, len, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return wire_failed(L, "reset");
    bytes += n;
    len -= (size_t)n;
  }
  lua_pushboolean(L, true);
  return 1;
}

/* readable(seconds) -> whether something has come, an end included, before the time was over. */
static int wire_readable(lua_State *L) {
  struct pollfd at = {.fd = *wire_fd(L), .events = POLLIN};
  lua_pushboolean(L, at.fd < 0 || poll(&at, 1, (int)(luaL_checknumber(L, 1) * 1000 + 0.5)) > 0);
  return 1;
}

/* sleep(seconds) -> whether a cancel ended it. */
static int wire_sleep(lua_State *L) {
  lua_Number seconds = luaL_checknumber(L, 1);
  struct timespec t = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (lua_Number)(time_t)seconds) * 1e9)};
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  lua_pushboolean(L, sigtimedwait(&set, NULL, &t) == SIGUSR1);
  return 1;
}

/* close(reset): with an RST, or as a server does that ends: everything sent arrives, then FIN. */
static int wire_close(lua_State *L) {
  struct linger linger = {.l_onoff = 1, .l_linger = 0};
  int *fd = wire_fd(L);
  if (*fd < 0) return 0;
  if (lua_toboolean(L, 1)) setsockopt(*fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
  else shutdown(*fd, SHUT_WR);
  close(*fd);
  *fd = -1;
  return 0;
}

/* interrupt(pid): a cancel for another connection's child; whether there is one. Nobody but a sister can be hit. */
static int wire_interrupt(lua_State *L) {
  pid_t pid = (pid_t)luaL_checkinteger(L, 1);
  lua_pushboolean(L, pid > 1 && getpgid(pid) == getpgrp() && pid != getppid() && kill(pid, SIGUSR1) == 0);
  return 1;
}

/* append(path, text) */
static int wire_append(lua_State *L) {
  size_t len;
  const char *text = luaL_checklstring(L, 2, &len);
  int fd = open(luaL_checkstring(L, 1), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0 || write(fd, text, len) != (ssize_t)len) return luaL_error(L, "the note could not be written");
  close(fd);
  return 0;
}

static const luaL_Reg wire[] = {{"recv", wire_recv}, {"send", wire_send}, {"readable", wire_readable}, {"sleep", wire_sleep},
                                {"close", wire_close}, {"interrupt", wire_interrupt}, {"append", wire_append}, {NULL, NULL}};

/* wire, with dir, pid, serial */
static void wire_push(lua_State *L, int fd, const char *dir, int serial) {
  luaL_newlibtable(L, wire);
  *(int *)lua_newuserdatauv(L, sizeof fd, 0) = fd;
  luaL_setfuncs(L, wire, 1);
  lua_pushstring(L, dir);
  lua_setfield(L, -2, "dir");
  lua_pushinteger(L, getpid());
  lua_setfield(L, -2, "pid");
  lua_pushinteger(L, serial);
  lua_setfield(L, -2, "serial");
}

/* A Lua with the script in it, before anybody connects: a child has only to run it. On its stack: what runs it, of a wire. */
static lua_State *script_load(const char *dir, const char *path) {
  lua_State *L = luaL_newstate();
  if (!L) die("lua");
  luaL_openlibs(L);
  lua_getglobal(L, "package");
  lua_pushstring(L, path);
  lua_setfield(L, -2, "path");
  lua_settop(L, 0);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "support.fake_server");
  if (lua_pcall(L, 1, 1, 0) == LUA_OK) {
    lua_pushfstring(L, "%s/script.lua", dir);
    if (lua_pcall(L, 1, 1, 0) == LUA_OK) return L;
  }
  fprintf(stderr, "fake_postgres: %s\n", lua_tostring(L, -1));
  exit(1);
}

static void child(lua_State *L, int fd, const char *dir, int serial) {
  int one = 1;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  alarm(LIFE_SECONDS);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* a Unix socket does not mind */
  wire_push(L, fd, dir, serial);
  if (lua_pcall(L, 1, 0, 0) == LUA_OK) _exit(0);
  fprintf(stderr, "fake_postgres: %s\n", lua_tostring(L, -1));
  _exit(1);
}

int main(int argc, char **argv) {
  sigset_t set;
  if (argc != 5) {
    fprintf(stderr, "fake_postgres LISTEN DIR OWNER PATH\n");
    return 1;
  }
  signal(SIGCHLD, SIG_IGN); /* nobody waits for them */
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigprocmask(SIG_BLOCK, &set, NULL);
  lua_State *L = script_load(argv[2], argv[4]);
  struct address at = address_of(argv[1]);
  struct pollfd listener = {.fd = address_bind(&at, SOCK_NONBLOCK), .events = POLLIN};
  if (listen(listener.fd, 128) != 0) die("listen");
  address_tell(listener.fd);
  for (int serial = 0; poll(&listener, 1, 500) > 0 || kill(atoi(argv[3]), 0) == 0;) {
    int fd = accept4(listener.fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) continue;
    pid_t pid = fork();
    if (pid < 0) die("fork");
    serial++;
    if (pid == 0) child(L, fd, argv[2], serial);
    close(fd);
  }
  return 0;
}
