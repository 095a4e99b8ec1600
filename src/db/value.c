/*
** value: texts into cells, PostgreSQL's array literals into tokens, doubles into their shortest texts.
**
** Nothing here allocates, and nothing depends on the process's locale: a host program may have chosen a decimal comma, so the point
** that snprintf wrote is put right afterwards, and a text for strtod gets the locale's own point first. Both ask snprintf what
** the point is, since localeconv is not safe beside other threads.
**
** Reading a real. Up to 2^53 of digits with a power of ten up to 10^22 is one exact integer and one exactly rounded operation; the
** rest is strtod's. Writing one: 15 digits read back for most, 17 always; a subnormal has fewer digits to spare, so it is tried from
** one up; below a power of two the doubles lie twice as dense as above it, so there the nearest 16 digits may read back as the
** neighbour below where the next 16 digits up would not.
**
** Array reader. `state` says what may come next: START a "{", FIRST an element or "}", VALUE an element, AFTER a delimiter or
** "}", OVER nothing. Each token moves it; whatever does not fit is ARRAY_MALFORMED, and stays so.
*/
#include "value.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REAL_TEXT_MAX 128 /* a longer number is no double's text: it stays text */
#define EXACT_INTEGER (INT64_C(1) << 53)
#define POWER_MAX 22 /* 10^22 is the last power of ten that is a double */

enum { READER_START, READER_FIRST, READER_VALUE, READER_AFTER, READER_OVER, READER_BAD };

static bool char_is_digit(char c) { return c >= '0' && c <= '9'; }

/* ---- reading numbers ---- */

static bool integer_parse(const char *text, size_t len, int64_t *out) {
  size_t i = len > 0 && (text[0] == '-' || text[0] == '+');
  if (i == len) return false;
  uint64_t limit = text[0] == '-' ? (uint64_t)INT64_MAX + 1 : (uint64_t)INT64_MAX, n = 0;
  for (; i < len; i++) {
    unsigned digit = (unsigned)(unsigned char)text[i] - '0';
    if (digit > 9 || n > (limit - digit) / 10) return false;
    n = n * 10 + digit;
  }
  *out = (int64_t)(text[0] == '-' ? 0 - n : n);
  return true;
}

/* A decimal number taken apart: digits × 10^exponent. */
struct decimal {
  int64_t digits;
  int exponent;
  bool negative, exact; /* exact: the digits fit EXACT_INTEGER */
};

/* The digits of a whole or fractional part from *at on; how many there were. */
static size_t decimal_digits(struct decimal *d, const char *text, size_t len, size_t *at, bool fraction) {
  size_t start = *at;
  for (; *at < len && char_is_digit(text[*at]); ++*at) {
    if (!d->exact) continue;
    d->digits = d->digits * 10 + (text[*at] - '0');
    d->exact = d->digits <= EXACT_INTEGER;
    d->exponent -= fraction;
  }
  return *at - start;
}

static bool decimal_exponent(struct decimal *d, const char *text, size_t len, size_t *at) {
  if (*at == len || (text[*at] != 'e' && text[*at] != 'E')) return true;
  ++*at;
  int sign = *at < len && text[*at] == '-' ? -1 : 1;
  *at += *at < len && (text[*at] == '-' || text[*at] == '+');
  size_t start = *at;
  int exponent = 0;
  for (; *at < len && char_is_digit(text[*at]); ++*at) exponent = exponent < 100000 ? exponent * 10 + (text[*at] - '0') : exponent;
  d->exponent += sign * exponent;
  return *at > start;
}

/* [sign] digits [. digits] [e [sign] digits], and nothing else: no hexadecimal, no spaces, whatever strtod would take. */
static bool decimal_parse(struct decimal *d, const char *text, size_t len) {
  *d = (struct decimal){.exact = true, .negative = len > 0 && text[0] == '-'};
  size_t at = len > 0 && (text[0] == '-' || text[0] == '+');
  size_t count = decimal_digits(d, text, len, &at, false);
  if (at < len && text[at] == '.') {
    at++;
    count += decimal_digits(d, text, len, &at, true);
  }
  return count > 0 && decimal_exponent(d, text, len, &at) && at == len;
}

