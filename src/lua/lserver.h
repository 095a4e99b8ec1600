/*
** lserver: core.http_listen: an HTTP server whose every request runs a Lua function as a task. Userdata "pool.Server" and
** "pool.Exchange", one request with its response.
*/
#ifndef POOL_LUA_LSERVER_H
#define POOL_LUA_LSERVER_H

#include <lauxlib.h>
#include <lua.h>

#include "io/listen.h"
#include "ltask.h"

#define LSERVER_NAME "pool.Server"
#define LEXCHANGE_NAME "pool.Exchange"
#define LSERVER_GRACE 5.0  /* seconds of server:stop() without an argument */

/* One listening socket. Anchored in the registry, under its address, until it has stopped. */
struct lserver {
  struct runtime *runtime;
  struct listener *listener; /* NULL at first, and when stopped */
  struct drain drain;
  struct list exchanges;     /* whose task runs */
  struct list ended;         /* whose task has ended: to be released */
  struct list waiters;       /* tasks in server:wait, by their scratch */
  bool stopped;
  int cut;                   /* requests cut at the end of the grace, until that is logged */
  int port;
};

/* User values of a Server: its handler, its host (text). Of an Exchange: its headers, once made. */
enum { SERVER_HANDLER = 1, SERVER_HOST = 2, SERVER_VALUES = 2, EXCHANGE_HEADERS = 1, EXCHANGE_VALUES = 1 };

/* Anchored in the registry, under its address, until its task has ended and the connection is released. */
struct exchange {
  struct list link;
  struct lserver *server; /* NULL when the server is gone */
  struct client *client;  /* held; NULL when released */
  struct task *task;      /* its handler's, NULL when ended */
  struct task *writer;    /* the task that waits in exchange:write */
  char id[LISTEN_ID_MAX + 1]; /* the client's own, when it is short and plain */
};

/* Makes the metatable of exchanges; pushes nothing. */
void lexchange_open(lua_State *L);

/* Gives the connection back; a request without an answer is answered 500. Not in Lua. */
void lexchange_release(struct exchange *);

/* Sets http_listen in the table on top of the stack. */
void lserver_open(lua_State *L);

#endif
