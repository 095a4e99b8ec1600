/*
** http_load: keep-alive clients that ask GET /check/N, N a new number each time, and check every answer: for specs that break the
** database under a server.
**
**   http_load PORT CONNECTIONS STREAK STATE [SECONDS = 60] [REQUESTS = 0]
**
** Each connection has one request under way. An answer is right (200, its body "N 7N"), a typed error (problem+json, its kind in
** the body as --dev shows it, under the status that belongs to the kind), or wrong: anything else. A request whose connection
** ends before its answer is whole, or that has none after SECONDS, is missing. After an error a connection pauses for 5 ms. After
** REQUESTS requests it is closed and opened anew (0: never).
**
** The figures so far are one line in the file STATE, written over itself: name=value, `seq` first and last, so that a reader sees
** whether it caught a write. SIGUSR1 begins a streak, and `marks` counts those: `whole` is the clock (CLOCK_MONOTONIC, seconds) at
** which STREAK answers in a row were right since then, 0 before. SIGTERM: no new requests; it ends when all are answered. The exit
** code is 0 when none was wrong or missing.
*/
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PAUSE 0.005
#define RECONNECT 0.02 /* after a connection that could not be had */
#define LINE 512       /* of STATE */

/* Kinds of error, and the status each is answered with. */
static const struct kind {
  const char *name;
  int status;
} kinds[] = {{"timeout", 503}, {"overloaded", 503}, {"connect", 503}, {"lost", 503},
             {"closed", 503},  {"deadline", 504},   {"query", 500},   {"cancelled", 500}};
#define KINDS (sizeof kinds / sizeof kinds[0])

struct client {
  int fd;            /* -1: none */
  bool busy;         /* a request is under way */
  uint64_t number;   /* its */
  double since;      /* when it was sent */
  double not_before; /* the next may begin then */
  int asked;         /* on this connection */
  size_t got;
  char in[16384];
};

struct load {
  int epoll, state;
  struct sockaddr_in address;
  struct client *clients;
  int count, streak_wanted, requests;
  double patience;
  uint64_t calls, right, wrong, missing, errors[KINDS], streak, seq;
  double whole, longest;
  int marks; /* streaks begun */
  bool dirty;
};

static volatile sig_atomic_t stopping, mark;

