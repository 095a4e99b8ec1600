/*
** fake_driver: a driver that only serves results, with cells written down in the test. For what is above the drivers' results:
** JSON, rows.
*/
#ifndef POOL_SPEC_FAKE_DRIVER_H
#define POOL_SPEC_FAKE_DRIVER_H

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "db/driver.h"

struct db_result {
  int rows, columns;
  const struct column *column; /* [columns] */
  const struct value *cells;   /* [rows * columns] */
  const char *command;
  int64_t affected;
  const void *shape;
  int *freed;                  /* counts */
  char *copy;                  /* of the last cell's text: valid until the next cell, as the contract says */
  struct fake_memory *memory;  /* what was allocated for it */
};

struct fake_memory {
  struct fake_memory *next;
  max_align_t bytes[];
};

/* Memory that is freed with the result. */
static inline void *fake_alloc(struct db_result *r, size_t size) {
  struct fake_memory *m = calloc(1, sizeof *m + size);
  m->next = r->memory;
  r->memory = m;
  return m->bytes;
}

static inline int fake_rows(const struct db_result *r) { return r->rows; }
static inline int fake_columns(const struct db_result *r) { return r->columns; }
static inline void fake_column(const struct db_result *r, int column, struct column *out) { *out = r->column[column]; }

static inline void fake_cell(struct db_result *r, int row, int column, struct value *out) {
  *out = r->cells[row * r->columns + column];
  free(r->copy);
  r->copy = NULL;
  if (out->type < VALUE_TEXT) return;
  r->copy = malloc(out->len ? out->len : 1); /* without a NUL: an over-read is seen */
  memcpy(r->copy, out->text, out->len);
  out->text = r->copy;
}

static inline const char *fake_command(const struct db_result *r) { return r->command; }
static inline int64_t fake_affected(const struct db_result *r) { return r->affected; }
static inline const void *fake_shape(const struct db_result *r) { return r->shape; }

static inline void fake_free(struct db_result *r) {
  if (r == NULL) return;
  if (r->freed) ++*r->freed;
  for (struct fake_memory *m = r->memory, *next; m; m = next) {
    next = m->next;
    free(m);
  }
  free(r->copy);
  free(r);
}

/* A copy of a result's description, as a driver would give it: the reader's to free. */
static inline struct db_result *fake_result(struct db_result description) {
  struct db_result *r = malloc(sizeof *r);
  *r = description;
  return r;
}

#define FAKE_DRIVER(arrays)                                                                                             \
  {.name = "fake", .json_arrays = (arrays), .rows = fake_rows, .columns = fake_columns, .column = fake_column,         \
   .cell = fake_cell, .command = fake_command, .affected = fake_affected, .shape = fake_shape, .free_result = fake_free}

#define NULL_CELL {.type = VALUE_NULL}
#define INTEGER_CELL(n) {.type = VALUE_INTEGER, .integer = (n)}
#define REAL_CELL(d) {.type = VALUE_REAL, .real = (d)}
#define BOOLEAN_CELL(b) {.type = VALUE_BOOLEAN, .boolean = (b)}
#define TEXT_CELL(kind, s) {.type = (kind), .text = (s), .len = sizeof(s) - 1}
#define ARRAY_CELL(of, s) {.type = VALUE_ARRAY, .element = (of), .delimiter = ',', .text = (s), .len = sizeof(s) - 1}

#endif
