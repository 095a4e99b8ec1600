/*
** url: database URLs (src/db/url.c) and what libpq is then told (src/db/postgres_conninfo.c).
**
** Any text: what is refused is refused with a message that names the setting; what is taken is taken again, and means the same. The first
** byte may ask for a whole URL round a password that is planted: it is shown in no redaction and in no message.
*/
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/settings.h"
#include "db/postgres.h"
#include "db/url.h"
#include "fuzz/fuzz.h"

#define SECRET "hunter2:x/y?z@q"
#define PIECE "hunter2" /* the part of it that no rewriting leaves standing */

static void postgres_check(const char *url) {
  char text[SETTING_TEXT_MAX + 64], again[2 * SETTING_TEXT_MAX];
  struct pool_error error;
  if (!url_for_libpq(url, text, sizeof text, &error)) {
    HOLDS(error.kind == POOL_SETTINGS && error.permanent && strncmp(error.message, "database_url: ", 14) == 0);
    return;
  }
  HOLDS(url_scheme(text) == URL_POSTGRES && strlen(text) < sizeof text);
  HOLDS(url_for_libpq(text, again, sizeof again, &error)); /* what was made clear is clear */
  HOLDS(strcmp(text, again) == 0);
  for (const char *p = text; *p; p++) HOLDS((unsigned char)*p > ' ' && (unsigned char)*p < 0x7f);
}

static void sqlite_check(const char *url) {
  char path[SETTING_TEXT_MAX];
  struct pool_error error;
  bool read_only;
  if (url_sqlite_path(url, path, sizeof path, &read_only, &error))
    HOLDS(path[0] != '\0' && strlen(path) < sizeof path);
  else
    HOLDS(error.kind == POOL_SETTINGS && strncmp(error.message, "database_url: ", 14) == 0);
}

/* Redaction never fails, shows no control character, and cannot be talked out of it by a short buffer. */
static void redact_check(const char *url) {
  char whole[SETTING_TEXT_MAX * 4], cut[24];
  HOLDS(url_redact(url, whole, sizeof whole) == whole);
  for (const char *p = whole; *p; p++) HOLDS((unsigned char)*p >= ' ' && *p != 0x7f);
  url_redact(url, cut, sizeof cut);
  HOLDS(strncmp(whole, cut, strlen(cut)) == 0);
}

static void conninfo_check(const char *url, bool planted) {
  struct pg_conninfo where;
  struct pool_error error;
  if (conninfo_read(&where, url, &error)) {
    HOLDS(where.nhosts >= 1 && where.keywords[where.count] == NULL);
    conninfo_free(&where);
  } else {
    HOLDS(error.kind == POOL_SETTINGS && !(planted && strstr(error.message, PIECE)));
  }
}

/* A secret where a password stands, and anything after it. */
static void planted_check(struct fuzz *f) {
  static const char *const heads[] = {"postgresql://user:" SECRET,        "postgres://u%40x:" SECRET,
                                      "postgresql+psycopg2://:" SECRET,   "mysql://root:" SECRET,
                                      "host=h password=" PIECE,           "dbname='x' password='" PIECE,
                                      "postgresql:///db?password=" PIECE, "postgresql://h/db?sslmode=disable&sslpassword=" PIECE};
  char redacted[2048], url[SETTING_TEXT_MAX];
  struct pool_error error = {.message = ""};
  const char *head = heads[fuzz_below(f, 8)];
  char *after = fuzz_until(f, '\0', NULL);
  snprintf(url, sizeof url, "%s%.500s", head, after);
  if (strstr(after, PIECE) == NULL) { /* or it would stand where it may be seen */
    HOLDS(strstr(url_redact(url, redacted, sizeof redacted), PIECE) == NULL);
    if (!url_for_libpq(url, redacted, sizeof redacted, &error)) HOLDS(strstr(error.message, PIECE) == NULL);
    conninfo_check(url, true);
  }
  free(after);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv) {
  (void)argc;
  (void)argv;
  setenv("HOME", "/nonexistent", 1); /* no password or service file of whoever runs this */
  return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct fuzz f = fuzz_of(data, size);
  char name[40], timeout[64];
  if (size > 0 && data[0] == '!') {
    fuzz_byte(&f);
    planted_check(&f);
    return 0;
  }
  char *url = fuzz_text(data, size < SETTING_TEXT_MAX ? size : SETTING_TEXT_MAX - 1);
  redact_check(url);
  postgres_check(url);
  sqlite_check(url);
  conninfo_check(url, false);
  HOLDS(strlen(url_scheme_name(url, name, sizeof name)) < sizeof name);
  if (url_connect_timeout(url, timeout, sizeof timeout)) HOLDS(url_scheme(url) == URL_POSTGRES);
  if (driver_for(url, NULL) == NULL) HOLDS(url_scheme(url) == URL_UNKNOWN);
  free(url);
  return 0;
}