static void on_signal(int number) {
  if (number == SIGUSR1) {
    mark = 1;
  } else {
    stopping = 1;
  }
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void tell_state(struct load *l) {
  char line[LINE];
  int n = snprintf(line, sizeof line, "seq=%llu calls=%llu right=%llu wrong=%llu missing=%llu streak=%llu marks=%d whole=%.6f longest=%.6f",
                   (unsigned long long)++l->seq, (unsigned long long)l->calls, (unsigned long long)l->right, (unsigned long long)l->wrong,
                   (unsigned long long)l->missing, (unsigned long long)l->streak, l->marks, l->whole, l->longest);
  for (size_t i = 0; i < KINDS; i++)
    n += snprintf(line + n, sizeof line - (size_t)n, " %s=%llu", kinds[i].name, (unsigned long long)l->errors[i]);
  n += snprintf(line + n, sizeof line - (size_t)n, " seq=%llu", (unsigned long long)l->seq);
  memset(line + n, ' ', sizeof line - (size_t)n);
  line[LINE - 1] = '\n';
  if (pwrite(l->state, line, LINE, 0) != LINE) perror("http_load: state");
  l->dirty = false;
}

/* --- connections -------------------------------------------------------------------------------------------------------- */

static void client_close(struct client *c) {
  if (c->fd >= 0) close(c->fd);
  c->fd = -1;
  c->asked = 0;
  c->got = 0;
}

/* Loopback: a connect that does not block for long, a full backlog apart, which the patience of the request then bounds. */
static bool client_open(struct load *l, struct client *c) {
  int on = 1;
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (c->fd < 0) return false;
  if (connect(c->fd, (struct sockaddr *)&l->address, sizeof l->address) != 0 && errno != EINPROGRESS) {
    client_close(c);
    return false;
  }
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  struct epoll_event e = {.events = EPOLLOUT, .data = {.ptr = c}}; /* writable: connected; then the request is sent */
  if (epoll_ctl(l->epoll, EPOLL_CTL_ADD, c->fd, &e) != 0) {
    client_close(c);
    return false;
  }
  return true;
}

static void client_watch(struct load *l, struct client *c, uint32_t events) {
  struct epoll_event e = {.events = events, .data = {.ptr = c}};
  epoll_ctl(l->epoll, EPOLL_CTL_MOD, c->fd, &e);
}

static void client_begin(struct load *l, struct client *c) {
  c->number = ++l->calls;
  c->busy = true;
  c->since = now();
  c->got = 0;
  l->dirty = true;
  if (c->fd >= 0) {
    client_watch(l, c, EPOLLOUT);
  } else if (!client_open(l, c)) {
    fprintf(stderr, "http_load: connect: %s\n", strerror(errno));
  }
}

static void client_missing(struct load *l, struct client *c, const char *why) {
  fprintf(stderr, "http_load: request %llu has no answer after %.3f s: %s (%zu bytes came)\n", (unsigned long long)c->number,
          now() - c->since, why, c->got);
  l->missing++;
  l->streak = 0;
  l->dirty = true;
  c->busy = false;
  c->not_before = now() + RECONNECT;
  client_close(c);
}

/* --- answers ------------------------------------------------------------------------------------------------------------ */

/* The kind of a problem, -1 when this is none, or its status is not its kind's. */
static int answer_kind(const char *head, const char *body, int status) {
  if (strstr(head, "content-type: application/problem+json") == NULL) return -1;
  const char *kind = strstr(body, "\"kind\":\"");
  char wanted[32];
  snprintf(wanted, sizeof wanted, "\"status\":%d", status);
  if (kind == NULL || strstr(body, wanted) == NULL) return -1;
  kind += strlen("\"kind\":\"");
  for (size_t i = 0; i < KINDS; i++) {
    size_t n = strlen(kinds[i].name);
    if (strncmp(kind, kinds[i].name, n) == 0 && kind[n] == '"' && kinds[i].status == status) return (int)i;
  }
  return -1;
}

static void answer_wrong(struct load *l, struct client *c, const char *head, const char *body) {
  if (l->wrong++ < 10) fprintf(stderr, "http_load: request %llu: a wrong answer:\n%s\n\n%s\n", (unsigned long long)c->number, head, body);
}

/* Judges a whole answer; head and body are texts of their own, the names of headers in lower case. */
static void answer(struct load *l, struct client *c, const char *head, const char *body) {
  int status = 0, kind = -1;
  char right[64];
  snprintf(right, sizeof right, "%llu %llu\n", (unsigned long long)c->number, (unsigned long long)c->number * 7);
  if (sscanf(head, "http/1.1 %d", &status) == 1 && status == 200 && strcmp(body, right) == 0) {
    l->right++;
    if (++l->streak == (uint64_t)l->streak_wanted && l->marks > 0 && l->whole <= 0) l->whole = now();
  } else {
    l->streak = 0;
    c->not_before = now() + PAUSE;
    kind = answer_kind(head, body, status);
    if (kind >= 0) {
      l->errors[kind]++;
    } else {
      answer_wrong(l, c, head, body);
    }
  }
  double took = now() - c->since;
  if (took > l->longest) l->longest = took;
  c->busy = false;
  l->dirty = true;
  c->asked++;
  if (strstr(head, "\r\nconnection: close") != NULL || (l->requests > 0 && c->asked >= l->requests)) client_close(c);
}

/* Is the answer whole? Then it is judged. The server must send content-length, as it does for every body it has at hand. */
static void client_parse(struct load *l, struct client *c) {
  c->in[c->got] = '\0';
  char *end = strstr(c->in, "\r\n\r\n");
  if (end == NULL) return;
  char *body = end + 4;
  for (char *p = c->in; p < end; p++)
    if (*p >= 'A' && *p <= 'Z') *p += 'a' - 'A';
  const char *length = strstr(c->in, "\r\ncontent-length: ");
  if (length == NULL || length > end) {
    answer_wrong(l, c, c->in, "");
    client_missing(l, c, "no content-length");
    return;
  }
  size_t wanted = strtoul(length + strlen("\r\ncontent-length: "), NULL, 10);
  size_t have = c->got - (size_t)(body - c->in);
  if (have < wanted) return;
  *end = '\0';
  if (have > wanted) {
    answer_wrong(l, c, c->in, body);
    client_missing(l, c, "more than was asked for");
    return;
  }
  answer(l, c, c->in, body);
}

static void client_send(struct load *l, struct client *c) {
  char request[128];
  int n = snprintf(request, sizeof request, "GET /check/%llu HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", (unsigned long long)c->number);
  if (send(c->fd, request, (size_t)n, MSG_NOSIGNAL) != n) {
    client_missing(l, c, strerror(errno));
    return;
  }
  client_watch(l, c, EPOLLIN);
}

static void client_ready(struct load *l, struct client *c, uint32_t events) {
  if (c->busy && (events & EPOLLOUT)) {
    client_send(l, c);
    return;
  }
  if (c->fd < 0 || !(events & (EPOLLIN | EPOLLERR | EPOLLHUP))) return;
  ssize_t n = recv(c->fd, c->in + c->got, sizeof c->in - 1 - c->got, 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n > 0 && c->busy) {
    c->got += (size_t)n;
    client_parse(l, c);
  } else if (c->busy) {
    client_missing(l, c, n == 0 ? "the server closed the connection" : strerror(errno));
  } else {
    client_close(c); /* the server has had enough of an idle connection */
  }
}

/* --- the whole ---------------------------------------------------------------------------------------------------------- */

/* Begins what may begin, gives up what took too long. Is anything under way? */
static bool load_turn(struct load *l) {
  bool busy = false;
  double at = now();
  if (mark) {
    mark = 0;
    l->marks++;
    l->dirty = true;
    l->streak = 0;
    l->whole = 0;
  }
  for (int i = 0; i < l->count; i++) {
    struct client *c = &l->clients[i];
    if (c->busy && at - c->since > l->patience) client_missing(l, c, "its time is over");
    if (c->busy && c->fd < 0) client_missing(l, c, "no connection");
    if (!c->busy && !stopping && at >= c->not_before) client_begin(l, c);
    busy = busy || c->busy;
  }
  return busy;
}

static void load_run(struct load *l) {
  struct epoll_event events[64];
  double told = 0;
  while (load_turn(l) || !stopping) {
    int n = epoll_wait(l->epoll, events, 64, 2);
    for (int i = 0; i < n; i++) client_ready(l, events[i].data.ptr, events[i].events);
    if (l->dirty && now() - told > 0.01) {
      told = now();
      tell_state(l);
    }
  }
  tell_state(l);
}

int main(int argc, char **argv) {
  if (argc < 5) {
    fprintf(stderr, "usage: http_load PORT CONNECTIONS STREAK STATE [SECONDS] [REQUESTS]\n");
    return 2;
  }
  struct load l = {.epoll = epoll_create1(EPOLL_CLOEXEC), .count = atoi(argv[2]), .streak_wanted = atoi(argv[3])};
  l.address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
  l.address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  l.state = open(argv[4], O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
  l.patience = argc > 5 ? atof(argv[5]) : 60;
  l.requests = argc > 6 ? atoi(argv[6]) : 0;
  l.clients = calloc((size_t)l.count, sizeof *l.clients);
  if (l.epoll < 0 || l.state < 0 || l.clients == NULL) {
    perror("http_load");
    return 2;
  }
  for (int i = 0; i < l.count; i++) l.clients[i].fd = -1;
  struct sigaction action = {.sa_handler = on_signal};
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGUSR1, &action, NULL);
  load_run(&l);
  for (int i = 0; i < l.count; i++) client_close(&l.clients[i]);
  free(l.clients);
  close(l.state);
  close(l.epoll);
  return l.wrong + l.missing == 0 ? 0 : 1;
}
