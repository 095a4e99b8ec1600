/*
** mask: see mask.h. Three passes, each of which only ever hides more.
**
** 1. Values: the very text that was sent, or that in lower case, as a server folds names. Found whole, or cut short at the message's end.
** 2. Pieces: what a server quotes may be a part of what was sent (an array's element, a member of JSON), so a quoted text that is
**    part of a parameter is one, unless the statement says it too. Apostrophes make pairs that are none: they match nothing. Looking
**    for many pieces in long parameters, or in a long statement, takes time that nobody else has: beyond SEARCH_MOST every quoted text
**    passes for a piece.
** 3. Data: what was computed (upper($1)) or read from a table is in no parameter. In a complaint about data the text from the first
**    quotation mark to the last is hidden as one piece, since a value may hold marks itself; the marks are those of the server's
**    languages.
*/
#include "mask.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define ELLIPSIS "\xe2\x80\xa6"

enum { LEAST_ALONE = 4, LEAST_INSIDE = 8, LEAST_SECRET = 4, LEAST_PIECE = 4, NUMBER_MOST = 48, TEXT_MOST = 1024, WITH_MOST = 16,
       SEARCH_MOST = 4 << 20 /* bytes that are looked through for one error */, SQL_SHORT = 65536 };

/* Puts `with` in place of `len` bytes at `at`. Returns where to go on. */
static char *text_replace(char *text, size_t size, char *at, size_t len, const char *with) {
  char made[TEXT_MOST + WITH_MOST];
  size_t before = (size_t)(at - text);
  INSIST(size <= TEXT_MOST && strlen(with) < WITH_MOST);
  snprintf(made, sizeof made, "%.*s%s%s", (int)before, text, with, at + len);
  text_copy(text, size, made);
  size_t done = before + strlen(with), left = strlen(text);
  return text + (done < left ? done : left);
}

static bool of_a_word(char c) { return isalnum((unsigned char)c) || c == '_' || (unsigned char)c >= 0x80; }

static bool stands_alone(const char *text, const char *at, size_t len) {
  return (at == text || !of_a_word(at[-1])) && !of_a_word(at[len]);
}

/* ---- 1: values ---- */

/* Was the message cut, and does it end in a beginning of the value? Where that begins. */
static char *value_cut(char *message, const char *value, size_t len) {
  size_t length = strlen(message), tail = sizeof ELLIPSIS - 1;
  if (length < tail || strcmp(message + length - tail, ELLIPSIS) != 0) return NULL;
  const char *end = message + length - tail;
  for (char *at = message; at + LEAST_ALONE <= end; at++)
    if (*at == *value && (size_t)(end - at) < len && memcmp(at, value, (size_t)(end - at)) == 0) return at;
  return NULL;
}

static void value_hide(char *message, size_t size, const char *value, size_t len, int n) {
  char name[16], *at = message;
  snprintf(name, sizeof name, "$%d", n);
  while ((at = memmem(at, strlen(at), value, len)) != NULL) {
    if (at > message && at[-1] == '"' && at[len] == '"') at = text_replace(message, size, at - 1, len + 2, name);
    else if (len >= LEAST_INSIDE || (len >= LEAST_ALONE && stands_alone(message, at, len))) at = text_replace(message, size, at, len, name);
    else at++;
  }
  at = value_cut(message, value, len);
  if (at != NULL) text_replace(message, size, at, strlen(at), at > message && at[-1] == '"' ? ELLIPSIS "\"" : name);
}

void mask_value(char *message, size_t size, const char *value, size_t len, int n) {
  char folded[TEXT_MOST];
  size_t most = len < sizeof folded ? len : sizeof folded, upper = 0; /* beyond that only a message that was cut can begin it */
  if (len == 0) return;
  value_hide(message, size, value, len, n);
  for (size_t i = 0; i < most; i++) {
    folded[i] = value[i] >= 'A' && value[i] <= 'Z' ? (char)(value[i] | 0x20) : value[i];
    upper += folded[i] != value[i];
  }
  if (upper > 0) value_hide(message, size, folded, most, n);
}

/* ---- 2: pieces ---- */

/* Is the piece in it, in capitals or not? */
static bool bytes_have(const char *bytes, size_t length, const char *piece, size_t len) {
  if (memmem(bytes, length, piece, len) != NULL) return true;
  for (const char *at = bytes, *end = bytes + length; (size_t)(end - at) >= len; at++)
    if (tolower((unsigned char)*at) == tolower((unsigned char)*piece) && strncasecmp(at, piece, len) == 0) return true;
  return false;
}

static bool text_has(const char *text, const char *piece, size_t len) {
  return text != NULL && bytes_have(text, strlen(text), piece, len);
}

/* Room for so many bytes more to be looked through? */
static bool search_charge(size_t *searched, size_t bytes) {
  *searched = bytes < SEARCH_MOST - *searched ? *searched + bytes : SEARCH_MOST;
  return *searched < SEARCH_MOST;
}

