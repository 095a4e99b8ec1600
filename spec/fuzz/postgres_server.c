/*
** postgres_server: see postgres_server.h. Frontend/backend protocol 3, PostgreSQL's manual, chapter 55.
*/
#include "fuzz/postgres_server.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define COUNT(array) (unsigned)(sizeof(array) / sizeof((array)[0]))

/* ---- the place ---- */

void server_begin(struct server *s, struct fuzz *f, int hosts) {
  static unsigned count; /* of the process's: a name is never used again */
  struct sockaddr_un at = {.sun_family = AF_UNIX};
  *s = (struct server){.f = f, .peer = -1};
  int n = snprintf(at.sun_path + 1, sizeof at.sun_path - 1, "pool-fuzz-%d-%u/.s.PGSQL.5432", (int)getpid(), ++count);
  char host[64];
  snprintf(host, sizeof host, "%%40pool-fuzz-%d-%u", (int)getpid(), count);
  snprintf(s->url, sizeof s->url, "postgresql://user:hunter2hunter2@/db?host=%s%s%s", host, hosts > 1 ? "," : "", hosts > 1 ? host : "");
  s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
  if (s->listener < 0 || bind(s->listener, (struct sockaddr *)&at, len) != 0 || listen(s->listener, 16) != 0) abort();
}

void server_end(struct server *s) {
  server_hang_up(s);
  close(s->listener);
}

/* ---- what is said ---- */

struct out {
  char bytes[16384];
  size_t len, message; /* message: where the one under way has its length */
};

static void put(struct out *o, const void *bytes, size_t len) {
  if (len > sizeof o->bytes - o->len) len = sizeof o->bytes - o->len;
  if (len > 0) memcpy(o->bytes + o->len, bytes, len);
  o->len += len;
}

static void put_byte(struct out *o, unsigned value) { put(o, &(char){(char)value}, 1); }
static void put_16(struct out *o, unsigned value) { put(o, &(uint16_t){htons((uint16_t)value)}, 2); }
static void put_32(struct out *o, uint32_t value) { put(o, &(uint32_t){htonl(value)}, 4); }
static void put_text(struct out *o, const char *text) { put(o, text, strlen(text) + 1); }

static void begin(struct out *o, char type) {
  put_byte(o, (unsigned char)type);
  o->message = o->len;
  put_32(o, 0);
}

static void end_as(struct out *o, uint32_t length) {
  if (o->message + 4 <= o->len) memcpy(o->bytes + o->message, &(uint32_t){htonl(length)}, 4);
}

static void end(struct out *o) { end_as(o, (uint32_t)(o->len - o->message)); }

/* Text of the input's, without NUL unless it is to have some. */
static void put_taken(struct out *o, struct fuzz *f, unsigned most) {
  size_t len;
  char *text = fuzz_take(f, fuzz_below(f, most), &len);
  put(o, text, len);
  free(text);
}

/* One of a list, or now and then the input's own. */
static void put_one(struct out *o, struct fuzz *f, const char *const *list, unsigned count) {
  unsigned which = fuzz_byte(f);
  if (which < 220)
    put(o, list[which % count], strlen(list[which % count]));
  else
    put_taken(o, f, which);
}

static void simple(struct out *o, char type) { begin(o, type), end(o); }

static void ready(struct out *o, char status) { begin(o, 'Z'), put_byte(o, (unsigned char)status), end(o); }

static void parameter(struct out *o, const char *name, const char *value) { begin(o, 'S'), put_text(o, name), put_text(o, value), end(o); }

static void greeting(struct out *o) {
  begin(o, 'R'), put_32(o, 0), end(o);
  parameter(o, "server_version", "15.1");
  parameter(o, "client_encoding", "UTF8");
  parameter(o, "DateStyle", "ISO, MDY");
  begin(o, 'K'), put_32(o, 4711), put_32(o, 1), end(o);
  ready(o, 'I');
}

