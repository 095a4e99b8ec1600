/*
** url: database URLs, read for the drivers and made fit for a log.
**
** A URL comes from outside and holds a password, so there are two readings of it, and they differ on purpose:
** - For a driver (url_for_libpq, url_sqlite_path) it must be clear: where a password's own @ : / ? make it doubtful which part
**   is which, the URL is refused, saying what to write instead, never showing it. A clear one is passed on with the user and
**   password percent-encoded anew, since libpq stops at the first @ and refuses a lone %.
** - For a log (url_redact) nothing is refused: what is surely harmless is shown, everything else is ***. Only parameters known to
**   be harmless show their values; the user, hosts and path only when made of harmless characters.
** Every walk is a single pass; nothing is read past the text's NUL or a span's end.
**
** What it does not do: look names up, know which parameters libpq takes, or fill in defaults.
*/
#include "url.h"

#include <string.h>
#include <strings.h>

#define SCHEME_MAX 32
#define HIDDEN "***"

/* A piece of a text that somebody else owns; no NUL at its end. */
struct span {
  const char *at;
  size_t len;
};

static struct span span_of(const char *text) { return (struct span){text, strlen(text)}; }

/* The piece up to the first of `stops`, which it and what it has passed are cut from `rest`. */
static struct span span_until(struct span *rest, char stop) {
  const char *end = memchr(rest->at, stop, rest->len);
  struct span piece = {rest->at, end ? (size_t)(end - rest->at) : rest->len};
  size_t passed = piece.len + (end != NULL);
  rest->at += passed;
  rest->len -= passed;
  return piece;
}

static bool span_has(struct span s, const char *set) {
  for (size_t i = 0; i < s.len; i++)
    if (s.at[i] != '\0' && strchr(set, s.at[i]) != NULL) return true;
  return false;
}

static bool letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
static bool digit(char c) { return c >= '0' && c <= '9'; }

/* Whether it is made of letters, digits and the characters of `more` only. */
static bool span_only(struct span s, const char *more) {
  for (size_t i = 0; i < s.len; i++)
    if (!letter(s.at[i]) && !digit(s.at[i]) && (s.at[i] == '\0' || strchr(more, s.at[i]) == NULL)) return false;
  return true;
}

static bool span_equal(struct span s, const char *text) { return s.len == strlen(text) && memcmp(s.at, text, s.len) == 0; }

/* ---- writing into the caller's buffer ---- */

struct out {
  char *buffer;
  size_t size, used;
  bool full; /* something did not fit */
};

static struct out out_into(char *buffer, size_t size) {
  INSIST(size > 0);
  buffer[0] = '\0';
  return (struct out){buffer, size, 0, false};
}

static void out_char(struct out *o, char c) {
  if (o->used + 1 >= o->size) {
    o->full = true;
    return;
  }
  o->buffer[o->used++] = c;
  o->buffer[o->used] = '\0';
}

static void out_span(struct out *o, struct span s) {
  for (size_t i = 0; i < s.len; i++) out_char(o, s.at[i]);
}

static void out_text(struct out *o, const char *text) { out_span(o, span_of(text)); }

static int hex_value(char c) { return digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; }

/* The byte that %XX at `i` stands for, -1 when there is no such thing there. */
static int percent_at(struct span s, size_t i) {
  if (s.at[i] != '%' || s.len - i < 3 || hex_value(s.at[i + 1]) < 0 || hex_value(s.at[i + 2]) < 0) return -1;
  return hex_value(s.at[i + 1]) * 16 + hex_value(s.at[i + 2]);
}

/* Decoded; a % that begins no %XX stands for itself, as SQLAlchemy reads it. false: it holds %00. */
static bool out_decoded(struct out *o, struct span s) {
  for (size_t i = 0; i < s.len; i++) {
    int byte = percent_at(s, i);
    if (byte == 0) return false;
    out_char(o, byte > 0 ? (char)byte : s.at[i]);
    i += byte > 0 ? 2 : 0;
  }
  return true;
}

/* Encoded but for letters, digits, `keep` and what is encoded already. false: it holds %00. */
static bool out_encoded(struct out *o, struct span s, const char *keep) {
  for (size_t i = 0; i < s.len; i++) {
    struct span one = {s.at + i, 1};
    int byte = percent_at(s, i);
    if (byte == 0) return false;
    if (byte > 0 || span_only(one, keep)) {
      out_span(o, one);
    } else {
      out_char(o, '%');
      out_char(o, "0123456789ABCDEF"[(unsigned char)s.at[i] >> 4]);
      out_char(o, "0123456789ABCDEF"[(unsigned char)s.at[i] & 15]);
    }
  }
  return true;
}

/* ---- scheme ---- */

