/*
** json_text: JSON as text, from cells and from whatever else is appended.
**
** A buffer that ran out of memory is `failed` and takes nothing more, so that a writer need not look after every piece: whoever
** ends the text looks once. A string is written as runs of bytes that need no escaping, found eight at a time; UTF-8 passes through as
** it is, and is checked (utf8_valid) where the text comes from a database, since the encoder of Lua values words its own refusal.
**
** Rows. What does not change from row to row is prepared once a result: for each member its `{"name":` or `,"name":`, and the
** column that its value comes from. Of columns of one name the last gives the value, at the first one's place.
**
** Json cells are inserted as they are: that they are JSON is the driver's promise (the server's, or json_valid).
*/
#include "json_text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CAPACITY 512

/* ---- the buffer ---- */

void json_buffer_init(struct json_buffer *b) { *b = (struct json_buffer){0}; }

void json_buffer_free(struct json_buffer *b) {
  free(b->data);
  json_buffer_init(b);
}

static bool buffer_grow(struct json_buffer *b, size_t more) {
  size_t capacity = b->capacity ? b->capacity : FIRST_CAPACITY;
  if (b->failed || more > SIZE_MAX / 4 || b->len > SIZE_MAX / 4) {
    b->failed = true;
    return false;
  }
  while (capacity - b->len < more) capacity *= 2;
  char *data = realloc(b->data, capacity);
  if (!data) {
    b->failed = true;
    return false;
  }
  b->data = data;
  b->capacity = capacity;
  return true;
}

/* Room for `more` bytes; NULL when memory was short, now or before. */
static inline char *buffer_room(struct json_buffer *b, size_t more) {
  if (b->failed || (b->capacity - b->len < more && !buffer_grow(b, more)) || !b->data) return NULL;
  return b->data + b->len;
}

void json_append(struct json_buffer *b, const char *text, size_t len) {
  char *room = len > 0 ? buffer_room(b, len) : NULL;
  if (!room) return;
  memcpy(room, text, len);
  b->len += len;
}

static inline void buffer_char(struct json_buffer *b, char c) {
  char *room = buffer_room(b, 1);
  if (room) {
    *room = c;
    b->len++;
  }
}

/* ---- strings ---- */

#define EVERY_BYTE(c) (UINT64_C(0x0101010101010101) * (uint64_t)(c))
#define ANY_ZERO(x) (((x)-EVERY_BYTE(1)) & ~(x)&EVERY_BYTE(0x80)) /* non-zero if a byte of x is zero */

static inline uint64_t word_at(const char *p) {
  uint64_t word;
  memcpy(&word, p, sizeof word);
  return word;
}

static inline bool byte_is_plain(char c) { return (unsigned char)c >= 0x20 && c != '"' && c != '\\'; }

/* Where the run of bytes that need no escape ends. */
static const char *run_end(const char *p, const char *end) {
  for (; end - p >= 8; p += 8) {
    uint64_t word = word_at(p);
    uint64_t control = (word - EVERY_BYTE(0x20)) & ~word & EVERY_BYTE(0x80);
    if (control | ANY_ZERO(word ^ EVERY_BYTE('"')) | ANY_ZERO(word ^ EVERY_BYTE('\\'))) break;
  }
  while (p < end && byte_is_plain(*p)) p++;
  return p;
}

