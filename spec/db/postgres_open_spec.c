/*
** postgres_open_spec: opening: addresses, names, passwords, refusals, poolers
*/
#include "db/postgres_support.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static char url[1024];

/* A socket that listens, whose backlog is full, so that connecting to it never ends. Closing `fill` frees it. */
static int black_hole(int *port, int *fill) {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof at;
  bind(fd, (struct sockaddr *)&at, sizeof at);
  listen(fd, 0);
  getsockname(fd, (struct sockaddr *)&at, &len);
  *port = ntohs(at.sin_port);
  for (int i = 0; i < 4; i++) {
    fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (connect(fill[i], (struct sockaddr *)&at, sizeof at)) continue;
  }
  return fd;
}

static bool open_fails(const char *at, struct pool_error *error) {
  struct world w = {0};
  memset(error, 0, sizeof *error);
  if (!CHECK(world_open(&w, at, error))) return true;
  struct db_conn *conn = connect_to(&w, error);
  if (conn) D->abandon(conn);
  CHECK(w.slowest_step < USEC_PER_SECOND / 2);
  world_close(&w);
  return conn == NULL;
}

static const char *url_with(struct url_parts parts) { return url_of(&parts, url, sizeof url); }

static void opens(const char *at) {
  struct world w = {0};
  struct pool_error error;
  if (!CHECK(world_open(&w, at, &error))) return;
  struct db_conn *conn = must_connect(&w);
  CHECK(D->status(conn) == DB_IDLE);
  CHECK_INT(D->pid(conn), atoi(one(&w, conn, "select pg_backend_pid()")));
  CHECK(!D->encrypted(conn));
  CHECK_TEXT(one(&w, conn, "show application_name"), "pool");
  CHECK_TEXT(one(&w, conn, "show client_encoding"), "UTF8");
  CHECK_TEXT(w.log, "");
  goodbye(&w, conn);
  world_close(&w);
}

static void refusal_specs(void) {
  struct pool_error e;
  TEST("a refused port is a transient connect error") {
    CHECK(open_fails(url_with((struct url_parts){.host = "127.0.0.1", .port = 1}), &e));
    CHECK(e.kind == POOL_CONNECT && !e.permanent);
    CHECK(strstr(e.message, "refused") != NULL);
  }
  TEST("a wrong password is permanent, with its SQLSTATE and without the password") {
    CHECK(open_fails(url_with((struct url_parts){.host = "127.0.0.1", .password = "hunter2"}), &e));
    CHECK(e.kind == POOL_CONNECT && e.permanent);
    CHECK_TEXT(e.sqlstate, "28P01");
    CHECK(strstr(e.message, "password authentication failed") == e.message);
    CHECK(!strstr(e.message, "hunter2") && !strstr(e.message, "LOCATION"));
  }
  TEST("a missing database is permanent") {
    CHECK(open_fails(url_with((struct url_parts){.database = "nowhere"}), &e));
    CHECK_TEXT(e.sqlstate, "3D000");
    CHECK(e.permanent);
    CHECK_TEXT(e.message, "database \"nowhere\" does not exist");
  }
  TEST("TLS that the server does not have is permanent") {
    CHECK(open_fails(url_with((struct url_parts){.host = "127.0.0.1", .options = "&sslmode=require"}), &e));
    CHECK(e.permanent && strstr(e.message, "SSL") != NULL);
  }
  TEST("a name that does not exist is transient, and says so") {
    CHECK(open_fails(url_with((struct url_parts){.host = "no-such-host.invalid"}), &e));
    CHECK(!e.permanent && strstr(e.message, "no-such-host.invalid") != NULL);
  }
  TEST("a primary is refused where a standby is asked for") {
    CHECK(open_fails(url_with((struct url_parts){.options = "&target_session_attrs=standby"}), &e));
    CHECK(!e.permanent && strstr(e.message, "standby") != NULL);
  }
}

