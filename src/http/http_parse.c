/*
** http_parse: requests from bytes.
**
** A head is collected up to its blank line, checked, and given to llhttp in one piece; so every header borrows from one buffer
** and where the network split the bytes cannot matter. A body's bytes go to llhttp as they come, a chunk's line only when it
** is whole and checked.
**
**   HEAD    -> BODY | LINE | COMPLETE   at the blank line            (head_finish)
**   BODY    -> COMPLETE                 at the last byte             (body_take)
**   LINE    -> DATA | TRAILER           at the chunk line's LF       (line_finish)
**   DATA    -> DATA_END -> LINE         after the chunk, after its CR LF
**   TRAILER -> COMPLETE                 at the blank line            (trailer_take)
**   any     -> REFUSED                  (parser_refuse), for good
**
** Invariants: 1. llhttp never sees a CR or LF that is not part of a CR LF, outside of body bytes. 2. head does not grow between the
** blank line and http_next, so what borrows from it holds. 3. body.len never exceeds the limit. 4. trailers never become headers.
*/
#include <llhttp.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "http.h"

enum phase { PHASE_HEAD, PHASE_BODY, PHASE_LINE, PHASE_DATA, PHASE_DATA_END, PHASE_TRAILER, PHASE_COMPLETE, PHASE_REFUSED };

/* Where a run of lines stands. */
struct scan {
  bool after_cr;
  size_t line; /* bytes of the line under way, CR not counted */
  int lines;   /* lines ended, blank ones not counted */
};

enum scanned { SCAN_INSIDE, SCAN_LINE, SCAN_BLANK, SCAN_BAD };

struct http_parser {
  llhttp_t machine;
  llhttp_settings_t callbacks;
  struct http_limits limits;
  enum phase phase;
  struct scan scan;
  struct http_bytes head, line, body; /* line: a chunk's line, or the trailers */
  int blanks;
  size_t extensions; /* bytes of chunk lines beyond their digits */
  uint64_t remaining; /* of the body or the chunk */
  bool in_value;     /* the header under way has its name */
  bool expects_continue;
  int status;
  const char *reason;
  struct http_request request;
};

static enum http_event parser_refuse(struct http_parser *p, int status, const char *reason) {
  if (p->phase == PHASE_REFUSED) return HTTP_FEED_REFUSED; /* the first reason is the one to tell */
  p->phase = PHASE_REFUSED;
  p->status = status;
  p->reason = reason;
  return HTTP_FEED_REFUSED;
}

static enum http_event parser_short(struct http_parser *p) { return parser_refuse(p, 503, "not enough memory for the request"); }

static enum scanned scan_byte(struct scan *s, char c) {
  if (s->after_cr) {
    if (c != '\n') return SCAN_BAD;
    s->after_cr = false;
    bool blank = s->line == 0;
    s->line = 0;
    if (!blank) s->lines++;
    return blank ? SCAN_BLANK : SCAN_LINE;
  }
  if (c == '\n' || c == '\0') return SCAN_BAD;
  if (c == '\r') s->after_cr = true;
  else s->line++;
  return SCAN_INSIDE;
}

/* --- what llhttp calls --------------------------------------------------------------------------------------------------- */

static int machine_refuse(struct http_parser *p, int status, const char *reason) {
  parser_refuse(p, status, reason);
  return -1;
}

static int on_header_field(llhttp_t *machine, const char *at, size_t len) {
  struct http_parser *p = machine->data;
  if (p->phase == PHASE_TRAILER) return 0;
  struct http_request *r = &p->request;
  if (p->in_value || r->header_count == 0) {
    if (r->header_count == HTTP_HEADERS_MAX) return machine_refuse(p, 431, "too many headers");
    r->headers[r->header_count++] = (struct http_field){.name = {at, 0}, .value = {"", 0}};
    p->in_value = false;
  }
  struct http_text *name = &r->headers[r->header_count - 1].name;
  name->len = (size_t)(at + len - name->at);
  return 0;
}

static int on_header_field_complete(llhttp_t *machine) {
  struct http_parser *p = machine->data;
  p->in_value = true;
  return 0;
}