/* Splits name[+driver]://rest. false: it does not begin like a URL. */
static bool scheme_split(const char *url, struct span *name, struct span *rest) {
  const char *colon = memchr(url, ':', strnlen(url, SCHEME_MAX + 1));
  struct span whole = {url, colon ? (size_t)(colon - url) : 0}, driver = whole;
  if (colon == NULL || strncmp(colon, "://", 3) != 0 || !letter(url[0])) return false;
  *name = span_until(&driver, '+');
  if (!span_only(*name, "-.") || !span_only(driver, "-._") || whole.at[whole.len - 1] == '+') return false;
  *rest = span_of(colon + 3);
  return true;
}

static bool scheme_is(struct span name, const char *scheme) {
  return name.len == strlen(scheme) && strncasecmp(name.at, scheme, name.len) == 0;
}

enum url_scheme url_scheme(const char *url) {
  struct span name, rest;
  if (!scheme_split(url, &name, &rest)) return URL_UNKNOWN;
  if (scheme_is(name, "postgresql") || scheme_is(name, "postgres")) return URL_POSTGRES;
  return scheme_is(name, "sqlite") ? URL_SQLITE : URL_UNKNOWN;
}

const char *url_scheme_name(const char *url, char *buffer, size_t size) {
  struct span name, rest;
  struct out o = out_into(buffer, size);
  if (scheme_split(url, &name, &rest)) out_span(&o, name);
  return buffer;
}

/* ---- hosts ---- */

/* host, host:port, [IPv6] or [IPv6]:port; the port at most five digits, which a password that got here seldom is. */
static bool host_plain(struct span host) {
  struct span rest = host;
  if (host.len > 0 && host.at[0] == '[') {
    struct span inside = span_until(&rest, ']');
    inside.at++;
    inside.len--;
    if (rest.at[-1] != ']' || inside.len == 0 || !span_only(inside, ":.%") || (rest.len > 0 && rest.at[0] != ':')) return false;
    rest.at += rest.len > 0;
    rest.len -= rest.len > 0;
  } else if (!span_only(span_until(&rest, ':'), "._%-")) {
    return false;
  }
  for (size_t i = 0; i < rest.len; i++)
    if (!digit(rest.at[i])) return false;
  return rest.len <= 5;
}

static bool hosts_plain(struct span hosts) {
  while (hosts.len > 0)
    if (!host_plain(span_until(&hosts, ','))) return false;
  return true;
}

/* ---- for a log ---- */

/* Parameters whose values may be seen, of URLs and of "name=value ..." strings. */
static bool parameter_harmless(struct span name) {
  static const char *const harmless[] = {"host",
                                         "hostaddr",
                                         "port",
                                         "dbname",
                                         "user",
                                         "mode",
                                         "sslmode",
                                         "sslrootcert",
                                         "sslcert",
                                         "sslcrl",
                                         "ssl_min_protocol_version",
                                         "ssl_max_protocol_version",
                                         "sslsni",
                                         "ssl",
                                         "gssencmode",
                                         "channel_binding",
                                         "connect_timeout",
                                         "target_session_attrs",
                                         "application_name",
                                         "fallback_application_name",
                                         "client_encoding",
                                         "keepalives",
                                         "keepalives_idle",
                                         "keepalives_interval",
                                         "keepalives_count",
                                         "tcp_user_timeout",
                                         "load_balance_hosts",
                                         "requirepeer",
                                         "krbsrvname",
                                         "replication"};
  for (size_t i = 0; i < sizeof harmless / sizeof harmless[0]; i++)
    if (span_equal(name, harmless[i])) return true;
  return false;
}

/* A value that cannot be another URL or hold a second parameter. */
static bool value_plain(struct span value) {
  for (size_t i = 0; i + 1 < value.len; i++)
    if (value.at[i] == '/' && value.at[i + 1] == '/') return false;
  return span_only(value, "._,:/%+-[]");
}

static void redact_parameter(struct out *o, struct span name, struct span value) {
  if (span_only(name, "_") && name.len <= SCHEME_MAX)
    out_span(o, name);
  else
    out_text(o, HIDDEN);
  out_char(o, '=');
  if (parameter_harmless(name) && value_plain(value))
    out_span(o, value);
  else
    out_text(o, HIDDEN);
}

static void redact_query(struct out *o, struct span query) {
  char between = '?';
  while (query.len > 0) {
    struct span value = span_until(&query, '&');
    struct span whole = value, name = span_until(&value, '=');
    out_char(o, between);
    between = '&';
    if (name.len == whole.len)
      out_text(o, whole.len > 0 ? HIDDEN : "");
    else
      redact_parameter(o, name, value);
  }
}

