/*
** postgres_open: from nothing to a connection fit for a statement.
**
**   PHASE_NAMES    a host's name is with a worker thread           -> names_step
**   PHASE_CONNECT  PQconnectPoll, one address, no name to look up  -> connect_step
**   PHASE_SETUP    our own first statement, when one is needed     -> setup_step
**
** 1. libpq is only ever given an address (or a socket's directory), so that it never looks a name up on the loop.
** 2. Every address of every host, in order, is an attempt of its own; open_advance begins the next one. Where it stands is
**    pass, host, address. prefer-standby goes round twice: standbys, then any.
** 3. An SQLSTATE ends the search, as it does in libpq: the server was reached and refuses; all but 57P03 (starting up) and
**    53300 (full), which say something of that server only.
** 4. The failure reported is the last one with an SQLSTATE, else the last; permanent only if no failure may pass.
**
** A pooler is recognised by the process: PgBouncer invents one that pg_backend_pid() does not confirm. That is asked on a pool's
** first connection, and again wherever the number is none that Linux gives to a process.
*/
#include "postgres.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PID_MOST = 1 << 22, OPTIONS_MOST = 128 };

/* ---- names ---- */

static void names_run(struct worker_job *job) {
  struct name_job *names = CONTAINER(job, struct name_job, job);
  struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *list = NULL;
  names->failed = getaddrinfo(names->name, NULL, &hints, &list);
  if (names->failed) return;
  for (struct addrinfo *at = list; at && names->found.count < ADDRESSES; at = at->ai_next) {
    char *text = names->found.text[names->found.count];
    if (getnameinfo(at->ai_addr, at->ai_addrlen, text, NI_MAXHOST, NULL, 0, NI_NUMERICHOST) == 0) names->found.count++;
  }
  freeaddrinfo(list);
}

static void names_free(struct worker_job *job) { free(CONTAINER(job, struct name_job, job)); }

static bool names_begin(struct db_conn *conn, const char *name) {
  struct name_job *names = calloc(1, sizeof *names + strlen(name) + 1);
  if (!names) return false;
  memcpy(names->name, name, strlen(name) + 1);
  if (!worker_submit(conn->db->names, &names->job, names_run, names_free)) {
    free(names);
    return false;
  }
  conn->names = names;
  conn->phase = PHASE_NAMES;
  return true;
}

static void names_leave(struct db_conn *conn) {
  if (conn->names) worker_leave(&conn->names->job);
  conn->names = NULL;
}

/* ---- attempts ---- */

static void attempt_failed(struct db_conn *conn, const struct pool_error *why) {
  if (!why->permanent) conn->hopeful = true;
  if (!why->sqlstate[0] && conn->cause.sqlstate[0]) return;
  conn->cause = *why;
  error_mask(conn, &conn->cause); /* now: the next attempt may have another password */
}

/* Must it be looked up? Addresses and sockets need not. */
static bool host_is_name(const struct pg_host *host) {
  unsigned char address[sizeof(struct in6_addr)];
  if (host->address || !host->name || host->name[0] == '/' || host->name[0] == '@') return false;
  return inet_pton(AF_INET, host->name, address) != 1 && inet_pton(AF_INET6, host->name, address) != 1;
}

static const char *target_name(const struct db_conn *conn) {
  static const char *const names[] = {"any", "read-write", "read-only", "primary", "standby"};
  enum target target = conn->db->where.target;
  if (target == TARGET_PREFER_STANDBY) target = conn->pass == 0 ? TARGET_STANDBY : TARGET_ANY;
  return names[target];
}

/* Begins one address of a host; address NULL: the host's own, or a socket. false: the failure is noted. */
static bool attempt_begin(struct db_conn *conn, const struct pg_host *host, const char *address) {
  const struct pg_conninfo *where = &conn->db->where;
  const char *keywords[OPTIONS_MOST], *values[OPTIONS_MOST];
  int n = 0;
  INSIST(where->count + 6 <= OPTIONS_MOST);
  for (; n < where->count; n++) keywords[n] = where->keywords[n], values[n] = where->values[n];
  const char *own[][2] = {{"host", host->name}, {"hostaddr", address ? address : host->address}, {"port", host->port},
                          {"password", host->password}, {"target_session_attrs", target_name(conn)}};
  for (int i = 0; i < 5; i++)
    if (own[i][1]) keywords[n] = own[i][0], values[n++] = own[i][1];
  keywords[n] = values[n] = NULL;
  conn->fatal = false;
  conn->ran_dry = true; /* whatever was under way went with the address before */
  conn->pg = PQconnectStartParams(keywords, values, 0);
  struct pool_error error;
  if (!conn->pg) {
    error_set(&error, POOL_CONNECT, "out of memory while connecting");
  } else if (PQstatus(conn->pg) == CONNECTION_BAD) {
    error_of_open(PQerrorMessage(conn->pg), &error);
  } else {
    PQsetErrorVerbosity(conn->pg, PQERRORS_VERBOSE);
    PQsetNoticeReceiver(conn->pg, error_notice, conn);
    conn->phase = PHASE_CONNECT;
    conn->begun = true;
    return true;
  }
  attempt_failed(conn, &error);
  PQfinish(conn->pg); /* the next address gets its own; NULL is harmless */
  conn->pg = NULL;
  return false;
}

