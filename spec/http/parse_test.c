/*
** http: what requests are read and what is refused, whichever way the network splits the bytes. Input stands at the end of a
** guarded page, so that reading one byte too far faults.
*/
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "http/http.h"
#include "support/check.h"

#define GUARDED (64 * 1024)

static char *guard_end(void) {
  static char *end; /* one page for the program */
  if (end != NULL) return end;
  char *at = mmap(NULL, GUARDED + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED || mprotect(at + GUARDED, 4096, PROT_NONE) != 0) abort();
  end = at + GUARDED;
  return end;
}

static enum http_event feed_guarded(struct http_parser *p, const char *bytes, size_t len, size_t *used) {
  char *at = guard_end() - len;
  memcpy(at, bytes, len);
  enum http_event event = http_feed(p, at, len, used);
  memset(at, 0x55, len); /* what was handed out must not borrow from the input */
  return event;
}

/* Everything a request said, as one text, to compare splits. */
struct told {
  char text[8192];
  size_t len;
};

static void told_add(struct told *t, const char *at, size_t len) {
  if (t->len + len + 1 >= sizeof t->text) abort();
  if (len > 0) memcpy(t->text + t->len, at, len);
  t->len += len;
  t->text[t->len++] = '|';
  t->text[t->len] = '\0';
}

static void told_request(struct told *t, const struct http_request *r) {
  told_add(t, r->method.at, r->method.len);
  told_add(t, r->path.at, r->path.len);
  if (r->query.at != NULL) told_add(t, r->query.at, r->query.len);
  for (int i = 0; i < r->header_count; i++) {
    told_add(t, r->headers[i].name.at, r->headers[i].name.len);
    told_add(t, r->headers[i].value.at, r->headers[i].value.len);
  }
  told_add(t, r->body.at, r->body.len);
  told_add(t, r->keep_alive ? "keep" : "close", r->keep_alive ? 4 : 5);
}

/* Feeds `input` in pieces of which the first ends at `split` and the others are `step` long. Writes what was told; returns the
   refusal's status, 0 when none. */
static int input_tell(const char *input, size_t len, size_t split, size_t step, struct told *t) {
  struct http_limits limits = {0};
  struct http_parser *p = http_parser_create(&limits);
  size_t at = 0;
  int status = 0;
  t->len = 0;
  t->text[0] = '\0';
  size_t end = split;
  while (at < len && status == 0) {
    size_t used;
    if (end > len) end = len;
    enum http_event event = feed_guarded(p, input + at, end - at, &used);
    at += used;
    if (event == HTTP_FEED_REQUEST) {
      told_request(t, http_parser_request(p));
      http_next(p);
    } else if (event == HTTP_FEED_CONTINUE) {
      told_add(t, "100", 3);
    } else if (event == HTTP_FEED_REFUSED) {
      status = http_parser_status(p);
    }
    if (at == end) end += step;
  }
  http_parser_destroy(p);
  return status;
}

/* The same answer however the input is split; returns its status. */
static int input_every_way(const char *input, size_t len, struct told *whole) {
  int status = input_tell(input, len, len, len, whole);
  struct told other;
  for (size_t split = 1; split < len; split++) {
    if (!CHECK_INT(input_tell(input, len, split, len, &other), status)) break;
    if (!CHECK_TEXT(other.text, whole->text)) break;
  }
  CHECK_INT(input_tell(input, len, 1, 1, &other), status);
  CHECK_TEXT(other.text, whole->text);
  return status;
}

#define TELLS(input, expected)                                             \
  do {                                                                     \
    struct told told_;                                                     \
    CHECK_INT(input_every_way(input, sizeof(input) - 1, &told_), 0);       \
    CHECK_TEXT(told_.text, expected);                                      \
  } while (0)

#define REFUSES(input, status)                                             \
  do {                                                                     \
    struct told told_;                                                     \
    CHECK_INT(input_every_way(input, sizeof(input) - 1, &told_), status);  \
  } while (0)

#define HOST "Host: a\r\n"

