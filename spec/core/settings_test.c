/*
** The settings tables: defaults, names, ranges, and what each refusal says.
*/
#include <locale.h>

#include "core/settings.h"
#include "support/check.h"

static const struct settings_table *const tables[] = {&pool_settings_table};

static const struct setting *row(const char *name) {
  const struct setting *found = settings_find(&pool_settings_table, name);
  CHECK(found != NULL);
  return found;
}

/* The message of parsing `text` as setting `name`; "" when it was taken. */
static const char *refusal(const char *name, const char *text) {
  static struct pool_error error;
  struct settings s, before;
  memset(&error, 0, sizeof error);
  settings_defaults(&pool_settings_table, &s);
  before = s;
  if (setting_parse(row(name), &s, text, &error) == POOL_OK) return "";
  CHECK_INT(error.kind, POOL_SETTINGS);
  CHECK(memcmp(&s, &before, sizeof s) == 0);
  return error.message;
}

static const char *number_refusal(const char *name, double number) {
  static struct pool_error error;
  struct settings s, before;
  settings_defaults(&pool_settings_table, &s);
  before = s;
  if (setting_number(row(name), &s, number, &error) == POOL_OK) return "";
  CHECK(memcmp(&s, &before, sizeof s) == 0);
  return error.message;
}

/* The value of setting `name` after parsing `text`, formatted. */
static const char *round_trip(const char *name, const char *text) {
  static char buffer[64];
  struct settings s;
  settings_defaults(&pool_settings_table, &s);
  CHECK(setting_parse(row(name), &s, text, NULL) == POOL_OK);
  return setting_format(row(name), &s, buffer, sizeof buffer);
}

static const struct fact {
  const char *name, *env, *fallback, *zero;
} facts[] = {
    {"size", "DB_POOL_SIZE", "10", "NullPool: closed on return"},
    {"max_overflow", "DB_MAX_OVERFLOW", "20", "none"},
    {"size_limit", "DB_POOL_SIZE_LIMIT", "1000", NULL},
    {"timeout", "DB_POOL_TIMEOUT", "30", "only an idle connection will do"},
    {"recycle", "DB_POOL_RECYCLE", "3600", "never"},
    {"recycle_jitter", "DB_POOL_RECYCLE_JITTER", "0.25", "none"},
    {"pre_ping", "DB_POOL_PRE_PING", "true", NULL},
    {"pre_ping_after", "DB_POOL_PRE_PING_AFTER", "1", "before every lease"},
    {"pre_ping_timeout", "DB_POOL_PRE_PING_TIMEOUT", "5", "none"},
    {"min_idle", "DB_POOL_MIN_IDLE", "0", "none"},
    {"idle_timeout", "DB_POOL_IDLE_TIMEOUT", "30", "at once"},
    {"shrink_after", "DB_POOL_SHRINK_AFTER", "600", "never"},
    {"max_waiting", "DB_POOL_MAX_WAITING", "10000", "none may wait"},
    {"max_opening", "DB_POOL_MAX_OPENING", "4", NULL},
    {"backoff_min", "DB_POOL_BACKOFF_MIN", "0.05", NULL},
    {"backoff_max", "DB_POOL_BACKOFF_MAX", "0.5", NULL},
    {"queue", "DB_POOL_QUEUE", "fifo", NULL},
    {"queue_target", "DB_POOL_QUEUE_TARGET", "0.05", NULL},
    {"queue_interval", "DB_POOL_QUEUE_INTERVAL", "1", NULL},
    {"max_waiting_per_key", "DB_POOL_MAX_WAITING_PER_KEY", "0", "no bound"},
};