static void append_escape(struct json_buffer *b, unsigned char c) {
  static const char hex[] = "0123456789abcdef";
  static const char from[] = "\b\f\n\r\t\"\\", to[] = "bfnrt\"\\";
  const char *known = c ? strchr(from, c) : NULL;
  char text[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
  if (known) text[1] = to[known - from];
  json_append(b, text, known ? 2 : 6);
}

void json_append_string(struct json_buffer *b, const char *text, size_t len) {
  const char *end = text + len;
  buffer_char(b, '"');
  while (text < end) {
    const char *run = run_end(text, end);
    json_append(b, text, (size_t)(run - text));
    text = run;
    if (text < end) append_escape(b, (unsigned char)*text++);
  }
  buffer_char(b, '"');
}

/* How many bytes follow the lead byte `c`, and what the first of them may be. -1: no lead byte. */
static int utf8_follow(unsigned char c, unsigned char *low, unsigned char *high) {
  *low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;  /* no shorter form of the same character */
  *high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf; /* no surrogates; nothing past U+10FFFF */
  return c < 0xc2 ? -1 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : c < 0xf5 ? 3 : -1;
}

bool utf8_valid(const char *text, size_t len) {
  const unsigned char *p = (const unsigned char *)text, *end = p + len;
  while (p < end) {
    while (end - p >= 8 && !(word_at((const char *)p) & EVERY_BYTE(0x80))) p += 8;
    while (p < end && *p < 0x80) p++;
    if (p == end) break;
    unsigned char low, high;
    int follow = utf8_follow(*p++, &low, &high);
    if (follow < 0 || end - p < follow || *p < low || *p > high) return false;
    for (p++; --follow > 0; p++)
      if ((*p & 0xc0) != 0x80) return false;
  }
  return true;
}

/* ---- scalars ---- */

void json_append_integer(struct json_buffer *b, int64_t n) {
  char text[24], *at = text + sizeof text;
  uint64_t rest = n < 0 ? 0 - (uint64_t)n : (uint64_t)n;
  do *--at = (char)('0' + rest % 10);
  while (rest /= 10);
  if (n < 0) *--at = '-';
  json_append(b, at, (size_t)(text + sizeof text - at));
}

void json_append_real(struct json_buffer *b, double d) {
  char text[32];
  if (isfinite(d))
    json_append(b, text, real_format(text, d));
  else
    json_append(b, "null", 4);
}

/* Three bytes at most into four characters. */
static void base64_group(char *out, const unsigned char *in, size_t len) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  unsigned bits = (unsigned)in[0] << 16 | (len > 1 ? (unsigned)in[1] << 8 : 0) | (len > 2 ? in[2] : 0);
  out[0] = digits[bits >> 18];
  out[1] = digits[bits >> 12 & 63];
  out[2] = len > 1 ? digits[bits >> 6 & 63] : '=';
  out[3] = len > 2 ? digits[bits & 63] : '=';
}

void json_append_bytes(struct json_buffer *b, const char *bytes, size_t len) {
  size_t size = len > SIZE_MAX / 8 ? SIZE_MAX : (len + 2) / 3 * 4 + 2;
  char *out = buffer_room(b, size);
  if (!out) return;
  *out++ = '"';
  for (size_t i = 0; i < len; i += 3, out += 4) base64_group(out, (const unsigned char *)bytes + i, len - i);
  *out = '"';
  b->len += size;
}

/* ---- cells ---- */

static void append_word(struct json_buffer *b, const char *word) { json_append(b, word, strlen(word)); }

/* The tokens of an array as JSON. false: malformed, and what was written is to be dropped. */
static bool append_tokens(struct json_buffer *b, struct array_reader *r, enum value_type element) {
  bool first = true; /* in its brackets: no comma before it */
  for (;;) {
    enum array_token token = array_next(r);
    if (token == ARRAY_END || token == ARRAY_MALFORMED) return token == ARRAY_END;
    if (token != ARRAY_CLOSE && !first) buffer_char(b, ',');
    first = token == ARRAY_OPEN;
    if (token == ARRAY_OPEN || token == ARRAY_CLOSE) {
      buffer_char(b, token == ARRAY_OPEN ? '[' : ']');
    } else if (token == ARRAY_NULL) {
      append_word(b, "null");
    } else {
      struct value v;
      if (!array_value(r, element, &v)) return false;
      json_append_value(b, &v);
    }
  }
}

static void append_array(struct json_buffer *b, const struct value *array) {
  INSIST(array->element != VALUE_ARRAY);
  size_t start = b->len;
  char *scratch = malloc(array->len + 1);
  struct array_reader reader;
  if (!scratch) {
    b->failed = true;
    return;
  }
  array_begin(&reader, array, scratch);
  if (!append_tokens(b, &reader, array->element)) {
    b->len = start;
    json_append_string(b, array->text, array->len);
  }
  free(scratch);
}

void json_append_value(struct json_buffer *b, const struct value *v) {
  switch (v->type) {
  case VALUE_NULL: append_word(b, "null"); break;
  case VALUE_INTEGER: json_append_integer(b, v->integer); break;
  case VALUE_REAL: json_append_real(b, v->real); break;
  case VALUE_BOOLEAN: append_word(b, v->boolean ? "true" : "false"); break;
  case VALUE_TEXT:
  case VALUE_NUMERIC: json_append_string(b, v->text, v->len); break;
  case VALUE_JSON: json_append(b, v->text, v->len); break;
  case VALUE_BYTES: json_append_bytes(b, v->text, v->len); break;
  case VALUE_ARRAY: append_array(b, v); break;
  default: WRONG("no such type of value");
  }
}

