/*
** rooms_memory_test: when memory ends for watched files, the simulator, HTTP and its sockets; and what of libev may end the process.
** Recordings are engine_memory_test.c's.
*/
#include <arpa/inet.h>
#include <errno.h>
#include <ev.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "http/http.h"
#include "io/file_watch.h"
#include "io/listen.h"
#include "sim/sim.h"
#include "support/scarce.h"

static bool tells_of_memory(const struct pool_error *e) { return strstr(e->message, "memory") || strstr(e->message, "Memory"); }

/* ---- files ---- */

static void nothing(void *user) { (void)user; }

static void watch_file(void *path) {
  struct pool_error error = {0};
  struct loop *loop = loop_virtual_create(0);
  scarce_on();
  struct file_watch *f = file_watch_open(loop, path, nothing, NULL, &error);
  scarce_off();
  CHECK((f == NULL) == scarce_failed());
  if (!f) CHECK(error.kind == POOL_SETTINGS && tells_of_memory(&error));
  file_watch_close(f);
  loop_destroy(loop);
}

static void make_virtual_loop(void *user) {
  (void)user;
  scarce_on();
  struct loop *loop = loop_virtual_create(0);
  scarce_off();
  CHECK((loop == NULL) == scarce_failed());
  loop_destroy(loop);
}

static void make_loop(void *user) {
  (void)user;
  scarce_on();
  struct loop *loop = loop_ev_create();
  scarce_off();
  CHECK((loop == NULL) == scarce_failed());
  loop_destroy(loop);
}

/* ---- the simulator ---- */

static void simulate(void *user) {
  static struct sim_options o;
  static struct sim_result result;
  struct pool_error error = {0};
  (void)user;
  memset(&o, 0, sizeof o);
  settings_defaults(&pool_settings_table, &o.settings);
  limits_defaults(&o.limits);
  o.settings.size_limit = 40;
  o.source_count = 2;
  struct sim_source *s = &o.sources[0];
  s->kind = SIM_POISSON;
  s->points[0].rate = 2000;
  s->point_count = 1;
  s->priority = WAITER_PRIORITY;
  s->retries = 2;
  s->retry_after = 0.01;
  s->deadline = 0.05;
  s->services[0] = (struct sim_service){.share = 1, .kind = SIM_EXPONENTIAL, .mean = 0.05};
  s->service_count = 1;
  o.sources[1] = *s;
  o.sources[1].kind = SIM_CLOSED;
  o.sources[1].clients = 300;
  o.sources[1].think = 0.01;
  o.duration = 1;
  o.seed = 1;
  scarce_on();
  enum pool_err err = sim_run(&o, &result, &error);
  scarce_off();
  CHECK(err == (scarce_failed() ? POOL_OVERLOADED : POOL_OK));
  if (scarce_failed()) CHECK(tells_of_memory(&error));
}

/* ---- HTTP without sockets ---- */

#define A100 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

static const char requests[] =
  "GET /a?b=c HTTP/1.1\r\nHost: a\r\nX-Long: " A100 A100 A100 A100 A100 A100 "\r\n\r\n"
  "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345"
  "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n4;x=y\r\nabcd\r\n3\r\nefg\r\n0\r\nX-Trailer: 1\r\n\r\n"
  "GET /d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/* Feeds all in pieces of `piece` bytes: everything is understood as ever, or the first that memory is too short for is refused. */
static void parse(void *piece) {
  static const char *const paths[] = {"/a", "/b", "/c", "/d"}, *const bodies[] = {"", "12345", "abcdefg", ""};
  int seen = 0;
  enum http_event event = HTTP_FEED_MORE;
  scarce_on();
  struct http_parser *p = http_parser_create(&(struct http_limits){0});
  CHECK(p != NULL || scarce_failed());
  for (size_t at = 0, used; p && at < sizeof requests - 1 && event != HTTP_FEED_REFUSED; at += used) {
    size_t left = sizeof requests - 1 - at, size = *(size_t *)piece;
    event = http_feed(p, requests + at, left < size ? left : size, &used);
    if (event != HTTP_FEED_REQUEST) continue;
    const struct http_request *r = http_parser_request(p);
    CHECK(r->path.len == 2 && memcmp(r->path.at, paths[seen], 2) == 0);
    CHECK(r->body.len == strlen(bodies[seen]) && memcmp(r->body.at, bodies[seen], r->body.len) == 0);
    seen++;
    http_next(p);
  }
  scarce_off();
  if (event == HTTP_FEED_REFUSED) CHECK(scarce_failed() && http_parser_status(p) == 503 && strstr(http_parser_reason(p), "memory"));
  else if (p) CHECK_INT(seen, 4);
  if (p && !scarce_failed()) CHECK_INT(seen, 4);
  http_parser_destroy(p);
}

