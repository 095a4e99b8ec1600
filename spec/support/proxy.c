/*
** proxy: a bad network on loopback, for specs (support/proxy.lua starts and commands it).
**
**   proxy TO LISTEN DIR OWNER     TO, LISTEN: "tcp:ADDRESS:PORT" (numeric; port 0 picks a free one) or "unix:PATH".
**   DIR holds two FIFOs, `orders` and `answers`: a line in, a line out, at once. OWNER is a process id; when that is gone, or has
**   closed `orders`, the proxy ends. When it is ready it prints `listening on PORT` (0: a Unix socket).
**
** A link is a client, a server, and a flow each way: UP (client to server) reads the client and writes the server, DOWN the
** reverse; so flow d reads ends[d] and writes ends[!d]. What was read waits in chunks, each with the time at which it is due;
** a chunk of no bytes is the end of file, passed on as one. flow_pump() is the one place that writes, and so where rate,
** fragments and cuts are kept: a cut comes after exactly as many bytes as it says, counted from the link's beginning.
**
** 1. Nothing blocks but epoll_wait, half a second at most. A turn that takes ten seconds is a bug: SIGALRM ends the program.
** 2. Every turn goes over every link: pump, watch, bury. No event frees a link under another event.
** 3. What is random depends on the seed, the link's number and how many bytes of its flow came before it while bits were flipped.
** 4. A stalled link is not watched at all: nothing passes, no end is noticed, until it is resumed or ended.
*/
#include "support/address.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <time.h>

enum { UP, DOWN };
enum way { WAY_FIN, WAY_RST, WAY_STALL };
enum accepting { ACCEPT_YES, ACCEPT_REFUSE, ACCEPT_CLOSE, ACCEPT_SILENT };
enum { READ_MOST = 65536, HELD_MOST = 1 << 20, HELD_LITTLE = 16384, EVENTS_MOST = 64, IN_SET = 1 << 20 };

struct chunk {
  struct chunk *next;
  double due;
  size_t len, at;
  unsigned char bytes[];
};

struct flow {
  struct chunk *head, *tail;
  size_t held;
  uint64_t passed;         /* bytes written to the other end */
  uint64_t place;          /* bytes read */
  uint64_t random;         /* state */
  double tokens, filled;   /* rate: bytes that may go now, and when that was reckoned */
  bool eof, ended, blocked;
};

struct end {
  struct link *link;
  int fd;                  /* -1: none, or closed */
  uint32_t watched;        /* the events and IN_SET; 0: not in the epoll set */
  bool deaf;               /* hung up, and read to its end: would wake us for ever */
};

struct link {
  struct link *next;
  struct end ends[2];
  struct flow flows[2];
  int64_t cut;             /* bytes after which it is cut, -1 never */
  bool connecting, stalled;
  bool draining;           /* over: what still comes is thrown away, each end closed at its end of file */
  bool buried;
};

struct settings {
  double delay, rate, flip;
  uint64_t seed;
  int64_t cut, sweep, spare;
  int fragment, how, directions, accept;
  bool stall;
};

struct proxy {
  struct address to, at;
  int epoll, listener, holder, orders, answers, owner;
  struct settings set;
  struct link *links;
  double now;
  uint64_t accepted, refused, failed, cuts, up, down, writes, last_up, last_down;
  uint64_t swept;          /* links since the sweep was set */
  size_t have;             /* of an order not yet whole */
  char order[1024];
  const char *dir;
};