static void url_specs(void) {
  static const char *const bad[] = {
    "postgresql://u:hunter2@h:port/d", "postgresql://u:hunter2@h/d?replication=true",
    "postgresql://u:hunter2@h/d?frobnicate=1", "postgresql://u:hunter2@h/d?sslmode=best",
    "postgresql://u:hunter2@a,b/d?port=1,2,3", "postgresql://u:hunter2@h:99999/d", "postgresql://u:hunter2@h/d?target_session_attrs=best",
    "postgresql://u:hunter2@h/d?service=nothing-like-it"};
  TEST("a URL that libpq cannot use is a settings error without its secrets") {
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
      struct world w = {0};
      struct pool_error e = {0};
      if (!CHECK(!world_open(&w, bad[i], &e))) world_close(&w);
      if (!CHECK(e.kind == POOL_SETTINGS && !strstr(e.message, "hun"))) printf("%s -> %s\n", bad[i], e.message);
    }
  }
  TEST("the password comes from the password file, read once") {
    char path[] = "/tmp/pool-passfile.XXXXXX";
    int fd = mkstemp(path);
    dprintf(fd, "127.0.0.1:*:*:%s:%s\n", getenv("POOL_SPEC_PG_USER"), getenv("POOL_SPEC_PG_PASSWORD"));
    close(fd);
    struct world w = {0};
    struct pool_error e;
    char at[512];
    snprintf(at, sizeof at, "postgresql://%s@127.0.0.1:%s/%s?passfile=%s", getenv("POOL_SPEC_PG_USER"), getenv("POOL_SPEC_PG_PORT"),
             getenv("POOL_SPEC_PG_DATABASE"), path);
    CHECK(world_open(&w, at, &e));
    unlink(path);
    struct db_conn *conn = must_connect(&w);
    CHECK_TEXT(one(&w, conn, "select 1"), "1");
    goodbye(&w, conn);
    world_close(&w);
  }
}

static void several_hosts_specs(void) {
  char hosts[300];
  snprintf(hosts, sizeof hosts, "127.0.0.1,no-such-host.invalid,%s", getenv("POOL_SPEC_PG_DIR"));
  TEST("the hosts are tried in order, each with its port, until one answers") {
    char at[800];
    const char *port = getenv("POOL_SPEC_PG_PORT");
    snprintf(at, sizeof at, "postgresql://%s@/%s?host=%s&port=1,%s,%s", getenv("POOL_SPEC_PG_USER"), getenv("POOL_SPEC_PG_DATABASE"),
             hosts, port, port);
    opens(at);
  }
  TEST("sockets that nobody listens on refuse at once, and leave nothing behind") { /* the sanitizers see what is left */
    char at[800];
    snprintf(at, sizeof at, "postgresql://%s@/%s?host=/nowhere,/nobody,%s&port=%s", getenv("POOL_SPEC_PG_USER"),
             getenv("POOL_SPEC_PG_DATABASE"), getenv("POOL_SPEC_PG_DIR"), getenv("POOL_SPEC_PG_PORT"));
    opens(at);
  }
  TEST("prefer-standby takes a primary when there is no standby") {
    opens(url_with((struct url_parts){.options = "&target_session_attrs=prefer-standby"}));
  }
  TEST("read-write takes a primary") { opens(url_with((struct url_parts){.options = "&target_session_attrs=read-write"})); }
  TEST("hostaddr needs no name to be looked up") {
    opens(url_with((struct url_parts){.host = "no-such-host.invalid", .options = "&hostaddr=127.0.0.1"}));
  }
}