/* [user[:password]@]hosts[/path][?query] of whatever scheme. The last @ ends the password, wherever it stands. */
static void redact_rest(struct out *o, struct span rest) {
  const char *at = memrchr(rest.at, '@', rest.len), *query = memchr(rest.at, '?', rest.len);
  struct span path, hosts;
  if (at != NULL && query != NULL && at > query) { /* a password with ? in it, or a parameter with @: hide both */
    out_text(o, HIDDEN);
    return;
  }
  if (at != NULL) {
    struct span password = {rest.at, (size_t)(at - rest.at)}, whole = password, user = span_until(&password, ':');
    rest.at = at + 1;
    rest.len -= whole.len + 1;
    if (span_only(user, "._%+-") && memmem(user.at, user.len, "%3", 2) == NULL) /* %3A: the colon too is encoded */
      out_span(o, user);
    else
      out_text(o, HIDDEN);
    out_text(o, user.len < whole.len ? ":" HIDDEN "@" : "@");
  }
  path = span_until(&rest, '?');
  hosts = (struct span){path.at, 0};
  while (hosts.len < path.len && path.at[hosts.len] != '/') hosts.len++;
  path.at += hosts.len;
  path.len -= hosts.len;
  if (!hosts_plain(hosts)) { /* perhaps a password whose @host is missing */
    out_text(o, HIDDEN);
    return;
  }
  out_span(o, hosts);
  if (span_only(path, "/._%+-~ "))
    out_span(o, path);
  else
    out_text(o, "/" HIDDEN);
  redact_query(o, rest);
}

static bool blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static void span_skip_blanks(struct span *s) {
  while (s->len > 0 && blank(s->at[0])) s->at++, s->len--;
}

/* The next value of a "name=value ..." string: bare up to a blank, or quoted. false: not well-formed. */
static bool conninfo_value(struct span *rest, struct span *value) {
  bool quoted = rest->len > 0 && rest->at[0] == '\'';
  size_t i = quoted;
  for (; i < rest->len && (quoted ? rest->at[i] != '\'' : !blank(rest->at[i])); i++) i += rest->at[i] == '\\';
  if (i > rest->len || (quoted && i == rest->len)) return false;
  *value = (struct span){rest->at + quoted, i - quoted};
  i += quoted;
  rest->at += i;
  rest->len -= i;
  return rest->len == 0 || blank(rest->at[0]);
}

/* "host=... password=...", as libpq takes it too. false: it is no such thing, and what was written must go. */
static bool redact_conninfo(struct out *o, struct span rest) {
  const char *between = "";
  for (span_skip_blanks(&rest); rest.len > 0; span_skip_blanks(&rest)) {
    struct span value, name = {rest.at, 0};
    while (name.len < rest.len && span_only((struct span){rest.at + name.len, 1}, "_")) name.len++;
    rest.at += name.len;
    rest.len -= name.len;
    span_skip_blanks(&rest);
    if (name.len == 0 || rest.len == 0 || rest.at[0] != '=') return false;
    rest.at++;
    rest.len--;
    span_skip_blanks(&rest);
    if (!conninfo_value(&rest, &value)) return false;
    out_text(o, between);
    between = " ";
    redact_parameter(o, name, value);
  }
  return true;
}

const char *url_redact(const char *url, char *buffer, size_t size) {
  struct out o = out_into(buffer, size);
  struct span name, rest;
  if (!scheme_split(url, &name, &rest)) {
    if (!redact_conninfo(&o, span_of(url))) {
      o = out_into(buffer, size);
      out_text(&o, HIDDEN);
    }
    return buffer;
  }
  out_span(&o, (struct span){url, (size_t)(rest.at - url)});
  if (scheme_is(name, "sqlite") && (rest.len == 0 || rest.at[0] == '/')) {
    struct span path = span_until(&rest, '?');
    for (size_t i = 0; i < path.len; i++) out_char(&o, (unsigned char)path.at[i] < ' ' || path.at[i] == 0x7f ? '?' : path.at[i]);
    redact_query(&o, rest);
  } else {
    redact_rest(&o, rest);
  }
  return buffer;
}

/* ---- for SQLite ---- */

static bool url_refuse(struct pool_error *error, const char *why) {
  error_set(error, POOL_SETTINGS, "database_url: %s", why);
  if (error != NULL) error->permanent = true;
  return false;
}

static bool sqlite_query(struct span query, bool *read_only, struct pool_error *error) {
  *read_only = false;
  while (query.len > 0) {
    struct span parameter = span_until(&query, '&');
    if (span_equal(parameter, "mode=ro"))
      *read_only = true;
    else if (parameter.len > 0)
      return url_refuse(error, "the only parameter of a SQLite URL is mode=ro (a ? in a file's name is written %3F)");
  }
  return true;
}

