/*
** http: requests from bytes and responses to bytes (src/http).
**
** However the network cuts the bytes, the parser says the same: events, requests to the last byte, the refusal and its reason. What was
** refused stays refused. A request that is handed out keeps what http.h promises of it. A response is written whole or not at all, and
** what the caller gave never begins a line of its own.
*/
#include <stdlib.h>
#include <string.h>

#include "fuzz/fuzz.h"
#include "http/http.h"

#define BODY_MAX 600 /* small, so that the limit is met */

/* ---- requests ---- */

static bool token(struct http_text t) {
  for (size_t i = 0; i < t.len; i++)
    if (t.at[i] <= ' ' || t.at[i] >= 0x7f || strchr("\"(),/:;<=>?@[\\]{}", t.at[i])) return false;
  return t.len > 0;
}

static void request_check(const struct http_request *r) {
  HOLDS(token(r->method) && r->target.len > 0 && r->target.len <= HTTP_TARGET_MAX);
  HOLDS(r->path.len > 0 && (r->path.at[0] == '/' || (r->path.len == 1 && r->path.at[0] == '*')));
  HOLDS(r->body.at != NULL && r->body.len <= BODY_MAX);
  HOLDS(r->header_count >= 0 && r->header_count <= HTTP_HEADERS_MAX && (r->minor == 0 || r->minor == 1));
  for (size_t i = 0; i < r->target.len; i++) HOLDS(r->target.at[i] > ' ' && r->target.at[i] < 0x7f && r->target.at[i] != '#');
  for (int i = 0; i < r->header_count; i++) {
    struct http_field h = r->headers[i];
    HOLDS(token(h.name));
    for (size_t k = 0; k < h.name.len; k++) HOLDS(h.name.at[k] < 'A' || h.name.at[k] > 'Z');
    for (size_t k = 0; k < h.value.len; k++) HOLDS(h.value.at[k] == '\t' || ((unsigned char)h.value.at[k] >= ' ' && h.value.at[k] != 0x7f));
    HOLDS(h.value.len == 0 || (h.value.at[0] != ' ' && h.value.at[h.value.len - 1] != ' '));
  }
  int hosts = 0;
  for (int i = 0; i < r->header_count; i++) hosts += r->headers[i].name.len == 4 && memcmp(r->headers[i].name.at, "host", 4) == 0;
  HOLDS(hosts == 1 || (hosts == 0 && r->minor == 0));
}

/* What was said, as bytes to compare. */
static void log_text(struct http_bytes *log, struct http_text t) {
  http_bytes_append(log, (const char *)&t.len, sizeof t.len);
  if (t.len > 0) http_bytes_append(log, t.at, t.len);
}

static void log_request(struct http_bytes *log, const struct http_request *r) {
  log_text(log, r->method);
  log_text(log, r->path);
  log_text(log, r->query.at ? r->query : (struct http_text){"-", 1});
  log_text(log, r->body);
  for (int i = 0; i < r->header_count; i++) log_text(log, r->headers[i].name), log_text(log, r->headers[i].value);
  char rest[] = {(char)r->minor, r->keep_alive, r->is_head};
  http_bytes_append(log, rest, sizeof rest);
}

static void refused_check(struct http_parser *p, struct http_bytes *log) {
  size_t used;
  int status = http_parser_status(p);
  HOLDS(strchr("\x90\x9d\x9e\xa1\xaf\xf5\xf9", status & 0xff) != NULL && status >= 400 && status <= 505); /* 400 413 414 417 431 501 505 */
  HOLDS(http_feed(p, "GET / HTTP/1.1\r\nhost: a\r\n\r\n", 27, &used) == HTTP_FEED_REFUSED);
  HOLDS(http_parser_status(p) == status);
  http_bytes_append(log, (const char *)&status, sizeof status);
  http_bytes_text(log, http_parser_reason(p));
}