static double now_read(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t mix(uint64_t x) { /* splitmix64's end */
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

static uint64_t random_next(struct flow *f) { return mix(f->random += 0x9e3779b97f4a7c15u); }

/* ---- ends ---- */

static void end_watch(struct proxy *p, struct end *e, uint32_t events, bool watch) {
  struct epoll_event event = {.events = events, .data.ptr = e};
  uint32_t wanted = watch && e->fd >= 0 && !e->deaf ? events | IN_SET : 0; /* even no events at all: errors are told */
  if (e->fd < 0 || wanted == e->watched) return;
  int op = !e->watched ? EPOLL_CTL_ADD : !wanted ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
  if (epoll_ctl(p->epoll, op, e->fd, &event) != 0) die("epoll_ctl");
  e->watched = wanted;
}

static void end_close(struct end *e, bool reset) {
  struct linger linger = {.l_onoff = 1, .l_linger = 0};
  if (e->fd < 0) return;
  if (reset) setsockopt(e->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger); /* on a Unix socket it changes nothing */
  close(e->fd);
  e->fd = -1;
  e->watched = 0;
}

/* ---- links ---- */

static void flow_clear(struct flow *f) {
  for (struct chunk *c = f->head, *next; c; c = next) {
    next = c->next;
    free(c);
  }
  f->head = f->tail = NULL;
  f->held = 0;
}

static void link_over(struct proxy *p, struct link *l) {
  p->last_up = l->flows[UP].passed;
  p->last_down = l->flows[DOWN].passed;
  flow_clear(&l->flows[UP]);
  flow_clear(&l->flows[DOWN]);
}

/* Ends it in a way of the proxy's own. FIN closes gently: a close with bytes unread would be a reset. */
static void link_end(struct proxy *p, struct link *l, enum way way) {
  if (l->buried || (l->draining && way != WAY_RST)) return;
  if (way == WAY_STALL) {
    l->stalled = true;
    return;
  }
  if (!l->draining) link_over(p, l);
  l->stalled = false;
  l->draining = true;
  for (int side = 0; side < 2; side++) {
    if (way == WAY_RST || (side == DOWN && l->connecting)) end_close(&l->ends[side], way == WAY_RST);
    else if (l->ends[side].fd >= 0) shutdown(l->ends[side].fd, SHUT_WR);
  }
  l->connecting = false;
}

static uint64_t link_counted(const struct proxy *p, const struct link *l) {
  uint64_t sum = 0;
  for (int d = 0; d < 2; d++)
    if (p->set.directions & (1 << d)) sum += l->flows[d].passed;
  return sum;
}

/* Has its hour come? Then it is cut. */
static bool link_cut(struct proxy *p, struct link *l) {
  if (l->cut < 0 || link_counted(p, l) < (uint64_t)l->cut) return false;
  l->cut = -1;
  p->cuts++;
  link_end(p, l, (enum way)p->set.how);
  return true;
}

static int connect_to(const struct address *to, bool *connecting) {
  int one = 1, little = 65536, fd = socket(to->at.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) die("socket");
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &little, sizeof little); /* else the kernel is that store */
  if (address_is_tcp(to)) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  *connecting = false;
  if (connect(fd, &to->at.any, to->len) == 0) return fd;
  *connecting = errno == EINPROGRESS;
  if (*connecting) return fd;
  close(fd);
  return -1;
}

/* As a server with impatient tcp_keepalives_*: a client that vanished without a word is missed after some seconds. */
static void client_keepalive(int fd) {
  int one = 1, probes = 8;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &one, sizeof one);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &one, sizeof one);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
}

static void link_new(struct proxy *p, int fd) {
  struct link *l = calloc(1, sizeof *l);
  if (!l) die("calloc");
  if (address_is_tcp(&p->at)) client_keepalive(fd);
  for (int d = 0; d < 2; d++) {
    l->ends[d] = (struct end){.link = l, .fd = -1};
    l->flows[d].random = mix(p->set.seed ^ mix(p->accepted * 2 + (uint64_t)d));
    l->flows[d].filled = p->now;
  }
  l->ends[UP].fd = fd;
  l->next = p->links;
  p->links = l;
  p->accepted++;
  l->cut = p->set.cut < 0 ? -1 : p->set.cut + p->set.sweep * (int64_t)p->swept++;
  l->stalled = p->set.stall;
  if (p->set.accept == ACCEPT_SILENT) {
    l->draining = true; /* reads, and never says a word */
    return;
  }
  l->ends[DOWN].fd = connect_to(&p->to, &l->connecting);
  if (l->ends[DOWN].fd < 0) {
    p->failed++;
    link_end(p, l, WAY_RST);
  } else {
    link_cut(p, l);
  }
}

