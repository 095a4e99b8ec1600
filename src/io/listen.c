/*
** listen: the listening socket and the set of its connections.
**
** States: listening; resting (no descriptor was left, or max_connections are open: the accept watch is off); stopping (the
** socket is closed); stopped (no connection is left). Connections die at once and are freed by the reaping drain, so that
** no function here or in listen_client.c can lose the connection under its feet.
*/
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "listen_internal.h"

#define ACCEPTS_A_TURN 64 /* so that a flood of connections does not starve those there */

/* --- accepting ----------------------------------------------------------------------------------------------------------- */

static void listener_rest(struct listener *l) { watch_set(l->loop, &l->watch, l->fd, 0); }

static void listener_resume(struct listener *l) {
  if (l->fd >= 0 && l->connections < l->options.max_connections && !l->retry.running) watch_set(l->loop, &l->watch, l->fd, LOOP_READ);
}

static void listener_retry(struct timer *t) { listener_resume(CONTAINER(t, struct listener, retry)); }

static void listener_trouble(struct listener *l) {
  listener_rest(l);
  timer_start(l->loop, &l->retry, loop_now(l->loop) + LISTEN_RETRY);
  if (!l->troubled) l->trouble = true;
  l->troubled = true;
}

static void address_text(const struct sockaddr_storage *address, char *text, size_t size) {
  const void *at = &((const struct sockaddr_in *)address)->sin_addr;
  if (address->ss_family == AF_INET6) at = &((const struct sockaddr_in6 *)address)->sin6_addr;
  if (inet_ntop(address->ss_family, at, text, (socklen_t)size) == NULL) text_copy(text, size, "unknown");
}

/* Takes one connection. false: there is none, or none can be taken now. */
static bool listener_accept(struct listener *l) {
  struct sockaddr_storage address = {0};
  socklen_t len = sizeof address;
  int fd = accept4(l->fd, (struct sockaddr *)&address, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) {
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) listener_trouble(l);
    return errno == ECONNABORTED || errno == EINTR; /* that one is gone; the next may be fine */
  }
  char remote[64];
  int on = 1;
  address_text(&address, remote, sizeof remote);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (client_create(l, fd, remote) == NULL) {
    close(fd);
    listener_trouble(l);
    return false;
  }
  l->troubled = false;
  if (l->connections < l->options.max_connections) return true;
  listener_rest(l);
  return false;
}

static void listener_ready(struct watch *w, int events) {
  struct listener *l = CONTAINER(w, struct listener, watch);
  (void)events;
  for (int i = 0; i < ACCEPTS_A_TURN && listener_accept(l); i++) continue;
}

/* --- events -------------------------------------------------------------------------------------------------------------- */

void listener_tell(struct listener *l, struct client *c, unsigned what) {
  c->tells |= what;
  if (list_empty(&c->queued)) list_append(&l->events, &c->queued);
}

static enum listen_event client_event(struct client *c) {
  if (c->tells & TELL_REQUEST) {
    c->tells &= ~(unsigned)TELL_REQUEST;
    c->held = true;
    return LISTEN_REQUEST;
  }
  if (c->tells & TELL_GONE) {
    c->tells = 0;
    return LISTEN_GONE;
  }
  if (c->tells & TELL_CUT) {
    c->tells &= ~(unsigned)TELL_CUT;
    return LISTEN_CUT;
  }
  c->tells &= ~(unsigned)TELL_WRITABLE;
  return LISTEN_WRITABLE;
}

enum listen_event listen_next(struct listener *l, struct client **out) {
  *out = NULL;
  if (l->trouble) {
    l->trouble = false;
    return LISTEN_TROUBLE;
  }
  struct list *node = list_shift(&l->events);
  if (node != NULL) {
    struct client *c = CONTAINER(node, struct client, queued);
    INSIST(c->tells != 0);
    *out = c;
    enum listen_event event = client_event(c);
    if (c->tells != 0) list_append(&l->events, &c->queued);
    return event;
  }
  if (!l->stopped || l->stop_told) return LISTEN_NONE;
  l->stop_told = true;
  return LISTEN_STOPPED;
}

/* Frees the dead. true when it did, or when the listener has just stopped. */
static bool listener_reap(struct drain *d) {
  struct listener *l = CONTAINER(d, struct listener, reap);
  bool did = false;
  for (struct list *node = l->dead.next, *next; node != &l->dead; node = next) {
    struct client *c = CONTAINER(node, struct client, link);
    next = node->next;
    if (c->held || c->tells != 0) continue;
    client_free(c);
    did = true;
  }
  if (did) listener_resume(l);
  if (!l->stopping || l->stopped || !list_empty(&l->clients) || !list_empty(&l->dead)) return did;
  timer_stop(l->loop, &l->grace);
  l->stopped = true;
  return true;
}

/* --- opening and closing ------------------------------------------------------------------------------------------------- */

/* Binds and listens on one address. -1: errno says why. */
static int address_listen(const struct addrinfo *a) {
  int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (a->ai_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, LISTEN_BACKLOG) == 0) return fd;
  int why = errno;
  close(fd);
  errno = why;
  return -1;
}