/* strtod under any locale: the text with its point replaced by the one that snprintf writes. */
static bool real_parse_slowly(const char *text, size_t len, double *out) {
  char half[16], local[REAL_TEXT_MAX + sizeof half], *end;
  int half_len = snprintf(half, sizeof half, "%.1f", 0.5); /* "0.5": what is between is the point */
  if (len >= REAL_TEXT_MAX || half_len < 3) return false;
  const char *point = memchr(text, '.', len);
  size_t before = point ? (size_t)(point - text) : len, at = before;
  memcpy(local, text, before);
  if (point) {
    memcpy(local + at, half + 1, (size_t)half_len - 2);
    at += (size_t)half_len - 2;
    memcpy(local + at, point + 1, len - before - 1);
    at += len - before - 1;
  }
  local[at] = '\0';
  int saved = errno;
  *out = strtod(local, &end);
  errno = saved;
  return end == local + at && isfinite(*out);
}

static bool real_parse(const char *text, size_t len, double *out) {
  static const double powers[POWER_MAX + 1] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                               1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
  struct decimal d;
  if (!decimal_parse(&d, text, len)) return false;
#if FLT_EVAL_METHOD == 0 /* a wider register would round twice */
  if (d.exact && d.exponent >= -POWER_MAX && d.exponent <= POWER_MAX) {
    double n = (double)d.digits;
    n = d.exponent < 0 ? n / powers[-d.exponent] : n * powers[d.exponent];
    *out = d.negative ? -n : n;
    return true;
  }
#endif
  return real_parse_slowly(text, len, out);
}

static bool text_is(const char *text, size_t len, const char *word) { return len == strlen(word) && memcmp(text, word, len) == 0; }

static bool real_parse_any(const char *text, size_t len, double *out) {
  if (text_is(text, len, "NaN"))
    *out = (double)NAN;
  else if (text_is(text, len, "Infinity"))
    *out = (double)INFINITY;
  else if (text_is(text, len, "-Infinity"))
    *out = -(double)INFINITY;
  else
    return real_parse(text, len, out);
  return true;
}

static bool boolean_parse(const char *text, size_t len, bool *out) {
  *out = text_is(text, len, "t") || text_is(text, len, "true");
  return *out || text_is(text, len, "f") || text_is(text, len, "false");
}

void value_from_text(struct value *v, enum value_type type, const char *text, size_t len) {
  bool fits = true;
  v->text = text;
  v->len = len;
  switch (type) {
  case VALUE_INTEGER: fits = integer_parse(text, len, &v->integer); break;
  case VALUE_REAL: fits = real_parse_any(text, len, &v->real); break;
  case VALUE_BOOLEAN: fits = boolean_parse(text, len, &v->boolean); break;
  case VALUE_NULL:
  case VALUE_TEXT:
  case VALUE_NUMERIC:
  case VALUE_JSON:
  case VALUE_BYTES:
  case VALUE_ARRAY: break;
  default: WRONG("no such type of value");
  }
  v->type = fits ? type : VALUE_TEXT;
}

/* ---- arrays ---- */

/* "[0:2][1:3]=" says where the indices begin: Lua's begin at 1, so it is skipped. */
static void array_skip_bounds(struct array_reader *r) {
  const char *p = r->at;
  if (p == r->end || *p != '[') return;
  while (p < r->end && (char_is_digit(*p) || *p == '[' || *p == ']' || *p == ':' || *p == '-' || *p == '+')) p++;
  if (p < r->end && *p == '=') r->at = p + 1;
}

void array_begin(struct array_reader *r, const struct value *array, char *scratch) {
  INSIST(array->type == VALUE_ARRAY && (scratch || array->len == 0));
  *r = (struct array_reader){.at = array->text,
                             .end = array->text + array->len,
                             .delimiter = array->delimiter ? array->delimiter : ',',
                             .scratch = scratch,
                             .state = READER_START};
  array_skip_bounds(r);
}

static enum array_token array_malformed(struct array_reader *r) {
  r->state = READER_BAD;
  return ARRAY_MALFORMED;
}