/* ---- flows ---- */

static void flow_flip(const struct proxy *p, struct flow *f, unsigned char *bytes, size_t len) {
  for (size_t i = 0; i < len; i++) {
    if (f->place + i < (uint64_t)p->set.spare) continue;
    uint64_t r = random_next(f);
    if ((double)(r >> 11) / 9007199254740992.0 < p->set.flip) bytes[i] ^= (unsigned char)(1u << (r & 7));
  }
}

static void flow_add(struct proxy *p, struct link *l, int d, const unsigned char *bytes, size_t len) {
  struct flow *f = &l->flows[d];
  struct chunk *c = malloc(sizeof *c + len);
  if (!c) die("malloc");
  *c = (struct chunk){.due = p->now + p->set.delay, .len = len};
  if (len) memcpy(c->bytes, bytes, len);
  if (p->set.flip > 0 && (p->set.directions & (1 << d))) flow_flip(p, f, c->bytes, len);
  f->place += len;
  if (f->tail) f->tail->next = c;
  else f->head = c;
  f->tail = c;
  f->held += len;
}

static void flow_read(struct proxy *p, struct link *l, int d) {
  unsigned char bytes[READ_MOST];
  struct end *e = &l->ends[d];
  ssize_t n = recv(e->fd, bytes, sizeof bytes, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (l->draining) {
    if (n <= 0) end_close(e, false);
  } else if (n < 0) {
    link_end(p, l, WAY_RST);
  } else if (n == 0) {
    l->flows[d].eof = true;
    flow_add(p, l, d, NULL, 0);
  } else {
    flow_add(p, l, d, bytes, (size_t)n);
  }
}

/* How many of the head's bytes may go now. */
static size_t flow_allowed(const struct proxy *p, struct link *l, int d) {
  struct flow *f = &l->flows[d];
  size_t n = f->head->len - f->head->at;
  if (p->set.rate > 0) {
    double most = p->set.rate / 50 > 1 ? p->set.rate / 50 : 1;
    f->tokens += (p->now - f->filled) * p->set.rate;
    if (f->tokens > most) f->tokens = most;
    if ((double)n > f->tokens) n = (size_t)f->tokens;
  }
  f->filled = p->now;
  if (p->set.fragment > 0 && n > (size_t)p->set.fragment) n = (size_t)p->set.fragment;
  if (l->cut >= 0 && (p->set.directions & (1 << d))) {
    uint64_t left = (uint64_t)l->cut - link_counted(p, l);
    if (n > left) n = (size_t)left;
  }
  return n;
}

static void flow_pop(struct flow *f) {
  struct chunk *c = f->head;
  f->head = c->next;
  if (!f->head) f->tail = NULL;
  free(c);
}

static void flow_pump(struct proxy *p, struct link *l, int d) {
  struct flow *f = &l->flows[d];
  while (!l->stalled && !l->draining && !f->blocked && f->head && f->head->due <= p->now) {
    struct end *out = &l->ends[!d];
    if (f->head->len == 0) {
      shutdown(out->fd, SHUT_WR);
      f->ended = true;
      flow_pop(f);
      continue;
    }
    size_t n = flow_allowed(p, l, d);
    if (n == 0) return; /* the rate's turn; a cut would have been made */
    ssize_t sent = send(out->fd, f->head->bytes + f->head->at, n, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EAGAIN) f->blocked = true;
    else if (sent < 0) link_end(p, l, WAY_RST);
    if (sent < 0) return;
    f->passed += (uint64_t)sent;
    *(d == UP ? &p->up : &p->down) += (uint64_t)sent;
    p->writes++;
    f->held -= (size_t)sent;
    if (p->set.rate > 0) f->tokens -= (double)sent;
    f->head->at += (size_t)sent;
    if (f->head->at == f->head->len) flow_pop(f);
    if (link_cut(p, l) || p->set.fragment > 0) return; /* a fragment a turn */
  }
}

/* Seconds until the flow has something to do by itself; -1: never. */
static double flow_wait(const struct proxy *p, const struct link *l, const struct flow *f) {
  if (!f->head || f->blocked || l->stalled || l->draining || l->connecting) return -1;
  double wait = f->head->due - p->now;
  if (wait <= 0 && p->set.rate > 0 && f->tokens < 1) wait = (1 - f->tokens) / p->set.rate;
  return wait > 0 ? wait : 0;
}

/* Does it hold as much as it may? On a slow link little: a link is no store of megabytes that must all trickle down it. */
static bool flow_full(const struct proxy *p, const struct flow *f) {
  return f->held >= (p->set.rate > 0 || p->set.fragment > 0 ? HELD_LITTLE : HELD_MOST);
}

/* ---- turns ---- */

static void link_event(struct proxy *p, struct end *e, uint32_t events) {
  struct link *l = e->link;
  int side = (int)(e - l->ends);
  if (e->fd < 0 || l->stalled) return;
  if (side == DOWN && l->connecting) {
    int failed = 0;
    socklen_t len = sizeof failed;
    getsockopt(e->fd, SOL_SOCKET, SO_ERROR, &failed, &len);
    l->connecting = false;
    if (failed) p->failed++;
    if (failed) link_end(p, l, WAY_RST);
    return;
  }
  if (events & EPOLLOUT) l->flows[!side].blocked = false;
  if (!l->draining && l->flows[side].eof) {
    if (events & EPOLLERR) link_end(p, l, WAY_RST);
    else if (events & EPOLLHUP) e->deaf = true;
  } else if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
    if (l->draining || !flow_full(p, &l->flows[side]) || (events & EPOLLERR)) flow_read(p, l, side);
  }
}

