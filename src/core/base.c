/*
** base: names of the error kinds, errors filled in without allocating, failed assertions.
**
** Texts are cut between characters, never inside one: a field that ends in half a UTF-8 sequence would make the JSON or the log
** line that carries it invalid. A cut field ends in U+2026, so that the reader sees that there was more.
*/
#include "base.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ELLIPSIS "\xe2\x80\xa6"
#define ELLIPSIS_SIZE (sizeof ELLIPSIS - 1)

const char *pool_err_name(enum pool_err kind) {
  switch (kind) {
    case POOL_OK: return "ok";
    case POOL_TIMEOUT: return "timeout";
    case POOL_OVERLOADED: return "overloaded";
    case POOL_CONNECT: return "connect";
    case POOL_LOST: return "lost";
    case POOL_QUERY: return "query";
    case POOL_DEADLINE: return "deadline";
    case POOL_CANCELLED: return "cancelled";
    case POOL_CLOSED: return "closed";
    case POOL_SETTINGS: return "settings";
    case POOL_POLICY: return "policy";
    case POOL_JSON: return "json";
    case POOL_ERR_KINDS: break;
  }
  WRONG("not a kind of error");
}

/* The longest prefix of `text` of at most `length` bytes that does not end inside a character. */
static size_t text_boundary(const char *text, size_t length) {
  size_t cut = length;
  while (cut > 0 && length - cut < 4 && ((unsigned char)text[cut] & 0xC0) == 0x80) cut--;
  return ((unsigned char)text[cut] & 0xC0) == 0x80 ? length : cut; /* not UTF-8 at all: anywhere will do */
}

/* `field` holds the first size-1 bytes of something longer: makes room for the ellipsis. */
static void text_cut(char *field, size_t size) {
  if (size <= ELLIPSIS_SIZE) {
    field[text_boundary(field, size - 1)] = '\0';
    return;
  }
  size_t end = text_boundary(field, size - 1 - ELLIPSIS_SIZE);
  memcpy(field + end, ELLIPSIS, ELLIPSIS_SIZE + 1);
}

void text_copy(char *field, size_t size, const char *text) {
  INSIST(size > 0);
  if (text == NULL) text = "";
  size_t length = strlen(text);
  if (length < size) {
    memcpy(field, text, length + 1);
    return;
  }
  memcpy(field, text, size);
  text_cut(field, size);
}

/* The bytes of the character at p, 0 when there is none that is UTF-8 (RFC 3629). A NUL ends it, being no part of any. */
static size_t character_length(const unsigned char *p) {
  size_t length = *p < 0x80 ? 1 : *p < 0xc2 ? 0 : *p < 0xe0 ? 2 : *p < 0xf0 ? 3 : *p < 0xf5 ? 4 : 0;
  for (size_t i = 1; i < length; i++)
    if ((p[i] & 0xc0) != 0x80) return 0;
  bool longer = (*p == 0xe0 && p[1] < 0xa0) || (*p == 0xf0 && p[1] < 0x90); /* than it need be */
  bool none = (*p == 0xed && p[1] > 0x9f) || (*p == 0xf4 && p[1] > 0x8f);   /* surrogates; past U+10FFFF */
  return longer || none ? 0 : length;
}

void text_clean(char *text) {
  for (unsigned char *p = (unsigned char *)text; *p;) {
    size_t length = character_length(p);
    if (length == 0) *p = '?';
    p += length == 0 ? 1 : length;
  }
}

void text_line(char *text) {
  text_clean(text);
  for (char *p = text; *p; p++)
    if ((unsigned char)*p < ' ' || *p == 0x7f) *p = ' ';
}

enum pool_err error_set(struct pool_error *e, enum pool_err kind, const char *format, ...) {
  if (e == NULL) return kind;
  va_list args;
  char text[sizeof e->message]; /* the arguments may point into *e */
  va_start(args, format);
  int length = vsnprintf(text, sizeof text, format, args);
  va_end(args);
  memset(e, 0, sizeof *e);
  e->kind = kind;
  memcpy(e->message, text, sizeof text);
  if (length < 0) e->message[0] = '\0';
  if (length >= (int)sizeof text) text_cut(e->message, sizeof e->message);
  text_clean(e->message);
  return kind;
}

_Noreturn void base_failed(const char *what, const char *file, int line) {
  fprintf(stderr, "pool: internal error: %s (%s:%d)\n", what, file, line);
  abort();
}