/* The element between quotes; only one with backslashes needs the scratch. */
static enum array_token array_quoted(struct array_reader *r) {
  const char *p = ++r->at;
  while (p < r->end && *p != '"' && *p != '\\') p++;
  r->text = r->at;
  r->len = (size_t)(p - r->at);
  if (p < r->end && *p == '\\') {
    char *out = r->scratch + r->len;
    memcpy(r->scratch, r->at, r->len);
    for (; p < r->end && *p != '"'; p++) {
      if (*p == '\\' && ++p == r->end) return array_malformed(r);
      *out++ = *p;
    }
    r->text = r->scratch;
    r->len = (size_t)(out - r->scratch);
  }
  if (p == r->end) return array_malformed(r);
  r->at = p + 1;
  r->state = READER_AFTER;
  return ARRAY_ELEMENT;
}

static bool text_is_null(const char *text, size_t len) {
  return len == 4 && (text[0] | 32) == 'n' && (text[1] | 32) == 'u' && (text[2] | 32) == 'l' && (text[3] | 32) == 'l';
}

static enum array_token array_bare(struct array_reader *r) {
  const char *p = r->at;
  while (p < r->end && *p != r->delimiter && *p != '}') {
    if (*p == '{' || *p == '"' || *p == '\\') /* the server quotes an element with any of these */
      return array_malformed(r);
    p++;
  }
  if (p == r->end || p == r->at) return array_malformed(r);
  r->text = r->at;
  r->len = (size_t)(p - r->at);
  r->at = p;
  r->state = READER_AFTER;
  return text_is_null(r->text, r->len) ? ARRAY_NULL : ARRAY_ELEMENT;
}

static enum array_token array_open(struct array_reader *r) {
  if (r->depth == ARRAY_DEPTH_MAX) return array_malformed(r);
  r->at++;
  r->depth++;
  r->state = READER_FIRST;
  return ARRAY_OPEN;
}

static enum array_token array_close(struct array_reader *r) {
  r->at++;
  r->depth--;
  r->state = r->depth == 0 ? READER_OVER : READER_AFTER;
  return ARRAY_CLOSE;
}

static enum array_token array_element(struct array_reader *r) {
  return *r->at == '{' ? array_open(r) : *r->at == '"' ? array_quoted(r) : array_bare(r);
}

enum array_token array_next(struct array_reader *r) {
  if (r->state == READER_OVER && r->at == r->end) return ARRAY_END;
  if (r->at == r->end) return array_malformed(r);
  switch (r->state) {
  case READER_START: return *r->at == '{' ? array_open(r) : array_malformed(r);
  case READER_FIRST: return *r->at == '}' ? array_close(r) : array_element(r);
  case READER_VALUE: return array_element(r);
  case READER_AFTER:
    if (*r->at == '}') return array_close(r);
    if (*r->at++ != r->delimiter) return array_malformed(r);
    r->state = READER_VALUE;
    return array_next(r);
  case READER_OVER:
  case READER_BAD: return array_malformed(r);
  default: WRONG("no such state of an array reader");
  }
}

/* ---- bytes ---- */

static int hex_digit(char c) { return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1; }

/* The byte of two hexadecimal digits, -1 when they are none. */
static int hex_byte(const char *two) {
  int high = hex_digit(two[0]), low = hex_digit(two[1]);
  return high < 0 || low < 0 ? -1 : high << 4 | low;
}

static bool bytes_from_hex(char *out, const char *text, size_t *len) {
  size_t n = *len / 2;
  if (*len % 2 != 0) return false;
  *len = n;
  for (size_t i = 0; i < n; i++) {
    int byte = hex_byte(text + 2 * i);
    if (byte < 0) return false;
    out[i] = (char)byte;
  }
  return true;
}

static bool octal_at(const char *digits) {
  return digits[0] >= '0' && digits[0] <= '3' && (digits[1] & ~7) == '0' && (digits[2] & ~7) == '0';
}

