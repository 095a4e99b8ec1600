/*
** listen_internal: what listen.c (the listener) and listen_client.c (its connections) share. Nobody else's.
*/
#ifndef POOL_IO_LISTEN_INTERNAL_H
#define POOL_IO_LISTEN_INTERNAL_H

#include "listen.h"

struct listener {
  struct loop *loop;
  struct listen_options options;
  int fd, port;
  struct watch watch;
  struct timer retry, grace;
  struct drain reap;
  struct list clients; /* all that are open */
  struct list dead;    /* closed, until nobody holds them and they are reaped */
  struct list events; /* clients with something to tell */
  int connections;
  uint64_t serial;       /* of ids */
  bool stopping, cutting, forced; /* listen_stop was called; its grace is over; all are cut */
  bool trouble, stopped; /* to be told by listen_next */
  bool troubled;         /* in one episode of it: told once */
  bool stop_told;
};

enum client_state {
  CLIENT_READ,   /* waits for a request, or reads one */
  CLIENT_HANDLE, /* a request is out; the answer is not complete */
  CLIENT_FLUSH,  /* the answer is complete, not all of it sent */
  CLIENT_LINGER, /* all sent, our side shut; reads and drops until the client closes */
  CLIENT_DEAD    /* closed; reaped when nobody holds it */
};

enum { TELL_REQUEST = 1, TELL_GONE = 2, TELL_WRITABLE = 4, TELL_CUT = 8 };

struct client {
  struct listener *listener;
  struct list link, queued;
  unsigned tells;        /* TELL_*: what listen_next has to say */
  int fd;
  enum client_state state;
  struct watch watch;
  struct timer timer;
  struct http_parser *parser;
  struct http_bytes in, out;
  size_t parsed, sent;   /* of in and out: what is done with */
  usec head_until;       /* when the head under way must be whole, NEVER between requests */
  bool held;             /* somebody took the request */
  bool responded, streaming, keep_alive;
  bool bodiless;         /* the answer has no body, whatever is written */
  bool eof;              /* the client sends no more */
  usec probe;            /* after eof: how long until the next look whether the client is gone altogether */
  bool blocked;          /* a writer waits for room */
  bool fresh;            /* no request yet: waits for the head time-out, not the idle one */
  void *owner;
  char remote[64];
};

struct client *client_create(struct listener *, int fd, const char *remote); /* takes fd, unless NULL: memory */
void client_lost(struct client *);          /* the socket is closed, whatever it was at */
void client_retire(struct client *);        /* the listener stops: closes it if it is idle */
void client_cut(struct client *);           /* the grace is over: closes it unless somebody can answer it, or has */
void client_free(struct client *);          /* dead and not held */
void listener_tell(struct listener *, struct client *, unsigned what);

#endif