static void describe_one(struct out *o) {
  begin(o, 'T'), put_16(o, 1), put_text(o, "n"), put_32(o, 0), put_16(o, 0), put_32(o, 23), put_16(o, 4), put_32(o, 0xffffffff),
      put_16(o, 0), end(o);
}

static void row_one(struct out *o) { begin(o, 'D'), put_16(o, 1), put_32(o, 4), put(o, "4711", 4), end(o); }

static void complete(struct out *o, const char *tag) { begin(o, 'C'), put_text(o, tag), end(o); }

/* ---- things to say ---- */

static void say_parameter(struct server *s, struct out *o) {
  static const char *const names[] = {"DateStyle", "client_encoding", "server_version", "in_hot_standby", "default_transaction_read_only",
                                      "x"};
  static const char *const values[] = {"ISO, MDY", "German", "UTF8", "SQL_ASCII", "LATIN1", "on", "off", "15.1", "90000", ""};
  begin(o, 'S');
  put_one(o, s->f, names, COUNT(names)), put_byte(o, 0);
  put_one(o, s->f, values, COUNT(values)), put_byte(o, 0);
  end(o);
}

static void say_columns(struct server *s, struct out *o) {
  static const uint16_t oids[] = {23, 25, 17, 16, 20, 701, 1700, 114, 3802, 1007, 1009, 1001, 1082, 2950, 0};
  static const char *const names[] = {"n", "a", "b", "?column?", ""};
  s->columns = fuzz_below(s->f, 6);
  begin(o, 'T'), put_16(o, s->columns);
  for (unsigned i = 0; i < s->columns; i++) {
    put_one(o, s->f, names, COUNT(names)), put_byte(o, 0);
    put_32(o, 0), put_16(o, 0), put_32(o, oids[fuzz_below(s->f, COUNT(oids))]), put_16(o, 4), put_32(o, 0xffffffff);
    put_16(o, fuzz_byte(s->f) > 240);
  }
  end(o);
}

static void say_row(struct server *s, struct out *o) {
  static const char *const cells[] = {"1", "x", "\\x00ff", "\\xzz", "t", "1.5", "{1,2}", "{\"a\",NULL}", "{\"a\":1}", "{", ""};
  unsigned shape = fuzz_byte(s->f), count = shape > 240 ? shape - 240 : s->columns;
  begin(o, 'D'), put_16(o, count);
  for (unsigned i = 0; i < count; i++) {
    size_t at = o->len;
    put_32(o, 0xffffffff); /* NULL */
    if (fuzz_byte(s->f) < 30) continue;
    put_one(o, s->f, cells, COUNT(cells));
    uint32_t len = htonl((uint32_t)(o->len - at - 4));
    if (at + 4 <= o->len) memcpy(o->bytes + at, &len, 4);
  }
  end(o);
}

static void say_fields(struct server *s, struct out *o, char type) {
  static const char codes[] = "SVCMDHPpqWstcdnFLR";
  static const char *const states[] = {"57P01", "57P03", "53300", "28P01", "3D000", "57014", "25006",
                                       "26000", "0A000", "22P02", "42P18", "57P05", "40001"};
  static const char *const texts[] = {"ERROR",
                                      "FATAL",
                                      "PANIC",
                                      "WARNING",
                                      "canceling statement due to statement timeout",
                                      "p1",
                                      "RevalidateCachedQuery",
                                      "prepared statement \"p1\" does not exist",
                                      "12",
                                      "a\nb",
                                      "cached plan must not change result type"};
  static const char *const severities[] = {"ERROR", "FATAL", "NOTICE", "DEBUG1", "WARNING"};
  unsigned severity = fuzz_below(s->f, COUNT(severities)), state = fuzz_below(s->f, COUNT(states));
  begin(o, type);
  put_byte(o, 'V'), put_text(o, severities[severity]);
  put_byte(o, 'C'), put_text(o, states[state]);
  for (unsigned i = 0, n = fuzz_below(s->f, 5); i < n; i++) {
    put_byte(o, (unsigned char)codes[fuzz_below(s->f, sizeof codes - 1)]);
    put_one(o, s->f, texts, COUNT(texts)), put_byte(o, 0);
  }
  put_byte(o, 0);
  end(o);
}

