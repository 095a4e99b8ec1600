/*
** postgres_fake_spec: what a real cluster of the specs never is: a pooler, a hot standby, a server that is starting or that falls
** silent. A thread speaks just enough of the protocol, one connection after another.
*/
#include "db/postgres_support.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

struct fake {
  int fd, port, pid;          /* pid: in BackendKeyData; pg_backend_pid() is always 4711 */
  bool standby;               /* in_hot_standby is on, and each statement fails with 25006 */
  const char *refuses;        /* an SQLSTATE at start-up, NULL none */
  bool hangs_up;              /* in the middle of an answer */
  pthread_t thread;
};

struct out { char bytes[2048]; int len; };

static void put(struct out *o, const void *bytes, size_t len) {
  memcpy(o->bytes + o->len, bytes, len);
  o->len += (int)len;
}

static void put_int(struct out *o, int value) {
  uint32_t n = htonl((uint32_t)value);
  put(o, &n, 4);
}

static void message(struct out *o, char type, const void *body, int len) {
  put(o, &type, 1);
  put_int(o, len + 4);
  put(o, body, (size_t)len);
}

static void error_message(struct out *o, const char *severity, const char *state, const char *text) {
  char body[256];
  int len = sprintf(body, "S%s%cV%s%cC%s%cM%s%c", severity, 0, severity, 0, state, 0, text, 0);
  body[len++] = 0;
  message(o, 'E', body, len);
}

static void parameter(struct out *o, const char *name, const char *value) {
  char body[128];
  message(o, 'S', body, sprintf(body, "%s%c%s%c", name, 0, value, 0));
}

static void greet(const struct fake *f, struct out *o) {
  static const int zero = 0;
  int key[2] = {(int)htonl((uint32_t)f->pid), 0};
  if (f->refuses) {
    error_message(o, "FATAL", f->refuses, "go away");
    return;
  }
  message(o, 'R', &zero, 4);
  parameter(o, "server_version", "15.1");
  parameter(o, "client_encoding", "UTF8");
  parameter(o, "DateStyle", "ISO, MDY");
  parameter(o, "in_hot_standby", f->standby ? "on" : "off");
  message(o, 'K', key, 8);
  message(o, 'Z', "I", 1);
}

static void answer(const struct fake *f, struct out *o, bool simple) {
  static const char row[] = "\0\1\0\0\0\4" "4711";
  static const char columns[] = "\0\1pid\0\0\0\0\0\0\0\0\0\0\27\0\4\377\377\377\377\0\0";
  if (f->standby && !simple) {
    error_message(o, "ERROR", "25006", "cannot execute INSERT in a read-only transaction");
  } else {
    if (!simple) message(o, '1', "", 0), message(o, '2', "", 0);
    message(o, 'T', columns, sizeof columns - 1);
    message(o, 'D', row, sizeof row - 1);
    if (!f->hangs_up) message(o, 'C', "SELECT 1", 9);
  }
  if (!f->hangs_up) message(o, 'Z', "I", 1);
}

static bool take(int fd, void *bytes, size_t len) { return len == 0 || recv(fd, bytes, len, MSG_WAITALL) == (ssize_t)len; }

/* The next message's type, 0 at the end; its body is thrown away. */
static char next_message(int fd, bool typed) {
  char type = 's', body[4096];
  uint32_t len;
  if ((typed && !take(fd, &type, 1)) || !take(fd, &len, 4)) return 0;
  len = ntohl(len) - 4;
  return len < sizeof body && take(fd, body, len) ? type : 0;
}

static void serve(const struct fake *f, int fd) {
  struct out o = {.len = 0};
  if (!next_message(fd, false)) return;
  greet(f, &o);
  while (send(fd, o.bytes, (size_t)o.len, MSG_NOSIGNAL) == o.len && !f->refuses) {
    char type = next_message(fd, true);
    if (type == 0 || type == 'X') break;
    o.len = 0;
    if (type == 'Q' || type == 'S') answer(f, &o, type == 'Q');
    if (f->hangs_up && type == 'S') {
      send(fd, o.bytes, (size_t)o.len, MSG_NOSIGNAL);
      break;
    }
  }
}

static void *fake_run(void *argument) {
  struct fake *f = argument;
  for (int fd; (fd = accept(f->fd, NULL, NULL)) >= 0; close(fd)) serve(f, fd);
  return NULL;
}