/* A response is written whole or not at all. */
static void respond(void *user) {
  static char body[3000];
  const struct http_field fields[] = {{{"content-type", 12}, {"text/plain", 10}}, {{"x-a", 3}, {body, 700}}};
  const struct http_response r = {.status = 200, .fields = fields, .field_count = 2, .body = {body, sizeof body}, .minor = 1};
  struct http_bytes out = {0};
  bool keep_alive;
  (void)user;
  memset(body, 'x', sizeof body);
  scarce_on();
  const char *first = http_response_write(&out, &r, &keep_alive);
  size_t length = out.len;
  const char *second = http_response_write(&out, &r, &keep_alive);
  scarce_off();
  CHECK((first || second) == scarce_failed());
  if (first) CHECK(length == 0 && strstr(first, "memory"));
  if (second) CHECK(out.len == length && strstr(second, "memory"));
  if (!first) CHECK(memcmp(out.data, "HTTP/1.1 200 OK\r\n", 17) == 0);
  http_response_write(&out, &r, &keep_alive); /* with memory back */
  CHECK(out.len > sizeof body);
  http_bytes_free(&out);
}

/* ---- HTTP with sockets ---- */

enum { TURNS = 3000 };

static const char three[] = "POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
                            "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n"
                            "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
static const char answers[] = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"
                              "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n4\r\npart\r\n0\r\n\r\n"
                              "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

static int dial(int port) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  INSIST(fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) == 0);
  return fd;
}

/* A handler: the body back, or a stream of two parts. What cannot be sent is answered 500. */
static void handle(struct client *c) {
  const struct http_request *q = listen_request(c);
  struct http_response r = {.status = 200, .body = q->body, .keep_alive = true, .streamed = q->path.len == 7};
  const char *fault = listen_respond(c, &r);
  if (fault) {
    CHECK(scarce_failed() && strstr(fault, "memory"));
    listen_problem(c, 500, "id", NULL, true);
  } else if (r.streamed) {
    listen_part(c, "part", 4);
    listen_part(c, "part", 4);
    listen_finish(c);
  }
  listen_release(c);
}

/* Turns the server until the client has all there will be, for `turns` at most; the text in `heard`. false: there may be more. */
static bool serve(struct loop *loop, struct listener *l, int fd, char *heard, size_t size, int turns) {
  struct client *c;
  enum listen_event event;
  for (int i = 0; i < turns; i++) {
    while ((event = listen_next(l, &c)) != LISTEN_NONE)
      if (event == LISTEN_REQUEST) handle(c);
    size_t len = strlen(heard);
    ssize_t n = recv(fd, heard + len, size - len - 1, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN)) return true;
    if (n > 0) heard[len + (size_t)n] = '\0';
    loop_turn(loop, n > 0 ? 0 : loop_update(loop) + 1000);
  }
  return false;
}

/* Right answers as far as they go, then perhaps one of 500 or 503, then the end: nothing else. */
static bool heard_is_fair(const char *heard) {
  size_t n = 0;
  while (heard[n] && heard[n] == answers[n]) n++;
  if (heard[n] == '\0') return true;
  const char *other = strstr(heard, "HTTP/1.1 50");
  return other && strncmp(heard, answers, (size_t)(other - heard)) == 0 && (other[11] == '0' || other[11] == '3');
}

