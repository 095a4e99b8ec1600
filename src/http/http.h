/*
** http: HTTP/1.1 as a server speaks it. Bytes in, requests out; a response in, bytes out. No sockets, no Lua, no clock.
**
** llhttp parses; in front of it stand the checks that make this server stricter than llhttp 8.1: every line ends in CR LF and
** neither byte stands alone (CVE-2023-30589), chunk extensions are bounded, and whatever two servers could read differently is
** refused. A parser hands out one request at a time: bytes that follow it (pipelining) are left with the caller, who feeds
** them again after http_next(). After a refusal the connection is of no more use: answer it, then close.
*/
#ifndef POOL_HTTP_HTTP_H
#define POOL_HTTP_HTTP_H

#include "bytes.h"

#define HTTP_HEAD_MAX 16384        /* bytes of request line and headers: 431 */
#define HTTP_HEADERS_MAX 100       /* headers of a request: 431 */
#define HTTP_TARGET_MAX 8192       /* bytes of a request target: 414 */
#define HTTP_BODY_MAX 1048576      /* bytes of a body unless the limits say otherwise: 413 */
#define HTTP_BLANK_MAX 4           /* empty lines forgiven before a request line */
#define HTTP_CHUNK_LINE_MAX 256    /* bytes of one chunk's line, its extensions included: 400 */
#define HTTP_EXTENSIONS_MAX 16384  /* bytes of all chunk lines of a body beyond the sizes' own digits: 400 */
#define HTTP_TRAILERS_MAX 4096     /* bytes of trailers, which are read and dropped: 431 */

struct http_text { /* borrows; not NUL-terminated */
  const char *at;
  size_t len;
};

struct http_field {
  struct http_text name, value; /* of a request: the name in lower case, the value without surrounding blanks */
};

/* A whole request. Every text borrows from the parser and lives until http_next or http_parser_destroy. */
struct http_request {
  struct http_text method, target;
  struct http_text path;  /* as sent, still percent-encoded, so that %2F can stand inside a segment; "*" for OPTIONS * */
  struct http_text query; /* after the first `?`; at is NULL when there is none */
  struct http_text body;
  struct http_field headers[HTTP_HEADERS_MAX];
  int header_count;
  int minor;       /* HTTP/1.minor */
  bool keep_alive; /* the client would go on */
  bool is_head;    /* HEAD: the answer has no body */
};

struct http_limits {
  size_t body; /* 0 counts as HTTP_BODY_MAX */
};

enum http_event {
  HTTP_FEED_MORE,     /* everything was taken; feed more */
  HTTP_FEED_CONTINUE, /* the head is whole and the client waits for `100 Continue` before its body: send it, feed more */
  HTTP_FEED_REQUEST,  /* http_parser_request() is whole */
  HTTP_FEED_REFUSED   /* http_parser_status() says why; answer it and close */
};

struct http_parser;

struct http_parser *http_parser_create(const struct http_limits *); /* gives; NULL: memory */
void http_parser_destroy(struct http_parser *);                     /* takes; NULL is fine */

/* Takes bytes until an event; *used says how many. After HTTP_FEED_REQUEST nothing more is taken until http_next. */
enum http_event http_feed(struct http_parser *, const char *bytes, size_t len, size_t *used);
void http_next(struct http_parser *); /* the request is done with: its texts are gone, the next one may be fed */

const struct http_request *http_parser_request(const struct http_parser *); /* after HTTP_FEED_REQUEST */
bool http_parser_untouched(const struct http_parser *);  /* not a byte of the next request has come */
bool http_parser_in_body(const struct http_parser *);    /* the head is whole, the body is not */
int http_parser_status(const struct http_parser *);      /* after HTTP_FEED_REFUSED: 400, 413, 414, 417, 431, 501, 503, 505 */
const char *http_parser_reason(const struct http_parser *); /* one sentence for the answer; never quotes the request */

/* The value of the first header called `name` (lower case), at NULL when there is none. Borrows from the request. */
struct http_text http_request_header(const struct http_request *, const char *name);

/* A response to write. Everything is borrowed for the call. */
struct http_response {
  int status; /* 200..599 */
  const struct http_field *fields;
  int field_count;
  struct http_text body;
  bool streamed;   /* the body follows in chunks (HTTP/1.0: until the connection closes) */
  bool keep_alive; /* as wished; what was really promised is in *keep_alive of http_response_write */
  bool is_head;    /* the request was HEAD */
  int minor;       /* the request's */
};

/* Appends the head, and the body unless it is streamed or must not be there. NULL: done; else what is wrong (one phrase that
   names no value), and nothing was appended: a status out of range, a name that is no token, CR, LF, NUL or another control byte
   in a value, a header that is this function's own (content-length, transfer-encoding, connection), memory. */
const char *http_response_write(struct http_bytes *out, const struct http_response *, bool *keep_alive);

/* The parts of a streamed body; `minor` decides between chunks and plain bytes. An empty part writes nothing. Where memory is too short
   out->failed is set: the stream cannot go on. */
void http_part_write(struct http_bytes *out, int minor, const char *data, size_t len);
void http_part_end(struct http_bytes *out, int minor);

/* "Not Found"; "Unknown" for what has no name. */
const char *http_status_text(int status);

#endif