static int on_header_value(llhttp_t *machine, const char *at, size_t len) {
  struct http_parser *p = machine->data;
  if (p->phase == PHASE_TRAILER || len == 0) return 0;
  INSIST(p->request.header_count > 0);
  struct http_text *value = &p->request.headers[p->request.header_count - 1].value;
  if (value->len == 0) value->at = at;
  value->len = (size_t)(at + len - value->at);
  return 0;
}

static int on_headers_complete(llhttp_t *machine) {
  struct http_parser *p = machine->data;
  if (p->phase == PHASE_TRAILER) return 0;
  struct http_request *r = &p->request;
  check_tidy(r, p->head.data);
  const struct http_refusal *refusal = check_headers(r, p->limits.body, &p->expects_continue);
  if (refusal != NULL) return machine_refuse(p, refusal->status, refusal->reason);
  machine->upgrade = 0; /* an upgrade is ignored, as RFC 9110 7.8 allows: what follows is still HTTP/1 */
  r->keep_alive = llhttp_should_keep_alive(machine) != 0;
  return 0;
}

static int on_body(llhttp_t *machine, const char *at, size_t len) {
  struct http_parser *p = machine->data;
  if (len > p->limits.body - p->body.len) return machine_refuse(p, 413, "the body is too large");
  http_bytes_append(&p->body, at, len);
  if (!p->body.failed) return 0;
  parser_short(p);
  return -1;
}

static int on_chunk_header(llhttp_t *machine) {
  struct http_parser *p = machine->data;
  if (machine->content_length > p->limits.body - p->body.len) return machine_refuse(p, 413, "the body is too large");
  p->remaining = machine->content_length;
  return 0;
}

static int on_message_complete(llhttp_t *machine) {
  struct http_parser *p = machine->data;
  p->phase = PHASE_COMPLETE;
  return HPE_PAUSED;
}

/* --- phases -------------------------------------------------------------------------------------------------------------- */

/* Gives llhttp bytes that were checked. false: refused. */
static bool machine_take(struct http_parser *p, const char *bytes, size_t len) {
  enum llhttp_errno error = llhttp_execute(&p->machine, bytes, len);
  if (p->phase == PHASE_REFUSED) return false;
  if (error == HPE_OK || (error == HPE_PAUSED && p->phase == PHASE_COMPLETE)) return true;
  parser_refuse(p, 400, "malformed request");
  return false;
}

static enum http_event parser_complete(struct http_parser *p) {
  INSIST(p->phase == PHASE_COMPLETE);
  p->request.body = (struct http_text){p->body.data ? p->body.data : "", p->body.len};
  return HTTP_FEED_REQUEST;
}

/* The blank line is there: head is whole. */
static enum http_event head_finish(struct http_parser *p) {
  const struct http_refusal *refusal = check_request_line(&p->request, p->head.data, p->head.len);
  if (refusal != NULL) return parser_refuse(p, refusal->status, refusal->reason);
  if (!machine_take(p, p->head.data, p->head.len)) return HTTP_FEED_REFUSED;
  p->scan = (struct scan){0};
  if (p->phase == PHASE_COMPLETE) return parser_complete(p);
  bool chunked = (p->machine.flags & F_CHUNKED) != 0;
  p->phase = chunked ? PHASE_LINE : PHASE_BODY;
  p->remaining = chunked ? 0 : p->machine.content_length;
  INSIST(chunked || p->remaining > 0);
  return p->expects_continue ? HTTP_FEED_CONTINUE : HTTP_FEED_MORE;
}

static enum http_event head_take(struct http_parser *p, const char *bytes, size_t len, size_t *used) {
  size_t room = HTTP_HEAD_MAX - p->head.len;
  if (!http_bytes_reserve(&p->head, len < room ? len : room)) return parser_short(p);
  for (size_t i = 0; i < len; i++) {
    if (p->head.len == HTTP_HEAD_MAX) return parser_refuse(p, 431, "the request's head is too large");
    char c = bytes[i];
    p->head.data[p->head.len++] = c;
    enum scanned scanned = scan_byte(&p->scan, c);
    if (scanned == SCAN_BAD) return parser_refuse(p, 400, "a line of the head does not end in CR LF, or holds a NUL");
    if (scanned == SCAN_BLANK && p->scan.lines > 0) {
      *used = i + 1;
      return head_finish(p);
    }
    if (scanned == SCAN_BLANK) {
      if (++p->blanks > HTTP_BLANK_MAX) return parser_refuse(p, 400, "nothing but empty lines");
      p->head.len = 0;
    }
    if (p->scan.lines == 0 && p->scan.line > HTTP_TARGET_MAX + 64) return parser_refuse(p, 414, "the target is too long");
    if (p->scan.lines > 0 && p->scan.line == 1 && (c == ' ' || c == '\t')) return parser_refuse(p, 400, "a folded header");
  }
  *used = len;
  return HTTP_FEED_MORE;
}

