/*
** settings: the TYPE of a settings table, and the pool's own table.
**
** A setting is a row: where its value lives in a struct, how it is read from text (flag, environment, .env) or from a
** number, its range, what 0 means, whether it can change while the pool runs, and one line of help that `pool settings`
** prints. Each room keeps a table of this type over a struct of its own (core: struct settings, below; db: struct
** db_settings; lua: struct host_settings); what lists or looks up settings takes an array of tables. Durations are seconds
** to people and usec inside.
*/
#ifndef POOL_CORE_SETTINGS_H
#define POOL_CORE_SETTINGS_H

#include "base.h"

enum setting_type {
  SETTING_DURATION, /* usec; seconds (fractions allowed) outside */
  SETTING_COUNT,    /* int */
  SETTING_RATIO,    /* double */
  SETTING_FLAG,     /* bool; text: true/false, 1/0, yes/no, on/off, any case */
  SETTING_CHOICE,   /* int, an index into choices */
  SETTING_TEXT      /* char[SETTING_TEXT_MAX] */
};

#define SETTING_TEXT_MAX 2048

struct setting {
  const char *name;      /* as in Lua and as a flag: "max_overflow", --max-overflow and --max_overflow */
  const char *env;       /* "DB_MAX_OVERFLOW" */
  enum setting_type type;
  size_t offset;         /* of the value in its struct */
  const char *fallback;  /* the default, as text */
  double min, max;       /* in outside units; unused for flags, choices and text */
  const char *zero;      /* what 0 means, NULL when nothing special */
  const char *const *choices;  /* NULL-terminated, for SETTING_CHOICE */
  bool live;             /* may change while the pool runs */
  bool secret;           /* printed redacted */
  const char *help;      /* one line, no full stop */
};

struct settings_table {
  const char *title;     /* "pool", "database", "host" */
  const struct setting *rows;
  int count;
  size_t size;           /* of the struct the offsets point into */
};

/* The pool's own settings. */
enum { QUEUE_FIFO, QUEUE_LIFO, QUEUE_CODEL };

struct settings {
  int size, max_overflow, size_limit;
  usec timeout;
  usec recycle;
  double recycle_jitter;
  bool pre_ping;
  usec pre_ping_after, pre_ping_timeout;
  int min_idle;
  usec idle_timeout, shrink_after;
  int max_waiting, max_waiting_per_key, max_opening;
  usec backoff_min, backoff_max;
  int queue;
  usec queue_target, queue_interval;
};

extern const struct settings_table pool_settings_table;

/* Writes every default of `table` into `values`. */
void settings_defaults(const struct settings_table *table, void *values);

/* The row called `name` (a `-` counts as `_`), NULL when there is none. */
const struct setting *settings_find(const struct settings_table *table, const char *name);

/* The name nearest to `name` in any of the tables (edit distance; at most a third of its length away), NULL when none is near. */
const char *settings_nearest(const struct settings_table *const *tables, int count, const char *name);

/* One value from text, from a number or from a flag. On failure: POOL_SETTINGS, *error names the setting, the value (never
   a secret one) and what would be right, and `values` is untouched. NaN, infinities and fractions of counts are refused. */
enum pool_err setting_parse(const struct setting *, void *values, const char *text, struct pool_error *error);
enum pool_err setting_number(const struct setting *, void *values, double number, struct pool_error *error);
enum pool_err setting_flag(const struct setting *, void *values, bool flag, struct pool_error *error);

/* Refuses a value that is not even of the right kind: "NAME: GIVEN is not a whole number". `given` is how the value reads in
   the message ("a table"). Fills *error and returns POOL_SETTINGS. */
enum pool_err setting_refuse(const struct setting *, const char *given, struct pool_error *error);

/* The value in outside units: of a SETTING_DURATION (seconds), SETTING_COUNT or SETTING_RATIO. */
double setting_value(const struct setting *, const void *values);

/* The value in outside units as text ("0.25", "true", "fifo"); URLs are redacted by the caller. Returns buffer. */
const char *setting_format(const struct setting *, const void *values, char *buffer, size_t size);

/* The rules that span settings: 1 <= size + max_overflow <= size_limit (says that SQLAlchemy's 0 and -1 mean unlimited),
   backoff_min <= backoff_max, min_idle <= size + max_overflow. */
enum pool_err settings_check(const struct settings *, struct pool_error *error);

#endif
