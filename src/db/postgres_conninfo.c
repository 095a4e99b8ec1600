/*
** postgres_conninfo: where the database is. Read once a pool: the URL, the environment, the service file, the password file.
**
** libpq knows how to read all four, but only while it begins to connect. So a connection is begun for each host with a
** target_session_attrs that no libpq knows: libpq then fills in every option, checks them, looks the host's password up, and
** refuses before it would look up a name or open a socket. What it filled in is kept and given to each attempt to open.
** libpq's own complaints may quote a password: they are only looked at, never passed on.
*/
#include "postgres.h"
#include "url.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REFUSED "pool-reads-options" /* the target_session_attrs that no libpq knows */

static bool refuse(struct pool_error *error, const char *url, const char *why) {
  char redacted[512];
  error_set(error, POOL_SETTINGS, "database_url \"%s\": %s", url_redact(url, redacted, sizeof redacted), why);
  error->permanent = true;
  return false;
}

static bool refuse_memory(struct pool_error *error) {
  error_set(error, POOL_SETTINGS, "out of memory while reading database_url");
  return false;
}

static const char *option_value(const PQconninfoOption *options, const char *keyword) {
  for (; options->keyword; options++)
    if (strcmp(options->keyword, keyword) == 0) return options->val && options->val[0] ? options->val : NULL;
  return NULL;
}

/* What an attempt sets itself; a service was read already. */
static bool keyword_is_ours(const char *keyword) {
  static const char *const ours[] = {"host", "hostaddr", "port", "password", "service", "connect_timeout", "target_session_attrs",
                                     "client_encoding", "fallback_application_name", "load_balance_hosts", NULL};
  for (const char *const *at = ours; *at; at++)
    if (strcmp(*at, keyword) == 0) return true;
  return false;
}

static bool keep(struct pg_conninfo *where, const char *keyword, const char *value) {
  where->keywords[where->count] = strdup(keyword);
  where->values[where->count] = strdup(value);
  return where->keywords[where->count] && where->values[where->count++];
}

static bool keep_options(struct pg_conninfo *where, const PQconninfoOption *options) {
  int count = 0;
  while (options[count].keyword) count++;
  where->keywords = calloc((size_t)count + 4, sizeof *where->keywords);
  where->values = calloc((size_t)count + 4, sizeof *where->values);
  if (!where->keywords || !where->values) return false;
  for (; options->keyword; options++)
    if (options->val && options->val[0] && !keyword_is_ours(options->keyword) && !keep(where, options->keyword, options->val)) return false;
  return keep(where, "client_encoding", "UTF8") && keep(where, "fallback_application_name", "pool");
}

static bool keep_target(struct pg_conninfo *where, const char *text) {
  static const char *const names[] = {"any", "read-write", "read-only", "primary", "standby", "prefer-standby"};
  for (int i = 0; i < 6; i++)
    if (!text || strcmp(text, names[i]) == 0) {
      where->target = (enum target)i;
      return true;
    }
  return false;
}

/* ---- hosts ---- */

static int list_count(const char *list) {
  int count = 1;
  if (!list) return 0;
  for (; *list; list++) count += *list == ',';
  return count;
}

/* The i-th of "a,b,c"; the only one for every i. false: memory. *out is NULL when it is empty. */
static bool list_item(const char *list, int i, char **out) {
  *out = NULL;
  if (!list) return true;
  if (list_count(list) > 1)
    for (; i > 0; i--) list = strchr(list, ',') + 1;
  size_t len = strcspn(list, ",");
  if (len == 0) return true;
  *out = strndup(list, len);
  return *out != NULL;
}

static const char *keep_hosts(struct pg_conninfo *where, const PQconninfoOption *options) {
  const char *names = option_value(options, "host"), *addresses = option_value(options, "hostaddr"), *ports = option_value(options, "port");
  int count = addresses ? list_count(addresses) : names ? list_count(names) : 1;
  if (names && addresses && list_count(names) != count) return "host and hostaddr must name equally many hosts";
  if (list_count(ports) > 1 && list_count(ports) != count) return "give one port, or one for each host";
  where->hosts = calloc((size_t)count, sizeof *where->hosts);
  if (!where->hosts) return "out of memory";
  where->nhosts = count;
  for (int i = 0; i < count; i++) {
    struct pg_host *host = &where->hosts[i];
    if (!list_item(names, i, &host->name) || !list_item(addresses, i, &host->address) || !list_item(ports, i, &host->port))
      return "out of memory";
    long port = host->port ? strtol(host->port, NULL, 10) : 5432;
    if (port < 1 || port > 65535 || (host->port && strspn(host->port, "0123456789") != strlen(host->port)))
      return "a port is a number from 1 to 65535";
  }
  return NULL;
}

