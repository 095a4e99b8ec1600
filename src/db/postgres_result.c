/*
** postgres_result: a statement's result: one PGresult, or, of a stream, up to 256 of one row each.
**
** What a column's cells are is decided by its type's OID, once a result. PostgreSQL's text is handed on as it is, borrowed;
** only bytea is decoded, into scratch of the result, so that a cell lasts until the next one is read. Array types are the
** built-in ones (their OIDs never change); an array of a type made by the user stays text, for its OID says nothing.
** Their elements, bytea too, are decoded by whoever walks them (array_value).
*/
#include "postgres.h"

#include <stdlib.h>
#include <string.h>

struct pg_column {
  unsigned char type, element; /* enum value_type */
  char delimiter;
};

struct db_result {
  PGresult *head;        /* tells columns, command, affected: the one there is, or the stream's last */
  PGresult **rows;       /* a batch: a row each; NULL when head has the rows */
  int nrows, ncolumns;
  uint64_t shape;        /* 0 unknown */
  char *scratch;
  size_t scratch_size;
  char command[32];
  struct pg_column *columns; /* NULL until a PGresult was there to tell */
};

/* ---- types ---- */

static enum value_type oid_type(Oid oid) {
  switch (oid) {
    case 20: case 21: case 23: case 26: return VALUE_INTEGER; /* int8, int2, int4, oid */
    case 700: case 701: return VALUE_REAL;
    case 16: return VALUE_BOOLEAN;
    case 1700: return VALUE_NUMERIC;
    case 114: case 3802: return VALUE_JSON;
    case 17: return VALUE_BYTES;
    default: return VALUE_TEXT;
  }
}

/* The element's type of a built-in array type, VALUE_NULL when it is none. */
static enum value_type oid_element(Oid oid) {
  switch (oid) {
    case 1005: case 1007: case 1016: case 1028: return VALUE_INTEGER;
    case 1021: case 1022: return VALUE_REAL;
    case 1000: return VALUE_BOOLEAN;
    case 1231: return VALUE_NUMERIC;
    case 199: case 3807: return VALUE_JSON;
    case 1001: return VALUE_BYTES;
    /* xml, xid8, line, cidr, circle, macaddr8, money; char, name, int2vector, regproc, text, tid, xid, cid, oidvector */
    case 143: case 271: case 629: case 651: case 719: case 775: case 791: case 1002: case 1003: case 1006: case 1008:
    case 1009: case 1010: case 1011: case 1012: case 1013:
    /* bpchar, varchar, point, lseg, path, box, polygon, aclitem, macaddr, inet */
    case 1014: case 1015: case 1017: case 1018: case 1019: case 1020: case 1027: case 1034: case 1040: case 1041:
    /* timestamp, date, time, timestamptz, interval, cstring, timetz, bit, varbit */
    case 1115: case 1182: case 1183: case 1185: case 1187: case 1263: case 1270: case 1561: case 1563:
    /* refcursor, regprocedure, regoper, regoperator, regclass, regtype, record, txid_snapshot, uuid, pg_lsn */
    case 2201: case 2207: case 2208: case 2209: case 2210: case 2211: case 2287: case 2949: case 2951: case 3221:
    /* tsvector, gtsvector, tsquery, regconfig, regdictionary, ranges, jsonpath, regnamespace, regrole, regcollation */
    case 3643: case 3644: case 3645: case 3735: case 3770: case 3905: case 3907: case 3909: case 3911: case 3913: case 3927:
    case 4073: case 4090: case 4097: case 4192:
    /* pg_snapshot, multiranges */
    case 5039: case 6150: case 6151: case 6152: case 6153: case 6155: case 6157: return VALUE_TEXT;
    default: return VALUE_NULL;
  }
}

static void column_set(struct pg_column *column, Oid oid) {
  enum value_type element = oid_element(oid);
  column->type = (unsigned char)(element == VALUE_NULL ? oid_type(oid) : VALUE_ARRAY);
  column->element = (unsigned char)element;
  column->delimiter = oid == 1020 ? ';' : ','; /* box alone */
}

static bool columns_set(struct db_result *result, const PGresult *from) {
  if (result->columns) return true;
  result->ncolumns = PQnfields(from);
  result->columns = malloc((size_t)(result->ncolumns + 1) * sizeof *result->columns);
  if (!result->columns) return false;
  for (int i = 0; i < result->ncolumns; i++) column_set(&result->columns[i], PQftype(from, i));
  return true;
}

/* ---- making ---- */

