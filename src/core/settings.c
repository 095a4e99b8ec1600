/*
** settings: reading, checking and printing settings of any table, and the pool's own table.
**
** A value reaches its struct through one of three doors: text (setting_parse), a number (setting_number) or a flag
** (setting_flag). Each door checks everything before it stores, so a refused value leaves the struct as it was. Numbers are
** read and written here rather than by strtod and printf, because those follow the process's locale and take hexadecimal,
** "inf" and leading blanks.
**
** A message shows the value given only when that cannot be a secret gone astray: text with ://, @ or = in it may be a
** database URL that landed in the wrong variable, and is never shown.
**
** What it does not do: know where a value came from (flag, environment, .env); redact URLs (the caller's); move a change
** into a running pool (pool_configure).
*/
#include "settings.h"

#include <stdio.h>
#include <string.h>

#include "nearest.h"

#define SHOWN_MAX 64       /* bytes of a value shown in a message */
#define DIGITS_MAX 19      /* decimal digits that a uint64_t always holds */

static const char *const queue_choices[] = {"fifo", "lifo", "codel", NULL};

#define AT(member) offsetof(struct settings, member)
#define SECONDS_MAX 1e9
#define COUNT_MAX 1e9

static const struct setting pool_rows[] = {
    {"size", "DB_POOL_SIZE", SETTING_COUNT, AT(size), "10", .max = 100000, .zero = "NullPool: closed on return", .live = true,
     .help = "connections kept"},
    {"max_overflow", "DB_MAX_OVERFLOW", SETTING_COUNT, AT(max_overflow), "20", .max = 100000, .zero = "none", .live = true,
     .help = "connections beyond size under load"},
    {"size_limit", "DB_POOL_SIZE_LIMIT", SETTING_COUNT, AT(size_limit), "1000", .min = 1, .max = 100000,
     .help = "places for connections made at creation; size + max_overflow never exceeds it"},
    {"timeout", "DB_POOL_TIMEOUT", SETTING_DURATION, AT(timeout), "30", .max = SECONDS_MAX, .zero = "only an idle connection will do",
     .live = true, .help = "to get a connection, all included"},
    {"recycle", "DB_POOL_RECYCLE", SETTING_DURATION, AT(recycle), "3600", .max = SECONDS_MAX, .zero = "never", .live = true,
     .help = "a connection older than this is replaced"},
    {"recycle_jitter", "DB_POOL_RECYCLE_JITTER", SETTING_RATIO, AT(recycle_jitter), "0.25", .max = 1, .zero = "none", .live = true,
     .help = "the share of recycle by which lifetimes differ"},
    {"pre_ping", "DB_POOL_PRE_PING", SETTING_FLAG, AT(pre_ping), "true", .live = true,
     .help = "check a connection that has been idle before it is lent"},
    {"pre_ping_after", "DB_POOL_PRE_PING_AFTER", SETTING_DURATION, AT(pre_ping_after), "1", .max = SECONDS_MAX,
     .zero = "before every lease", .live = true, .help = "idle for longer than this is checked"},
    {"pre_ping_timeout", "DB_POOL_PRE_PING_TIMEOUT", SETTING_DURATION, AT(pre_ping_timeout), "5", .max = SECONDS_MAX, .zero = "none",
     .live = true, .help = "a check that takes longer has failed"},
    {"min_idle", "DB_POOL_MIN_IDLE", SETTING_COUNT, AT(min_idle), "0", .max = COUNT_MAX, .zero = "none", .live = true,
     .help = "connections opened ahead of demand"},
    {"idle_timeout", "DB_POOL_IDLE_TIMEOUT", SETTING_DURATION, AT(idle_timeout), "30", .max = SECONDS_MAX, .zero = "at once", .live = true,
     .help = "how long an idle overflow connection lingers"},
    {"shrink_after", "DB_POOL_SHRINK_AFTER", SETTING_DURATION, AT(shrink_after), "600", .max = SECONDS_MAX, .zero = "never", .live = true,
     .help = "idle connections within size are closed, down to min_idle, after this"},
    {"max_waiting", "DB_POOL_MAX_WAITING", SETTING_COUNT, AT(max_waiting), "10000", .max = COUNT_MAX, .zero = "none may wait", .live = true,
     .help = "callers in line beyond the opens that room allows; one more is overloaded"},
    {"max_waiting_per_key", "DB_POOL_MAX_WAITING_PER_KEY", SETTING_COUNT, AT(max_waiting_per_key), "0", .max = COUNT_MAX,
     .zero = "no bound", .live = true, .help = "callers of one key (db:with{key = }) in line; one more is overloaded"},
    {"max_opening", "DB_POOL_MAX_OPENING", SETTING_COUNT, AT(max_opening), "4", .min = 1, .max = COUNT_MAX, .live = true,
     .help = "connections being opened at a time"},
    {"backoff_min", "DB_POOL_BACKOFF_MIN", SETTING_DURATION, AT(backoff_min), "0.05", .min = 0.001, .max = SECONDS_MAX, .live = true,
     .help = "the first pause after a failed open"},
    {"backoff_max", "DB_POOL_BACKOFF_MAX", SETTING_DURATION, AT(backoff_max), "0.5", .min = 0.001, .max = SECONDS_MAX, .live = true,
     .help = "the longest pause after failed opens"},
    {"queue", "DB_POOL_QUEUE", SETTING_CHOICE, AT(queue), "fifo", .choices = queue_choices, .live = true,
     .help = "who in line is next; once it has stood for queue_interval lifo serves the newest first, codel sheds the oldest"},
    {"queue_target", "DB_POOL_QUEUE_TARGET", SETTING_DURATION, AT(queue_target), "0.05", .max = SECONDS_MAX,
     .live = true, .help = "the wait that codel accepts; once overloaded it sheds those who have waited twice as long"},
    {"queue_interval", "DB_POOL_QUEUE_INTERVAL", SETTING_DURATION, AT(queue_interval), "1", .max = SECONDS_MAX,
     .live = true, .help = "how long lifo lets the line stand, and codel the waits stay above queue_target"},
};

