/*
** listen: sockets as clients meet them. Real sockets on the real loop; time-outs with real sockets in virtual time, where
** readiness is scripted.
*/
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/listen_internal.h"
#include "support/check.h"

#define GET "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
#define TURNS 2000 /* of at most a millisecond: what has not come by then never will */

struct server {
  struct loop *loop;
  struct listener *listener;
};

static struct server server_open(int max_connections, const char *host) {
  struct server s = {.loop = loop_ev_create()};
  struct listen_options options = {.host = host, .port = 0, .max_connections = max_connections};
  struct pool_error error;
  s.listener = listen_open(s.loop, &options, &error);
  if (s.listener == NULL) abort();
  return s;
}

static void server_destroy(struct server *s) {
  listen_destroy(s->listener);
  loop_destroy(s->loop);
}

/* Turns the loop until there is news; LISTEN_NONE when none comes. */
static enum listen_event server_next(struct server *s, struct client **c) {
  for (int i = 0; i < TURNS; i++) {
    enum listen_event event = listen_next(s->listener, c);
    if (event != LISTEN_NONE) return event;
    loop_turn(s->loop, loop_update(s->loop) + 1000);
  }
  return LISTEN_NONE;
}

/* Turns for as long as what waits in the kernel needs to be seen. */
static void server_turn(struct server *s) {
  for (int i = 0; i < 30; i++) loop_turn(s->loop, loop_update(s->loop) + 1000);
}

static int dial(int port) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) != 0) abort();
  return fd;
}

static void say(int fd, const char *text) {
  if (send(fd, text, strlen(text), MSG_NOSIGNAL) != (ssize_t)strlen(text)) abort();
}

/* What the server sends until it closes (or until `enough` bytes), turning it meanwhile. "<closed>" marks the end. */
static const char *hear(struct server *s, int fd, size_t enough) {
  static char text[8192];
  size_t len = 0;
  for (int i = 0; i < TURNS && len < enough; i++) {
    ssize_t n = recv(fd, text + len, sizeof text - 16 - len, MSG_DONTWAIT);
    if (n > 0) len += (size_t)n;
    if (n == 0 || (n < 0 && errno == ECONNRESET)) {
      memcpy(text + len, "<closed>", 9);
      return text;
    }
    if (n < 0) loop_turn(s->loop, loop_update(s->loop) + 1000);
  }
  text[len] = '\0';
  return text;
}

static void answer(struct client *c, const char *body) {
  if (!CHECK(c != NULL)) return; /* no request came */
  struct http_response r = {.status = 200, .body = {body, strlen(body)}, .keep_alive = true};
  CHECK(listen_respond(c, &r) == NULL);
  listen_release(c);
}

#define OK(body, length) "HTTP/1.1 200 OK\r\ncontent-length: " length "\r\n\r\n" body

