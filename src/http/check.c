/*
** check: what is refused, and with which status. Where RFC 9112 lets a server choose, the choice is to refuse: two servers in a row that
** read one request differently are how requests are smuggled.
*/
#include "check.h"

#include <string.h>
#include <strings.h>

#define LENGTH_DIGITS_MAX 18 /* digits of Content-Length that surely fit 64 bits */
#define CHUNK_DIGITS_MAX 15  /* digits of a chunk's size, leading zeros included */

static const struct http_refusal MALFORMED_LINE = {400, "malformed request line"};
static const struct http_refusal UNKNOWN_METHOD = {501, "unknown method"};
static const struct http_refusal LONG_TARGET = {414, "the target is too long"};
static const struct http_refusal BAD_TARGET = {400, "malformed target"};
static const struct http_refusal BAD_VERSION = {505, "only HTTP/1.0 and HTTP/1.1 are spoken here"};
static const struct http_refusal BAD_NAME = {400, "malformed header name"};
static const struct http_refusal BAD_VALUE = {400, "a header's value holds a control byte"};
static const struct http_refusal BAD_HOST = {400, "exactly one well-formed Host header is needed"};
static const struct http_refusal BAD_LENGTH = {400, "malformed Content-Length"};
static const struct http_refusal BOTH_LENGTHS = {400, "both Transfer-Encoding and Content-Length"};
static const struct http_refusal BAD_CODING = {400, "malformed Transfer-Encoding"};
static const struct http_refusal UNKNOWN_CODING = {501, "unknown transfer coding"};
static const struct http_refusal LARGE_BODY = {413, "the body is too large"};
static const struct http_refusal BAD_EXPECT = {417, "unknown expectation"};

static bool text_is(struct http_text t, const char *other) { return t.len == strlen(other) && strncasecmp(t.at, other, t.len) == 0; }

static bool char_is_digit(char c) { return c >= '0' && c <= '9'; }