static enum http_event body_take(struct http_parser *p, const char *bytes, size_t len, size_t *used) {
  *used = len < p->remaining ? len : (size_t)p->remaining;
  if (!machine_take(p, bytes, *used)) return HTTP_FEED_REFUSED;
  p->remaining -= *used;
  INSIST((p->remaining == 0) == (p->phase == PHASE_COMPLETE));
  return p->phase == PHASE_COMPLETE ? parser_complete(p) : HTTP_FEED_MORE;
}

static enum http_event line_finish(struct http_parser *p) {
  size_t digits = check_chunk_line(p->line.data, p->line.len - 2);
  if (digits == 0) return parser_refuse(p, 400, "malformed chunk");
  p->extensions += p->line.len - 2 - digits;
  if (p->extensions > HTTP_EXTENSIONS_MAX) return parser_refuse(p, 400, "too many chunk extensions");
  /* llhttp gets the size alone: extensions are dropped here, and 8.1 fails on some well-formed ones */
  if (!machine_take(p, p->line.data, digits) || !machine_take(p, "\r\n", 2)) return HTTP_FEED_REFUSED;
  p->phase = p->remaining == 0 ? PHASE_TRAILER : PHASE_DATA;
  p->scan = (struct scan){0};
  p->line.len = 0;
  return HTTP_FEED_MORE;
}

static enum http_event line_take(struct http_parser *p, const char *bytes, size_t len, size_t *used) {
  for (size_t i = 0; i < len; i++) {
    if (p->line.len == HTTP_CHUNK_LINE_MAX) return parser_refuse(p, 400, "a chunk's line is too long");
    http_bytes_append(&p->line, &bytes[i], 1);
    if (p->line.failed) return parser_short(p);
    enum scanned scanned = scan_byte(&p->scan, bytes[i]);
    if (scanned == SCAN_INSIDE) continue;
    *used = i + 1;
    return scanned == SCAN_LINE ? line_finish(p) : parser_refuse(p, 400, "malformed chunk");
  }
  *used = len;
  return HTTP_FEED_MORE;
}

static enum http_event data_take(struct http_parser *p, const char *bytes, size_t len, size_t *used) {
  *used = len < p->remaining ? len : (size_t)p->remaining;
  if (!machine_take(p, bytes, *used)) return HTTP_FEED_REFUSED;
  p->remaining -= *used;
  if (p->remaining == 0) p->phase = PHASE_DATA_END;
  return HTTP_FEED_MORE;
}

/* The CR LF after a chunk, byte by byte. */
static enum http_event data_end_take(struct http_parser *p, char c, size_t *used) {
  char expected = p->scan.after_cr ? '\n' : '\r';
  if (c != expected) return parser_refuse(p, 400, "malformed chunk");
  *used = 1;
  if (!machine_take(p, &c, 1)) return HTTP_FEED_REFUSED;
  p->scan.after_cr = c == '\r';
  if (c == '\n') p->phase = PHASE_LINE;
  return HTTP_FEED_MORE;
}

static enum http_event trailer_take(struct http_parser *p, const char *bytes, size_t len, size_t *used) {
  for (size_t i = 0; i < len; i++) {
    if (p->line.len == HTTP_TRAILERS_MAX) return parser_refuse(p, 431, "the trailers are too large");
    http_bytes_append(&p->line, &bytes[i], 1);
    if (p->line.failed) return parser_short(p);
    enum scanned scanned = scan_byte(&p->scan, bytes[i]);
    if (scanned == SCAN_BAD) return parser_refuse(p, 400, "malformed trailers");
    if (scanned != SCAN_BLANK) continue;
    *used = i + 1;
    if (!check_trailers(p->line.data, p->line.len)) return parser_refuse(p, 400, "malformed trailers");
    if (!machine_take(p, p->line.data, p->line.len)) return HTTP_FEED_REFUSED;
    return p->phase == PHASE_COMPLETE ? parser_complete(p) : parser_refuse(p, 400, "malformed trailers");
  }
  *used = len;
  return HTTP_FEED_MORE;
}