static void test_answers(void) {
  struct client *c;
  TEST("requests on one connection are told one at a time, in order, also when they came together") {
    struct server s = server_open(0, "127.0.0.1");
    int fd = dial(listen_port(s.listener));
    say(fd, GET GET);
    CHECK_INT(server_next(&s, &c), LISTEN_REQUEST);
    CHECK_TEXT(listen_remote(c), "127.0.0.1");
    struct client *none;
    server_turn(&s);
    CHECK_INT(listen_next(s.listener, &none), LISTEN_NONE);
    answer(c, "one");
    CHECK_INT(server_next(&s, &c), LISTEN_REQUEST);
    answer(c, "two");
    CHECK_TEXT(hear(&s, fd, 80), OK("one", "3") OK("two", "3"));
    close(fd);
    server_destroy(&s);
  }
  TEST("answers before a malformed request are kept, then it is refused and the connection closed") {
    struct server s = server_open(0, "127.0.0.1");
    int fd = dial(listen_port(s.listener));
    say(fd, GET "GET / HTTP/1.1\r\n\r\n");
    CHECK_INT(server_next(&s, &c), LISTEN_REQUEST);
    answer(c, "one");
    const char *heard = hear(&s, fd, 8000);
    CHECK(strstr(heard, OK("one", "3") "HTTP/1.1 400 Bad Request\r\n") == heard);
    CHECK(strstr(heard, "connection: close\r\n") != NULL && strstr(heard, "<closed>") != NULL);
    const char *header = strstr(heard, "x-request-id: "), *body = strstr(heard, "\"request_id\":\"");
    CHECK(header != NULL && body != NULL && memcmp(header + 14, body + 14, 16) == 0 && body[30] == '"');
    close(fd);
    server_destroy(&s);
  }
  TEST("a request let go without an answer is cut off, and so is half a stream") {
    struct server s = server_open(0, "127.0.0.1");
    int fd = dial(listen_port(s.listener));
    say(fd, GET);
    CHECK_INT(server_next(&s, &c), LISTEN_REQUEST);
    listen_release(c);
    CHECK_TEXT(hear(&s, fd, 8000), "<closed>");
    close(fd);
    fd = dial(listen_port(s.listener));
    say(fd, GET);
    CHECK_INT(server_next(&s, &c), LISTEN_REQUEST);
    struct http_response r = {.status = 200, .streamed = true, .keep_alive = true};
    CHECK(listen_respond(c, &r) == NULL);
    CHECK(listen_part(c, "half", 4));
    listen_release(c);
    CHECK_TEXT(hear(&s, fd, 8000), "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n<closed>");
    close(fd);
    server_destroy(&s);
  }
  TEST("a client that hangs up while its request is handled is told of, once") {
    struct server s = server_open(0, "127.0.0.1");
    int fd = dial(listen_port(s.listener));
    say(fd, GET);
    CHECK_INT(server_next(&s, &c), LISTEN_REQUEST);
    close(fd);
    struct client *gone;
    CHECK_INT(server_next(&s, &gone), LISTEN_GONE);
    CHECK(gone == c && listen_is_gone(c));
    server_turn(&s);
    CHECK_INT(listen_next(s.listener, &gone), LISTEN_NONE);
    CHECK_INT(listen_connections(s.listener), 1);
    answer(c, "nobody hears");
    server_turn(&s);
    CHECK_INT(listen_connections(s.listener), 0);
    server_destroy(&s);
  }
}

#define CONTINUE "HTTP/1.1 100 Continue\r\n\r\n"

static void test_half_closed(void) {
  struct client *c;
  struct client *none;
  TEST("a client that only ends its sending gets its answers, and is closed then") {
    struct server s = server_open(0, "127.0.0.1");
    int fd = dial(listen_port(s.listener));
    say(fd, GET GET);
    shutdown(fd, SHUT_WR);
    CHECK_INT(server_next(&s, &c), LISTEN_REQUEST);
    CHECK_TEXT(hear(&s, fd, sizeof CONTINUE - 1), CONTINUE);
    server_turn(&s);
    CHECK_INT(listen_next(s.listener, &none), LISTEN_NONE);
    answer(c, "one");
    CHECK_INT(server_next(&s, &c), LISTEN_REQUEST);
    server_turn(&s);
    CHECK_INT(listen_next(s.listener, &none), LISTEN_NONE);
    answer(c, "two");
    CHECK_TEXT(hear(&s, fd, 8000), OK("one", "3") OK("two", "3") "<closed>");
    server_turn(&s);
    CHECK_INT(listen_connections(s.listener), 0);
    close(fd);
    server_destroy(&s);
  }
  TEST("a client that ends its sending and goes later is told of when it goes") {
    struct server s = server_open(0, "127.0.0.1");
    int fd = dial(listen_port(s.listener));
    say(fd, GET GET);
    shutdown(fd, SHUT_WR);
    CHECK_INT(server_next(&s, &c), LISTEN_REQUEST);
    server_turn(&s);
    answer(c, "one");
    CHECK_INT(server_next(&s, &c), LISTEN_REQUEST);
    server_turn(&s);
    CHECK_INT(listen_next(s.listener, &none), LISTEN_NONE);
    close(fd); /* with something unread: a reset */
    CHECK_INT(server_next(&s, &none), LISTEN_GONE);
    listen_release(c);
    server_destroy(&s);
  }
  TEST("one of HTTP/1.0, which cannot be probed, has hung up when it ends its sending") {
    struct server s = server_open(0, "127.0.0.1");
    int fd = dial(listen_port(s.listener));
    say(fd, "GET / HTTP/1.0\r\n\r\n");
    CHECK_INT(server_next(&s, &c), LISTEN_REQUEST);
    shutdown(fd, SHUT_WR);
    CHECK_INT(server_next(&s, &none), LISTEN_GONE);
    listen_release(c);
    close(fd);
    server_destroy(&s);
  }
}