const struct settings_table pool_settings_table = {"pool", pool_rows, sizeof pool_rows / sizeof pool_rows[0], sizeof(struct settings)};

/* ---- numbers as text ---- */

static bool digit(char c) { return c >= '0' && c <= '9'; }

/* significand x 10^exponent. Exact wherever a long double holds both; its range is far beyond any setting's. */
static double number_scale(uint64_t significand, long exponent) {
  long double value = (long double)significand, power = 1;
  long steps = exponent < 0 ? -exponent : exponent;
  if (significand == 0) return 0;
  if (steps > 280) return exponent < 0 ? 1e-280 : 1e280; /* tiny stays above 0, which may mean something special; huge is out of range */
  while (steps-- > 0) power *= 10;
  return (double)(exponent < 0 ? value / power : value * power);
}

/* Reads digits[.digits], at least one of them; returns what follows, NULL when there is none. */
static const char *number_digits(const char *p, uint64_t *significand, long *exponent) {
  int kept = 0;
  bool any = false, point = false;
  for (; digit(*p) || (*p == '.' && !point); p++) {
    if (*p == '.') {
      point = true;
      continue;
    }
    any = true;
    if (kept == DIGITS_MAX) {
      *exponent += !point;
      continue;
    }
    *significand = *significand * 10 + (uint64_t)(*p - '0');
    kept += *significand > 0;
    *exponent -= point;
  }
  return any ? p : NULL;
}