static void listen_and_serve(void *user) {
  char heard[4096] = "", again[4096] = "";
  struct pool_error error = {0};
  struct loop *loop = loop_ev_create();
  const struct listen_options options = {.host = "127.0.0.1"};
  (void)user;
  scarce_on();
  struct listener *l = listen_open(loop, &options, &error);
  int fd = l ? dial(listen_port(l)) : -1;
  if (l) INSIST(send(fd, three, sizeof three - 1, MSG_NOSIGNAL) == (ssize_t)sizeof three - 1);
  bool over = l && serve(loop, l, fd, heard, sizeof heard, 20);
  scarce_off();
  if (!l) CHECK(scarce_failed() && error.kind == POOL_CONNECT && tells_of_memory(&error));
  if (l && !over) CHECK(serve(loop, l, fd, heard, sizeof heard, TURNS));
  if (!CHECK(heard_is_fair(heard)) || (l && !scarce_failed())) CHECK_TEXT(heard, answers);
  if (fd >= 0) close(fd);
  if (!l) l = listen_open(loop, &options, &error);
  fd = dial(listen_port(l));
  INSIST(send(fd, three, sizeof three - 1, MSG_NOSIGNAL) == (ssize_t)sizeof three - 1);
  CHECK(serve(loop, l, fd, again, sizeof again, TURNS));
  CHECK_TEXT(again, answers);
  close(fd);
  listen_destroy(l);
  loop_destroy(loop);
}

/* ---- libev ---- */

struct ticker {
  struct timer timer;
  struct loop *loop;
  int fired, read;
};

static void tick(struct timer *t) {
  struct ticker *k = CONTAINER(t, struct ticker, timer);
  k->fired++;
  timer_start(k->loop, t, loop_now(k->loop) + 10);
}

static void watched(struct watch *w, int events) {
  char byte;
  (void)events;
  if (read(w->fd, &byte, 1) == 1) w->events = w->events; /* level-triggered: taken, so that it is not announced again */
}

/* Turns in which descriptors are watched and let go, timers run, bytes come. */
static void loop_runs(struct loop *loop, struct watch *w, int pipes[][2], int count, int turns) {
  for (int i = 0; i < turns; i++) {
    for (int j = 0; j < count; j++) {
      if (write(pipes[j][1], "x", 1) != 1) abort();
      watch_renew(loop, &w[j], pipes[j][0], LOOP_READ);
    }
    loop_turn(loop, loop_update(loop) + 1000);
    if (i % 2) watch_set(loop, &w[i % count], -1, 0);
  }
}

static void libev_spec(void) {
  TEST("libev, which ends a process that has no memory for its tables, asks for none once they are as large as they need be") {
    enum { COUNT = 20 };
    int pipes[COUNT][2];
    struct watch w[COUNT];
    struct ticker k = {.timer.fire = tick, .loop = loop_ev_create()};
    memset(w, 0, sizeof w);
    for (int i = 0; i < COUNT; i++) {
      CHECK(pipe(pipes[i]) == 0);
      w[i].ready = watched;
    }
    timer_start(k.loop, &k.timer, 0);
    loop_runs(k.loop, w, pipes, COUNT, 20);
    long grown = scarce_spared(), fired = k.fired;
    CHECK(grown > 0);
    loop_runs(k.loop, w, pipes, COUNT, 2000);
    CHECK_INT(scarce_spared(), grown);
    CHECK(k.fired > fired);
    timer_stop(k.loop, &k.timer);
    for (int i = 0; i < COUNT; i++) {
      watch_set(k.loop, &w[i], -1, 0);
      close(pipes[i][0]), close(pipes[i][1]);
    }
    loop_destroy(k.loop);
  }
}

int main(void) {
  size_t pieces[] = {1, 7, 10000};
  ev_set_allocator(scarce_sparing);
  TEST("a file cannot be watched, a loop cannot be made: that is said, and nothing is left") {
    scarce_sweep("a watched file", watch_file, (char[]){"/tmp/tune.lua"});
    scarce_sweep("a watched file, relative", watch_file, (char[]){"tune.lua"});
    scarce_sweep("a virtual loop", make_virtual_loop, NULL);
    scarce_sweep("a loop", make_loop, NULL);
  }
  TEST("a simulation that memory is too short for ends in an error") scarce_sweep("a simulation", simulate, NULL);
  TEST("a request that memory is too short for is refused with 503") {
    for (size_t i = 0; i < 3; i++) scarce_sweep("requests", parse, &pieces[i]);
  }
  TEST("a response is written whole or not at all") scarce_sweep("a response", respond, NULL);
  TEST("a server without memory cuts or refuses who is there, and serves the next") scarce_sweep("a server", listen_and_serve, NULL);
  libev_spec();
  return check_done();
}