static void test_bodiless(void) {
  struct client *c;
  TEST("a stream of a status that has no body writes none, so that the next answer is read right") {
    struct server s = server_open(0, "127.0.0.1");
    int fd = dial(listen_port(s.listener));
    say(fd, GET GET);
    CHECK_INT(server_next(&s, &c), LISTEN_REQUEST);
    struct http_response r = {.status = 204, .streamed = true, .keep_alive = true};
    CHECK(listen_respond(c, &r) == NULL);
    CHECK(listen_part(c, "part", 4));
    listen_finish(c);
    listen_release(c);
    CHECK_INT(server_next(&s, &c), LISTEN_REQUEST);
    answer(c, "two");
    CHECK_TEXT(hear(&s, fd, 68), "HTTP/1.1 204 No Content\r\n\r\n" OK("two", "3"));
    close(fd);
    server_destroy(&s);
  }
}

static void test_pressure(void) {
  struct client *c;
  TEST("a writer waits while its client does not read, and goes on when it does") {
    struct server s = server_open(0, "127.0.0.1");
    int fd = dial(listen_port(s.listener));
    say(fd, GET);
    CHECK_INT(server_next(&s, &c), LISTEN_REQUEST);
    struct http_response r = {.status = 200, .streamed = true, .keep_alive = true};
    CHECK(listen_respond(c, &r) == NULL);
    static char part[65536];
    memset(part, 'x', sizeof part);
    int parts = 0;
    while (parts < 1000 && listen_part(c, part, sizeof part)) parts++;
    CHECK(parts < 1000); /* the socket's buffers and LISTEN_OUTPUT_HIGH, not all that is written */
    struct client *other;
    server_turn(&s);
    CHECK_INT(listen_next(s.listener, &other), LISTEN_NONE);
    static char sink[65536];
    enum listen_event event = LISTEN_NONE;
    for (int i = 0; i < TURNS && event == LISTEN_NONE; i++) {
      while (recv(fd, sink, sizeof sink, MSG_DONTWAIT) > 0) continue;
      loop_turn(s.loop, loop_update(s.loop) + 1000);
      event = listen_next(s.listener, &other);
    }
    CHECK_INT(event, LISTEN_WRITABLE);
    CHECK(other == c);
    listen_finish(c);
    listen_release(c);
    close(fd);
    server_turn(&s);
    server_destroy(&s);
  }
  TEST("a client that sends requests without end is not read without end while one is handled") {
    struct server s = server_open(0, "127.0.0.1");
    int fd = dial(listen_port(s.listener));
    say(fd, GET);
    CHECK_INT(server_next(&s, &c), LISTEN_REQUEST);
    int refused = 0;
    size_t sent = 0;
    while (refused < 50 && sent < (64u << 20)) {
      ssize_t n = send(fd, GET, sizeof GET - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n > 0) sent += (size_t)n;
      else refused++;
      if (n <= 0) loop_turn(s.loop, loop_update(s.loop) + 1000);
    }
    CHECK_INT(refused, 50);
    CHECK(c->in.len - c->parsed < 2 * LISTEN_INPUT_MAX);
    listen_release(c);
    close(fd);
    server_destroy(&s);
  }
}

