/*
** sqlite_result: rows copied out of SQLite, so that they outlive statement and connection.
**
** A result has two growing arrays: cells of 16 bytes, row after row, and the bytes of texts and blobs, which cells name by
** offset. Its shape (names and declared types) is shared with the statement and other results, counted atomically: a result
** is freed on the caller's thread, a statement on the worker's.
**
** A declared BOOLEAN holding 0 or 1 is a boolean, a declared JSON holding a JSON text is json, a declared real holding an integer
** is a real; anything else in such a column is what SQLite stored. SQLite gives the first two NUMERIC affinity: the JSON text `1`
** is stored, and comes back, as an integer.
*/
#include "sqlite.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct cell {
  union {
    int64_t integer;
    double real;
    size_t offset;
  };
  uint32_t len; /* SQLite's own limit is below 2^31 */
  enum value_type type;
};

struct db_result {
  struct sqlite_shape *shape; /* shared */
  struct cell *cells;         /* owned */
  char *bytes;                /* owned */
  size_t ncells, cells_room, nbytes, bytes_room;
  int rows;
  int64_t affected;
  char command[WORDS_COMMAND];
};

/* ---- shapes ---- */

/* SQLite's own rules for affinity, in its own order. */
static enum value_type shape_type(const char *declared) {
  static const struct { const char *part; enum value_type type; } rules[] = {
    {"int", VALUE_INTEGER}, {"char", VALUE_TEXT}, {"clob", VALUE_TEXT}, {"text", VALUE_TEXT},
    {"blob", VALUE_BYTES},  {"real", VALUE_REAL}, {"floa", VALUE_REAL}, {"doub", VALUE_REAL},
  };
  if (!declared) return VALUE_TEXT;
  if (strcasecmp(declared, "boolean") == 0 || strcasecmp(declared, "bool") == 0) return VALUE_BOOLEAN;
  if (strcasecmp(declared, "json") == 0 || strcasecmp(declared, "jsonb") == 0) return VALUE_JSON;
  for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
    if (strcasestr(declared, rules[i].part)) return rules[i].type;
  return VALUE_TEXT;
}

static const char *shape_name(sqlite3_stmt *stmt, int column) {
  const char *name = sqlite3_column_name(stmt, column);
  return name ? name : "";
}

struct sqlite_shape *shape_create(sqlite3_stmt *stmt, uintptr_t identity) {
  int columns = stmt ? sqlite3_column_count(stmt) : 0;
  size_t arrays = (size_t)columns * (sizeof(char *) + sizeof(enum value_type)), texts = 0;
  for (int i = 0; i < columns; i++) texts += strlen(shape_name(stmt, i)) + 1;
  struct sqlite_shape *s = malloc(sizeof *s + arrays + texts);
  if (!s) return NULL;
  atomic_init(&s->owners, 1);
  s->identity = identity;
  s->columns = columns;
  s->names = (char **)(void *)(s + 1);
  s->types = (enum value_type *)(void *)(s->names + columns);
  char *text = (char *)(s->types + columns);
  for (int i = 0; i < columns; i++) {
    size_t len = strlen(shape_name(stmt, i)) + 1;
    s->types[i] = shape_type(sqlite3_column_decltype(stmt, i));
    s->names[i] = memcpy(text, shape_name(stmt, i), len);
    text += len;
  }
  return s;
}

bool shape_same(const struct sqlite_shape *s, sqlite3_stmt *stmt) {
  if (sqlite3_column_count(stmt) != s->columns) return false;
  for (int i = 0; i < s->columns; i++)
    if (strcmp(s->names[i], shape_name(stmt, i)) != 0 || s->types[i] != shape_type(sqlite3_column_decltype(stmt, i))) return false;
  return true;
}

void shape_leave(struct sqlite_shape *s) {
  if (s && atomic_fetch_sub(&s->owners, 1) == 1) free(s);
}

/* ---- the worker fills it ---- */

struct db_result *result_create(struct sqlite_shape *shape, const char *command) {
  struct db_result *r = calloc(1, sizeof *r);
  if (!r) return NULL;
  atomic_fetch_add(&shape->owners, 1);
  r->shape = shape;
  memcpy(r->command, command, sizeof r->command);
  return r;
}

/* Makes room for `more` items; doubles, so that a million rows take twenty calls. */
static bool result_room(void **array, size_t *room, size_t used, size_t more, size_t item) {
  size_t want = *room ? *room : 64;
  if (used + more <= *room) return true;
  while (want < used + more) want *= 2;
  void *grown = realloc(*array, want * item);
  if (!grown) return false;
  *array = grown;
  *room = want;
  return true;
}