/* The whole text as a decimal number: [+-]digits[.digits][e[+-]digits], nothing around it. */
static bool number_read(const char *text, double *number) {
  const char *p = text + (*text == '-' || *text == '+');
  uint64_t significand = 0;
  long exponent = 0, written = 0;
  p = number_digits(p, &significand, &exponent);
  if (p == NULL) return false;
  if (*p == 'e' || *p == 'E') {
    bool down = p[1] == '-';
    p += 1 + (p[1] == '-' || p[1] == '+');
    if (!digit(*p)) return false;
    for (; digit(*p); p++) written = written < 100000 ? written * 10 + (*p - '0') : written;
    exponent += down ? -written : written;
  }
  *number = number_scale(significand, exponent) * (*text == '-' ? -1 : 1);
  return *p == '\0';
}

/* Replaces whatever decimal point the locale has printed (it may take several bytes) by '.'. */
static void number_point(char *text) {
  char *to = text;
  for (const char *from = text; *from; from++) {
    if (digit(*from) || strchr("+-eE", *from))
      *to++ = *from;
    else if (to == text || to[-1] != '.')
      *to++ = '.';
  }
  *to = '\0';
}

/* The shortest text that number_read reads back as the same number; "nan" and "inf" for what is none. */
static const char *number_write(double number, char *buffer, size_t size) {
  double again;
  INSIST(size >= 32);
  if (number != number || number - number != 0) {
    text_copy(buffer, size, number != number ? "nan" : number > 0 ? "inf" : "-inf");
  } else if (number >= -1e15 && number <= 1e15 && number == (double)(int64_t)number) {
    snprintf(buffer, size, "%lld", (long long)number);
  } else {
    bool plain = number > -1e6 && number < 1e6; /* 0.000001 rather than 1e-06 */
    for (int precision = 1; precision <= 17; precision++) {
      snprintf(buffer, size, plain && precision <= 9 ? "%.*f" : "%.*g", precision, number);
      number_point(buffer);
      if (number_read(buffer, &again) && again == number) break;
    }
  }
  return buffer;
}

/* ---- names ---- */

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c; }

static bool name_equal(const char *name, const char *given) {
  for (; *name && *given; name++, given++)
    if (*name != *given && !(*name == '_' && *given == '-')) return false;
  return *name == *given;
}

const struct setting *settings_find(const struct settings_table *table, const char *name) {
  for (int i = 0; i < table->count; i++)
    if (name_equal(table->rows[i].name, name)) return &table->rows[i];
  return NULL;
}

const char *settings_nearest(const struct settings_table *const *tables, int count, const char *name) {
  struct nearest near;
  nearest_begin(&near, name);
  for (int t = 0; t < count; t++) {
    /* SQLAlchemy's pool_size, pool_timeout, ... are ours without the prefix */
    const struct setting *same = strncmp(name, "pool_", 5) == 0 ? settings_find(tables[t], name + 5) : NULL;
    if (same != NULL) return same->name;
    for (int i = 0; i < tables[t]->count; i++) nearest_offer(&near, tables[t]->rows[i].name);
  }
  return near.name;
}

/* ---- refusing ---- */

/* The text in quotes, cut when long, without control characters; "the value" when it may be a secret. */
static const char *value_quote(const struct setting *row, const char *text, char *buffer, size_t size) {
  char cut[SHOWN_MAX];
  if (row->secret || strstr(text, "://") != NULL || strpbrk(text, "@=") != NULL) {
    text_copy(buffer, size, "the value");
    return buffer;
  }
  text_copy(cut, sizeof cut, text);
  for (char *p = cut; *p; p++)
    if ((unsigned char)*p < ' ' || *p == 0x7f) *p = '?';
  snprintf(buffer, size, "\"%s\"", cut);
  return buffer;
}

/* "one of fifo, lifo, codel" */
static const char *setting_choices(const struct setting *row, char *buffer, size_t size) {
  const char *between = "one of ";
  size_t used = 0;
  INSIST(row->choices != NULL && size > 0);
  buffer[0] = '\0';
  for (int i = 0; row->choices[i] && used < size; i++) {
    used += (size_t)snprintf(buffer + used, size - used, "%s%s", between, row->choices[i]);
    between = ", ";
  }
  return buffer;
}