static void test_limits(void) {
  struct client *c;
  TEST("no more connections than allowed are taken; the next waits for one to leave") {
    struct server s = server_open(2, "127.0.0.1");
    int fds[3];
    for (int i = 0; i < 3; i++) say(fds[i] = dial(listen_port(s.listener)), GET);
    for (int i = 0; i < 2; i++) {
      CHECK_INT(server_next(&s, &c), LISTEN_REQUEST);
      answer(c, "x");
    }
    server_turn(&s);
    CHECK_INT(listen_connections(s.listener), 2);
    CHECK_INT(listen_next(s.listener, &c), LISTEN_NONE);
    close(fds[0]);
    CHECK_INT(server_next(&s, &c), LISTEN_REQUEST);
    answer(c, "x");
    close(fds[1]);
    close(fds[2]);
    server_destroy(&s);
  }
  TEST("without a descriptor left it says so, rests, and goes on when there is one") {
    struct server s = server_open(0, "127.0.0.1");
    int fd = dial(listen_port(s.listener));
    say(fd, GET);
    struct rlimit old, none;
    getrlimit(RLIMIT_NOFILE, &old);
    none = old;
    int spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
    none.rlim_cur = (rlim_t)spare; /* every number below is taken */
    close(spare);
    setrlimit(RLIMIT_NOFILE, &none);
    CHECK_INT(server_next(&s, &c), LISTEN_TROUBLE);
    setrlimit(RLIMIT_NOFILE, &old);
    CHECK_INT(server_next(&s, &c), LISTEN_REQUEST);
    answer(c, "x");
    close(fd);
    server_destroy(&s);
  }
}

static void test_stopping(void) {
  struct client *c;
  TEST("stopping closes idle connections, lets a request finish, and says when all is done") {
    struct server s = server_open(0, "127.0.0.1");
    int idle = dial(listen_port(s.listener)), busy = dial(listen_port(s.listener));
    say(busy, GET);
    CHECK_INT(server_next(&s, &c), LISTEN_REQUEST);
    listen_stop(s.listener, 60 * USEC_PER_SECOND);
    CHECK_TEXT(hear(&s, idle, 100), "<closed>");
    struct client *none;
    CHECK_INT(listen_next(s.listener, &none), LISTEN_NONE);
    answer(c, "last");
    CHECK_TEXT(hear(&s, busy, 1000), "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nlast<closed>");
    close(busy);
    CHECK_INT(server_next(&s, &none), LISTEN_STOPPED);
    CHECK_INT(listen_next(s.listener, &none), LISTEN_NONE);
    close(idle);
    server_destroy(&s);
  }
  TEST("stopping without grace cuts a request under way, whose holder is told") {
    struct server s = server_open(0, "127.0.0.1");
    int fd = dial(listen_port(s.listener));
    say(fd, GET);
    CHECK_INT(server_next(&s, &c), LISTEN_REQUEST);
    listen_stop(s.listener, 60 * USEC_PER_SECOND);
    listen_stop(s.listener, 0);
    struct client *gone;
    CHECK_INT(server_next(&s, &gone), LISTEN_GONE);
    CHECK(gone == c);
    listen_release(c);
    CHECK_INT(server_next(&s, &gone), LISTEN_STOPPED);
    close(fd);
    server_destroy(&s);
  }
  TEST("a request that nobody took yet dies with its connection") {
    struct server s = server_open(0, "127.0.0.1");
    int fd = dial(listen_port(s.listener));
    say(fd, GET);
    while (list_empty(&s.listener->events)) loop_turn(s.loop, loop_update(s.loop) + 1000);
    listen_stop(s.listener, 0);
    CHECK_INT(server_next(&s, &c), LISTEN_STOPPED);
    close(fd);
    server_destroy(&s);
  }
}