bool url_sqlite_path(const char *url, char *buffer, size_t size, bool *read_only, struct pool_error *error) {
  struct out o = out_into(buffer, size);
  struct span name, rest, path;
  if (!scheme_split(url, &name, &rest) || !scheme_is(name, "sqlite"))
    return url_refuse(error, "not a SQLite URL: sqlite:///relative.db, sqlite:////absolute.db or sqlite:///:memory:");
  path = span_until(&rest, '?');
  if (!sqlite_query(rest, read_only, error)) return false;
  if (path.len > 0 && path.at[0] != '/')
    return url_refuse(error, "a SQLite URL names no host: sqlite:///relative.db (three slashes) or sqlite:////absolute.db (four)");
  if (path.len <= 1) {
    text_copy(buffer, size, ":memory:");
    return true;
  }
  if (!out_decoded(&o, (struct span){path.at + 1, path.len - 1})) return url_refuse(error, "a file's name cannot hold %00");
  return o.full ? url_refuse(error, "the path of the SQLite file is too long") : true;
}

/* ---- for libpq ---- */

struct parts {
  struct span user, password, hosts, path, query; /* path with its slash; query without its question mark */
  bool has_user, has_password, has_query;
};

/* Every parameter is name=value with both parts free of a second =. */
static bool query_clear(struct span query) {
  while (query.len > 0) {
    struct span value = span_until(&query, '&'), whole = value, name = span_until(&value, '=');
    if (name.len == 0 || name.len == whole.len || span_has(value, "=")) return false;
  }
  return true;
}

static bool parts_check(const struct parts *p, bool later_at, struct pool_error *error) {
  if (!hosts_plain(p->hosts))
    return url_refuse(error, later_at ? "in a password, / is written %2F, ? %3F and @ %40"
                                      : "what follows // must be [user[:password]@]host[:port], several with commas");
  if (span_has(p->path, "@")) return url_refuse(error, "in a password, / is written %2F and @ %40; in a database's name too");
  if (p->has_query && !query_clear(p->query))
    return url_refuse(error, "what follows ? must be name=value, several with & (in a password, ? is written %3F)");
  return true;
}

static bool parts_split(struct span rest, struct parts *p, struct pool_error *error) {
  struct span before, authority;
  const char *at;
  bool later_at;
  memset(p, 0, sizeof *p);
  p->query = rest;
  before = span_until(&p->query, '?');
  p->has_query = before.len < rest.len;
  authority = before;
  at = memchr(before.at, '/', before.len);
  if (at != NULL) authority.len = (size_t)(at - before.at);
  p->path = (struct span){before.at + authority.len, before.len - authority.len};
  later_at = memrchr(rest.at, '@', rest.len) != NULL;
  at = memrchr(authority.at, '@', authority.len);
  p->hosts = authority;
  if (at != NULL) {
    p->password = (struct span){authority.at, (size_t)(at - authority.at)};
    p->user = span_until(&p->password, ':');
    p->has_user = true;
    p->has_password = p->user.at + p->user.len < at;
    p->hosts = (struct span){at + 1, authority.len - (size_t)(at - authority.at) - 1};
  }
  return parts_check(p, later_at, error);
}

bool url_for_libpq(const char *url, char *buffer, size_t size, struct pool_error *error) {
  struct out o = out_into(buffer, size);
  struct span name, rest;
  struct parts p;
  bool fine;
  if (url_scheme(url) != URL_POSTGRES || !scheme_split(url, &name, &rest))
    return url_refuse(error, "not a PostgreSQL URL: postgresql://user:password@host:port/database");
  if (!parts_split(rest, &p, error)) return false;
  out_text(&o, "postgresql://");
  fine = out_encoded(&o, p.user, "-._~");
  if (p.has_password) {
    out_char(&o, ':');
    fine = fine && out_encoded(&o, p.password, "-._~");
  }
  out_text(&o, p.has_user ? "@" : "");
  fine = fine && out_encoded(&o, p.hosts, "-._~[]:,") && out_encoded(&o, p.path, "-._~/+:,!$'()*;");
  out_text(&o, p.has_query ? "?" : "");
  fine = fine && out_encoded(&o, p.query, "-._~/+:,=&@!$'()*;");
  if (!fine) return url_refuse(error, "a URL cannot hold %00");
  return o.full ? url_refuse(error, "too long") : true;
}

bool url_connect_timeout(const char *url, char *buffer, size_t size) {
  struct out o = out_into(buffer, size);
  struct span name, rest;
  bool found = false;
  if (url_scheme(url) != URL_POSTGRES || !scheme_split(url, &name, &rest)) return false;
  span_until(&rest, '?');
  while (rest.len > 0) {
    struct span value = span_until(&rest, '&');
    if (!span_equal(span_until(&value, '='), "connect_timeout")) continue;
    o = out_into(buffer, size);
    found = out_decoded(&o, value);
  }
  return found;
}