struct db_result *result_of(PGresult *head, uint64_t shape) {
  struct db_result *result = calloc(1, sizeof *result);
  if (!result || !columns_set(result, head)) {
    free(result);
    PQclear(head);
    return NULL;
  }
  result->head = head;
  result->nrows = PQntuples(head);
  result->shape = result->ncolumns > 0 ? shape : 0;
  return result;
}

struct db_result *result_batch(uint64_t shape) {
  struct db_result *result = calloc(1, sizeof *result);
  if (!result) return NULL;
  result->shape = shape;
  result->rows = calloc(BATCH_ROWS, sizeof *result->rows);
  if (result->rows) return result;
  free(result);
  return NULL;
}

int result_add(struct db_result *result, PGresult *row) {
  INSIST(result->rows && result->nrows < BATCH_ROWS && PQntuples(row) == 1);
  if (!columns_set(result, row)) {
    PQclear(row);
    return -1;
  }
  result->rows[result->nrows++] = row;
  return result->nrows;
}

bool result_finish(struct db_result *result, PGresult *head) {
  INSIST(result->rows && !result->head);
  result->head = head;
  return columns_set(result, head);
}

void result_free(struct db_result *result) {
  if (!result) return;
  for (int i = 0; result->rows && i < result->nrows; i++) PQclear(result->rows[i]);
  PQclear(result->head);
  free(result->rows);
  free(result->columns);
  free(result->scratch);
  free(result);
}

/* ---- reading ---- */

/* The PGresult that knows the columns. */
static const PGresult *result_any(const struct db_result *result) {
  return result->rows && result->nrows > 0 ? result->rows[0] : result->head;
}

int result_rows(const struct db_result *result) { return result->nrows; }
int result_columns(const struct db_result *result) { return result->ncolumns; }
const void *result_shape(const struct db_result *result) { return (const void *)(uintptr_t)result->shape; }

void result_column(const struct db_result *result, int i, struct column *column) {
  INSIST(i >= 0 && i < result->ncolumns);
  column->name = PQfname(result_any(result), i);
  column->type = (enum value_type)result->columns[i].type;
}

static bool scratch_grow(struct db_result *result, size_t size) {
  if (size <= result->scratch_size) return true;
  char *more = realloc(result->scratch, size);
  if (!more) return false;
  result->scratch = more;
  result->scratch_size = size;
  return true;
}

/* A bytea that is none, or no memory to decode it: the text as it came. */
static void cell_bytes(struct db_result *result, const char *text, size_t len, struct value *value) {
  size_t n = len;
  if (!scratch_grow(result, len + 1) || !bytes_decode(result->scratch, text, &n)) {
    value_from_text(value, VALUE_TEXT, text, len);
    return;
  }
  value->type = VALUE_BYTES;
  value->text = result->scratch;
  value->len = n;
}

void result_cell(struct db_result *result, int row, int i, struct value *value) {
  INSIST(row >= 0 && row < result->nrows && i >= 0 && i < result->ncolumns);
  const PGresult *from = result->rows ? result->rows[row] : result->head;
  if (result->rows) row = 0;
  size_t len = (size_t)PQgetlength(from, row, i);
  if (len == 0 && PQgetisnull(from, row, i)) {
    value->type = VALUE_NULL;
    return;
  }
  const char *text = PQgetvalue(from, row, i);
  const struct pg_column *column = &result->columns[i];
  if (column->type == VALUE_BYTES) {
    cell_bytes(result, text, len, value);
  } else if (column->type == VALUE_ARRAY) {
    value->type = VALUE_ARRAY;
    value->element = (enum value_type)column->element;
    value->delimiter = column->delimiter;
    value->text = text;
    value->len = len;
  } else {
    value_from_text(value, (enum value_type)column->type, text, len);
  }
}

/* "INSERT 0 1" -> "INSERT", "CREATE TABLE" as it is: the words before the first number. */
static void command_copy(char *out, size_t size, const char *tag) {
  size_t len = strcspn(tag, "0123456789");
  while (len > 0 && tag[len - 1] == ' ') len--;
  if (len >= size) len = size - 1;
  memcpy(out, tag, len);
  out[len] = '\0';
}

const char *result_command(const struct db_result *result) { /* lazily, into the result: still const to the caller */
  if (!result->head) return "SELECT"; /* a stream's rows before its last */
  if (!result->command[0])
    command_copy(((struct db_result *)(uintptr_t)result)->command, sizeof result->command, PQcmdStatus(result->head));
  return result->command;
}

int64_t result_affected(const struct db_result *result) {
  if (!result->head) return result->nrows;
  const char *tuples = PQcmdTuples(result->head);
  return tuples[0] ? strtoll(tuples, NULL, 10) : 0;
}