static void test_opening(void) {
  struct pool_error error;
  TEST("an address that is taken, a name nobody knows and a port out of range are errors that say so") {
    struct server s = server_open(0, "::1");
    struct listen_options options = {.host = "::1", .port = listen_port(s.listener)};
    CHECK(listen_open(s.loop, &options, &error) == NULL);
    CHECK(error.kind == POOL_CONNECT && strstr(error.message, "Address already in use") != NULL);
    options = (struct listen_options){.host = "no host at all", .port = 0};
    CHECK(listen_open(s.loop, &options, &error) == NULL && error.kind == POOL_CONNECT);
    options = (struct listen_options){.host = "127.0.0.1", .port = 65536};
    CHECK(listen_open(s.loop, &options, &error) == NULL && error.kind == POOL_SETTINGS);
    server_destroy(&s);
  }
}

/* --- time-outs, in virtual time ------------------------------------------------------------------------------------------ */

struct scripted {
  struct server server;
  int fd;            /* the client's end */
  struct client *client;
};

static bool readable(int fd) { /* within two seconds */
  struct pollfd p = {.fd = fd, .events = POLLIN};
  return poll(&p, 1, 2000) == 1;
}

static struct scripted scripted_open(void) {
  struct scripted t = {.server = {.loop = loop_virtual_create(USEC_PER_SECOND)}};
  struct listen_options options = {.host = "127.0.0.1"};
  struct pool_error error;
  t.server.listener = listen_open(t.server.loop, &options, &error);
  if (t.server.listener == NULL) abort();
  t.fd = dial(listen_port(t.server.listener));
  if (!readable(t.server.listener->fd)) abort();
  loop_virtual_ready(t.server.loop, t.server.listener->fd, LOOP_READ);
  loop_turn(t.server.loop, loop_now(t.server.loop));
  if (list_empty(&t.server.listener->clients)) abort();
  t.client = CONTAINER(t.server.listener->clients.next, struct client, link);
  return t;
}

static void scripted_say(struct scripted *t, const char *text) {
  say(t->fd, text);
  if (!readable(t->client->fd)) abort();
  loop_virtual_ready(t->server.loop, t->client->fd, LOOP_READ);
  loop_turn(t->server.loop, loop_now(t->server.loop));
}

/* Lets `span` pass, and nothing happen but timers. */
static void scripted_pass(struct scripted *t, usec span) {
  usec until = loop_now(t->server.loop) + span;
  while (loop_now(t->server.loop) < until) loop_turn(t->server.loop, until);
}

static void scripted_close(struct scripted *t) {
  close(t->fd);
  server_destroy(&t->server);
}

static bool scripted_closed(const struct scripted *t) { return listen_connections(t->server.listener) == 0; }

static void test_grace(void) {
  TEST("who holds a request at the end of the grace is told to answer, and is cut when no answer comes") {
    for (int answers = 0; answers <= 1; answers++) {
      struct scripted t = scripted_open();
      struct client *c;
      scripted_say(&t, GET);
      CHECK_INT(listen_next(t.server.listener, &c), LISTEN_REQUEST);
      listen_stop(t.server.listener, 5 * USEC_PER_SECOND);
      scripted_pass(&t, 5 * USEC_PER_SECOND - 1);
      CHECK_INT(listen_next(t.server.listener, &c), LISTEN_NONE);
      scripted_pass(&t, 2);
      CHECK_INT(listen_next(t.server.listener, &c), LISTEN_CUT);
      CHECK(c == t.client && !listen_is_gone(c));
      if (answers) listen_problem(c, 503, "abc", "the server is stopping", true);
      scripted_pass(&t, LISTEN_CUT_TIMEOUT + 1);
      CHECK_INT(listen_next(t.server.listener, &c), answers ? LISTEN_NONE : LISTEN_GONE);
      char text[512] = "";
      if (answers) readable(t.fd);
      ssize_t n = recv(t.fd, text, sizeof text - 1, MSG_DONTWAIT);
      CHECK(answers ? n > 0 : n <= 0);
      if (answers) {
        CHECK(strncmp(text, "HTTP/1.1 503 Service Unavailable\r\n", 34) == 0 && strstr(text, "\r\nconnection: close\r\n") != NULL);
        CHECK(strstr(text, "\r\nx-request-id: abc\r\n") != NULL && strstr(text, "\"detail\":\"the server is stopping\"") != NULL);
      }
      listen_release(t.client);
      scripted_pass(&t, 1);
      CHECK_INT(listen_next(t.server.listener, &c), LISTEN_STOPPED);
      scripted_close(&t);
    }
  }
}

