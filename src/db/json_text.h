/*
** json_text: JSON as text, appended to a growing buffer. What both the encoder of Lua values and the encoder of results
** write with, so that a row looks the same whichever way it went (DESIGN section 4, Rows).
*/
#ifndef POOL_DB_JSON_TEXT_H
#define POOL_DB_JSON_TEXT_H

#include "driver.h"

struct json_buffer {
  char *data;   /* malloc'd, owned; NULL at first */
  size_t len, capacity;
  bool failed;  /* memory was short: everything after is dropped */
};

void json_buffer_init(struct json_buffer *);
void json_buffer_free(struct json_buffer *);
void json_append(struct json_buffer *, const char *text, size_t len);
void json_append_string(struct json_buffer *, const char *text, size_t len); /* quoted; control characters escaped, UTF-8 as it is */
void json_append_integer(struct json_buffer *, int64_t);
void json_append_real(struct json_buffer *, double); /* real_format; null for NaN and infinities */
void json_append_bytes(struct json_buffer *, const char *bytes, size_t len); /* a base64 string */
void json_append_value(struct json_buffer *, const struct value *); /* a cell; json as it is, arrays as arrays */

/* Is it well-formed UTF-8 (RFC 3629)? */
bool utf8_valid(const char *text, size_t len);

/* The rows as `[{"column":value,...},...]`: every column in select order, a duplicate name once (the last one's value, at
   the first one's place), `[]` when empty. false: *error (POOL_JSON: text that is not UTF-8, memory). */
bool json_append_result(struct json_buffer *, const struct driver *, struct db_result *, struct pool_error *);

#endif
