/*
** listen: an HTTP server's sockets: accept, read, write, back-pressure, time-outs. Knows http.h and the loop; no Lua.
**
** It never calls out: what happened is taken with listen_next(), from a drain of its owner's. A connection whose request was taken
** is held by the taker until listen_release(), whatever becomes of its socket meanwhile.
*/
#ifndef POOL_IO_LISTEN_H
#define POOL_IO_LISTEN_H

#include "http/http.h"
#include "loop.h"

#define LISTEN_BACKLOG 1024
#define LISTEN_CONNECTIONS_MAX 10000                     /* open at once; more wait in the backlog */
#define LISTEN_HEAD_TIMEOUT (10 * USEC_PER_SECOND)       /* from a request's first byte (or the accept) to its whole head: 408 */
#define LISTEN_IDLE_TIMEOUT (60 * USEC_PER_SECOND)       /* between requests */
#define LISTEN_STALL_TIMEOUT (30 * USEC_PER_SECOND)      /* without a byte of a body read, or of an answer written */
#define LISTEN_LINGER_TIMEOUT (1 * USEC_PER_SECOND)      /* for the client to close after an answer that closes */
#define LISTEN_CUT_TIMEOUT (1 * USEC_PER_SECOND)         /* after the grace of a stop: for the last answers to be sent */
#define LISTEN_PROBE_MIN (USEC_PER_SECOND / 100)         /* first look whether a client that ended its side is gone; then doubled */
#define LISTEN_PROBE_MAX (1 * USEC_PER_SECOND)           /* ... up to this */
#define LISTEN_RETRY (USEC_PER_SECOND / 10)              /* accepts rest for, when descriptors or memory ran out */
#define LISTEN_INPUT_MAX 65536                           /* bytes of pipelined requests kept while one is handled */
#define LISTEN_OUTPUT_HIGH 262144                        /* bytes unsent at which a streaming writer waits */
#define LISTEN_OUTPUT_LOW 65536                          /* ... until no more than these are left */
#define LISTEN_ID_MAX 64                                 /* characters of a request's id */

struct listener;
struct client;

struct listen_options {
  const char *host;    /* a name or an address without brackets; "" or "*": every IPv4 address */
  int port;            /* 0: a free one */
  size_t body_max;     /* bytes; 0 counts as HTTP_BODY_MAX */
  int max_connections; /* 0 counts as LISTEN_CONNECTIONS_MAX */
  uint64_t id_seed;    /* of the ids of requests: chance */
};

enum listen_event {
  LISTEN_NONE,
  LISTEN_REQUEST,  /* the connection holds a whole request: answer it, then release */
  LISTEN_GONE,     /* the client hung up while its request was handled: release soon */
  LISTEN_WRITABLE, /* a writer that was told to wait may go on */
  LISTEN_CUT,      /* the grace of listen_stop is over and the request not fully answered: answer now if nothing is, then release */
  LISTEN_TROUBLE,  /* no descriptor or memory for a new connection; accepting goes on by itself */
  LISTEN_STOPPED   /* after listen_stop: the last connection is released; destroy is what is left */
};

/* NULL: *error says why (connect: the address is taken, unknown, not ours; settings: a port out of range). Looks `host` up,
   which blocks when it is a name other than localhost. */
struct listener *listen_open(struct loop *, const struct listen_options *, struct pool_error *error);
/* No more connections; idle ones are closed. After `grace` who holds a request is told LISTEN_CUT, and all are cut LISTEN_CUT_TIMEOUT
   later; without grace at once. A second call may shorten it. */
void listen_stop(struct listener *, usec grace);
void listen_destroy(struct listener *);          /* takes; cuts what is there; nothing may be held any more */

int listen_port(const struct listener *);
int listen_connections(const struct listener *);
enum listen_event listen_next(struct listener *, struct client **); /* the client is NULL for the last two */

/* A new id for a request: 16 characters that stand in logs, headers and JSON as they are. */
void listen_id(struct listener *, char id[LISTEN_ID_MAX + 1]);

/* Of a connection whose request was taken. */
const struct http_request *listen_request(const struct client *); /* until release */
const char *listen_remote(const struct client *);                 /* the client's address as text */
bool listen_is_gone(const struct client *);
void listen_set_owner(struct client *, void *);
void *listen_owner(const struct client *);

/* Answers. minor, is_head and keep_alive are filled in here. NULL: done (also when the client is gone), else the fault, as
   http_response_write. A streamed one is followed by parts: false, wait for LISTEN_WRITABLE or LISTEN_GONE before the next. */
const char *listen_respond(struct client *, const struct http_response *);
/* Answers with a problem of the server's own (RFC 9457): `id` and `detail` (or NULL) are text that JSON takes as it is. */
void listen_problem(struct client *, int status, const char *id, const char *detail, bool keep_alive);
bool listen_part(struct client *, const char *data, size_t len);
void listen_finish(struct client *);
bool listen_responded(const struct client *); /* respond was called */
bool listen_is_streaming(const struct client *); /* parts may follow */
void listen_release(struct client *);         /* takes the hold back; what was not fully answered is cut */

#endif