static void tables_and_defaults(void) {
  const int count = sizeof facts / sizeof facts[0];
  struct settings s;
  char buffer[64];
  settings_defaults(&pool_settings_table, &s);
  TEST("every setting has the name, environment variable, default and meaning of 0 that the design states") {
    CHECK_INT(pool_settings_table.count, count);
    for (int i = 0; i < count; i++) {
      const struct setting *r = row(facts[i].name);
      CHECK_TEXT(r->name, facts[i].name);
      CHECK_TEXT(r->env, facts[i].env);
      CHECK_TEXT(setting_format(r, &s, buffer, sizeof buffer), facts[i].fallback);
      CHECK_TEXT(r->zero, facts[i].zero);
    }
  }
  TEST("the defaults land in the struct in microseconds") {
    CHECK_INT(s.size, 10);
    CHECK_INT(s.timeout, 30 * USEC_PER_SECOND);
    CHECK_INT(s.backoff_min, 50000);
    CHECK_INT(s.queue, QUEUE_FIFO);
    CHECK(s.pre_ping && s.recycle_jitter == 0.25);
  }
  TEST("the defaults pass the check") { CHECK_INT(settings_check(&s, NULL), POOL_OK); }
  TEST("every setting has one line of help, and only size_limit cannot change live") {
    for (int i = 0; i < pool_settings_table.count; i++) {
      const struct setting *r = &pool_settings_table.rows[i];
      CHECK(r->help != NULL && strchr(r->help, '\n') == NULL && r->help[strlen(r->help) - 1] != '.');
      CHECK(r->live == (strcmp(r->name, "size_limit") != 0));
    }
  }
}