static void test_timeouts(void) {
  TEST("a connection without a request is closed after the head time-out, quietly") {
    struct scripted t = scripted_open();
    scripted_pass(&t, LISTEN_HEAD_TIMEOUT - 1);
    CHECK(!scripted_closed(&t));
    scripted_pass(&t, 2);
    CHECK(scripted_closed(&t));
    char c;
    CHECK_INT(recv(t.fd, &c, 1, 0), 0);
    scripted_close(&t);
  }
  TEST("a head that drips in is answered 408, however often a byte comes") {
    struct scripted t = scripted_open();
    scripted_say(&t, "GET / HTTP/1.1\r\n");
    for (int i = 0; i < 9; i++) {
      scripted_pass(&t, USEC_PER_SECOND);
      scripted_say(&t, "X");
    }
    scripted_pass(&t, LISTEN_HEAD_TIMEOUT - 9 * USEC_PER_SECOND + 1);
    char text[64] = "";
    CHECK(readable(t.fd) && recv(t.fd, text, sizeof text - 1, MSG_DONTWAIT) > 0);
    CHECK(strncmp(text, "HTTP/1.1 408 ", 13) == 0);
    scripted_pass(&t, LISTEN_LINGER_TIMEOUT + 1);
    CHECK(scripted_closed(&t));
    scripted_close(&t);
  }
  TEST("a body may take its time as long as bytes come") {
    struct scripted t = scripted_open();
    scripted_say(&t, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n");
    for (int i = 0; i < 5; i++) {
      scripted_pass(&t, LISTEN_STALL_TIMEOUT - 1);
      scripted_say(&t, "x");
    }
    CHECK(!scripted_closed(&t));
    scripted_pass(&t, LISTEN_STALL_TIMEOUT + LISTEN_LINGER_TIMEOUT + 2);
    CHECK(scripted_closed(&t));
    scripted_close(&t);
  }
  TEST("an idle connection is kept for the idle time-out, a handler waits as long as it wants") {
    struct scripted t = scripted_open();
    scripted_say(&t, GET);
    struct client *c;
    CHECK_INT(listen_next(t.server.listener, &c), LISTEN_REQUEST);
    scripted_pass(&t, 3600 * USEC_PER_SECOND);
    CHECK(!listen_is_gone(c));
    answer(c, "x");
    scripted_pass(&t, LISTEN_IDLE_TIMEOUT - 1);
    CHECK(!scripted_closed(&t));
    scripted_pass(&t, 2);
    CHECK(scripted_closed(&t));
    scripted_close(&t);
  }
  TEST("a client that reads nothing of its answer is cut after the stall time-out") {
    struct scripted t = scripted_open();
    scripted_say(&t, GET);
    struct client *c;
    CHECK_INT(listen_next(t.server.listener, &c), LISTEN_REQUEST);
    size_t large = 32u << 20;
    char *body = calloc(1, large);
    struct http_response r = {.status = 200, .body = {body, large}, .keep_alive = true};
    CHECK(listen_respond(c, &r) == NULL);
    free(body);
    listen_release(c);
    scripted_pass(&t, LISTEN_STALL_TIMEOUT - 1);
    CHECK(!scripted_closed(&t));
    scripted_pass(&t, 2);
    CHECK(scripted_closed(&t));
    scripted_close(&t);
  }
}

int main(void) {
  test_opening();
  test_answers();
  test_half_closed();
  test_bodiless();
  test_pressure();
  test_limits();
  test_stopping();
  test_grace();
  test_timeouts();
  return check_done();
}
