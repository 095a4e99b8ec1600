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
  return kind;
}

_Noreturn void base_failed(const char *what, const char *file, int line) {
  fprintf(stderr, "pool: internal error: %s (%s:%d)\n", what, file, line);
  abort();
}