static int address_port(int fd) {
  struct sockaddr_storage address;
  socklen_t len = sizeof address;
  if (getsockname(fd, (struct sockaddr *)&address, &len) != 0) return 0;
  if (address.ss_family == AF_INET6) return ntohs(((struct sockaddr_in6 *)&address)->sin6_port);
  return ntohs(((struct sockaddr_in *)&address)->sin_port);
}

/* The listening descriptor for host and port, -1 with *error filled. */
static int socket_open(const struct listen_options *o, struct pool_error *error) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found = NULL;
  bool any = o->host[0] == '\0' || strcmp(o->host, "*") == 0;
  /* localhost is the IPv4 one: what is printed and what curl tries must be the same everywhere */
  if (any || strcmp(o->host, "localhost") == 0) hints.ai_family = AF_INET;
  char port[16];
  snprintf(port, sizeof port, "%d", o->port);
  int code = getaddrinfo(any ? NULL : o->host, port, &hints, &found);
  if (code != 0) {
    error_set(error, POOL_CONNECT, "cannot listen on %s: %s", o->host, gai_strerror(code));
    return -1;
  }
  int fd = -1;
  for (const struct addrinfo *a = found; a != NULL && fd < 0; a = a->ai_next) fd = address_listen(a);
  int why = errno;
  freeaddrinfo(found);
  if (fd < 0) error_set(error, POOL_CONNECT, "cannot listen on %s port %d: %s", o->host, o->port, strerror(why));
  return fd;
}

static void listener_late(struct timer *t);

struct listener *listen_open(struct loop *loop, const struct listen_options *options, struct pool_error *error) {
  if (options->port < 0 || options->port > 65535) {
    error_set(error, POOL_SETTINGS, "port: %d is not between 0 and 65535", options->port);
    return NULL;
  }
  int fd = socket_open(options, error);
  if (fd < 0) return NULL;
  struct listener *l = calloc(1, sizeof *l);
  if (l == NULL) {
    error_set(error, POOL_CONNECT, "cannot listen on %s: not enough memory", options->host);
    close(fd);
    return NULL;
  }
  l->loop = loop;
  l->options = *options;
  l->options.host = NULL; /* borrowed for the call alone */
  if (l->options.max_connections <= 0) l->options.max_connections = LISTEN_CONNECTIONS_MAX;
  l->fd = fd;
  l->port = address_port(fd);
  l->watch.ready = listener_ready;
  l->retry.fire = listener_retry;
  l->grace.fire = listener_late;
  l->reap.run = listener_reap;
  list_init(&l->clients);
  list_init(&l->dead);
  list_init(&l->events);
  drain_add(loop, &l->reap);
  watch_set(loop, &l->watch, fd, LOOP_READ);
  return l;
}

static void listener_force(struct listener *l) {
  l->forced = true;
  while (!list_empty(&l->clients)) client_lost(CONTAINER(l->clients.next, struct client, link));
}

static void listener_cut(struct listener *l) {
  l->cutting = true;
  for (struct list *node = l->clients.next, *next; node != &l->clients; node = next) {
    next = node->next;
    client_cut(CONTAINER(node, struct client, link));
  }
  timer_start(l->loop, &l->grace, loop_now(l->loop) + LISTEN_CUT_TIMEOUT);
}

/* The grace is over, or the time for the last answers. */
static void listener_late(struct timer *t) {
  struct listener *l = CONTAINER(t, struct listener, grace);
  if (l->cutting) listener_force(l);
  else listener_cut(l);
}

void listen_stop(struct listener *l, usec grace) {
  if (!l->stopping) {
    l->stopping = true;
    timer_stop(l->loop, &l->retry);
    watch_set(l->loop, &l->watch, l->fd, 0);
    close(l->fd);
    l->fd = -1;
    for (struct list *node = l->clients.next, *next; node != &l->clients; node = next) {
      next = node->next;
      client_retire(CONTAINER(node, struct client, link));
    }
  }
  usec at = loop_now(l->loop) + (grace < 0 ? 0 : grace);
  if (l->stopped || l->forced) return;
  if (grace <= 0) listener_force(l);
  else if (!l->grace.running || at < l->grace.node.at) timer_start(l->loop, &l->grace, at);
}

void listen_destroy(struct listener *l) {
  listen_stop(l, 0);
  timer_stop(l->loop, &l->grace);
  INSIST(list_empty(&l->clients));
  while (!list_empty(&l->dead)) client_free(CONTAINER(l->dead.next, struct client, link));
  drain_remove(l->loop, &l->reap);
  free(l);
}

void listen_id(struct listener *l, char id[LISTEN_ID_MAX + 1]) {
  uint64_t x = l->options.id_seed + ++l->serial * UINT64_C(0x9e3779b97f4a7c15); /* splitmix64: no two alike of a listener */
  x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
  x ^= x >> 31;
  for (int i = 0; i < 16; i++) id[i] = "0123456789abcdef"[(x >> (60 - 4 * i)) & 15];
  id[16] = '\0';
}

int listen_port(const struct listener *l) { return l->port; }

int listen_connections(const struct listener *l) { return l->connections; }