static void say_authentication(struct server *s, struct out *o) {
  static const uint8_t kinds[] = {0, 3, 5, 7, 9, 10, 11, 12, 2, 6};
  static const char *const mechanisms[] = {"SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "X", ""};
  static const char *const challenges[] = {"r=abc,s=QUJD,i=4096", "v=AAAA", "e=other-error", "r=,s=,i=0", "salt"};
  unsigned kind = kinds[fuzz_below(s->f, COUNT(kinds))];
  begin(o, 'R'), put_32(o, kind);
  if (kind == 10)
    put_one(o, s->f, mechanisms, COUNT(mechanisms)), put_byte(o, 0), put_byte(o, 0);
  else if (kind >= 5)
    put_one(o, s->f, challenges, COUNT(challenges));
  end(o);
}

static void say_complete(struct server *s, struct out *o) {
  static const char *const tags[] = {
      "SELECT 1", "INSERT 0 2", "BEGIN", "ROLLBACK", "COMMIT", "DISCARD ALL", "CREATE TABLE", "UPDATE 99999999999999999999", "SET", ""};
  begin(o, 'C'), put_one(o, s->f, tags, COUNT(tags)), put_byte(o, 0), end(o);
}

static void say_copy(struct server *s, struct out *o, char type) {
  unsigned columns = fuzz_below(s->f, 4);
  begin(o, type), put_byte(o, fuzz_byte(s->f) & 1), put_16(o, columns);
  for (unsigned i = 0; i < columns; i++) put_16(o, 0);
  end(o);
}

/* A message of some type and any body, whose length is its own affair. */
static void say_strange(struct server *s, struct out *o) {
  static const char types[] = "RSKZTDCEN123IntsGHWdcAVvX";
  unsigned which = fuzz_byte(s->f);
  begin(o, (char)(which < 200 ? types[which % (sizeof types - 1)] : (char)which));
  put_taken(o, s->f, 40);
  unsigned length = fuzz_byte(s->f);
  if (length < 180)
    end(o);
  else
    end_as(o, length < 220 ? (uint32_t)fuzz_number(s->f, 2) : (uint32_t)fuzz_number(s->f, 4));
}

static void say_notification(struct server *s, struct out *o) {
  begin(o, 'A'), put_32(o, 1), put_taken(o, s->f, 8), put_byte(o, 0), put_taken(o, s->f, 8), put_byte(o, 0), end(o);
}

/* What an honest server says to all that it was asked. */
static void say_honestly(struct server *s, struct out *o) {
  for (unsigned i = 0; i < s->asked_count; i++) {
    switch (s->asked[i]) {
    case '!': greeting(o); break;
    case 'p': greeting(o); break;
    case 'Q': describe_one(o), row_one(o), complete(o, "SELECT 1"), ready(o, 'I'); break;
    case 'P': simple(o, '1'); break;
    case 'B': simple(o, '2'); break;
    case 'D': describe_one(o); break;
    case 'E': row_one(o), complete(o, "SELECT 1"); break;
    case 'C': simple(o, '3'); break;
    case 'S': ready(o, 'I'); break;
    default: break;
    }
  }
  s->columns = 1;
  s->asked_count = 0;
}

static void say_error(struct server *s, struct out *o) {
  say_fields(s, o, 'E');
  ready(o, "IITE"[fuzz_below(s->f, 4)]);
}

static bool say(struct server *s, struct out *o, unsigned what) {
  switch (what) {
  case 0:
  case 1:
  case 2:
  case 3:
  case 4:
  case 5: say_honestly(s, o); return true;
  case 6: ready(o, "IITE"[fuzz_below(s->f, 4)]); return true;
  case 7: say_columns(s, o); return true;
  case 8:
  case 9: say_row(s, o); return true;
  case 10: say_complete(s, o); return true;
  case 11: say_error(s, o); return true;
  case 12: say_fields(s, o, 'E'); return true;
  case 13: say_fields(s, o, 'N'); return true;
  case 14: say_parameter(s, o); return true;
  case 15: say_authentication(s, o); return true;
  case 16: simple(o, '1'); return true;
  case 17: simple(o, '2'); return true;
  case 18: simple(o, "3nIs"[fuzz_below(s->f, 4)]); return true;
  case 19: say_copy(s, o, "GHW"[fuzz_below(s->f, 3)]); return true;
  case 20: begin(o, 'd'), put_taken(o, s->f, 60), end(o); return true;
  case 21: simple(o, 'c'); return true;
  case 22: say_notification(s, o); return true;
  case 23: begin(o, 'K'), put_32(o, (uint32_t)fuzz_number(s->f, 4)), put_32(o, 0), end(o); return true;
  case 24: say_strange(s, o); return true;
  case 25: put_taken(o, s->f, 64); return true;
  case 26: greeting(o); return true;
  case 27: begin(o, 't'), put_16(o, fuzz_below(s->f, 3)), put_32(o, 23), put_32(o, 25), end(o); return true;
  case 28: server_hang_up(s); return false;
  default: return false; /* the client's turn: it cancels */
  }
}

bool server_say(struct server *s) {
  struct out o = {.len = 0};
  bool said;
  if (fuzz_left(s->f) == 0) {
    server_hang_up(s);
    return false;
  }
  if (s->raw) {
    put_taken(&o, s->f, 200);
    said = true;
  } else {
    said = say(s, &o, fuzz_below(s->f, 30));
  }
  if (s->peer >= 0 && o.len > 0) (void)!send(s->peer, o.bytes, o.len, MSG_NOSIGNAL | MSG_DONTWAIT);
  return said;
}

/* ---- the client's side of it ---- */

void server_hang_up(struct server *s) {
  if (s->peer >= 0) close(s->peer);
  s->peer = -1;
}

/* The first message in s->in; 0 when it is not whole. Notes its type. */
static size_t message_length(const struct server *s) {
  size_t head = s->greeted ? 1 : 0;
  uint32_t len;
  if (s->in_len < head + 4) return 0;
  memcpy(&len, s->in + head, 4);
  return head + ntohl(len);
}

static void messages_note(struct server *s) {
  for (size_t len; (len = message_length(s)) > 0;) {
    if (s->asked_count < sizeof s->asked) s->asked[s->asked_count++] = s->greeted ? (char)s->in[0] : '!';
    s->greeted = true;
    s->skip = len > s->in_len ? len - s->in_len : 0;
    if (len > s->in_len) len = s->in_len;
    s->in_len -= len;
    memmove(s->in, s->in + len, s->in_len);
    if (s->skip > 0) return;
  }
}

void server_take(struct server *s) {
  uint8_t bytes[4096];
  ssize_t n;
  while (s->peer >= 0 && (n = recv(s->peer, bytes, sizeof bytes - s->in_len, MSG_DONTWAIT)) > 0) {
    size_t skipped = s->skip < (size_t)n ? s->skip : (size_t)n, left = (size_t)n - skipped;
    s->skip -= skipped;
    memcpy(s->in + s->in_len, bytes + skipped, left);
    s->in_len += left;
    messages_note(s);
  }
}

void server_accept(struct server *s, bool opening) {
  for (int fd; (fd = accept(s->listener, NULL, NULL)) >= 0;) {
    if (!opening) {
      close(fd);
      continue;
    }
    server_hang_up(s);
    s->peer = fd;
    s->greeted = false;
    s->in_len = s->skip = s->asked_count = 0;
  }
}