static void next_address_specs(void) {
  TEST("next_address leaves a black hole for the next address") {
    struct world w = {0};
    struct pool_error e;
    char at[800];
    int hole, fill[4], server = black_hole(&hole, fill);
    snprintf(at, sizeof at, "postgresql://%s:%s@/%s?host=127.0.0.1,127.0.0.1&port=%d,%s", getenv("POOL_SPEC_PG_USER"),
             getenv("POOL_SPEC_PG_PASSWORD"), getenv("POOL_SPEC_PG_DATABASE"), hole, getenv("POOL_SPEC_PG_PORT"));
    CHECK(world_open(&w, at, &e));
    struct db_conn *conn = D->open(w.db, &e);
    CHECK(D->step(conn, &e) == DB_WRITE);
    CHECK_INT(D->addresses_left(conn), 1);
    D->next_address(conn);
    CHECK_INT(D->addresses_left(conn), 0);
    CHECK(await(&w, conn, &e) == DB_DONE);
    CHECK_TEXT(one(&w, conn, "select 1"), "1");
    goodbye(&w, conn);
    world_close(&w);
    for (int i = 0; i < 4; i++) close(fill[i]);
    close(server);
  }
  TEST("next_address leaves a look-up that takes long") {
    struct world w = {0};
    struct pool_error e;
    char hosts[300];
    snprintf(hosts, sizeof hosts, "no-such-host.invalid,%s", getenv("POOL_SPEC_PG_DIR"));
    CHECK(world_open(&w, url_with((struct url_parts){.host = hosts}), &e));
    struct db_conn *conn = D->open(w.db, &e);
    CHECK_INT(D->addresses_left(conn), 1);
    D->next_address(conn);
    CHECK_INT(D->addresses_left(conn), 0);
    CHECK(await(&w, conn, &e) == DB_DONE);
    goodbye(&w, conn);
    world_close(&w);
  }
  TEST("next_address with nothing left is the failure, with its cause") {
    struct world w = {0};
    struct pool_error e;
    CHECK(world_open(&w, url_with((struct url_parts){.host = "no-such-host.invalid"}), &e));
    struct db_conn *conn = D->open(w.db, &e);
    D->next_address(conn);
    CHECK(D->step(conn, &e) == DB_FAILED);
    CHECK(e.kind == POOL_CONNECT && !e.permanent && strstr(e.message, "timed out") != NULL);
    D->abandon(conn);
    world_close(&w);
  }
}

static void abandon_specs(void) {
  TEST("an open into a black hole can be abandoned at any step") {
    struct world w = {0};
    struct pool_error e;
    int hole, fill[4], server = black_hole(&hole, fill);
    CHECK(world_open(&w, url_with((struct url_parts){.host = "127.0.0.1", .port = hole}), &e));
    struct db_conn *conn = D->open(w.db, &e);
    CHECK(D->step(conn, &e) == DB_WRITE);
    D->abandon(conn);
    D->abandon(D->open(w.db, &e));
    world_close(&w);
    for (int i = 0; i < 4; i++) close(fill[i]);
    close(server);
  }
  TEST("a look-up under way can be abandoned, and the pool with it") {
    struct world w = {0};
    struct pool_error e;
    CHECK(world_open(&w, url_with((struct url_parts){.host = "no-such-host.invalid"}), &e));
    for (int i = 0; i < 12; i++) {
      struct db_conn *conn = D->open(w.db, &e);
      CHECK(D->fd(conn) >= 0);
      D->abandon(conn);
    }
    world_close(&w);
  }
}

static void setup_specs(void) {
  TEST("DateStyle is ISO whatever the role's default is, also after DISCARD ALL") {
    struct world w = {.settings.reset = RESET_DISCARD};
    struct pool_error e;
    CHECK(world_open(&w, NULL, &e));
    struct db_conn *conn = must_connect(&w);
    CHECK(execute(&w, conn, "alter role current_user set DateStyle = 'German'"));
    goodbye(&w, conn);
    conn = must_connect(&w);
    CHECK_TEXT(one(&w, conn, "select date '2024-02-03'"), "2024-02-03");
    CHECK(D->needs_reset(conn) && await_reset(&w, conn, &e));
    CHECK_TEXT(one(&w, conn, "select date '2024-02-03'"), "2024-02-03");
    CHECK(execute(&w, conn, "alter role current_user reset DateStyle"));
    goodbye(&w, conn);
    world_close(&w);
  }
  TEST("an application_name in the URL is kept") {
    struct world w = {0};
    struct pool_error e;
    CHECK(world_open(&w, url_with((struct url_parts){.options = "&application_name=mine"}), &e));
    struct db_conn *conn = must_connect(&w);
    CHECK_TEXT(one(&w, conn, "show application_name"), "mine");
    goodbye(&w, conn);
    world_close(&w);
  }
}

void open_specs(void) {
  TEST("a connection opens over the socket") { opens(NULL); }
  TEST("a connection opens over TCP by address") { opens(url_with((struct url_parts){.host = "127.0.0.1"})); }
  TEST("a connection opens over TCP by name, looked up off the loop") { opens(url_with((struct url_parts){.host = "localhost"})); }
  refusal_specs();
  url_specs();
  several_hosts_specs();
  next_address_specs();
  abandon_specs();
  setup_specs();
}
