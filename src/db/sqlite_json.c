/*
** sqlite_json: is a text one JSON value? SQLite stores whatever it is given in a column declared JSON; only what is JSON may
** leave as VALUE_JSON, since that is put into an answer as it is. Reads, builds nothing, and is not recursive: depth is a
** counter and a bit a level.
*/
#include "sqlite.h"

#include <ctype.h>
#include <string.h>

enum { JSON_DEPTH = 500 };

static const char *json_space(const char *at, const char *end) {
  while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r')) at++;
  return at;
}

static const char *json_escape(const char *at, const char *end) {
  if (at == end) return NULL;
  if (*at != 'u') return memchr("\"\\/bfnrt", *at, 8) ? at + 1 : NULL;
  if (end - at < 5) return NULL;
  for (int i = 1; i <= 4; i++)
    if (!isxdigit((unsigned char)at[i])) return NULL;
  return at + 5;
}

/* Each of these returns what follows the thing at `at`, NULL when it is malformed. */
static const char *json_string(const char *at, const char *end) {
  for (at++; at && at < end;) {
    unsigned char c = (unsigned char)*at++;
    if (c == '"') return at;
    if (c < 0x20) return NULL;
    if (c == '\\') at = json_escape(at, end);
  }
  return NULL;
}

static const char *json_digits(const char *at, const char *end) {
  if (at == end || !isdigit((unsigned char)*at)) return NULL;
  while (at < end && isdigit((unsigned char)*at)) at++;
  return at;
}

static const char *json_number(const char *at, const char *end) {
  if (at < end && *at == '-') at++;
  at = at < end && *at == '0' ? at + 1 : json_digits(at, end);
  if (at && at < end && *at == '.') at = json_digits(at + 1, end);
  if (!at || at == end || (*at != 'e' && *at != 'E')) return at;
  at++;
  if (at < end && (*at == '+' || *at == '-')) at++;
  return json_digits(at, end);
}

static const char *json_scalar(const char *at, const char *end) {
  static const char *const words[] = {"true", "false", "null"};
  if (*at == '"') return json_string(at, end);
  for (size_t i = 0; i < 3; i++) {
    size_t len = strlen(words[i]);
    if ((size_t)(end - at) >= len && memcmp(at, words[i], len) == 0) return at + len;
  }
  return json_number(at, end);
}

/* `"key" :` */
static const char *json_key(const char *at, const char *end) {
  at = json_space(at, end);
  if (at == end || *at != '"') return NULL;
  at = json_string(at, end);
  if (!at) return NULL;
  at = json_space(at, end);
  return at < end && *at == ':' ? at + 1 : NULL;
}

struct json_stack {
  int depth;
  bool object[JSON_DEPTH];
};

/* After a value: closes what ends, steps over a comma. *more says whether a value must follow. */
static const char *json_after(struct json_stack *s, const char *at, const char *end, bool *more) {
  *more = false;
  while (s->depth > 0) {
    at = json_space(at, end);
    if (at == end) return NULL;
    bool object = s->object[s->depth - 1];
    if (*at == ',') {
      *more = true;
      return object ? json_key(at + 1, end) : at + 1;
    }
    if (*at != (object ? '}' : ']')) return NULL;
    at++;
    s->depth--;
  }
  return at;
}

/* At `[` or `{`: goes inside; an empty one is a value already (*empty). */
static const char *json_enter(struct json_stack *s, const char *at, const char *end, bool *empty) {
  bool object = *at == '{';
  if (s->depth == JSON_DEPTH) return NULL;
  at = json_space(at + 1, end);
  *empty = at < end && *at == (object ? '}' : ']');
  if (*empty) return at + 1;
  s->object[s->depth++] = object;
  return object ? json_key(at, end) : at;
}

bool json_valid(const char *text, size_t len) {
  struct json_stack s = {.depth = 0};
  const char *at = text, *end = text + len;
  bool more = true;
  while (more) {
    bool value = true;
    at = json_space(at, end);
    if (at == end) return false;
    if (*at == '[' || *at == '{') at = json_enter(&s, at, end, &value);
    else at = json_scalar(at, end);
    if (at && value) at = json_after(&s, at, end, &more);
    if (!at) return false;
  }
  return json_space(at, end) == end;
}