static const char *setting_wanted(const struct setting *row, char *buffer, size_t size) {
  switch (row->type) {
  case SETTING_DURATION: return "a number of seconds";
  case SETTING_COUNT: return "a whole number";
  case SETTING_RATIO: return "a number";
  case SETTING_FLAG: return "true or false";
  case SETTING_CHOICE: return setting_choices(row, buffer, size);
  case SETTING_TEXT: return "a text";
  default: WRONG("setting type");
  }
}

enum pool_err setting_refuse(const struct setting *row, const char *given, struct pool_error *error) {
  char buffer[128];
  return error_set(error, POOL_SETTINGS, "%s: %s is not %s", row->name, given, setting_wanted(row, buffer, sizeof buffer));
}

static enum pool_err text_refuse(const struct setting *row, const char *text, struct pool_error *error) {
  char quoted[SHOWN_MAX + 8];
  return setting_refuse(row, value_quote(row, text, quoted, sizeof quoted), error);
}

static enum pool_err number_refuse(const struct setting *row, double number, struct pool_error *error) {
  char shown[32];
  return setting_refuse(row, number_write(number, shown, sizeof shown), error);
}

/* ---- the three doors ---- */

static void *setting_place(const struct setting *row, void *values) { return (char *)values + row->offset; }

static bool setting_numeric(const struct setting *row) {
  return row->type == SETTING_DURATION || row->type == SETTING_COUNT || row->type == SETTING_RATIO;
}

static void number_store(const struct setting *row, void *values, double number) {
  void *place = setting_place(row, values);
  if (row->type == SETTING_COUNT)
    *(int *)place = (int)number;
  else if (row->type == SETTING_RATIO)
    *(double *)place = number + 0.0; /* -0 is 0 */
  else if (number > 0 && number < 1e-6)
    *(usec *)place = 1; /* 0 may mean something special: what is more than 0 stays so */
  else
    *(usec *)place = (usec)(number * (double)USEC_PER_SECOND + 0.5);
}

/* SQLAlchemy's users write -1: what it means there, and what says it here. */
static const char *minus_one_hint(const struct setting *row, double number) {
  if (number != -1 || row->min != 0) return "";
  return row->type == SETTING_COUNT                             ? " (SQLAlchemy reads -1 as unlimited; here give the most you allow)"
         : row->zero != NULL && strcmp(row->zero, "never") == 0 ? " (for never give 0)"
                                                                : "";
}

static enum pool_err range_refuse(const struct setting *row, double number, struct pool_error *error) {
  char shown[32], low[32], high[32];
  return error_set(error, POOL_SETTINGS, "%s: %s is out of range: %s to %s%s%s", row->name, number_write(number, shown, sizeof shown),
                   number_write(row->min, low, sizeof low), number_write(row->max, high, sizeof high),
                   row->type == SETTING_DURATION ? " seconds" : "", minus_one_hint(row, number));
}

enum pool_err setting_number(const struct setting *row, void *values, double number, struct pool_error *error) {
  if (!setting_numeric(row) || number != number) return number_refuse(row, number, error);
  if (!(number >= row->min && number <= row->max)) return range_refuse(row, number, error);
  if (row->type == SETTING_COUNT && number != (double)(int)number) return number_refuse(row, number, error);
  number_store(row, values, number);
  return POOL_OK;
}

enum pool_err setting_flag(const struct setting *row, void *values, bool flag, struct pool_error *error) {
  if (row->type != SETTING_FLAG) return setting_refuse(row, flag ? "true" : "false", error);
  *(bool *)setting_place(row, values) = flag;
  return POOL_OK;
}

/* Equal but for the case of ASCII letters, whatever the locale. */
static bool word_equal(const char *word, const char *text) {
  while (*word && *word == lower(*text)) word++, text++;
  return *word == '\0' && *text == '\0';
}