static void test_requests(void) {
  TEST("a request is read whichever way it is split") {
    TELLS("GET /tasks?a=1 HTTP/1.1\r\nHost: a:80\r\nX-Thing:  two words \t\r\n\r\n",
          "GET|/tasks|a=1|host|a:80|x-thing|two words||keep|");
  }
  TEST("a body of a known length is read") {
    TELLS("POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhello", "POST|/|host|a|content-length|5|hello|keep|");
  }
  TEST("a body in chunks is put together, its extensions and trailers dropped") {
    TELLS("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: Chunked\r\n\r\n5;a=b;c=\"d;e\"\r\nhello\r\n001\r\n!\r\n0\r\nX-Sum: 1\r\n\r\n",
          "POST|/|host|a|transfer-encoding|Chunked|hello!|keep|");
  }
  TEST("pipelined requests are handed out one by one") {
    TELLS("GET /1 HTTP/1.1\r\n" HOST "\r\nPOST /2 HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\nokGET /3 HTTP/1.1\r\n" HOST "\r\n",
          "GET|/1|host|a||keep|POST|/2|host|a|content-length|2|ok|keep|GET|/3|host|a||keep|");
  }
  TEST("empty lines before a request are forgiven, some of them") {
    TELLS("\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n", "GET|/|host|a||keep|");
    REFUSES("\r\n\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n", 400);
  }
  TEST("HTTP/1.0 closes unless it asks to stay, HTTP/1.1 stays unless it asks to close") {
    TELLS("GET / HTTP/1.0\r\n\r\n", "GET|/||close|");
    TELLS("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET|/|connection|keep-alive||keep|");
    TELLS("GET / HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", "GET|/|host|a|connection|close||close|");
  }
  TEST("a client that expects 100 Continue gets it once its head is whole") {
    TELLS("POST / HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
          "100|POST|/|host|a|expect|100-continue|content-length|2|hi|keep|");
    TELLS("POST / HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 0\r\n\r\n",
          "POST|/|host|a|expect|100-continue|content-length|0||keep|");
    REFUSES("POST / HTTP/1.1\r\n" HOST "Expect: 200-ok\r\nContent-Length: 2\r\n\r\nhi", 417);
  }
  TEST("an upgrade is ignored and its request answered") {
    TELLS("GET / HTTP/1.1\r\n" HOST "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET /2 HTTP/1.1\r\n" HOST "\r\n",
          "GET|/|host|a|connection|Upgrade|upgrade|websocket||keep|GET|/2|host|a||keep|");
  }
  TEST("empty and odd header values keep their places") {
    TELLS("GET / HTTP/1.1\r\nA:\r\nHost: a\r\nB:  \r\nC: x\xc3\xa9\r\nA: 2\r\n\r\n", "GET|/|a||host|a|b||c|x\xc3\xa9|a|2||keep|");
  }
}

