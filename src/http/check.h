/*
** check: the parts of a request that llhttp reads more leniently than this server. Pure; used by http_parse.c alone.
*/
#ifndef POOL_HTTP_CHECK_H
#define POOL_HTTP_CHECK_H

#include "http.h"

struct http_refusal {
  int status;
  const char *reason;
};

/* The request line of a whole head: fills method, target, path, query, minor, is_head. NULL, or why it is refused. */
const struct http_refusal *check_request_line(struct http_request *, const char *head, size_t len);

/* Trims values and lowers names, in `head` itself, which the request's headers borrow from. */
void check_tidy(struct http_request *, char *head);

/* Names, values, Host, framing, Expect. NULL, or why it is refused. */
const struct http_refusal *check_headers(const struct http_request *, size_t body_max, bool *expects_continue);

/* A chunk's line without its CR LF: how many hex digits its size has, 0 when malformed. */
size_t check_chunk_line(const char *line, size_t len);

/* Trailers up to and with their blank line: every line `name: value`. */
bool check_trailers(const char *lines, size_t len);

/* The characters of a token (RFC 9110 5.6.2), and of a header's value. */
bool check_token(struct http_text);
bool check_value(struct http_text);

#endif