static enum pool_err flag_parse(const struct setting *row, void *values, const char *text, struct pool_error *error) {
  static const char *const words[] = {"false", "true", "0", "1", "no", "yes", "off", "on"};
  for (int i = 0; i < (int)(sizeof words / sizeof words[0]); i++)
    if (word_equal(words[i], text)) return setting_flag(row, values, i % 2 == 1, error);
  return text_refuse(row, text, error);
}

static enum pool_err choice_parse(const struct setting *row, void *values, const char *text, struct pool_error *error) {
  for (int i = 0; row->choices[i]; i++) {
    if (strcmp(row->choices[i], text) != 0) continue;
    *(int *)setting_place(row, values) = i;
    return POOL_OK;
  }
  return text_refuse(row, text, error);
}

enum pool_err setting_parse(const struct setting *row, void *values, const char *text, struct pool_error *error) {
  double number;
  switch (row->type) {
  case SETTING_FLAG: return flag_parse(row, values, text, error);
  case SETTING_CHOICE: return choice_parse(row, values, text, error);
  case SETTING_TEXT:
    if (strlen(text) >= SETTING_TEXT_MAX)
      return error_set(error, POOL_SETTINGS, "%s: longer than %d bytes", row->name, SETTING_TEXT_MAX - 1);
    text_copy(setting_place(row, values), SETTING_TEXT_MAX, text);
    return POOL_OK;
  default:
    INSIST(setting_numeric(row));
    return number_read(text, &number) ? setting_number(row, values, number, error) : text_refuse(row, text, error);
  }
}

/* ---- whole structs ---- */

void settings_defaults(const struct settings_table *table, void *values) {
  memset(values, 0, table->size);
  for (int i = 0; i < table->count; i++) INSIST(setting_parse(&table->rows[i], values, table->rows[i].fallback, NULL) == POOL_OK);
}

double setting_value(const struct setting *row, const void *values) {
  const char *place = (const char *)values + row->offset;
  INSIST(setting_numeric(row));
  if (row->type == SETTING_DURATION) return (double)*(const usec *)(const void *)place / (double)USEC_PER_SECOND;
  return row->type == SETTING_COUNT ? *(const int *)(const void *)place : *(const double *)(const void *)place;
}

const char *setting_format(const struct setting *row, const void *values, char *buffer, size_t size) {
  const char *place = (const char *)values + row->offset;
  char number[32];
  switch (row->type) {
  case SETTING_FLAG: text_copy(buffer, size, *(const bool *)(const void *)place ? "true" : "false"); break;
  case SETTING_CHOICE: text_copy(buffer, size, row->choices[*(const int *)(const void *)place]); break;
  case SETTING_TEXT: text_copy(buffer, size, place); break;
  default: text_copy(buffer, size, number_write(setting_value(row, values), number, sizeof number)); break;
  }
  return buffer;
}

enum pool_err settings_check(const struct settings *s, struct pool_error *error) {
  int most = s->size + s->max_overflow;
  char low[32], high[32];
  INSIST(s->size >= 0 && s->max_overflow >= 0 && s->size_limit > 0);
  if (most < 1)
    return error_set(error, POOL_SETTINGS,
                     "size 0 + max_overflow 0: at least one connection is needed (SQLAlchemy reads 0 and -1 "
                     "as unlimited; here set max_overflow to the most you allow)");
  if (most > s->size_limit)
    return error_set(error, POOL_SETTINGS, "size %d + max_overflow %d is more than size_limit %d: lower them or raise size_limit", s->size,
                     s->max_overflow, s->size_limit);
  if (s->min_idle > most)
    return error_set(error, POOL_SETTINGS, "min_idle %d is more than size %d + max_overflow %d", s->min_idle, s->size, s->max_overflow);
  if (s->backoff_min > s->backoff_max)
    return error_set(error, POOL_SETTINGS, "backoff_min %s is more than backoff_max %s",
                     number_write((double)s->backoff_min / (double)USEC_PER_SECOND, low, sizeof low),
                     number_write((double)s->backoff_max / (double)USEC_PER_SECOND, high, sizeof high));
  return POOL_OK;
}