/* Feeds all of it in pieces as `seed` cuts them, each in memory of its own; seed 0: in one piece. */
static void feed(const uint8_t *data, size_t size, uint64_t seed, struct http_bytes *log) {
  struct http_parser *p = http_parser_create(&(struct http_limits){.body = BODY_MAX});
  enum http_event event = HTTP_FEED_MORE;
  for (size_t at = 0; at < size && event != HTTP_FEED_REFUSED;) {
    seed = seed * 6364136223846793005u + (seed != 0);
    size_t len = seed == 0 ? size - at : 1 + (seed >> 33) % ((seed >> 40 & 3) == 0 ? 64 : 3), used = 0;
    if (len > size - at) len = size - at;
    char *piece = malloc(len);
    memcpy(piece, data + at, len);
    event = http_feed(p, piece, len, &used);
    HOLDS(used <= len && (event != HTTP_FEED_MORE || used == len));
    free(piece);
    at += used;
    if (event == HTTP_FEED_REFUSED)
      refused_check(p, log);
    else if (event != HTTP_FEED_MORE)
      http_bytes_append(log, event == HTTP_FEED_CONTINUE ? "C" : "R", 1);
    if (event != HTTP_FEED_REQUEST) continue;
    request_check(http_parser_request(p));
    log_request(log, http_parser_request(p));
    http_next(p);
    HOLDS(http_parser_untouched(p) && !http_parser_in_body(p));
  }
  http_parser_destroy(p);
}

static void requests_check(const uint8_t *data, size_t size, uint64_t seed) {
  struct http_bytes whole = {0}, cut = {0};
  feed(data, size, 0, &whole);
  feed(data, size, seed | 1, &cut);
  HOLDS(whole.len == cut.len && (whole.len == 0 || memcmp(whole.data, cut.data, whole.len) == 0));
  http_bytes_free(&whole);
  http_bytes_free(&cut);
}

/* ---- responses ---- */

static size_t count_lines(const char *text, size_t len) {
  size_t lines = 0;
  for (size_t i = 0; i < len; i++) {
    HOLDS(text[i] != '\0' && (text[i] != '\n' || (i > 0 && text[i - 1] == '\r')));
    HOLDS(text[i] != '\r' || (i + 1 < len && text[i + 1] == '\n'));
    lines += text[i] == '\n';
  }
  return lines;
}

static void response_check(const uint8_t *data, size_t size) {
  struct fuzz f = fuzz_of(data, size);
  struct http_field fields[8];
  char *texts[16];
  struct http_bytes out = {0};
  bool keep_alive, lines = true;
  struct http_response r = {.status = (int)fuzz_number(&f, 2), .fields = fields, .field_count = (int)fuzz_below(&f, 9)};
  unsigned flags = fuzz_byte(&f);
  r.streamed = flags & 1, r.keep_alive = flags & 2, r.is_head = flags & 4, r.minor = flags >> 3 & 1;
  for (int i = 0; i < r.field_count; i++) {
    texts[2 * i] = fuzz_take(&f, fuzz_below(&f, 16), &fields[i].name.len);
    texts[2 * i + 1] = fuzz_take(&f, fuzz_below(&f, 32), &fields[i].value.len);
    fields[i].name.at = texts[2 * i];
    fields[i].value.at = texts[2 * i + 1];
    lines = lines && !memchr(fields[i].name.at, '\n', fields[i].name.len) && !memchr(fields[i].value.at, '\n', fields[i].value.len);
  }
  r.body = (struct http_text){(const char *)f.at, fuzz_left(&f)};
  const char *fault = http_response_write(&out, &r, &keep_alive);
  HOLDS(fault == NULL || out.len == 0);
  HOLDS(fault != NULL || (lines && r.status >= 200 && r.status <= 599));
  if (fault == NULL) {
    const char *end = memmem(out.data, out.len, "\r\n\r\n", 4);
    HOLDS(end != NULL);
    size_t head = (size_t)(end - out.data) + 4, wanted = (size_t)r.field_count + 2;
    wanted += (r.status != 204 && r.status != 304) && (!r.streamed || r.minor >= 1); /* how long the body is */
    wanted += !keep_alive || r.minor == 0;                                           /* connection */
    HOLDS(count_lines(out.data, head) == wanted);
    HOLDS(out.len == head || out.len == head + r.body.len);
  }
  for (int i = 0; i < 2 * r.field_count; i++) free(texts[i]);
  http_bytes_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct fuzz f = fuzz_of(data, size);
  if (fuzz_byte(&f) == '<') {
    response_check(f.at, fuzz_left(&f));
  } else { /* the seed stands where it disturbs the request least */
    uint64_t seed = 0;
    for (size_t i = 0; i < size; i++) seed = seed * 31 + data[i];
    requests_check(data, size, seed);
  }
  return 0;
}