static void mask_pieces(char *message, size_t size, char mark, const struct param *p, const char *sql, size_t *searched) {
  for (char *open = strchr(message, mark), *close; open && (close = strchr(open + 1, mark)); open = close) {
    size_t len = (size_t)(close - open - 1);
    if (len < LEAST_PIECE) continue;
    if (!search_charge(searched, p->len)) return;
    if (!bytes_have(p->text, p->len, open + 1, len)) continue;
    if (!search_charge(searched, sql ? strlen(sql) : 0)) return;
    if (text_has(sql, open + 1, len)) continue;
    close = text_replace(message, size, open + 1, len, ELLIPSIS);
  }
}

/* Every quoted text, but what a statement of moderate length says. */
static void mask_all_quoted(char *message, size_t size, char mark, const char *sql) {
  if (sql && strlen(sql) > SQL_SHORT) sql = NULL;
  for (char *open = strchr(message, mark), *close; open && (close = strchr(open + 1, mark)); open = close) {
    size_t len = (size_t)(close - open - 1);
    if (len >= LEAST_PIECE && !text_has(sql, open + 1, len)) close = text_replace(message, size, open + 1, len, ELLIPSIS);
  }
}

/* ---- 3: data ---- */

/* The length of the quotation mark at `at`, 0 when there is none. */
static size_t mark_length(const char *at) {
  static const char *const marks[] = {"\"", "\xc2\xab", "\xc2\xbb", "\xe2\x80\x9c", "\xe2\x80\x9d", "\xe2\x80\x9e", "\xe2\x80\x9f", NULL};
  for (const char *const *mark = marks; *mark; mark++)
    if (strncmp(at, *mark, strlen(*mark)) == 0) return strlen(*mark);
  return 0;
}

static void mask_quoted(char *message, size_t size, const char *sql) {
  char *first = NULL, *last = NULL;
  for (char *at = message; *at; at++) {
    size_t len = mark_length(at);
    if (len == 0) continue;
    if (first == NULL) first = at + len;
    else last = at;
  }
  if (first == NULL) return;
  if (last == NULL) last = first + strlen(first); /* it was cut */
  if (last > first && !text_has(sql, first, (size_t)(last - first))) text_replace(message, size, first, (size_t)(last - first), ELLIPSIS);
}

/* ---- errors ---- */

static bool is_about_data(const struct pool_error *e) { return strncmp(e->sqlstate, "22", 2) == 0 || strcmp(e->sqlstate, "42601") == 0; }

static void mask_param(struct pool_error *e, const struct param *p, int n, const char *sql, size_t *searched) {
  char number[NUMBER_MOST];
  size_t len;
  switch (p->type) {
    case PARAM_INTEGER:
      len = (size_t)snprintf(number, sizeof number, "%lld", (long long)p->integer);
      mask_value(e->message, sizeof e->message, number, len, n);
      break;
    case PARAM_REAL: /* drivers leave the ".0" of a whole number out */
      len = real_format(number, p->real);
      mask_value(e->message, sizeof e->message, number, len, n);
      if (len > 2 && strcmp(number + len - 2, ".0") == 0) mask_value(e->message, sizeof e->message, number, len - 2, n);
      break;
    case PARAM_TEXT:
    case PARAM_JSON:
    case PARAM_ARRAY:
      mask_value(e->message, sizeof e->message, p->text, p->len, n);
      mask_pieces(e->message, sizeof e->message, '"', p, sql, searched);
      mask_pieces(e->message, sizeof e->message, '\'', p, sql, searched);
      break;
    case PARAM_NULL:
    case PARAM_BOOLEAN:
    case PARAM_BYTES: break;
  }
}

void mask_error(struct pool_error *e, const struct statement *s) {
  size_t searched = 0;
  for (int i = 0; i < s->nparams; i++) mask_param(e, &s->params[i], i + 1, s->sql, &searched);
  if (searched >= SEARCH_MOST) {
    mask_all_quoted(e->message, sizeof e->message, '"', s->sql);
    mask_all_quoted(e->message, sizeof e->message, '\'', s->sql);
  }
  if (is_about_data(e)) mask_quoted(e->message, sizeof e->message, s->sql);
}

static void text_mask_secret(char *text, size_t size, const char *secret, size_t len) {
  for (char *at = text; (at = strstr(at, secret)) != NULL;) at = text_replace(text, size, at, len, "***");
  char *cut = value_cut(text, secret, len);
  if (cut != NULL) text_replace(text, size, cut, strlen(cut), "***");
}

void mask_secret(struct pool_error *e, const char *secret) {
  size_t len = secret != NULL ? strlen(secret) : 0;
  if (len < LEAST_SECRET) return;
  text_mask_secret(e->message, sizeof e->message, secret, len);
  text_mask_secret(e->detail, sizeof e->detail, secret, len);
  text_mask_secret(e->hint, sizeof e->hint, secret, len);
}