static void test_targets(void) {
  TEST("a target is a path, a URL, or * for OPTIONS alone") {
    TELLS("GET http://b:1/x?y HTTP/1.1\r\n" HOST "\r\n", "GET|/x|y|host|a||keep|");
    TELLS("GET http://b HTTP/1.1\r\n" HOST "\r\n", "GET|/|host|a||keep|");
    TELLS("GET /a%2Fb?? HTTP/1.1\r\n" HOST "\r\n", "GET|/a%2Fb|?|host|a||keep|");
    TELLS("GET /? HTTP/1.1\r\n" HOST "\r\n", "GET|/||host|a||keep|");
    TELLS("OPTIONS * HTTP/1.1\r\n" HOST "\r\n", "OPTIONS|*|host|a||keep|");
    REFUSES("GET * HTTP/1.1\r\n" HOST "\r\n", 400);
    REFUSES("GET x HTTP/1.1\r\n" HOST "\r\n", 400);
    REFUSES("GET http:// HTTP/1.1\r\n" HOST "\r\n", 400);
    REFUSES("GET http://u@b/ HTTP/1.1\r\n" HOST "\r\n", 400);
    REFUSES("GET ftp://b/ HTTP/1.1\r\n" HOST "\r\n", 400);
  }
  TEST("a target with bytes beyond ASCII, control bytes or a fragment is refused") {
    REFUSES("GET /\xc3\xa9 HTTP/1.1\r\n" HOST "\r\n", 400);
    REFUSES("GET /\x01 HTTP/1.1\r\n" HOST "\r\n", 400);
    REFUSES("GET /\x7f HTTP/1.1\r\n" HOST "\r\n", 400);
    REFUSES("GET /a#b HTTP/1.1\r\n" HOST "\r\n", 400);
    REFUSES("GET /a b HTTP/1.1\r\n" HOST "\r\n", 400);
  }
  TEST("a malformed request line is 400, a method nobody knows 501, another version 505") {
    REFUSES("GET  / HTTP/1.1\r\n" HOST "\r\n", 400);
    REFUSES("GET / HTTP/1.1 \r\n" HOST "\r\n", 400);
    REFUSES("GET / http/1.1\r\n" HOST "\r\n", 400);
    REFUSES("GET /\r\n\r\n", 400);
    REFUSES("G@T / HTTP/1.1\r\n" HOST "\r\n", 400);
    REFUSES("BREW / HTTP/1.1\r\n" HOST "\r\n", 501);
    REFUSES("get / HTTP/1.1\r\n" HOST "\r\n", 501);
    REFUSES("CONNECT a:1 HTTP/1.1\r\n" HOST "\r\n", 501);
    REFUSES("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505);
    REFUSES("GET / HTTP/1.2\r\n" HOST "\r\n", 505);
    REFUSES("GET / HTTP/0.9\r\n\r\n", 505);
  }
}

static void test_smuggling(void) {
  TEST("a CR or LF that stands alone ends nothing and is refused") {
    REFUSES("GET / HTTP/1.1\nHost: a\n\n", 400);
    REFUSES("GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400);
    REFUSES("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", 400);
    REFUSES("GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400);
    REFUSES("GET / HTTP/1.1\r\n" HOST "\n", 400);
    REFUSES("\nGET / HTTP/1.1\r\n" HOST "\r\n", 400);
  }
  TEST("two framings in one request are refused") {
    REFUSES("POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400);
    REFUSES("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400);
    REFUSES("POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400);
    REFUSES("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400);
    REFUSES("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400);
  }
  TEST("a length is digits and nothing else") {
    REFUSES("POST / HTTP/1.1\r\n" HOST "Content-Length: +5\r\n\r\nhello", 400);
    REFUSES("POST / HTTP/1.1\r\n" HOST "Content-Length: -1\r\n\r\n", 400);
    REFUSES("POST / HTTP/1.1\r\n" HOST "Content-Length: 0x5\r\n\r\nhello", 400);
    REFUSES("POST / HTTP/1.1\r\n" HOST "Content-Length: 5 5\r\n\r\nhello", 400);
    REFUSES("POST / HTTP/1.1\r\n" HOST "Content-Length: 5, 5\r\n\r\nhello", 400);
    REFUSES("POST / HTTP/1.1\r\n" HOST "Content-Length:\r\n\r\n", 400);
    REFUSES("POST / HTTP/1.1\r\n" HOST "Content-Length : 5\r\n\r\nhello", 400);
  }
  TEST("an unknown coding is 501, a malformed one 400") {
    REFUSES("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501);
    REFUSES("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip\r\n\r\n", 501);
    REFUSES("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding:\r\n\r\n", 400);
    REFUSES("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400);
    REFUSES("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400);
    REFUSES("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: \x0b" "chunked\r\n\r\n0\r\n\r\n", 400);
    REFUSES("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chun ked\r\n\r\n0\r\n\r\n", 400);
  }
  TEST("exactly one Host that names a host is needed") {
    REFUSES("GET / HTTP/1.1\r\n\r\n", 400);
    REFUSES("GET / HTTP/1.1\r\n" HOST HOST "\r\n", 400);
    REFUSES("GET / HTTP/1.1\r\nHost:\r\n\r\n", 400);
    REFUSES("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400);
    REFUSES("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400);
    REFUSES("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400);
    REFUSES("GET / HTTP/1.1\r\nHost: a:x\r\n\r\n", 400);
    REFUSES("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400);
    TELLS("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "GET|/|host|[::1]:80||keep|");
  }
  TEST("names of headers are tokens, values hold no control bytes, lines are not folded") {
    REFUSES("GET / HTTP/1.1\r\n" HOST "X Y: 1\r\n\r\n", 400);
    REFUSES("GET / HTTP/1.1\r\n" HOST "X : 1\r\n\r\n", 400);
    REFUSES("GET / HTTP/1.1\r\n" HOST ": 1\r\n\r\n", 400);
    REFUSES("GET / HTTP/1.1\r\n" HOST "X\r\n\r\n", 400);
    REFUSES("GET / HTTP/1.1\r\n" HOST "X(: 1\r\n\r\n", 400);
    REFUSES("GET / HTTP/1.1\r\n" HOST "X: a\x01\r\n\r\n", 400);
    REFUSES("GET / HTTP/1.1\r\n" HOST "X: a\x7f\r\n\r\n", 400);
    REFUSES("GET / HTTP/1.1\r\n" HOST "X: a\0b\r\n\r\n", 400);
    REFUSES("GET / HTTP/1.1\r\n" HOST "X: a\r\n b\r\n\r\n", 400);
    REFUSES("GET / HTTP/1.1\r\n X: a\r\n" HOST "\r\n", 400);
  }
}

#define CHUNKED "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"

static void test_chunks(void) {
  TEST("a chunk's line is digits, then extensions, and nothing else") {
    REFUSES(CHUNKED "5 \r\nhello\r\n0\r\n\r\n", 400);
    REFUSES(CHUNKED " 5\r\nhello\r\n0\r\n\r\n", 400);
    REFUSES(CHUNKED "5;\r\nhello\r\n0\r\n\r\n", 400);
    REFUSES(CHUNKED "5; a\r\nhello\r\n0\r\n\r\n", 400);
    REFUSES(CHUNKED "5;a=\r\nhello\r\n0\r\n\r\n", 400);
    REFUSES(CHUNKED "5;a=\"b\r\nhello\r\n0\r\n\r\n", 400);
    REFUSES(CHUNKED "5;a\x01\r\nhello\r\n0\r\n\r\n", 400);
    REFUSES(CHUNKED "0x5\r\nhello\r\n0\r\n\r\n", 400);
    REFUSES(CHUNKED "\r\nhello\r\n0\r\n\r\n", 400);
    REFUSES(CHUNKED "5\nhello\r\n0\r\n\r\n", 400);
    REFUSES(CHUNKED "5\r\nhelloX\r\n0\r\n\r\n", 400);
    REFUSES(CHUNKED "5\r\nhello\n0\r\n\r\n", 400);
    REFUSES(CHUNKED "5\r\nhello\rX0\r\n\r\n", 400);
    REFUSES(CHUNKED "1000000000000005\r\nhello\r\n0\r\n\r\n", 400);
  }
  TEST("a chunk's line has a length, and so have all of them together") {
    char input[48 * 1024];
    struct told told;
    int len = snprintf(input, sizeof input, CHUNKED "1;%0300d\r\nx\r\n0\r\n\r\n", 7);
    CHECK_INT(input_tell(input, (size_t)len, (size_t)len, (size_t)len, &told), 400);
    len = snprintf(input, sizeof input, CHUNKED);
    for (int i = 0; i < 90; i++) len += snprintf(input + len, sizeof input - (size_t)len, "1;%0200d\r\nx\r\n", 7);
    CHECK_INT(input_tell(input, (size_t)len, (size_t)len, 100, &told), 400);
  }
  TEST("trailers are read, checked and dropped, up to a limit") {
    REFUSES(CHUNKED "0\r\nbad\r\n\r\n", 400);
    REFUSES(CHUNKED "0\r\nA: b\nC: d\r\n\r\n", 400);
    REFUSES(CHUNKED "0\r\nA : b\r\n\r\n", 400);
    char input[8192];
    struct told told;
    int len = snprintf(input, sizeof input, CHUNKED "0\r\nA: %05000d\r\n\r\n", 7);
    CHECK_INT(input_tell(input, (size_t)len, (size_t)len, (size_t)len, &told), 431);
  }
  TEST("pipelining goes on after chunks") {
    TELLS(CHUNKED "2\r\nok\r\n0\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n",
          "POST|/|host|a|transfer-encoding|chunked|ok|keep|GET|/|host|a||keep|");
  }
}

/* A request whose target or header has `filler` bytes; returns the status. */
static int status_of(const char *format, int filler) {
  char *input = malloc((size_t)filler + 256);
  if (input == NULL) abort();
  int len = snprintf(input, (size_t)filler + 256, format, filler, 7);
  struct http_parser *p = http_parser_create(&(struct http_limits){0});
  size_t used;
  enum http_event event = http_feed(p, input, (size_t)len, &used);
  int status = event == HTTP_FEED_REFUSED ? http_parser_status(p) : event == HTTP_FEED_REQUEST ? 200 : 0;
  http_parser_destroy(p);
  free(input);
  return status;
}

static int status_of_body(size_t max, const char *input) {
  struct http_limits limits = {.body = max};
  struct http_parser *p = http_parser_create(&limits);
  size_t used;
  enum http_event event = http_feed(p, input, strlen(input), &used);
  int status = event == HTTP_FEED_REFUSED ? http_parser_status(p) : event == HTTP_FEED_REQUEST ? 200 : 0;
  http_parser_destroy(p);
  return status;
}

static void test_limits(void) {
  TEST("a target up to 8 KiB is taken, a longer one is 414") {
    CHECK_INT(status_of("GET /%0*d HTTP/1.1\r\n" HOST "\r\n", HTTP_TARGET_MAX - 1), 200);
    CHECK_INT(status_of("GET /%0*d HTTP/1.1\r\n" HOST "\r\n", HTTP_TARGET_MAX), 414);
    CHECK_INT(status_of("GET /%0*d HTTP/1.1\r\n" HOST "\r\n", 3 * HTTP_HEAD_MAX), 414);
  }
  TEST("a head up to 16 KiB is taken, a larger one is 431") {
    int rest = (int)strlen("GET / HTTP/1.1\r\n" HOST "X: \r\n\r\n");
    CHECK_INT(status_of("GET / HTTP/1.1\r\n" HOST "X: %0*d\r\n\r\n", HTTP_HEAD_MAX - rest), 200);
    CHECK_INT(status_of("GET / HTTP/1.1\r\n" HOST "X: %0*d\r\n\r\n", HTTP_HEAD_MAX - rest + 1), 431);
  }
  TEST("a hundred headers are taken, one more is 431") {
    char input[4096] = "GET / HTTP/1.1\r\n" HOST;
    for (int i = 1; i < HTTP_HEADERS_MAX; i++) strcat(input, "X: 1\r\n");
    char more[4200];
    snprintf(more, sizeof more, "%sX: 1\r\n\r\n", input);
    strcat(input, "\r\n");
    CHECK_INT(status_of_body(0, input), 200);
    CHECK_INT(status_of_body(0, more), 431);
  }
  TEST("a body up to its limit is taken, a longer one is 413, however it is framed") {
    CHECK_INT(status_of_body(5, "POST / HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nhello"), 200);
    CHECK_INT(status_of_body(5, "POST / HTTP/1.1\r\n" HOST "Content-Length: 6\r\n\r\n"), 413);
    CHECK_INT(status_of_body(5, "POST / HTTP/1.1\r\n" HOST "Content-Length: 999999999999999999\r\n\r\n"), 413);
    CHECK_INT(status_of_body(5, "POST / HTTP/1.1\r\n" HOST "Content-Length: 99999999999999999999999\r\n\r\n"), 400);
    CHECK_INT(status_of_body(5, CHUNKED "5\r\nhello\r\n0\r\n\r\n"), 200);
    CHECK_INT(status_of_body(5, CHUNKED "4\r\nhell\r\n2\r\n"), 413);
    CHECK_INT(status_of_body(5, CHUNKED "fffffffffffffff\r\n"), 413);
  }
  TEST("what is asked of a parser while it reads says where it stands") {
    struct http_parser *p = http_parser_create(&(struct http_limits){0});
    size_t used;
    CHECK(http_parser_untouched(p));
    http_feed(p, "POST / HTTP/1.1\r\n", 17, &used);
    CHECK(!http_parser_untouched(p) && !http_parser_in_body(p));
    const char *rest = HOST "Content-Length: 2\r\n\r\nx";
    CHECK_INT(http_feed(p, rest, strlen(rest), &used), HTTP_FEED_MORE);
    CHECK(http_parser_in_body(p));
    CHECK_INT(http_feed(p, "yz", 2, &used), HTTP_FEED_REQUEST);
    CHECK_INT((int)used, 1);
    const struct http_request *r = http_parser_request(p);
    CHECK(http_request_header(r, "host").len == 1 && http_request_header(r, "nope").at == NULL);
    http_parser_destroy(p);
  }
}

static const char *written(struct http_bytes *out, const struct http_response *r, bool *keep) {
  out->len = 0;
  const char *fault = http_response_write(out, r, keep);
  http_bytes_append(out, "", 1);
  return fault;
}

/* xorshift64*: the same mutations in every run */
static uint64_t random_next(uint64_t *state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * UINT64_C(0x2545F4914F6CDD1D);
}

/* A few bytes changed, put in or left out. Returns the new length. */
static size_t mutate(char *input, size_t len, uint64_t *state) {
  static const char alphabet[] = "\r\n\r\n :;,=?*%/#@[]\"\\\t\0\x01\x7f\x80\xff""0159aAfFgGxX";
  for (uint64_t n = 1 + random_next(state) % 3; n > 0 && len > 1; n--) {
    size_t at = random_next(state) % len;
    char c = alphabet[random_next(state) % (sizeof alphabet - 1)];
    uint64_t how = random_next(state) % 3;
    if (how == 0) memmove(input + at, input + at + 1, --len - at);
    if (how == 1) memmove(input + at + 1, input + at, len++ - at);
    if (how > 0) input[at] = c;
  }
  return len;
}

static void test_mutations(void) {
  static const char *const seeds[] = {
    "GET /a?b=c HTTP/1.1\r\nHost: a:80\r\nX: y\r\n\r\nGET / HTTP/1.0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\nhello worldGET / HTTP/1.1\r\nHost: b\r\n\r\n",
    CHUNKED "5;a=\"b\"\r\nhello\r\n1\r\n!\r\n0\r\nA: b\r\n\r\nGET / HTTP/1.1\r\nHost: b\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: [::1]\r\nConnection: upgrade, close\r\nUpgrade: h2c\r\n\r\n",
  };
  TEST("any bytes are read the same whichever way they are split") {
    uint64_t state = 37;
    int refused = 0, whole = 0;
    for (int i = 0; i < 40000; i++) {
      char input[512];
      const char *seed = seeds[i % 4];
      size_t len = strlen(seed);
      memcpy(input, seed, len);
      len = mutate(input, len, &state);
      static struct told a, b;
      int status = input_tell(input, len, len, len, &a);
      size_t split = 1 + random_next(&state) % len;
      if (!CHECK_INT(input_tell(input, len, split, 1 + random_next(&state) % 7, &b), status)) break;
      if (!CHECK_TEXT(b.text, a.text)) break;
      if (status != 0) refused++;
      else whole++;
    }
    CHECK(refused > 10000 && whole > 2000); /* both kinds were tried */
  }
}

#define T(text) {text, sizeof(text) - 1}

static void test_responses(void) {
  struct http_bytes out = {0};
  bool keep;
  TEST("a response says its length and whether the connection stays") {
    struct http_field type = {T("content-type"), T("text/plain")};
    struct http_response r = {.status = 200, .fields = &type, .field_count = 1, .body = T("hi"), .keep_alive = true, .minor = 1};
    CHECK(written(&out, &r, &keep) == NULL && keep);
    CHECK_TEXT(out.data, "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nhi");
    r.minor = 0;
    CHECK(written(&out, &r, &keep) == NULL && keep);
    CHECK(strstr(out.data, "\r\nconnection: keep-alive\r\n") != NULL);
    r.keep_alive = false;
    CHECK(written(&out, &r, &keep) == NULL && !keep);
    CHECK(strstr(out.data, "\r\nconnection: close\r\n") != NULL);
  }
  TEST("an answer to HEAD has a length and no body; 204 and 304 have neither") {
    struct http_response r = {.status = 200, .body = T("hi"), .keep_alive = true, .minor = 1, .is_head = true};
    CHECK(written(&out, &r, &keep) == NULL);
    CHECK_TEXT(out.data, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n");
    r = (struct http_response){.status = 204, .body = T("hi"), .keep_alive = true, .minor = 1};
    CHECK(written(&out, &r, &keep) == NULL);
    CHECK_TEXT(out.data, "HTTP/1.1 204 No Content\r\n\r\n");
    r.status = 304;
    CHECK(written(&out, &r, &keep) == NULL);
    CHECK_TEXT(out.data, "HTTP/1.1 304 Not Modified\r\n\r\n");
  }
  TEST("a streamed body goes in chunks, and to HTTP/1.0 until the connection closes") {
    struct http_response r = {.status = 200, .streamed = true, .keep_alive = true, .minor = 1};
    out.len = 0;
    CHECK(http_response_write(&out, &r, &keep) == NULL && keep);
    http_part_write(&out, 1, "hello, world!!!!", 16);
    http_part_write(&out, 1, "", 0);
    http_part_end(&out, 1);
    http_bytes_append(&out, "", 1);
    CHECK_TEXT(out.data, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10\r\nhello, world!!!!\r\n0\r\n\r\n");
    r.minor = 0;
    out.len = 0;
    CHECK(http_response_write(&out, &r, &keep) == NULL && !keep);
    http_part_write(&out, 0, "hi", 2);
    http_part_end(&out, 0);
    http_bytes_append(&out, "", 1);
    CHECK_TEXT(out.data, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhi");
  }
  http_bytes_free(&out);
}

static void test_refused_responses(void) {
  struct http_bytes out = {0};
  bool keep;
  TEST("a header that would split the response is refused, and nothing is written") {
    static const struct http_field bad[] = {
      {T("x"), T("a\r\nb: c")}, {T("x"), T("a\nb")}, {T("x"), T("a\rb")}, {T("x"), T("a\0b")}, {T("x"), T("a\x01")}, {T("x\r\ny"), T("a")},
      {T("x\n"), T("a")}, {T("x:"), T("a")}, {T("x y"), T("a")}, {T(""), T("a")}, {T("x\0"), T("a")},
      {T("Content-Length"), T("1")}, {T("transfer-encoding"), T("chunked")}, {T("Connection"), T("close")},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
      struct http_response r = {.status = 200, .fields = &bad[i], .field_count = 1, .minor = 1};
      out.len = 0;
      CHECK(http_response_write(&out, &r, &keep) != NULL);
      CHECK_INT((int)out.len, 0);
    }
  }
  TEST("what could not be written for want of memory is not forgotten with the response behind it") {
    struct http_response r = {.status = 200, .minor = 1};
    out.len = 0;
    out.failed = true;
    CHECK(http_response_write(&out, &r, &keep) != NULL && out.failed && out.len == 0);
    out.failed = false;
  }
  TEST("a status that cannot end a request is refused") {
    struct http_response r = {.status = 101, .minor = 1};
    CHECK(written(&out, &r, &keep) != NULL);
    r.status = 600;
    CHECK(written(&out, &r, &keep) != NULL);
    r.status = 599;
    CHECK(written(&out, &r, &keep) == NULL);
  }
  http_bytes_free(&out);
}

int main(void) {
  test_requests();
  test_targets();
  test_smuggling();
  test_chunks();
  test_limits();
  test_mutations();
  test_responses();
  test_refused_responses();
  return check_done();
}
