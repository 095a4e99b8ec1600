/*
** postgres_params: parameters as libpq takes them: text, typed only where the server could not infer what was meant.
**
** A number goes as text without a type (OID 0), so that `substr('abc', $1)` and `int_column = $1` both work, and a float
** without a fraction goes without a point, or an int could not take it. Two passes: the size first, so that what is written
** never moves. Everything is copied: libpq wants NUL-terminated text, and a statement may have to be sent again. The memory
** is the connection's and is kept: the hot path allocates nothing.
*/
#include "postgres.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { OID_BOOL = 16, OID_BYTEA = 17, OID_JSONB = 3802, OID_BOOL_ARRAY = 1000, OID_TEXT_ARRAY = 1009, OID_INT8_ARRAY = 1016,
       OID_FLOAT8_ARRAY = 1022 };
enum { NUMBER_MOST = 48, PARAMS_MOST = 65535, MESSAGE_MOST = 0x3fffffff - 0x10000 };

static size_t param_size(const struct param *p) {
  switch (p->type) {
    case PARAM_NULL: return 0;
    case PARAM_BOOLEAN: return 2;
    case PARAM_INTEGER: case PARAM_REAL: return NUMBER_MOST;
    case PARAM_TEXT: case PARAM_BYTES: case PARAM_JSON: case PARAM_ARRAY: return p->len + 1;
    default: WRONG("a parameter of no known type");
  }
}

static Oid param_oid(const struct param *p) {
  switch (p->type) {
    case PARAM_BOOLEAN: return OID_BOOL;
    case PARAM_BYTES: return OID_BYTEA;
    case PARAM_JSON: return OID_JSONB;
    case PARAM_ARRAY: break;
    default: return 0;
  }
  switch (p->element) {
    case PARAM_INTEGER: return OID_INT8_ARRAY;
    case PARAM_REAL: return OID_FLOAT8_ARRAY;
    case PARAM_BOOLEAN: return OID_BOOL_ARRAY;
    case PARAM_TEXT: return OID_TEXT_ARRAY;
    default: return 0;
  }
}

static size_t write_text(char *out, const char *text, size_t len) {
  memcpy(out, text, len);
  out[len] = '\0';
  return len;
}

static size_t write_integer(char *out, int64_t integer) {
  char digits[24];
  size_t n = sizeof digits;
  uint64_t left = integer < 0 ? 0 - (uint64_t)integer : (uint64_t)integer;
  do digits[--n] = (char)('0' + left % 10);
  while ((left /= 10) > 0);
  if (integer < 0) digits[--n] = '-';
  return write_text(out, digits + n, sizeof digits - n);
}

static size_t write_real(char *out, double real) {
  if (isnan(real)) return write_text(out, "NaN", 3);
  if (isinf(real)) return real > 0 ? write_text(out, "Infinity", 8) : write_text(out, "-Infinity", 9);
  if (real == 0 && signbit(real)) return write_text(out, "-0", 2);
  if (real == floor(real) && fabs(real) < 9007199254740992.0) return write_integer(out, (int64_t)real);
  size_t len = real_format(out, real);
  INSIST(len < NUMBER_MOST);
  if (len > 2 && memcmp(out + len - 2, ".0", 2) == 0) len -= 2;
  out[len] = '\0';
  return len;
}

static size_t param_write(const struct param *p, char *out) {
  switch (p->type) {
    case PARAM_BOOLEAN: return write_text(out, p->boolean ? "t" : "f", 1);
    case PARAM_INTEGER: return write_integer(out, p->integer);
    case PARAM_REAL: return write_real(out, p->real);
    default: return p->len > 0 ? write_text(out, p->text, p->len) : write_text(out, "", 0);
  }
}

static bool param_check(const struct param *p, int number, struct pool_error *error) {
  if (p->type != PARAM_TEXT && p->type != PARAM_JSON && p->type != PARAM_ARRAY) return true;
  if (p->len == 0 || !memchr(p->text, 0, p->len)) return true;
  error_set(error, POOL_QUERY, "parameter $%d holds a NUL character: PostgreSQL's text cannot; pool.bytes can", number);
  error->retryable = true;
  memcpy(error->sqlstate, "22021", 6);
  return false;
}

static bool params_grow(struct pg_params *params, int count, size_t size) {
  if (count > params->room) {
    int room = count < 8 ? 8 : count;
    size_t one = sizeof *params->values + sizeof *params->lengths + sizeof *params->formats + sizeof *params->oids;
    void *block = realloc(params->values, (size_t)room * one);
    if (!block) return false;
    params->values = block;
    params->lengths = (int *)(void *)(params->values + room);
    params->formats = params->lengths + room;
    params->oids = (Oid *)(params->formats + room);
    params->room = room;
  }
  if (size > params->size) {
    size_t more = size < 512 ? 512 : size + size / 2;
    char *text = realloc(params->text, more);
    if (!text) return false;
    params->text = text;
    params->size = more;
  }
  return true;
}

static bool params_refuse(struct pool_error *error, const char *sqlstate, const char *message) {
  error_set(error, POOL_QUERY, "%s", message);
  error->retryable = true;
  memcpy(error->sqlstate, sqlstate, 6);
  return false;
}

static bool params_measure(const struct statement *s, size_t *size, struct pool_error *error) {
  if (s->nparams > PARAMS_MOST) {
    error_set(error, POOL_QUERY, "%d parameters: PostgreSQL takes at most 65535 a statement; pass an array with pool.array", s->nparams);
    error->retryable = true;
    memcpy(error->sqlstate, "54000", 6);
    return false;
  }
  *size = 0;
  for (int i = 0; i < s->nparams; i++) {
    if (!param_check(&s->params[i], i + 1, error)) return false;
    if (s->params[i].type >= PARAM_TEXT && s->params[i].len > MESSAGE_MOST) *size = MESSAGE_MOST;
    *size += param_size(&s->params[i]);
  }
  if (*size + s->len > MESSAGE_MOST)
    return params_refuse(error, "54000", "the statement with its parameters is over a gigabyte: PostgreSQL takes less in one message");
  return true;
}

bool params_set(struct pg_params *params, const struct statement *s, struct pool_error *error) {
  size_t size;
  params->count = 0;
  if (s->nparams == 0 && s->len < MESSAGE_MOST) return true;
  if (!params_measure(s, &size, error)) return false;
  if (!params_grow(params, s->nparams, size)) return params_refuse(error, "53200", "out of memory for the statement's parameters");
  char *at = params->text;
  for (int i = 0; i < s->nparams; i++) {
    const struct param *p = &s->params[i];
    bool null = p->type == PARAM_NULL;
    size_t len = null ? 0 : param_write(p, at);
    params->values[i] = null ? NULL : at;
    params->lengths[i] = (int)len;
    params->formats[i] = p->type == PARAM_BYTES;
    params->oids[i] = param_oid(p);
    if (!null) at += len + 1;
  }
  INSIST(at <= params->text + size);
  params->count = s->nparams;
  return true;
}

void params_free(struct pg_params *params) {
  free(params->values);
  free(params->text);
  memset(params, 0, sizeof *params);
}