/* ---- reading through libpq ---- */

/* Begins a connection that libpq refuses after it has read everything. NULL: memory. */
static PGconn *probe(const char *text, const struct pg_host *host) {
  const char *keywords[] = {"dbname", "target_session_attrs", host ? "host" : NULL, host ? "hostaddr" : NULL, host ? "port" : NULL, NULL};
  const char *values[] = {text, REFUSED, host && host->name ? host->name : "", host && host->address ? host->address : "",
                          host && host->port ? host->port : "", NULL};
  return PQconnectStartParams(keywords, values, 1);
}

/* Which option libpq did not like, without quoting libpq. NULL when it liked them all. */
static const char *probe_complaint(PGconn *pg) {
  static const struct { const char *word, *said; } known[] = {
    {"channel_binding", "channel_binding is not one that libpq knows"},
    {"sslmode", "sslmode is not one that libpq knows"},
    {"ssl_m", "the range of TLS protocols is not one that libpq knows"},
    {"SSL protocol", "the range of TLS protocols is not one that libpq knows"},
    {"gssencmode", "gssencmode is not one that libpq knows"},
    {"sslcertmode", "sslcertmode is not one that libpq knows"},
    {"sslnegotiation", "sslnegotiation is not one that libpq knows"},
    {"require_auth", "require_auth is not one that libpq knows"},
    {"service", "the service could not be read from the service file"}};
  const char *text = PQerrorMessage(pg);
  if (strstr(text, REFUSED)) return NULL;
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (strstr(text, known[i].word)) return known[i].said;
  return "libpq does not accept its options";
}

static const char *keep_passwords(struct pg_conninfo *where, const char *text) {
  for (int i = 0; i < where->nhosts; i++) {
    PGconn *pg = probe(text, &where->hosts[i]);
    const char *password = pg ? PQpass(pg) : NULL;
    bool kept = !password || !password[0] || (where->hosts[i].password = strdup(password));
    PQfinish(pg);
    if (!kept) return "out of memory";
  }
  return NULL;
}

static const char *keep_all(struct pg_conninfo *where, const char *text, PGconn *pg, const char *target) {
  PQconninfoOption *options = PQconninfo(pg);
  if (!options) return "out of memory";
  const char *why = keep_hosts(where, options);
  if (!why) why = probe_complaint(pg);
  if (!why && option_value(options, "replication")) why = "replication is not something a pool can do";
  if (!why && !keep_options(where, options)) why = "out of memory";
  if (!why && !keep_target(where, target))
    why = "target_session_attrs is one of any, read-write, read-only, primary, standby, prefer-standby";
  PQconninfoFree(options);
  return why ? why : keep_passwords(where, text);
}

/* The target_session_attrs of the URL, or of the environment: the probe hides it. false: the URL is no connection string. */
static bool read_target(const char *text, char *out, size_t size) {
  PQconninfoOption *options = PQconninfoParse(text, NULL);
  if (!options) return false;
  const char *given = option_value(options, "target_session_attrs");
  if (!given) given = getenv("PGTARGETSESSIONATTRS");
  text_copy(out, size, given);
  PQconninfoFree(options);
  return true;
}

bool conninfo_read(struct pg_conninfo *where, const char *url, struct pool_error *error) {
  char text[SETTING_TEXT_MAX + 64], target[64];
  memset(where, 0, sizeof *where);
  if (!url_for_libpq(url, text, sizeof text, error)) return false;
  if (!read_target(text, target, sizeof target))
    return refuse(error, url, "not a connection string that libpq understands (an unknown option, a bad percent code?); "
                              "expected postgresql://user:password@host:port/database");
  PGconn *pg = probe(text, NULL);
  if (!pg) return refuse_memory(error);
  const char *why = keep_all(where, text, pg, target[0] ? target : NULL);
  PQfinish(pg);
  if (!why) return true;
  conninfo_free(where);
  return refuse(error, url, why);
}

static void secret_free(char *secret) {
  if (secret) explicit_bzero(secret, strlen(secret));
  free(secret);
}

void conninfo_free(struct pg_conninfo *where) {
  for (int i = 0; where->keywords && where->values && (where->keywords[i] || where->values[i]); i++) {
    free(where->keywords[i]);
    secret_free(where->values[i]);
  }
  for (int i = 0; i < where->nhosts; i++) {
    free(where->hosts[i].name);
    free(where->hosts[i].address);
    free(where->hosts[i].port);
    secret_free(where->hosts[i].password);
  }
  free(where->keywords);
  free(where->values);
  free(where->hosts);
  memset(where, 0, sizeof *where);
}
