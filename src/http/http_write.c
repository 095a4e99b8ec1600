/*
** http_write: responses to bytes. Everything is checked before the first byte is appended, so a refused response leaves nothing
** behind: no header can be split into two, and framing headers are written here and nowhere else.
*/
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "check.h"
#include "http.h"

static const struct {
  int status;
  const char *text;
} TEXTS[] = {
  {200, "OK"}, {201, "Created"}, {202, "Accepted"}, {203, "Non-Authoritative Information"}, {204, "No Content"}, {205, "Reset Content"},
  {206, "Partial Content"}, {207, "Multi-Status"}, {300, "Multiple Choices"}, {301, "Moved Permanently"}, {302, "Found"},
  {303, "See Other"}, {304, "Not Modified"}, {307, "Temporary Redirect"}, {308, "Permanent Redirect"}, {400, "Bad Request"},
  {401, "Unauthorized"}, {402, "Payment Required"}, {403, "Forbidden"}, {404, "Not Found"}, {405, "Method Not Allowed"},
  {406, "Not Acceptable"}, {407, "Proxy Authentication Required"}, {408, "Request Timeout"}, {409, "Conflict"}, {410, "Gone"},
  {411, "Length Required"}, {412, "Precondition Failed"}, {413, "Content Too Large"}, {414, "URI Too Long"},
  {415, "Unsupported Media Type"}, {416, "Range Not Satisfiable"}, {417, "Expectation Failed"}, {418, "I'm a teapot"},
  {421, "Misdirected Request"}, {422, "Unprocessable Content"}, {423, "Locked"}, {424, "Failed Dependency"}, {425, "Too Early"},
  {426, "Upgrade Required"}, {428, "Precondition Required"}, {429, "Too Many Requests"}, {431, "Request Header Fields Too Large"},
  {451, "Unavailable For Legal Reasons"}, {500, "Internal Server Error"}, {501, "Not Implemented"}, {502, "Bad Gateway"},
  {503, "Service Unavailable"}, {504, "Gateway Timeout"}, {505, "HTTP Version Not Supported"}, {507, "Insufficient Storage"},
  {508, "Loop Detected"}, {511, "Network Authentication Required"},
};

const char *http_status_text(int status) {
  for (size_t i = 0; i < sizeof TEXTS / sizeof TEXTS[0]; i++)
    if (TEXTS[i].status == status) return TEXTS[i].text;
  return "Unknown";
}

static bool name_is_own(struct http_text name) {
  static const char *const own[] = {"content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "trailer", NULL};
  for (int i = 0; own[i] != NULL; i++)
    if (name.len == strlen(own[i]) && strncasecmp(name.at, own[i], name.len) == 0) return true;
  return false;
}

static const char *response_fault(const struct http_response *r) {
  if (r->status < 200 || r->status > 599) return "a status must be from 200 to 599";
  for (int i = 0; i < r->field_count; i++) {
    if (!check_token(r->fields[i].name)) return "a header's name holds a character that names cannot have";
    if (!check_value(r->fields[i].value)) return "a header's value holds a control character";
    if (name_is_own(r->fields[i].name)) return "this header is the server's own to write";
  }
  return NULL;
}

static void field_write(struct http_bytes *out, struct http_text name, struct http_text value) {
  http_bytes_append(out, name.at, name.len);
  http_bytes_append(out, ": ", 2);
  http_bytes_append(out, value.at, value.len);
  http_bytes_append(out, "\r\n", 2);
}

/* Content-Length or chunks; a streamed body to HTTP/1.0 ends with the connection. */
static void framing_write(struct http_bytes *out, const struct http_response *r, bool *keep_alive) {
  if (r->status == 204 || r->status == 304) return;
  if (r->streamed) {
    if (r->minor >= 1) http_bytes_text(out, "transfer-encoding: chunked\r\n");
    else *keep_alive = false;
    return;
  }
  char line[48];
  snprintf(line, sizeof line, "content-length: %zu\r\n", r->body.len);
  http_bytes_text(out, line);
}

const char *http_response_write(struct http_bytes *out, const struct http_response *r, bool *keep_alive) {
  const char *fault = response_fault(r);
  if (fault != NULL) return fault;
  if (out->failed) return "there was not enough memory for what goes before it"; /* which must not be forgotten with this one */
  *keep_alive = r->keep_alive;
  size_t before = out->len;
  char line[64];
  snprintf(line, sizeof line, "HTTP/1.1 %d %s\r\n", r->status, http_status_text(r->status));
  http_bytes_text(out, line);
  for (int i = 0; i < r->field_count; i++) field_write(out, r->fields[i].name, r->fields[i].value);
  framing_write(out, r, keep_alive);
  if (!*keep_alive) http_bytes_text(out, "connection: close\r\n");
  else if (r->minor == 0) http_bytes_text(out, "connection: keep-alive\r\n");
  http_bytes_append(out, "\r\n", 2);
  bool bodiless = r->is_head || r->streamed || r->status == 204 || r->status == 304;
  if (!bodiless) http_bytes_append(out, r->body.at, r->body.len);
  if (!out->failed) return NULL;
  out->len = before;
  out->failed = false;
  return "there is not enough memory for it";
}

void http_part_write(struct http_bytes *out, int minor, const char *data, size_t len) {
  if (len == 0) return; /* an empty chunk would end the body */
  char line[24];
  snprintf(line, sizeof line, "%zx\r\n", len);
  if (minor >= 1) http_bytes_text(out, line);
  http_bytes_append(out, data, len);
  if (minor >= 1) http_bytes_append(out, "\r\n", 2);
}

void http_part_end(struct http_bytes *out, int minor) {
  if (minor >= 1) http_bytes_text(out, "0\r\n\r\n");
}