static void host_leave(struct db_conn *conn) {
  free(conn->addresses);
  conn->addresses = NULL;
  conn->address = 0;
  conn->host++;
}

static bool host_begin(struct db_conn *conn, const struct pg_host *host) {
  if (!host_is_name(host)) {
    conn->host++;
    return attempt_begin(conn, host, NULL);
  }
  if (conn->addresses) {
    if (conn->address < conn->addresses->count) return attempt_begin(conn, host, conn->addresses->text[conn->address++]);
    host_leave(conn);
    return false;
  }
  if (names_begin(conn, host->name)) return true;
  struct pool_error error;
  error_set(&error, POOL_CONNECT, "no thread to look up the host name \"%s\"", host->name);
  attempt_failed(conn, &error);
  host_leave(conn);
  return false;
}

static void attempt_leave(struct db_conn *conn) {
  names_leave(conn);
  if (conn->pg) PQfinish(conn->pg);
  conn->pg = NULL;
  conn->phase = PHASE_NONE;
}

/* Begins the next attempt; false: there is none left. */
static bool open_advance(struct db_conn *conn) {
  const struct pg_conninfo *where = &conn->db->where;
  attempt_leave(conn);
  for (;;) {
    if (conn->host >= where->nhosts) {
      if (where->target != TARGET_PREFER_STANDBY || conn->pass > 0) return false;
      conn->pass++;
      conn->host = 0;
    }
    if (host_begin(conn, &where->hosts[conn->host])) return true;
  }
}

static enum db_want open_failed(struct db_conn *conn, struct pool_error *error) {
  attempt_leave(conn);
  conn->dead = true;
  conn->op = OP_NONE;
  *error = conn->cause;
  if (error->kind != POOL_CONNECT) error_set(error, POOL_CONNECT, "no address to connect to");
  if (conn->hopeful && !error->sqlstate[0]) error->permanent = false;
  return DB_FAILED;
}

static bool state_ends_search(const char *state) {
  return state[0] && strcmp(state, "57P03") != 0 && strcmp(state, "53300") != 0;
}

static enum db_want attempt_next(struct db_conn *conn, const struct pool_error *why, struct pool_error *error) {
  attempt_failed(conn, why);
  if (state_ends_search(why->sqlstate) || !open_advance(conn)) return open_failed(conn, error);
  return open_step(conn, error);
}

/* ---- steps ---- */

static enum db_want names_step(struct db_conn *conn, struct pool_error *error) {
  struct name_job *names = conn->names;
  if (!worker_done(&names->job)) return DB_READ;
  if (!names->failed && names->found.count > 0) {
    conn->addresses = malloc(sizeof *conn->addresses);
    if (conn->addresses) *conn->addresses = names->found;
  }
  if (conn->addresses) return open_advance(conn) ? open_step(conn, error) : open_failed(conn, error);
  struct pool_error why;
  error_set(&why, POOL_CONNECT, "could not translate host name \"%s\" to an address: %s", names->name,
            names->failed ? gai_strerror(names->failed) : "it has none");
  host_leave(conn);
  return attempt_next(conn, &why, error);
}

static bool datestyle_is_iso(const struct db_conn *conn) {
  const char *style = PQparameterStatus(conn->pg, "DateStyle");
  return style && strncmp(style, "ISO", 3) == 0;
}

static bool pooler_is_open(const struct db_conn *conn) { /* a question */
  int pid = PQbackendPID(conn->pg);
  return conn->db->pooler == POOLER_AUTO && (!conn->db->direct || pid <= 0 || pid > PID_MOST);
}

static void pooler_found(struct db_conn *conn) {
  conn->pooled = true;
  if (conn->db->pooler_told) return;
  conn->db->pooler_told = true;
  postgres_log(conn->db, "warn",
               "the server is behind a pooler: no prepared statements are kept (if it pools whole sessions, set pooler = none)");
}

/* Anything but one row of one column is no answer; a cell that is not there, libpq gives as NULL. */
static void pooler_judge(struct db_conn *conn) {
  const PGresult *last = conn->last;
  if (!last || PQresultStatus(last) != PGRES_TUPLES_OK || PQntuples(last) != 1 || PQnfields(last) != 1) return;
  if (strtol(PQgetvalue(last, 0, 0), NULL, 10) == PQbackendPID(conn->pg)) conn->db->direct = true;
  else pooler_found(conn);
}

static enum db_want attempt_lost(struct db_conn *conn, struct pool_error why, struct pool_error *error) {
  if (postgres_dead(conn)) error_of_loss(conn, &why);
  why.kind = POOL_CONNECT;
  conn->dead = false; /* the next attempt is another */
  query_forget(conn);
  return attempt_next(conn, &why, error);
}