/* ---- rows ---- */

struct member {
  size_t at, len; /* its `{"name":` in the plan's text */
  int column;     /* whose cell is its value */
  uint32_t hash;  /* of its name */
};

struct plan {
  struct json_buffer text;
  struct member *members;
  int count;
};

static void plan_free(struct plan *p) {
  json_buffer_free(&p->text);
  free(p->members);
}

static uint32_t name_hash(const char *name) {
  uint32_t hash = 2166136261u;
  while (*name) hash = (hash ^ (unsigned char)*name++) * 16777619u;
  return hash;
}

/* The member of this name so far, or NULL. Hashes first: 1,600 columns make a million comparisons. */
static struct member *plan_find(struct plan *p, const struct driver *d, struct db_result *r, const char *name, uint32_t hash) {
  for (int i = 0; i < p->count; i++) {
    struct column other;
    if (p->members[i].hash != hash) continue;
    d->column(r, p->members[i].column, &other);
    if (strcmp(other.name, name) == 0) return &p->members[i];
  }
  return NULL;
}

static bool plan_column(struct plan *p, const struct driver *d, struct db_result *r, int column) {
  struct column c;
  d->column(r, column, &c);
  size_t len = strlen(c.name), at = p->text.len;
  uint32_t hash = name_hash(c.name);
  struct member *same = plan_find(p, d, r, c.name, hash);
  if (same) {
    same->column = column;
    return true;
  }
  buffer_char(&p->text, p->count == 0 ? '{' : ',');
  json_append_string(&p->text, c.name, len);
  buffer_char(&p->text, ':');
  p->members[p->count++] = (struct member){.at = at, .len = p->text.len - at, .column = column, .hash = hash};
  return utf8_valid(c.name, len);
}

static bool plan_make(struct plan *p, const struct driver *d, struct db_result *r, struct pool_error *error) {
  int columns = d->columns(r);
  *p = (struct plan){.members = calloc((size_t)columns + 1, sizeof *p->members)};
  json_buffer_init(&p->text);
  for (int i = 0; p->members && i < columns; i++)
    if (!plan_column(p, d, r, i)) {
      error_set(error, POOL_JSON, "the name of column %d is not UTF-8, which JSON needs", i + 1);
      return false;
    }
  if (!p->members || p->text.failed) error_set(error, POOL_JSON, "not enough memory for the result as JSON");
  return p->members && !p->text.failed;
}

static bool value_is_text(const struct value *v) {
  return v->type == VALUE_TEXT || v->type == VALUE_NUMERIC || v->type == VALUE_JSON || v->type == VALUE_ARRAY;
}

static bool append_cell(struct json_buffer *b, const struct driver *d, struct db_result *r, int row, int column, struct pool_error *error) {
  struct value v;
  d->cell(r, row, column, &v);
  if (value_is_text(&v) && !utf8_valid(v.text, v.len)) {
    struct column c;
    d->column(r, column, &c);
    error_set(error, POOL_JSON, "column \"%s\", row %d: the text is not UTF-8, which JSON needs", c.name, row + 1);
    return false;
  }
  json_append_value(b, &v);
  return true;
}

static bool append_row(struct json_buffer *b, const struct plan *p, const struct driver *d, struct db_result *r, int row,
                       struct pool_error *error) {
  if (p->count == 0) buffer_char(b, '{');
  for (int i = 0; i < p->count; i++) {
    const struct member *m = &p->members[i];
    json_append(b, p->text.data + m->at, m->len);
    if (!append_cell(b, d, r, row, m->column, error)) return false;
  }
  buffer_char(b, '}');
  return true;
}

bool json_append_result(struct json_buffer *b, const struct driver *d, struct db_result *r, struct pool_error *error) {
  struct plan plan;
  int rows = d->rows(r);
  bool fine = plan_make(&plan, d, r, error);
  buffer_char(b, '[');
  for (int row = 0; fine && row < rows; row++) {
    if (row > 0) buffer_char(b, ',');
    fine = append_row(b, &plan, d, r, row, error);
  }
  buffer_char(b, ']');
  plan_free(&plan);
  if (fine && b->failed) error_set(error, POOL_JSON, "not enough memory for the result as JSON");
  return fine && !b->failed;
}