static bool char_is_alnum(char c) { return char_is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

static bool char_is_hex(char c) { return char_is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

static bool char_is_token(char c) { return char_is_alnum(c) || (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL); }

static bool char_is_value(char c) { return c == '\t' || ((unsigned char)c >= 0x20 && c != 0x7f); }

bool check_token(struct http_text t) {
  for (size_t i = 0; i < t.len; i++)
    if (!char_is_token(t.at[i])) return false;
  return t.len > 0;
}

bool check_value(struct http_text t) {
  for (size_t i = 0; i < t.len; i++)
    if (!char_is_value(t.at[i])) return false;
  return true;
}

static struct http_text text_trim(struct http_text t) {
  while (t.len > 0 && (t.at[0] == ' ' || t.at[0] == '\t')) t.at++, t.len--;
  while (t.len > 0 && (t.at[t.len - 1] == ' ' || t.at[t.len - 1] == '\t')) t.len--;
  return t;
}

/* --- request line -------------------------------------------------------------------------------------------------------- */

/* The methods every HTTP server knows; others are extensions that nobody here routes. */
static bool method_known(struct http_text method) {
  static const char *const known[] = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", NULL};
  for (int i = 0; known[i] != NULL; i++)
    if (method.len == strlen(known[i]) && memcmp(method.at, known[i], method.len) == 0) return true;
  return false;
}

/* name, name:port, [address], [address]:port; never user@name. */
static bool authority_check(struct http_text a) {
  size_t i = 0;
  if (a.len > 0 && a.at[0] == '[') {
    for (i = 1; i < a.len && (char_is_hex(a.at[i]) || a.at[i] == ':' || a.at[i] == '.'); i++) continue;
    if (i == 1 || i == a.len || a.at[i] != ']') return false;
    i++;
  } else {
    while (i < a.len && (char_is_alnum(a.at[i]) || (a.at[i] != '\0' && strchr("-._~!$&'()*+,;=%", a.at[i]) != NULL))) i++;
    if (i == 0) return false;
  }
  if (i == a.len) return true;
  if (a.at[i++] != ':') return false;
  size_t digits = a.len - i;
  while (i < a.len && char_is_digit(a.at[i])) i++;
  return i == a.len && digits <= 5;
}

/* An absolute target (RFC 9112 3.2.2): its path, "/" when it has none. false: malformed. */
static bool target_absolute(struct http_text target, struct http_text *path) {
  size_t skip = 0;
  if (target.len > 7 && strncasecmp(target.at, "http://", 7) == 0) skip = 7;
  if (target.len > 8 && strncasecmp(target.at, "https://", 8) == 0) skip = 8;
  if (skip == 0) return false;
  size_t end = skip;
  while (end < target.len && target.at[end] != '/' && target.at[end] != '?') end++;
  if (!authority_check((struct http_text){target.at + skip, end - skip})) return false;
  *path = (struct http_text){target.at + end, target.len - end};
  return true;
}

static const struct http_refusal *target_check(struct http_request *r) {
  struct http_text t = r->target;
  if (t.len > HTTP_TARGET_MAX) return &LONG_TARGET;
  for (size_t i = 0; i < t.len; i++)
    if (t.at[i] <= ' ' || t.at[i] == 0x7f || (unsigned char)t.at[i] >= 0x80 || t.at[i] == '#') return &BAD_TARGET;
  r->path = t;
  if (text_is(t, "*")) return text_is(r->method, "OPTIONS") ? NULL : &BAD_TARGET;
  if (t.len > 0 && t.at[0] != '/' && !target_absolute(t, &r->path)) return &BAD_TARGET;
  const char *mark = r->path.len > 0 ? memchr(r->path.at, '?', r->path.len) : NULL;
  if (mark != NULL) {
    r->query = (struct http_text){mark + 1, (size_t)(r->path.at + r->path.len - mark - 1)};
    r->path.len = (size_t)(mark - r->path.at);
  }
  if (r->path.len == 0) r->path = (struct http_text){"/", 1};
  return NULL;
}

static const struct http_refusal *version_check(struct http_request *r, struct http_text version) {
  if (version.len != 8 || memcmp(version.at, "HTTP/", 5) != 0 || version.at[6] != '.') return &MALFORMED_LINE;
  if (!char_is_digit(version.at[5]) || !char_is_digit(version.at[7])) return &MALFORMED_LINE;
  if (version.at[5] != '1' || version.at[7] > '1') return &BAD_VERSION;
  r->minor = version.at[7] - '0';
  return NULL;
}

const struct http_refusal *check_request_line(struct http_request *r, const char *head, size_t len) {
  const char *end = memchr(head, '\r', len);
  INSIST(end != NULL);
  const char *first = memchr(head, ' ', (size_t)(end - head));
  if (first == NULL) return &MALFORMED_LINE;
  const char *second = memchr(first + 1, ' ', (size_t)(end - first - 1));
  if (second == NULL || second == first + 1) return &MALFORMED_LINE;
  r->method = (struct http_text){head, (size_t)(first - head)};
  r->target = (struct http_text){first + 1, (size_t)(second - first - 1)};
  if (!check_token(r->method)) return &MALFORMED_LINE;
  const struct http_refusal *refusal = version_check(r, (struct http_text){second + 1, (size_t)(end - second - 1)});
  if (refusal != NULL) return refusal;
  if (!method_known(r->method)) return &UNKNOWN_METHOD;
  r->is_head = text_is(r->method, "HEAD");
  return target_check(r);
}

/* --- headers ------------------------------------------------------------------------------------------------------------- */

void check_tidy(struct http_request *r, char *head) {
  for (int i = 0; i < r->header_count; i++) {
    struct http_field *f = &r->headers[i];
    char *name = head + (f->name.at - head);
    for (size_t k = 0; k < f->name.len; k++)
      if (name[k] >= 'A' && name[k] <= 'Z') name[k] = (char)(name[k] + ('a' - 'A'));
    f->value = text_trim(f->value);
  }
}

/* The header's value when there is exactly one of that name; *count says how many there are. */
static struct http_text header_only(const struct http_request *r, const char *name, int *count) {
  struct http_text value = {0};
  *count = 0;
  for (int i = 0; i < r->header_count; i++)
    if (text_is(r->headers[i].name, name) && (*count)++ == 0) value = r->headers[i].value;
  return value;
}

static const struct http_refusal *host_check(const struct http_request *r) {
  int count;
  struct http_text host = header_only(r, "host", &count);
  if (count == 0) return r->minor == 0 ? NULL : &BAD_HOST;
  return count == 1 && authority_check(host) ? NULL : &BAD_HOST;
}

static const struct http_refusal *length_check(const struct http_request *r, size_t body_max, bool *present) {
  int count;
  struct http_text length = header_only(r, "content-length", &count);
  *present = count > 0;
  if (count == 0) return NULL;
  if (count > 1 || length.len == 0) return &BAD_LENGTH;
  uint64_t value = 0;
  for (size_t i = 0; i < length.len; i++)
    if (!char_is_digit(length.at[i])) return &BAD_LENGTH;
  if (length.len > LENGTH_DIGITS_MAX) return &LARGE_BODY;
  for (size_t i = 0; i < length.len; i++) value = value * 10 + (uint64_t)(length.at[i] - '0');
  return value > body_max ? &LARGE_BODY : NULL;
}

/* Each coding must be a token; `chunked` once, last; any other well-formed one is unknown. */
static const struct http_refusal *coding_check(struct http_text value) {
  bool unknown = false, chunked = false;
  while (true) {
    const char *comma = value.len > 0 ? memchr(value.at, ',', value.len) : NULL;
    struct http_text coding = text_trim((struct http_text){value.at, comma ? (size_t)(comma - value.at) : value.len});
    if (!check_token(coding) || chunked) return &BAD_CODING;
    if (text_is(coding, "chunked")) chunked = true;
    else unknown = true;
    if (comma == NULL) break;
    value = (struct http_text){comma + 1, (size_t)(value.at + value.len - comma - 1)};
  }
  return unknown ? &UNKNOWN_CODING : NULL;
}

static const struct http_refusal *framing_check(const struct http_request *r, size_t body_max) {
  bool length;
  const struct http_refusal *refusal = length_check(r, body_max, &length);
  int count;
  struct http_text coding = header_only(r, "transfer-encoding", &count);
  if (count == 0) return refusal;
  if (length) return &BOTH_LENGTHS;
  if (count > 1 || r->minor == 0) return &BAD_CODING;
  return coding_check(coding);
}

static const struct http_refusal *expect_check(const struct http_request *r, bool *expects_continue) {
  int count;
  struct http_text expect = header_only(r, "expect", &count);
  *expects_continue = false;
  if (count == 0 || r->minor == 0) return NULL;
  if (count > 1 || !text_is(expect, "100-continue")) return &BAD_EXPECT;
  *expects_continue = true;
  return NULL;
}

const struct http_refusal *check_headers(const struct http_request *r, size_t body_max, bool *expects_continue) {
  for (int i = 0; i < r->header_count; i++) {
    if (!check_token(r->headers[i].name)) return &BAD_NAME;
    if (!check_value(r->headers[i].value)) return &BAD_VALUE;
  }
  const struct http_refusal *refusal = host_check(r);
  if (refusal == NULL) refusal = framing_check(r, body_max);
  if (refusal == NULL) refusal = expect_check(r, expects_continue);
  return refusal;
}

/* --- chunks -------------------------------------------------------------------------------------------------------------- */

/* Skips token characters, or a quoted string, from `i`. Returns where it ended, 0 when there was none. */
static size_t extension_word(const char *line, size_t len, size_t i, bool quotes) {
  size_t start = i;
  if (quotes && i < len && line[i] == '"') {
    for (i++; i < len && line[i] != '"'; i++) {
      if (line[i] == '\\') i++;
      if (i >= len || !char_is_value(line[i]) || line[i] == ' ' || line[i] == '\t') return 0;
    }
    return i < len ? i + 1 : 0;
  }
  while (i < len && char_is_token(line[i])) i++;
  return i > start ? i : 0;
}

size_t check_chunk_line(const char *line, size_t len) {
  size_t digits = 0;
  while (digits < len && char_is_hex(line[digits])) digits++;
  if (digits == 0 || digits > CHUNK_DIGITS_MAX) return 0;
  size_t i = digits;
  while (i < len) {
    if (line[i] != ';') return 0;
    i = extension_word(line, len, i + 1, false);
    if (i == 0) return 0;
    if (i < len && line[i] == '=') {
      i = extension_word(line, len, i + 1, true);
      if (i == 0) return 0;
    }
  }
  return digits;
}

bool check_trailers(const char *lines, size_t len) {
  while (len > 2) {
    const char *end = memchr(lines, '\r', len);
    INSIST(end != NULL);
    const char *colon = memchr(lines, ':', (size_t)(end - lines));
    if (colon == NULL || !check_token((struct http_text){lines, (size_t)(colon - lines)})) return false;
    if (!check_value((struct http_text){colon + 1, (size_t)(end - colon - 1)})) return false;
    len -= (size_t)(end + 2 - lines);
    lines = end + 2;
  }
  return true;
}