static void names(void) {
  TEST("a dash in a name counts as an underscore") { CHECK(settings_find(&pool_settings_table, "max-overflow") == row("max_overflow")); }
  TEST("a name that only begins or ends like a setting is unknown") {
    CHECK(settings_find(&pool_settings_table, "siz") == NULL);
    CHECK(settings_find(&pool_settings_table, "size_") == NULL);
    CHECK(settings_find(&pool_settings_table, "") == NULL);
  }
  TEST("the nearest name is found through typing errors, capitals and SQLAlchemy's prefix") {
    CHECK_TEXT(settings_nearest(tables, 1, "max_overlow"), "max_overflow");
    CHECK_TEXT(settings_nearest(tables, 1, "maxOverflow"), "max_overflow");
    CHECK_TEXT(settings_nearest(tables, 1, "pool_size"), "size");
    CHECK_TEXT(settings_nearest(tables, 1, "pool_pre_ping"), "pre_ping");
    CHECK_TEXT(settings_nearest(tables, 1, "tiemout"), "timeout");
  }
  TEST("two letters swapped are one mistake, wherever they are; a letter apart, or twice, they are more") {
    CHECK_TEXT(settings_nearest(tables, 1, "siez"), "size");
    CHECK_TEXT(settings_nearest(tables, 1, "isze"), "size");
    CHECK_TEXT(settings_nearest(tables, 1, "SIEZ"), "size");
    CHECK_TEXT(settings_nearest(tables, 1, "qeuue"), "queue");
    CHECK(settings_nearest(tables, 1, "zisE") == NULL);
    CHECK(settings_nearest(tables, 1, "isez") == NULL);
  }
  TEST("what is like no setting has no nearest name") {
    char long_name[5000];
    memset(long_name, 's', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = '\0';
    CHECK(settings_nearest(tables, 1, "banana") == NULL);
    CHECK(settings_nearest(tables, 1, "") == NULL);
    CHECK(settings_nearest(tables, 1, long_name) == NULL);
  }
}

static void numbers(void) {
  TEST("numbers are read in decimal notation, exactly") {
    CHECK_TEXT(round_trip("timeout", "2.5"), "2.5");
    CHECK_TEXT(round_trip("timeout", "0.000001"), "0.000001");
    CHECK_TEXT(round_trip("timeout", "1e3"), "1000");
    CHECK_TEXT(round_trip("timeout", ".5"), "0.5");
    CHECK_TEXT(round_trip("timeout", "1000000000"), "1000000000");
    CHECK_TEXT(round_trip("timeout", "100000000000000000000e-14"), "1000000");
    CHECK_TEXT(round_trip("size", "+7"), "7");
    CHECK_TEXT(round_trip("size", "20.0"), "20");
    CHECK_TEXT(round_trip("recycle_jitter", "0.1"), "0.1");
    CHECK_TEXT(round_trip("recycle_jitter", "0.33333333333333331"), "0.3333333333333333");
    CHECK_TEXT(round_trip("timeout", "0.00000000000000000000000000000000000000000000001e47"), "1");
  }
  TEST("more than 0 never becomes 0, which means something else") {
    CHECK_TEXT(round_trip("timeout", "1e-300"), "0.000001");
    CHECK_TEXT(round_trip("timeout", "1e-9999999999999999999"), "0.000001");
  }
  TEST("minus nothing is nothing") {
    struct settings s;
    settings_defaults(&pool_settings_table, &s);
    CHECK(setting_parse(settings_find(&pool_settings_table, "recycle_jitter"), &s, "-0", NULL) == POOL_OK);
    CHECK(s.recycle_jitter == 0 && 1 / s.recycle_jitter > 0);
  }
  TEST("what strtod would take beyond decimal notation is refused") {
    static const char *const wrong[] = {"",    " 1", "1 ", "0x10", "inf",   "nan", "infinity", "1,5", "1.2.3", "1e",
                                        "1e+", ".",  "-",  "+-1",  "1_000", "ten", "1e5x",     "--1", "١"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
      CHECK(strstr(refusal("timeout", wrong[i]), "is not a number of seconds") != NULL);
  }
  TEST("numbers do not depend on the locale") {
    CHECK(setlocale(LC_ALL, "de_DE.UTF-8") != NULL || setlocale(LC_ALL, "C") != NULL);
    CHECK_TEXT(round_trip("recycle_jitter", "0.125"), "0.125");
    CHECK_TEXT(refusal("size", "2.5"), "size: 2.5 is not a whole number");
    setlocale(LC_ALL, "C");
  }
}

static void refusals(void) {
  TEST("a refusal names the setting, the value and what would be right") {
    CHECK_TEXT(refusal("size", "-5"), "size: -5 is out of range: 0 to 100000");
    CHECK_TEXT(refusal("size", "100001"), "size: 100001 is out of range: 0 to 100000");
    CHECK_TEXT(refusal("size_limit", "0"), "size_limit: 0 is out of range: 1 to 100000");
    CHECK_TEXT(refusal("timeout", "abc"), "timeout: \"abc\" is not a number of seconds");
    CHECK_TEXT(refusal("timeout", "-1"), "timeout: -1 is out of range: 0 to 1000000000 seconds");
    CHECK_TEXT(refusal("timeout", "1e400"), "timeout: 1e+280 is out of range: 0 to 1000000000 seconds");
    CHECK_TEXT(refusal("recycle_jitter", "1.5"), "recycle_jitter: 1.5 is out of range: 0 to 1");
    CHECK_TEXT(refusal("max_waiting", "1.5"), "max_waiting: 1.5 is not a whole number");
    CHECK_TEXT(refusal("pre_ping", "maybe"), "pre_ping: \"maybe\" is not true or false");
    CHECK_TEXT(refusal("queue", "random"), "queue: \"random\" is not one of fifo, lifo, codel");
  }
  TEST("the edges of each range are taken") {
    for (int i = 0; i < pool_settings_table.count; i++) {
      const struct setting *r = &pool_settings_table.rows[i];
      if (r->type == SETTING_FLAG || r->type == SETTING_CHOICE) continue;
      CHECK_TEXT(number_refusal(r->name, r->min), "");
      CHECK_TEXT(number_refusal(r->name, r->max), "");
      CHECK(number_refusal(r->name, r->min - 1)[0] != '\0');
      CHECK(number_refusal(r->name, r->max + 1)[0] != '\0');
    }
  }
  TEST("SQLAlchemy's -1 is explained") {
    CHECK(strstr(refusal("max_overflow", "-1"), "SQLAlchemy reads -1 as unlimited") != NULL);
    CHECK(strstr(refusal("recycle", "-1"), "for never give 0") != NULL);
  }
  TEST("NaN, infinities and fractions of counts are refused as numbers too") {
    CHECK_TEXT(number_refusal("timeout", 0.0 / 0.0), "timeout: nan is not a number of seconds");
    CHECK_TEXT(number_refusal("size", 1e308 * 10), "size: inf is out of range: 0 to 100000");
    CHECK_TEXT(number_refusal("size", -1e308 * 10), "size: -inf is out of range: 0 to 100000");
    CHECK_TEXT(number_refusal("size", 0.5), "size: 0.5 is not a whole number");
    CHECK_TEXT(number_refusal("pre_ping", 1), "pre_ping: 1 is not true or false");
    CHECK_TEXT(number_refusal("queue", 0), "queue: 0 is not one of fifo, lifo, codel");
  }
  TEST("what may be a URL or a password is not shown, whichever setting it was given to") {
    CHECK_TEXT(refusal("size", "postgresql://app:hunter2@host/db"), "size: the value is not a whole number");
    CHECK_TEXT(refusal("pre_ping", "password=hunter2"), "pre_ping: the value is not true or false");
  }
  TEST("a long value is cut and control characters do not reach the message") {
    char text[9000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    text[0] = '\n';
    text[1] = '\x1b';
    const char *message = refusal("size", text);
    CHECK(strlen(message) < 150 && strchr(message, '\n') == NULL && strchr(message, '\x1b') == NULL);
  }
}

static void flags(void) {
  static const char *const yes[] = {"true", "1", "yes", "on", "TRUE", "Yes", "oN"};
  static const char *const no[] = {"false", "0", "no", "off", "FALSE", "No", "oFF"};
  TEST("a flag reads true/false, 1/0, yes/no and on/off in any case") {
    for (int i = 0; i < 7; i++) {
      CHECK_TEXT(round_trip("pre_ping", yes[i]), "true");
      CHECK_TEXT(round_trip("pre_ping", no[i]), "false");
    }
    CHECK(refusal("pre_ping", "")[0] != '\0' && refusal("pre_ping", "true ")[0] != '\0' && refusal("pre_ping", "tru")[0] != '\0');
  }
  TEST("a flag is no number and a number no flag") {
    struct settings s;
    struct pool_error error;
    settings_defaults(&pool_settings_table, &s);
    CHECK_INT(setting_flag(row("pre_ping"), &s, false, &error), POOL_OK);
    CHECK(!s.pre_ping);
    CHECK_INT(setting_flag(row("size"), &s, true, &error), POOL_SETTINGS);
    CHECK_TEXT(error.message, "size: true is not a whole number");
  }
}

static const char *check_message(int size, int max_overflow, int size_limit, int min_idle) {
  static struct pool_error error;
  struct settings s;
  memset(&error, 0, sizeof error);
  settings_defaults(&pool_settings_table, &s);
  s.size = size;
  s.max_overflow = max_overflow;
  s.size_limit = size_limit;
  s.min_idle = min_idle;
  settings_check(&s, &error);
  return error.message;
}

static void rules_between_settings(void) {
  struct settings s;
  struct pool_error error;
  TEST("size 0 with max_overflow 0 is refused, saying what SQLAlchemy's values mean here") {
    CHECK_TEXT(check_message(0, 0, 1000, 0),
               "size 0 + max_overflow 0: at least one connection is needed (SQLAlchemy reads 0 and -1 as unlimited; here set "
               "max_overflow to the most you allow)");
    CHECK_TEXT(check_message(0, 1, 1000, 0), "");
    CHECK_TEXT(check_message(1, 0, 1000, 0), "");
  }
  TEST("size + max_overflow beyond size_limit is refused") {
    CHECK_TEXT(check_message(10, 20, 29, 0), "size 10 + max_overflow 20 is more than size_limit 29: lower them or raise size_limit");
    CHECK_TEXT(check_message(10, 20, 30, 0), "");
    CHECK(check_message(100000, 100000, 100000, 0)[0] != '\0');
  }
  TEST("min_idle beyond size + max_overflow is refused") {
    CHECK_TEXT(check_message(10, 20, 1000, 31), "min_idle 31 is more than size 10 + max_overflow 20");
    CHECK_TEXT(check_message(10, 20, 1000, 30), "");
  }
  TEST("backoff_min above backoff_max is refused") {
    settings_defaults(&pool_settings_table, &s);
    s.backoff_min = 700000;
    CHECK_INT(settings_check(&s, &error), POOL_SETTINGS);
    CHECK_TEXT(error.message, "backoff_min 0.7 is more than backoff_max 0.5");
  }
}

int main(void) {
  tables_and_defaults();
  names();
  numbers();
  refusals();
  flags();
  rules_between_settings();
  return check_done();
}