/* bytea_output = escape: a backslash doubled, what is not printable as \ooo. A backslash before anything else stands for what follows. */
static bool bytes_from_escapes(char *out, const char *text, size_t *len) {
  size_t n = 0, end = *len;
  for (size_t i = 0; i < end; n++) {
    bool escape = text[i] == '\\' && i + 1 < end;
    if (escape && i + 3 < end && octal_at(text + i + 1)) {
      out[n] = (char)((text[i + 1] & 7) << 6 | (text[i + 2] & 7) << 3 | (text[i + 3] & 7));
      i += 4;
    } else {
      char c = text[i + escape];
      if (c < ' ' || c > '~') return false;
      out[n] = c;
      i += escape ? 2 : 1;
    }
  }
  *len = n;
  return true;
}

bool bytes_decode(char *out, const char *text, size_t *len) {
  if (*len < 2 || text[0] != '\\' || text[1] != 'x') return bytes_from_escapes(out, text, len);
  *len -= 2;
  return bytes_from_hex(out, text + 2, len);
}

bool array_value(struct array_reader *r, enum value_type element, struct value *out) {
  if (element == VALUE_BYTES) {
    if (!bytes_decode(r->scratch, r->text, &r->len)) return false;
    r->text = r->scratch;
  }
  value_from_text(out, element, r->text, r->len);
  return true;
}

/* ---- writing reals ---- */

/* Whatever stands between the digits is the locale's decimal point, be it a comma or several bytes. */
static size_t real_fix_point(char *out, size_t len) {
  size_t at = 0, end;
  while (at < len && (char_is_digit(out[at]) || strchr("+-e", out[at]))) at++;
  if (at == len) return len;
  for (end = at; end < len && !char_is_digit(out[end]); end++) {
  }
  out[at] = '.';
  memmove(out + at + 1, out + end, len - end + 1);
  return len - (end - at - 1);
}

enum real_style { REAL_SHORT, REAL_SCIENTIFIC };

static size_t real_print(char *out, enum real_style style, int precision, double d) {
  char text[64];
  int len = snprintf(text, sizeof text, style == REAL_SHORT ? "%.*g" : "%.*e", precision, d);
  INSIST(len > 0 && len < (int)sizeof text);
  size_t fixed = real_fix_point(text, (size_t)len);
  INSIST(fixed < 32);
  memcpy(out, text, fixed + 1);
  return fixed;
}

static bool real_reads_back(const char *text, size_t len, double d) {
  double back;
  return real_parse(text, len, &back) && back == d;
}

/* For a power of two: the 16 digits after the nearest ones, away from zero. 0 when they do not read back either. */
static size_t real_neighbour(char *out, double d) {
  int exponent;
  if (fabs(frexp(d, &exponent)) != 0.5) return 0;
  size_t len = real_print(out, REAL_SCIENTIFIC, 15, d), last = (size_t)(strchr(out, 'e') - out) - 1;
  if (out[last] == '9') /* no power of two in a double's range needs the carry */
    return 0;
  out[last]++;
  return real_reads_back(out, len, d) ? len : 0;
}

static size_t real_shortest(char *out, double d) {
  int precision = fabs(d) < DBL_MIN ? 1 : DBL_DIG;
  for (; precision < 17; precision++) {
    size_t len = real_print(out, REAL_SHORT, precision, d);
    if (real_reads_back(out, len, d)) return len;
  }
  size_t len = real_neighbour(out, d);
  return len ? len : real_print(out, REAL_SHORT, 17, d);
}

static size_t real_whole(char *out, double d) {
  int len = snprintf(out, 32, "%s%lld.0", signbit(d) ? "-" : "", (long long)fabs(d));
  return (size_t)len;
}

size_t real_format(char *out, double d) {
  if (!isfinite(d)) {
    strcpy(out, isnan(d) ? "nan" : d > 0 ? "inf" : "-inf");
    return strlen(out);
  }
  if (d == floor(d) && fabs(d) < 1e15) return real_whole(out, d);
  size_t len = real_shortest(out, d);
  if (!memchr(out, '.', len) && !memchr(out, 'e', len)) {
    memcpy(out + len, ".0", 3);
    len += 2;
  }
  return len;
}
