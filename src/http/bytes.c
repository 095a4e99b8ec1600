/*
** bytes: grows by doubling, never shrinks until freed.
*/
#include "bytes.h"

#include <stdlib.h>
#include <string.h>

#define BYTES_FIRST 512 /* bytes of the first allocation */

bool http_bytes_reserve(struct http_bytes *b, size_t more) {
  if (b->failed) return false;
  if (b->capacity - b->len >= more) return true;
  INSIST(more < SIZE_MAX / 4 && b->len < SIZE_MAX / 4);
  size_t capacity = b->capacity ? b->capacity : BYTES_FIRST;
  while (capacity - b->len < more) capacity *= 2;
  char *data = realloc(b->data, capacity);
  b->failed = data == NULL;
  if (b->failed) return false;
  b->data = data;
  b->capacity = capacity;
  return true;
}

void http_bytes_append(struct http_bytes *b, const char *data, size_t len) {
  if (len == 0) return; /* memcpy from NULL is undefined even for nothing */
  if (!http_bytes_reserve(b, len)) return;
  memcpy(b->data + b->len, data, len);
  b->len += len;
}

void http_bytes_text(struct http_bytes *b, const char *text) { http_bytes_append(b, text, strlen(text)); }

void http_bytes_drop(struct http_bytes *b, size_t count) {
  INSIST(count <= b->len);
  if (count == 0) return;
  memmove(b->data, b->data + count, b->len - count);
  b->len -= count;
}

void http_bytes_free(struct http_bytes *b) {
  free(b->data);
  *b = (struct http_bytes){0};
}
