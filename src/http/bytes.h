/*
** bytes: a growable run of bytes, the currency between a socket and this room. Zero-filled is empty.
** When memory is too short for what is to be put in, `failed` is set and stays: from then on nothing is put in, so that whoever writes
** in many steps asks once, at the end.
*/
#ifndef POOL_HTTP_BYTES_H
#define POOL_HTTP_BYTES_H

#include "core/base.h"

struct http_bytes {
  char *data; /* NULL while nothing was ever put in */
  size_t len, capacity;
  bool failed;
};

bool http_bytes_reserve(struct http_bytes *, size_t more);            /* room for `more` beyond len; false: failed */
void http_bytes_append(struct http_bytes *, const char *, size_t);    /* copies */
void http_bytes_text(struct http_bytes *, const char *text);          /* copies a NUL-terminated text */
void http_bytes_drop(struct http_bytes *, size_t count);              /* takes `count` bytes off the front */
void http_bytes_free(struct http_bytes *);                            /* back to zero-filled */

#endif