static enum db_want open_done(struct db_conn *conn, struct pool_error *error) {
  query_look_beyond(conn);
  if (postgres_dead(conn)) return attempt_lost(conn, conn->error, error);
  if (conn->db->pooler == POOLER_TRANSACTION) conn->pooled = true;
  free(conn->addresses);
  conn->addresses = NULL;
  conn->op = OP_NONE;
  conn->phase = PHASE_NONE;
  return DB_DONE;
}

static enum db_want setup_step(struct db_conn *conn, struct pool_error *error) {
  enum db_want want = query_receive(conn);
  if (want != DB_DONE && want != DB_FAILED) return want;
  if (want == DB_DONE && !conn->failed) {
    pooler_judge(conn);
    query_forget(conn);
    return open_done(conn, error);
  }
  return attempt_lost(conn, conn->error, error);
}

static enum db_want setup_begin(struct db_conn *conn, struct pool_error *error) {
  PQsetErrorVerbosity(conn->pg, PQERRORS_DEFAULT);
  bool plain = PQsetnonblocking(conn->pg, 1) == 0;
  const char *sql = datestyle_is_iso(conn) ? (pooler_is_open(conn) ? "SELECT pg_backend_pid()" : NULL)
                    : pooler_is_open(conn) ? "SET DateStyle TO ISO; SELECT pg_backend_pid()" : "SET DateStyle TO ISO";
  if (plain && !sql) return open_done(conn, error);
  conn->phase = PHASE_SETUP;
  if (plain && query_begin(conn, sql)) return setup_step(conn, error);
  struct pool_error why;
  error_of_open(PQerrorMessage(conn->pg), &why);
  return attempt_next(conn, &why, error);
}

static enum db_want connect_step(struct db_conn *conn, struct pool_error *error) {
  if (conn->begun) { /* PQconnectPoll may not be called before the socket is writable */
    conn->begun = false;
    return DB_WRITE;
  }
  switch (PQconnectPoll(conn->pg)) {
    case PGRES_POLLING_READING: return DB_READ;
    case PGRES_POLLING_WRITING: return DB_WRITE;
    case PGRES_POLLING_OK: return setup_begin(conn, error);
    default: break;
  }
  struct pool_error why;
  error_of_open(PQerrorMessage(conn->pg), &why);
  return attempt_next(conn, &why, error);
}

enum db_want open_step(struct db_conn *conn, struct pool_error *error) {
  switch (conn->phase) {
    case PHASE_NAMES: return names_step(conn, error);
    case PHASE_CONNECT: return connect_step(conn, error);
    case PHASE_SETUP: return setup_step(conn, error);
    case PHASE_NONE: return open_failed(conn, error); /* open() or next_address() found nothing left to try */
    default: WRONG("an opening connection in no phase of opening");
  }
}

/* ---- for the driver's table ---- */

struct db_conn *postgres_open(struct db *db, struct pool_error *error) {
  struct db_conn *conn = calloc(1, sizeof *conn);
  if (!conn) {
    error_set(error, POOL_CONNECT, "out of memory for a connection");
    return NULL;
  }
  conn->db = db;
  conn->op = OP_OPEN;
  conn->ran_dry = true;
  conn->farewell = -1;
  cache_init(&conn->cache, db->statement_cache);
  db->connections++;
  open_advance(conn); /* failing, it leaves PHASE_NONE, and step says why */
  return conn;
}

void open_free(struct db_conn *conn) {
  names_leave(conn);
  free(conn->addresses);
  conn->addresses = NULL;
}

int open_fd(const struct db_conn *conn) {
  if (conn->names) return conn->names->job.fd;
  return conn->pg ? PQsocket(conn->pg) : -1;
}

void postgres_next_address(struct db_conn *conn) {
  if (conn->op != OP_OPEN) return;
  struct pool_error why;
  if (conn->names) {
    error_set(&why, POOL_CONNECT, "the look-up of host name \"%s\" timed out", conn->names->name);
    names_leave(conn);
    host_leave(conn);
  } else {
    const char *host = conn->pg ? PQhost(conn->pg) : NULL, *port = conn->pg ? PQport(conn->pg) : NULL;
    error_set(&why, POOL_CONNECT, "connection to server at \"%s\", port %s timed out", host ? host : "?", port ? port : "?");
  }
  attempt_failed(conn, &why);
  query_forget(conn);
  open_advance(conn);
}

int postgres_addresses_left(const struct db_conn *conn) {
  const struct pg_conninfo *where = &conn->db->where;
  if (conn->op != OP_OPEN) return 0;
  int left = where->nhosts - conn->host;
  if (conn->names) left--; /* its look-up is the attempt under way */
  if (conn->addresses) left += conn->addresses->count - conn->address - 1;
  if (where->target == TARGET_PREFER_STANDBY && conn->pass == 0) left += where->nhosts;
  return left;
}