static enum http_event phase_take(struct http_parser *p, const char *bytes, size_t len, size_t *used) {
  switch (p->phase) {
  case PHASE_HEAD: return head_take(p, bytes, len, used);
  case PHASE_BODY: return body_take(p, bytes, len, used);
  case PHASE_LINE: return line_take(p, bytes, len, used);
  case PHASE_DATA: return data_take(p, bytes, len, used);
  case PHASE_DATA_END: return data_end_take(p, bytes[0], used);
  case PHASE_TRAILER: return trailer_take(p, bytes, len, used);
  case PHASE_REFUSED: return HTTP_FEED_REFUSED;
  default: WRONG("bytes fed while a request is out: http_next comes first");
  }
}

/* --- what others call ---------------------------------------------------------------------------------------------------- */

enum http_event http_feed(struct http_parser *p, const char *bytes, size_t len, size_t *used) {
  *used = 0;
  while (*used < len) {
    size_t now = 0;
    enum http_event event = phase_take(p, bytes + *used, len - *used, &now);
    *used += now;
    if (event != HTTP_FEED_MORE) return event;
    INSIST(now > 0);
  }
  return HTTP_FEED_MORE;
}

struct http_parser *http_parser_create(const struct http_limits *limits) {
  struct http_parser *p = calloc(1, sizeof *p);
  if (p == NULL) return NULL;
  p->limits = *limits;
  if (p->limits.body == 0) p->limits.body = HTTP_BODY_MAX;
  llhttp_settings_init(&p->callbacks);
  p->callbacks.on_header_field = on_header_field;
  p->callbacks.on_header_field_complete = on_header_field_complete;
  p->callbacks.on_header_value = on_header_value;
  p->callbacks.on_headers_complete = on_headers_complete;
  p->callbacks.on_body = on_body;
  p->callbacks.on_chunk_header = on_chunk_header;
  p->callbacks.on_message_complete = on_message_complete;
  llhttp_init(&p->machine, HTTP_REQUEST, &p->callbacks);
  p->machine.data = p;
  return p;
}

void http_parser_destroy(struct http_parser *p) {
  if (p == NULL) return;
  http_bytes_free(&p->head);
  http_bytes_free(&p->line);
  http_bytes_free(&p->body);
  free(p);
}

void http_next(struct http_parser *p) {
  INSIST(p->phase == PHASE_COMPLETE);
  llhttp_init(&p->machine, HTTP_REQUEST, &p->callbacks);
  p->machine.data = p;
  p->phase = PHASE_HEAD;
  p->scan = (struct scan){0};
  p->head.len = p->line.len = 0;
  http_bytes_free(&p->body); /* one large upload must not stay with an idle connection */
  p->blanks = 0;
  p->extensions = 0;
  p->remaining = 0;
  p->in_value = p->expects_continue = false;
  p->request = (struct http_request){0};
}

const struct http_request *http_parser_request(const struct http_parser *p) {
  INSIST(p->phase == PHASE_COMPLETE);
  return &p->request;
}

bool http_parser_untouched(const struct http_parser *p) { return p->phase == PHASE_HEAD && p->head.len == 0 && p->blanks == 0; }

bool http_parser_in_body(const struct http_parser *p) { return p->phase > PHASE_HEAD && p->phase < PHASE_COMPLETE; }

int http_parser_status(const struct http_parser *p) {
  INSIST(p->phase == PHASE_REFUSED);
  return p->status;
}

const char *http_parser_reason(const struct http_parser *p) {
  INSIST(p->phase == PHASE_REFUSED);
  return p->reason;
}

struct http_text http_request_header(const struct http_request *r, const char *name) {
  size_t len = strlen(name);
  for (int i = 0; i < r->header_count; i++) {
    const struct http_text *at = &r->headers[i].name;
    if (at->len == len && memcmp(at->at, name, len) == 0) return r->headers[i].value;
  }
  return (struct http_text){0};
}
