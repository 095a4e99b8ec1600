/*
** listen_client: one client's connection.
**
**   READ   -> HANDLE   a request is whole                              (client_advance)
**   READ   -> FLUSH    a request is refused, or its head took too long (client_refuse)
**   HANDLE -> FLUSH    the answer is complete                          (listen_respond, listen_finish)
**   FLUSH  -> READ     all sent, and both sides would go on            (client_answered)
**   FLUSH  -> LINGER   all sent, and one would not: a close with unread input would destroy the answer on its way
**   any    -> DEAD     closed, cut, stalled                            (client_lost)
**
** Invariants: 1. in READ, `in` is empty or being parsed: requests that follow wait in `in` during HANDLE and FLUSH. 2. the parser's request
** lives from HANDLE until the way back to READ, also in DEAD while somebody holds it. 3. what listen_next tells of a connection is
** told once; a request that nobody took yet dies silently with its connection.
**
** A client that hangs up and one that only ends its sending (`nc -N`) look alike: both send a FIN. Only writing tells: who closed answers
** with a reset. So an end during HANDLE is probed with `100 Continue`, which every HTTP/1.1 client must pass over (RFC 9110 15.2), and
** the reset, if one comes, is the hang-up that cancels a handler. Where none can be sent, to HTTP/1.0 and between the parts of a stream,
** the end is taken for a hang-up: a statement that runs for nobody costs more than the answer to so rare a client.
*/
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "listen_internal.h"

#define READ_SIZE 16384       /* bytes of one read */
#define BUFFER_KEPT 32768     /* capacity that an empty buffer may keep */

static void client_advance(struct client *c);

static usec client_now(const struct client *c) { return loop_now(c->listener->loop); }

static size_t client_unsent(const struct client *c) { return c->out.len - c->sent; }

static size_t client_unparsed(const struct client *c) { return c->in.len - c->parsed; }

static void client_drop_input(struct client *c) {
  http_bytes_free(&c->in);
  c->parsed = 0;
}

static void client_watch(struct client *c) {
  int events = 0;
  bool reads = c->state == CLIENT_READ || c->state == CLIENT_LINGER || client_unparsed(c) < LISTEN_INPUT_MAX;
  if (reads && !c->eof) events |= LOOP_READ;
  if (client_unsent(c) > 0) events |= LOOP_WRITE;
  watch_set(c->listener->loop, &c->watch, c->fd, events);
}

/* When the state the connection is in has lasted too long. */
static usec client_deadline(const struct client *c) {
  usec now = client_now(c);
  switch (c->state) {
  case CLIENT_READ:
    if (http_parser_in_body(c->parser)) return now + LISTEN_STALL_TIMEOUT;
    if (!http_parser_untouched(c->parser) || c->fresh) return c->head_until;
    return now + LISTEN_IDLE_TIMEOUT;
  case CLIENT_HANDLE:
    if (client_unsent(c) > 0) return now + LISTEN_STALL_TIMEOUT;
    return c->eof ? now + c->probe : NEVER;
  case CLIENT_FLUSH: return client_unsent(c) > 0 ? now + LISTEN_STALL_TIMEOUT : NEVER; /* sent, and held still */
  case CLIENT_LINGER: return now + LISTEN_LINGER_TIMEOUT;
  default: WRONG("a dead connection has no deadline");
  }
}

/* After anything that happened: what to wait for now, and for how long. */
static void client_settle(struct client *c) {
  if (c->state == CLIENT_DEAD) return;
  client_watch(c);
  timer_start(c->listener->loop, &c->timer, client_deadline(c));
}

void client_lost(struct client *c) {
  if (c->state == CLIENT_DEAD) return;
  bool told = (c->tells & TELL_REQUEST) == 0;
  c->tells = 0;
  list_remove(&c->queued);
  if (c->held && told && c->state == CLIENT_HANDLE) listener_tell(c->listener, c, TELL_GONE);
  timer_stop(c->listener->loop, &c->timer);
  watch_set(c->listener->loop, &c->watch, c->fd, 0);
  close(c->fd);
  c->fd = -1;
  c->state = CLIENT_DEAD;
  list_remove(&c->link);
  list_append(&c->listener->dead, &c->link);
}