static void link_watch(struct proxy *p, struct link *l) {
  for (int side = 0; side < 2; side++) {
    uint32_t events = 0;
    bool full = !l->draining && flow_full(p, &l->flows[side]);
    if (side == DOWN && l->connecting) events = EPOLLOUT;
    else if (l->draining || (!l->flows[side].eof && !full)) events = EPOLLIN;
    if (!l->draining && l->flows[!side].blocked) events |= EPOLLOUT;
    end_watch(p, &l->ends[side], events, !l->stalled && (events || !full)); /* full: an end of file would wake us for nothing */
  }
}

static void link_turn(struct proxy *p, struct link *l) {
  if (!l->connecting) {
    flow_pump(p, l, UP);
    flow_pump(p, l, DOWN);
  }
  if (!l->draining && l->flows[UP].ended && l->flows[DOWN].ended) {
    link_over(p, l);
    l->draining = true;
    end_close(&l->ends[UP], false);
    end_close(&l->ends[DOWN], false);
  }
  l->buried = l->draining && l->ends[UP].fd < 0 && l->ends[DOWN].fd < 0;
  if (!l->buried) link_watch(p, l);
}

static double links_turn(struct proxy *p) {
  double wait = 0.5;
  for (struct link **at = &p->links, *l; (l = *at);) {
    link_turn(p, l);
    if (l->buried) {
      *at = l->next;
      free(l);
      continue;
    }
    for (int d = 0; d < 2; d++) {
      double w = flow_wait(p, l, &l->flows[d]);
      if (w >= 0 && w < wait) wait = w;
    }
    at = &l->next;
  }
  return wait;
}

/* ---- listening ---- */

/* A closed listener refuses; the holder, bound and never listening, keeps the port ours meanwhile. */
static void listener_set(struct proxy *p, bool open) {
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = &p->listener};
  if (open == (p->listener >= 0)) return;
  if (!open) {
    close(p->listener);
    p->listener = -1;
    return;
  }
  p->listener = address_bind(&p->at, SOCK_NONBLOCK);
  if (listen(p->listener, 128) != 0) die("listen");
  if (epoll_ctl(p->epoll, EPOLL_CTL_ADD, p->listener, &event) != 0) die("epoll_ctl");
}

