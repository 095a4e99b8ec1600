/*
** settings: one setting from a text (src/core/settings.c).
**
** The first byte says which setting of the pool's and the database's, the rest is its text. What is taken is in the setting's range,
** prints as a text that is taken again and means the same, and passes settings_check or is refused by it in words; what is refused leaves
** the struct as it was, names the setting, and never shows what may be a database URL.
*/
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/settings.h"
#include "db/driver.h"
#include "fuzz/fuzz.h"

static bool numeric(const struct setting *row) {
  return row->type == SETTING_DURATION || row->type == SETTING_COUNT || row->type == SETTING_RATIO;
}

static void refused_check(const struct setting *row, const char *text, const struct pool_error *error) {
  size_t n = strlen(row->name);
  HOLDS(error->kind == POOL_SETTINGS);
  HOLDS(strncmp(error->message, row->name, n) == 0 && error->message[n] == ':');
  if (strlen(text) > 20 && (strstr(text, "://") || strpbrk(text, "@="))) HOLDS(strstr(error->message, text) == NULL);
  for (const char *p = error->message; *p; p++) HOLDS((unsigned char)*p >= ' ' && *p != 0x7f);
}

static void taken_check(const struct setting *row, void *values, void *again, size_t size) {
  char shown[SETTING_TEXT_MAX];
  struct pool_error error;
  if (numeric(row)) {
    double value = setting_value(row, values);
    HOLDS(value >= row->min && value <= row->max);
    HOLDS(setting_number(row, again, value, &error) == POOL_OK && memcmp(values, again, size) == 0);
  }
  setting_format(row, values, shown, sizeof shown);
  HOLDS(setting_parse(row, again, shown, &error) == POOL_OK);
  HOLDS(memcmp(values, again, size) == 0);
}

/* Values that a text may be right next to. */
static void number_check(const struct setting *row, void *values, struct fuzz *f) {
  struct pool_error error;
  double number;
  uint64_t bits = fuzz_number(f, 8);
  memcpy(&number, &bits, sizeof number);
  if (setting_number(row, values, number, &error) == POOL_OK)
    HOLDS(numeric(row) && setting_value(row, values) >= row->min && setting_value(row, values) <= row->max);
  else
    HOLDS(error.kind == POOL_SETTINGS && strncmp(error.message, row->name, strlen(row->name)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static struct all {
    struct settings pool;
    struct db_settings db;
  } values, before, again; /* static for their size alone */
  struct fuzz f = fuzz_of(data, size);
  struct pool_error error = {.message = ""};
  const struct settings_table *const tables[] = {&pool_settings_table, &db_settings_table};
  unsigned which = fuzz_below(&f, (unsigned)(pool_settings_table.count + db_settings_table.count));
  bool pool = which < (unsigned)pool_settings_table.count;
  const struct setting *row = pool ? &pool_settings_table.rows[which]
                                   : &db_settings_table.rows[which - (unsigned)pool_settings_table.count];
  memset(&values, 0, sizeof values);
  settings_defaults(&pool_settings_table, &values.pool);
  settings_defaults(&db_settings_table, &values.db);
  before = again = values;
  void *mine = pool ? (void *)&values.pool : (void *)&values.db, *other = pool ? (void *)&again.pool : (void *)&again.db;
  struct fuzz rest = f;
  char *text = fuzz_until(&f, '\0', NULL);
  settings_nearest(tables, 2, text);
  if (setting_parse(row, mine, text, &error) == POOL_OK) {
    taken_check(row, mine, other, pool ? sizeof values.pool : sizeof values.db);
    if (settings_check(&values.pool, &error) != POOL_OK) HOLDS(error.kind == POOL_SETTINGS && error.message[0] != '\0');
  } else {
    HOLDS(memcmp(&values, &before, sizeof values) == 0);
    refused_check(row, text, &error);
  }
  number_check(row, mine, &rest);
  free(text);
  return 0;
}