/* --- writing ------------------------------------------------------------------------------------------------------------- */

static void client_linger(struct client *c) {
  if (c->eof || shutdown(c->fd, SHUT_WR) != 0) {
    client_lost(c);
    return;
  }
  c->state = CLIENT_LINGER;
  client_drop_input(c);
}

/* The answer is sent. The request stays readable for its holder, so the next one waits for the release. */
static void client_answered(struct client *c) {
  if (!c->keep_alive || c->listener->stopping) {
    client_linger(c);
    return;
  }
  if (c->held) return;
  http_next(c->parser);
  c->state = CLIENT_READ;
  c->responded = c->streaming = c->blocked = c->fresh = false;
  c->head_until = NEVER;
  client_advance(c);
}

/* Writes what the socket takes. What memory was too short for leaves a gap: the client must see that it is cut. */
static void client_flush(struct client *c) {
  if (c->out.failed) {
    client_lost(c);
    return;
  }
  while (client_unsent(c) > 0) {
    ssize_t n = send(c->fd, c->out.data + c->sent, client_unsent(c), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
    if (n < 0) {
      client_lost(c);
      return;
    }
    c->sent += (size_t)n;
  }
  if (client_unsent(c) == 0) {
    c->out.len = c->sent = 0;
    if (c->out.capacity > BUFFER_KEPT) http_bytes_free(&c->out);
  }
  if (c->blocked && client_unsent(c) <= LISTEN_OUTPUT_LOW) {
    c->blocked = false;
    listener_tell(c->listener, c, TELL_WRITABLE);
  }
  if (c->state == CLIENT_FLUSH && client_unsent(c) == 0) client_answered(c);
}

/* A problem of the server's own, with what it is made of. */
struct problem {
  char body[384];
  struct http_field fields[3];
  struct http_response response;
};

static struct http_text text_of(const char *text) { return (struct http_text){text, strlen(text)}; }

static void problem_make(struct problem *p, int status, const char *id, const char *detail) {
  int len = snprintf(p->body, sizeof p->body, "{\"title\":\"%s\",\"status\":%d,%s%s%s\"request_id\":\"%s\"}", http_status_text(status),
                     status, detail ? "\"detail\":\"" : "", detail ? detail : "", detail ? "\"," : "", id);
  INSIST(len > 0 && (size_t)len < sizeof p->body);
  p->fields[0] = (struct http_field){text_of("content-type"), text_of("application/problem+json")};
  p->fields[1] = (struct http_field){text_of("x-request-id"), text_of(id)};
  p->fields[2] = (struct http_field){text_of("retry-after"), text_of("1")};
  p->response = (struct http_response){.status = status, .fields = p->fields, .field_count = status == 503 ? 3 : 2,
                                       .body = {p->body, (size_t)len}, .minor = 1};
}

/* Answers for itself and closes. What the client called the request is not asked: its headers may be what is refused. */
static void client_refuse(struct client *c, int status, const char *reason) {
  char id[LISTEN_ID_MAX + 1];
  struct problem p;
  listen_id(c->listener, id);
  problem_make(&p, status, id, reason);
  const char *fault = http_response_write(&c->out, &p.response, &c->keep_alive);
  if (fault != NULL) { /* memory */
    client_lost(c);
    return;
  }
  INSIST(!c->keep_alive);
  c->state = CLIENT_FLUSH;
  client_drop_input(c);
  client_flush(c);
}

/* --- reading ------------------------------------------------------------------------------------------------------------- */

/* Parses what was read, up to one whole request. */
static void client_advance(struct client *c) {
  while (c->state == CLIENT_READ && client_unparsed(c) > 0) {
    if (c->head_until == NEVER) c->head_until = client_now(c) + LISTEN_HEAD_TIMEOUT;
    size_t used;
    enum http_event event = http_feed(c->parser, c->in.data + c->parsed, client_unparsed(c), &used);
    c->parsed += used;
    if (event == HTTP_FEED_REQUEST) {
      c->state = CLIENT_HANDLE;
      listener_tell(c->listener, c, TELL_REQUEST);
    } else if (event == HTTP_FEED_REFUSED) {
      client_refuse(c, http_parser_status(c->parser), http_parser_reason(c->parser));
    } else if (event == HTTP_FEED_CONTINUE) {
      http_bytes_text(&c->out, "HTTP/1.1 100 Continue\r\n\r\n");
      client_flush(c);
    }
  }
  if (client_unparsed(c) == 0) {
    c->in.len = c->parsed = 0;
    if (c->in.capacity > BUFFER_KEPT) client_drop_input(c);
  }
  if (c->state == CLIENT_READ && c->eof) client_lost(c); /* what is still missing will never come */
}

/* May the client still read? Sends what makes one that is gone say so. false: it is taken for gone. */
static bool client_probe(struct client *c) {
  if (c->state == CLIENT_FLUSH) return true; /* the answer itself will tell */
  if (c->state != CLIENT_HANDLE || c->responded || http_parser_request(c->parser)->minor == 0) return false;
  http_bytes_text(&c->out, "HTTP/1.1 100 Continue\r\n\r\n");
  client_flush(c);
  return true;
}

static void client_eof(struct client *c) {
  c->eof = true;
  c->probe = LISTEN_PROBE_MIN;
  if (!client_probe(c)) client_lost(c);
}

/* Has a reset come? After the end of the client's sending no read would tell. */
static bool client_was_reset(const struct client *c) {
  int error = 0;
  socklen_t len = sizeof error;
  return getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0 || error != 0;
}

/* The client ended its sending, and its request is being handled still. */
static void client_look(struct client *c) {
  if (client_was_reset(c)) client_lost(c);
  else c->probe = c->probe < LISTEN_PROBE_MAX / 2 ? c->probe * 2 : LISTEN_PROBE_MAX;
}

static void client_read(struct client *c) {
  char buffer[READ_SIZE];
  ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
  if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return;
  if (n < 0) {
    client_lost(c);
  } else if (n == 0) {
    client_eof(c);
  } else if (c->state != CLIENT_LINGER) {
    http_bytes_drop(&c->in, c->parsed);
    c->parsed = 0;
    http_bytes_append(&c->in, buffer, (size_t)n);
    if (c->in.failed) client_lost(c);
    else client_advance(c);
  }
}

static void client_ready(struct watch *w, int events) {
  struct client *c = CONTAINER(w, struct client, watch);
  if (events & LOOP_WRITE) client_flush(c);
  usec lingers = c->state == CLIENT_LINGER && c->timer.running ? c->timer.node.at : NEVER;
  if ((events & LOOP_READ) && c->state != CLIENT_DEAD) client_read(c);
  client_settle(c);
  if (c->state == CLIENT_LINGER && lingers != NEVER) timer_start(c->listener->loop, &c->timer, lingers); /* more input buys no time */
}

static void client_late(struct timer *t) {
  struct client *c = CONTAINER(t, struct client, timer);
  bool begun = !http_parser_untouched(c->parser);
  if (c->state == CLIENT_HANDLE && c->eof && client_unsent(c) == 0) client_look(c);
  else if (c->state == CLIENT_READ && begun) client_refuse(c, 408, "the request took too long to arrive");
  else client_lost(c);
  client_settle(c);
}

/* --- for the listener ---------------------------------------------------------------------------------------------------- */

struct client *client_create(struct listener *l, int fd, const char *remote) {
  struct client *c = calloc(1, sizeof *c);
  if (c == NULL) return NULL;
  c->parser = http_parser_create(&(struct http_limits){.body = l->options.body_max});
  if (c->parser == NULL) {
    free(c);
    return NULL;
  }
  c->listener = l;
  c->fd = fd;
  c->fresh = true;
  c->watch.ready = client_ready;
  c->timer.fire = client_late;
  c->head_until = client_now(c) + LISTEN_HEAD_TIMEOUT;
  text_copy(c->remote, sizeof c->remote, remote);
  list_init(&c->queued);
  list_init(&c->link);
  list_append(&l->clients, &c->link);
  l->connections++;
  client_settle(c);
  return c;
}

void client_retire(struct client *c) {
  if (c->state == CLIENT_READ && http_parser_untouched(c->parser)) client_lost(c);
}

void client_cut(struct client *c) {
  if (c->state == CLIENT_HANDLE && c->held) listener_tell(c->listener, c, TELL_CUT);
  else if (c->state == CLIENT_HANDLE || c->state == CLIENT_READ) client_lost(c);
}

void client_free(struct client *c) {
  INSIST(c->state == CLIENT_DEAD && !c->held);
  c->listener->connections--;
  list_remove(&c->link);
  list_remove(&c->queued);
  http_parser_destroy(c->parser);
  http_bytes_free(&c->in);
  http_bytes_free(&c->out);
  free(c);
}

/* --- for who took the request -------------------------------------------------------------------------------------------- */

const struct http_request *listen_request(const struct client *c) {
  INSIST(c->held);
  return http_parser_request(c->parser);
}

const char *listen_remote(const struct client *c) { return c->remote; }

bool listen_is_gone(const struct client *c) { return c->state == CLIENT_DEAD; }

void listen_set_owner(struct client *c, void *owner) { c->owner = owner; }

void *listen_owner(const struct client *c) { return c->owner; }

bool listen_responded(const struct client *c) { return c->responded; }

bool listen_is_streaming(const struct client *c) { return c->streaming; }

const char *listen_respond(struct client *c, const struct http_response *given) {
  INSIST(c->held && !c->responded);
  const struct http_request *request = listen_request(c);
  struct http_response r = *given;
  struct http_bytes dropped = {0}; /* a client that is gone changes nothing about what is a fault */
  r.minor = request->minor;
  r.is_head = request->is_head;
  r.keep_alive = request->keep_alive && given->keep_alive && !c->listener->stopping;
  bool gone = c->state == CLIENT_DEAD;
  const char *fault = http_response_write(gone ? &dropped : &c->out, &r, &c->keep_alive);
  http_bytes_free(&dropped);
  if (fault != NULL) return fault;
  c->responded = true;
  c->streaming = r.streamed;
  c->bodiless = r.is_head || r.status == 204 || r.status == 304; /* a stream to HEAD writes nothing */
  if (gone) return NULL;
  if (!r.streamed) c->state = CLIENT_FLUSH;
  client_flush(c);
  client_settle(c);
  return NULL;
}

void listen_problem(struct client *c, int status, const char *id, const char *detail, bool keep_alive) {
  struct problem p;
  problem_make(&p, status, id, detail);
  p.response.keep_alive = keep_alive;
  if (listen_respond(c, &p.response) == NULL) return;
  c->responded = true; /* memory is too short even for this */
  client_lost(c);
}

bool listen_part(struct client *c, const char *data, size_t len) {
  INSIST(c->streaming);
  if (c->state == CLIENT_DEAD) return true;
  if (!c->bodiless) http_part_write(&c->out, listen_request(c)->minor, data, len);
  client_flush(c);
  client_settle(c);
  if (c->state == CLIENT_DEAD || client_unsent(c) < LISTEN_OUTPUT_HIGH) return true;
  c->blocked = true;
  return false;
}

void listen_finish(struct client *c) {
  INSIST(c->streaming);
  c->streaming = false;
  if (c->state == CLIENT_DEAD) return;
  if (!c->bodiless) http_part_end(&c->out, listen_request(c)->minor);
  c->state = CLIENT_FLUSH;
  client_flush(c);
  client_settle(c);
}

void listen_release(struct client *c) {
  INSIST(c->held);
  c->held = false;
  c->owner = NULL;
  if (c->state == CLIENT_HANDLE) client_lost(c); /* nothing, or half an answer: the client must see that it is cut */
  else if (c->state == CLIENT_FLUSH && client_unsent(c) == 0) client_answered(c);
  if (c->state == CLIENT_DEAD) {
    c->tells = 0;
    list_remove(&c->queued);
  }
  client_settle(c);
}