static void listener_event(struct proxy *p) {
  for (int fd; p->listener >= 0 && (fd = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0;) {
    if (p->set.accept != ACCEPT_CLOSE) {
      link_new(p, fd);
    } else {
      close(fd);
      p->refused++;
    }
  }
}

/* ---- orders ---- */

static const char *const hows[] = {"fin", "rst", "stall", NULL};
static const char *const accepts[] = {"yes", "refuse", "close", "silent", NULL};
static const char *const directions[] = {"up", "down", "both", NULL}; /* one less than the mask */

static int word_in(const char *const *words, const char *word) {
  for (int i = 0; words[i]; i++)
    if (strcmp(words[i], word) == 0) return i;
  return -1;
}

static const struct settings calm = {.cut = -1, .directions = 3, .how = WAY_RST, .seed = 1};

static bool setting_set(struct settings *s, const char *name, const char *value) {
  char *rest = "";
  int word = 0;
  if (strcmp(name, "delay") == 0) s->delay = strtod(value, &rest);
  else if (strcmp(name, "rate") == 0) s->rate = strtod(value, &rest);
  else if (strcmp(name, "flip") == 0) s->flip = strtod(value, &rest);
  else if (strcmp(name, "fragment") == 0) s->fragment = (int)strtol(value, &rest, 10);
  else if (strcmp(name, "seed") == 0) s->seed = strtoull(value, &rest, 10);
  else if (strcmp(name, "cut") == 0) s->cut = strtoll(value, &rest, 10);
  else if (strcmp(name, "spare") == 0) s->spare = strtoll(value, &rest, 10);
  else if (strcmp(name, "sweep") == 0) s->sweep = strtoll(value, &rest, 10);
  else if (strcmp(name, "how") == 0) s->how = word = word_in(hows, value);
  else if (strcmp(name, "accept") == 0) s->accept = word = word_in(accepts, value);
  else if (strcmp(name, "direction") == 0) s->directions = 1 + (word = word_in(directions, value));
  else return false;
  return word >= 0 && *rest == '\0' && *value;
}

/* All of it or nothing. */
static const char *order_set(struct proxy *p, char *words, struct settings s) {
  bool counts = false;
  for (char *save, *word = strtok_r(words, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
    char *value = strchr(word, '=');
    if (!value) return word;
    *value = '\0';
    if (!setting_set(&s, word, value + 1)) return word;
    if (strcmp(word, "cut") == 0 || strcmp(word, "sweep") == 0) counts = true;
  }
  s.stall = p->set.stall;
  p->set = s;
  if (counts) p->swept = 0;
  for (struct link *l = p->links; counts && l; l = l->next) { /* open ones: so many bytes from now on, but in no sweep */
    l->cut = s.cut < 0 || s.sweep ? -1 : s.cut + (int64_t)link_counted(p, l);
    if (!l->draining) link_cut(p, l);
  }
  listener_set(p, s.accept != ACCEPT_REFUSE);
  return NULL;
}

static void order_stall(struct proxy *p, bool stall) {
  p->set.stall = stall;
  for (struct link *l = p->links; l; l = l->next) l->stalled = stall && !l->draining;
}

static int order_stats(const struct proxy *p, char *out, size_t size) {
  int open = 0, stalled = 0;
  for (const struct link *l = p->links; l; l = l->next) {
    open += !l->draining;
    stalled += l->stalled;
  }
  return snprintf(out, size,
                  "ok accepted=%" PRIu64 " refused=%" PRIu64 " failed=%" PRIu64 " open=%d stalled=%d up=%" PRIu64 " down=%" PRIu64
                  " writes=%" PRIu64 " cuts=%" PRIu64 " last_up=%" PRIu64 " last_down=%" PRIu64 " next_cut=%" PRId64 "\n",
                  p->accepted, p->refused, p->failed, open, stalled, p->up, p->down, p->writes, p->cuts, p->last_up, p->last_down,
                  p->set.cut < 0 ? -1 : p->set.cut + p->set.sweep * (int64_t)p->swept);
}

static void order_take(struct proxy *p, char *line) {
  char answer[2048] = "ok\n"; /* holds a whole order, and more */
  const char *bad = NULL;
  char *rest = strchr(line, ' ');
  if (rest) *rest++ = '\0';
  else rest = line + strlen(line);
  if (strcmp(line, "set") == 0) {
    bad = order_set(p, rest, p->set);
  } else if (strcmp(line, "calm") == 0) {
    bad = order_set(p, rest, calm);
  } else if (strcmp(line, "now") == 0 && word_in(hows, rest) >= 0) {
    for (struct link *l = p->links; l; l = l->next) link_end(p, l, (enum way)word_in(hows, rest));
  } else if (strcmp(line, "stall") == 0 || strcmp(line, "resume") == 0) {
    order_stall(p, line[0] == 's');
  } else if (strcmp(line, "stats") == 0) {
    order_stats(p, answer, sizeof answer);
  } else {
    bad = line;
  }
  if (bad) snprintf(answer, sizeof answer, "error: \"%s\" is unknown or has a value that it cannot have\n", bad);
  links_turn(p); /* what the order does is done when it is answered */
  if (write(p->answers, answer, strlen(answer)) < 0) die("answers");
}

/* The spec has ended, however it did: nothing of ours is left. */
static void leave(const struct proxy *p) {
  static const char *const ours[] = {"orders", "answers", NULL};
  char path[512];
  if (!address_is_tcp(&p->at)) unlink(p->at.at.un.sun_path);
  for (int i = 0; ours[i]; i++) {
    snprintf(path, sizeof path, "%s/%s", p->dir, ours[i]);
    unlink(path);
  }
  rmdir(p->dir);
  exit(0);
}

static void orders_event(struct proxy *p) {
  ssize_t n = read(p->orders, p->order + p->have, sizeof p->order - 1 - p->have);
  if (n == 0) leave(p);
  if (n < 0) return;
  p->have += (size_t)n;
  for (char *end; (end = memchr(p->order, '\n', p->have));) {
    *end = '\0';
    order_take(p, p->order);
    p->have -= (size_t)(end + 1 - p->order);
    memmove(p->order, end + 1, p->have);
  }
  if (p->have == sizeof p->order - 1) exit(1);
}

/* ---- the program ---- */

static void proxy_turn(struct proxy *p) {
  struct epoll_event events[EVENTS_MOST];
  double wait = links_turn(p);
  alarm(10);
  int n = epoll_wait(p->epoll, events, EVENTS_MOST, (int)(wait * 1000 + 0.999));
  bool ordered = false;
  p->now = now_read();
  for (int i = 0; i < n; i++) {
    if (events[i].data.ptr == &p->orders) ordered = true;
    else if (events[i].data.ptr == &p->listener) listener_event(p);
    else link_event(p, events[i].data.ptr, events[i].events);
  }
  if (ordered) orders_event(p); /* last: it buries links */
  if (n == 0 && kill(p->owner, 0) != 0 && errno == ESRCH) leave(p);
}

static void proxy_orders(struct proxy *p) {
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = &p->orders};
  char path[512];
  snprintf(path, sizeof path, "%s/orders", p->dir);
  p->orders = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  snprintf(path, sizeof path, "%s/answers", p->dir);
  p->answers = open(path, O_RDWR | O_CLOEXEC); /* read-write, so that nobody waits for the other side to open it */
  if (p->orders < 0 || p->answers < 0 || epoll_ctl(p->epoll, EPOLL_CTL_ADD, p->orders, &event) != 0) die(p->dir);
}

int main(int argc, char **argv) {
  struct proxy p = {.epoll = epoll_create1(EPOLL_CLOEXEC), .listener = -1, .holder = -1, .set = calm};
  if (argc != 5 || p.epoll < 0) {
    fprintf(stderr, "proxy TO LISTEN DIR OWNER\n");
    return 1;
  }
  signal(SIGPIPE, SIG_IGN);
  p.to = address_of(argv[1]);
  p.at = address_of(argv[2]);
  p.owner = atoi(argv[4]);
  p.now = now_read();
  p.dir = argv[3];
  proxy_orders(&p);
  if (address_is_tcp(&p.at)) {
    p.holder = address_bind(&p.at, 0);
    getsockname(p.holder, &p.at.at.any, &p.at.len);
  }
  listener_set(&p, true);
  address_tell(p.listener);
  for (;;) proxy_turn(&p);
}