static bool cell_bytes(struct db_result *r, struct cell *cell, const void *bytes, int len) {
  void *array = r->bytes;
  bool room = result_room(&array, &r->bytes_room, r->nbytes, (size_t)len, 1);
  r->bytes = array;
  if (!room) return false;
  cell->offset = r->nbytes;
  cell->len = (uint32_t)len;
  if (len) memcpy(r->bytes + r->nbytes, bytes, (size_t)len);
  r->nbytes += (size_t)len;
  return true;
}

static bool cell_text(struct db_result *r, struct cell *cell, sqlite3_stmt *stmt, int column) {
  const void *text = sqlite3_column_text(stmt, column);
  int len = sqlite3_column_bytes(stmt, column);
  if (!text) return false; /* memory, converting from UTF-16 */
  cell->type = r->shape->types[column] == VALUE_JSON && json_valid(text, (size_t)len) ? VALUE_JSON : VALUE_TEXT;
  return cell_bytes(r, cell, text, len);
}

static bool cell_fill(struct db_result *r, struct cell *cell, sqlite3_stmt *stmt, int column) {
  switch (sqlite3_column_type(stmt, column)) {
  case SQLITE_INTEGER:
    if (r->shape->types[column] == VALUE_REAL) { /* returning shows a whole number before the column has made it a real */
      cell->type = VALUE_REAL;
      cell->real = sqlite3_column_double(stmt, column);
      return true;
    }
    cell->integer = sqlite3_column_int64(stmt, column);
    bool boolean = r->shape->types[column] == VALUE_BOOLEAN && (cell->integer == 0 || cell->integer == 1);
    cell->type = boolean ? VALUE_BOOLEAN : VALUE_INTEGER;
    return true;
  case SQLITE_FLOAT:
    cell->real = sqlite3_column_double(stmt, column);
    cell->type = VALUE_REAL;
    return true;
  case SQLITE_TEXT: return cell_text(r, cell, stmt, column);
  case SQLITE_BLOB: {
    const void *blob = sqlite3_column_blob(stmt, column); /* before the length, as SQLite asks */
    cell->type = VALUE_BYTES;
    return cell_bytes(r, cell, blob, sqlite3_column_bytes(stmt, column));
  }
  case SQLITE_NULL: cell->type = VALUE_NULL; return true;
  default: WRONG("a storage class SQLite does not have");
  }
}

bool batch_add(struct db_result *r, sqlite3_stmt *stmt) {
  int columns = r->shape->columns;
  void *array = r->cells;
  bool room = result_room(&array, &r->cells_room, r->ncells, (size_t)columns, sizeof *r->cells);
  r->cells = array;
  if (!room) return false;
  for (int i = 0; i < columns; i++)
    if (!cell_fill(r, &r->cells[r->ncells + (size_t)i], stmt, i)) return false;
  r->ncells += (size_t)columns;
  r->rows++;
  return true;
}

void batch_affected(struct db_result *r, int64_t affected) { r->affected = affected; }

/* ---- the caller reads it ---- */

int sqlite_result_rows(const struct db_result *r) { return r->rows; }
int sqlite_result_columns(const struct db_result *r) { return r->shape->columns; }
const char *sqlite_result_command(const struct db_result *r) { return r->command; }
int64_t sqlite_result_affected(const struct db_result *r) { return r->affected; }
const void *sqlite_result_shape(const struct db_result *r) { return (const void *)r->shape->identity; } /* NOLINT: never followed */

void sqlite_result_column(const struct db_result *r, int column, struct column *out) {
  INSIST(column >= 0 && column < r->shape->columns);
  *out = (struct column){.name = r->shape->names[column], .type = r->shape->types[column]};
}

void sqlite_result_cell(struct db_result *r, int row, int column, struct value *out) {
  INSIST(row >= 0 && row < r->rows && column >= 0 && column < r->shape->columns);
  const struct cell *cell = &r->cells[(size_t)row * (size_t)r->shape->columns + (size_t)column];
  *out = (struct value){.type = cell->type};
  switch (cell->type) {
  case VALUE_NULL: return;
  case VALUE_INTEGER: out->integer = cell->integer; return;
  case VALUE_BOOLEAN: out->boolean = cell->integer != 0; return;
  case VALUE_REAL: out->real = cell->real; return;
  case VALUE_TEXT:
  case VALUE_JSON:
  case VALUE_BYTES:
    out->text = cell->len ? r->bytes + cell->offset : "";
    out->len = cell->len;
    return;
  default: WRONG("a cell of a type the driver does not make");
  }
}

void sqlite_result_free(struct db_result *r) {
  if (!r) return;
  shape_leave(r->shape);
  free(r->cells);
  free(r->bytes);
  free(r);
}