static const char *fake_start(struct fake *f) {
  static char url[256];
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof at;
  f->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(bind(f->fd, (struct sockaddr *)&at, sizeof at) == 0 && listen(f->fd, 8) == 0);
  getsockname(f->fd, (struct sockaddr *)&at, &len);
  f->port = ntohs(at.sin_port);
  CHECK(pthread_create(&f->thread, NULL, fake_run, f) == 0);
  snprintf(url, sizeof url, "postgresql://u:p@127.0.0.1:%d/d?sslmode=disable&gssencmode=disable", f->port);
  return url;
}

static void fake_stop(struct fake *f) {
  shutdown(f->fd, SHUT_RDWR);
  pthread_join(f->thread, NULL);
  close(f->fd);
}

static struct pool_error e;

static void pooler_specs(void) {
  TEST("a pooler is recognised by its process, warned of once, and nothing is prepared there") {
    struct fake f = {.pid = 812345678};
    struct world w = {0};
    CHECK(world_open(&w, fake_start(&f), &e));
    for (int i = 0; i < 2; i++) {
      struct db_conn *conn = must_connect(&w);
      struct statement s = statement_of("select 1");
      struct db_result *r = run(&w, conn, &s, &e);
      CHECK(r && D->shape(r) == NULL);
      D->free_result(r);
      goodbye(&w, conn);
    }
    CHECK(strncmp(w.log, "warn: ", 6) == 0 && strchr(w.log, '\n')[1] == '\0');
    world_close(&w);
    fake_stop(&f);
  }
  TEST("pooler = none asks nothing") {
    struct fake f = {.pid = 812345678};
    struct world w = {.settings.pooler = POOLER_NONE};
    CHECK(world_open(&w, fake_start(&f), &e));
    goodbye(&w, must_connect(&w));
    CHECK_TEXT(w.log, "");
    world_close(&w);
    fake_stop(&f);
  }
}

static void standby_specs(void) {
  static const struct { const char *begin; bool disconnect; } cases[] = {{NULL, true}, {"begin read only", false}};
  TEST("25006 of a server in recovery is a disconnect, but not in a transaction begun read-only") {
    for (int i = 0; i < 2; i++) {
      struct fake f = {.pid = 4711, .standby = true};
      struct world w = {.settings.statement_cache = -1};
      CHECK(world_open(&w, fake_start(&f), &e));
      struct db_conn *conn = must_connect(&w);
      struct statement s = statement_of(cases[i].begin ? cases[i].begin : "insert into t values (1)");
      CHECK(run(&w, conn, &s, &e) == NULL);
      CHECK_TEXT(e.sqlstate, "25006");
      CHECK(e.disconnect == cases[i].disconnect);
      goodbye(&w, conn);
      world_close(&w);
      fake_stop(&f);
    }
  }
}

static void failing_specs(void) {
  static const struct { const char *state; bool permanent; } cases[] = {
    {"57P03", false}, {"53300", false}, {"28000", true}, {"42501", true}, {"XX000", false}};
  TEST("a server's refusal is permanent or not by its SQLSTATE") {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
      struct fake f = {.refuses = cases[i].state};
      struct world w = {0};
      CHECK(world_open(&w, fake_start(&f), &e));
      CHECK(connect_to(&w, &e) == NULL);
      CHECK_TEXT(e.sqlstate, cases[i].state);
      CHECK_TEXT(e.message, "go away");
      CHECK(e.kind == POOL_CONNECT && e.permanent == cases[i].permanent);
      world_close(&w);
      fake_stop(&f);
    }
  }
  TEST("a server that hangs up in the middle of an answer is lost, and no half result comes out") {
    struct fake f = {.pid = 4711, .hangs_up = true};
    struct world w = {.settings = {.statement_cache = -1, .pooler = POOLER_NONE}};
    CHECK(world_open(&w, fake_start(&f), &e));
    struct db_conn *conn = must_connect(&w);
    struct statement s = statement_of("select 1");
    CHECK(run(&w, conn, &s, &e) == NULL);
    CHECK(e.kind == POOL_LOST && e.disconnect && !e.retryable && D->status(conn) == DB_DEAD);
    CHECK(D->result(conn) == NULL);
    D->abandon(conn);
    world_close(&w);
    fake_stop(&f);
  }
}

void fake_specs(void) {
  pooler_specs();
  standby_specs();
  failing_specs();
}
