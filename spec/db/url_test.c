/*
** Database URLs: what a driver gets of them, and what a log may show of them. Every text is put at the very end of a page
** whose neighbour cannot be read, so that reading past it ends the test.
*/
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "db/driver.h"
#include "db/url.h"
#include "support/check.h"

/* Stand-ins: only which of the two driver_for gives is tested, so the drivers need not be linked. */
#ifdef URL_TEST_ALONE
const struct driver postgres_driver = {.name = "postgres"}, sqlite_driver = {.name = "sqlite"};
#endif

#define PAGES 4

/* A copy of `text` that ends with its NUL at the guarded edge. */
static const char *guarded(const char *text) {
  static char *edge;
  size_t page = (size_t)sysconf(_SC_PAGESIZE), size = strlen(text) + 1;
  if (edge == NULL) {
    char *area = mmap(NULL, (PAGES + 1) * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED || mprotect(area + PAGES * page, page, PROT_NONE) != 0) abort();
    edge = area + PAGES * page;
  }
  if (size > PAGES * page) abort();
  return memcpy(edge - size, text, size);
}

static char result[8192];

static const char *redacted(const char *url) { return url_redact(guarded(url), result, sizeof result); }

/* What libpq gets; "! message" when the URL is refused. */
static const char *for_libpq(const char *url) {
  struct pool_error error;
  if (!url_for_libpq(guarded(url), result, sizeof result, &error)) {
    CHECK_INT(error.kind, POOL_SETTINGS);
    CHECK(error.permanent);
    snprintf(result, sizeof result, "! %s", error.message);
  }
  return result;
}

static const char *sqlite_path(const char *url) {
  struct pool_error error;
  bool read_only = false;
  if (!url_sqlite_path(guarded(url), result, sizeof result, &read_only, &error))
    snprintf(result, sizeof result, "! %s", error.message);
  else if (read_only)
    strcat(result, " (read only)");
  return result;
}

static void schemes(void) {
  TEST("PostgreSQL's schemes are known, with any +driver and in any case") {
    CHECK_INT(url_scheme("postgresql://h/d"), URL_POSTGRES);
    CHECK_INT(url_scheme("postgres://h/d"), URL_POSTGRES);
    CHECK_INT(url_scheme("postgresql+psycopg2://h/d"), URL_POSTGRES);
    CHECK_INT(url_scheme("postgresql+asyncpg://h/d"), URL_POSTGRES);
    CHECK_INT(url_scheme("PostgreSQL://h/d"), URL_POSTGRES);
  }
  TEST("SQLite's scheme is known, with any +driver") {
    CHECK_INT(url_scheme("sqlite:///a.db"), URL_SQLITE);
    CHECK_INT(url_scheme("sqlite+pysqlite:///a.db"), URL_SQLITE);
  }
  TEST("anything else is unknown") {
    static const char *const unknown[] = {"",
                                          ":",
                                          "://",
                                          "mysql://h/d",
                                          "postgresq://h",
                                          "postgresqlx://h",
                                          "postgresql:/h",
                                          "postgresql",
                                          "host=h",
                                          "+x://h",
                                          "postgresql+://h",
                                          " postgresql://h",
                                          "postgresql+a b://h",
                                          "sqlite:",
                                          "postgresql+aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa://h"};
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) CHECK_INT(url_scheme(guarded(unknown[i])), URL_UNKNOWN);
  }
}

static void drivers(void) {
  struct pool_error error;
  TEST("the scheme chooses the driver") {
    CHECK(driver_for("postgresql+psycopg2://h/d", &error) == &postgres_driver);
    CHECK(driver_for("sqlite:///:memory:", &error) == &sqlite_driver);
  }
  TEST("an unknown scheme is refused, naming it and those known, and nothing else of the URL") {
    CHECK(driver_for("mysql+pymysql://app:hunter2@host/db", &error) == NULL);
    CHECK_TEXT(error.message, "database_url: no driver for mysql:// is known; known are postgresql:// and sqlite:///");
    CHECK_INT(error.kind, POOL_SETTINGS);
  }
  TEST("what is no URL is refused without showing it") {
    CHECK(driver_for("host=h password=hunter2", &error) == NULL);
    CHECK_TEXT(error.message, "database_url: it must begin with postgresql:// or sqlite:///");
    CHECK(driver_for("hunter2", NULL) == NULL);
  }
}

static void redaction_of_urls(void) {
  TEST("the password is hidden, the rest shown") {
    CHECK_TEXT(redacted("postgresql://app:hunter2@db.example:5432/shop"), "postgresql://app:***@db.example:5432/shop");
    CHECK_TEXT(redacted("postgresql+psycopg2://app:hunter2@h/shop"), "postgresql+psycopg2://app:***@h/shop");
    CHECK_TEXT(redacted("mysql://app:hunter2@h/shop"), "mysql://app:***@h/shop");
    CHECK_TEXT(redacted("postgresql://app:@h/shop"), "postgresql://app:***@h/shop");
  }
  TEST("a user without password, hosts of every kind and no host at all are shown") {
    CHECK_TEXT(redacted("postgresql://app@h/shop"), "postgresql://app@h/shop");
    CHECK_TEXT(redacted("postgresql://h:1,h2:2,[::1]:3/shop"), "postgresql://h:1,h2:2,[::1]:3/shop");
    CHECK_TEXT(redacted("postgresql:///shop"), "postgresql:///shop");
    CHECK_TEXT(redacted("postgresql://"), "postgresql://");
    CHECK_TEXT(redacted("postgresql://%2Fvar%2Frun/shop"), "postgresql://%2Fvar%2Frun/shop");
    CHECK_TEXT(redacted("sqlite:///pool.db"), "sqlite:///pool.db");
    CHECK_TEXT(redacted("sqlite:////home/me@x/a:b.db?mode=ro"), "sqlite:////home/me@x/a:b.db?mode=ro");
    CHECK_TEXT(redacted("sqlite://"), "sqlite://");
  }
  TEST("a password with @ : / # % in it is hidden whole") {
    CHECK_TEXT(redacted("postgresql://app:hun@ter2@h/shop"), "postgresql://app:***@h/shop");
    CHECK_TEXT(redacted("postgresql://app:hun:ter2@h/shop"), "postgresql://app:***@h/shop");
    CHECK_TEXT(redacted("postgresql://app:hun/ter2@h/shop"), "postgresql://app:***@h/shop");
    CHECK_TEXT(redacted("postgresql://app:hun%ter2@h/shop"), "postgresql://app:***@h/shop");
    CHECK_TEXT(redacted("postgresql://app:#hunter2@h/shop"), "postgresql://app:***@h/shop");
    CHECK_TEXT(redacted("postgresql://app:hun?ter2@h/shop"), "postgresql://***");
  }
  TEST("secret parameters are hidden, harmless ones shown") {
    CHECK_TEXT(redacted("postgresql://h/d?sslmode=require&password=hunter2"), "postgresql://h/d?sslmode=require&password=***");
    CHECK_TEXT(redacted("postgresql://h/d?passfile=/x&sslpassword=y&sslkey=/z&connect_timeout=3"),
               "postgresql://h/d?passfile=***&sslpassword=***&sslkey=***&connect_timeout=3");
    CHECK_TEXT(redacted("postgresql:///d?host=/tmp&pass%77ord=hunter2"), "postgresql:///d?host=/tmp&***=***");
    CHECK_TEXT(redacted("sqlite:///a.db?key=hunter2"), "sqlite:///a.db?key=***");
    CHECK_TEXT(redacted("postgresql://h/d?sslmode=require;password=hunter2"), "postgresql://h/d?sslmode=***");
    CHECK_TEXT(redacted("postgresql://h/d?hunter2"), "postgresql://h/d?***");
  }
}

static void redaction_in_doubt(void) {
  static const char *const doubtful[] = {
      "postgresql://app:hunter2/db",
      "postgresql://app:hunter2",
      "postgresql://app:hunter2?sslmode=require",
      "postgresql://h/d?user=a@hunter2",
      "postgresql://h/d;password=hunter2",
      "postgresql://h/d&password=hunter2",
      "postgresql:/app:hunter2@h/d",
      "postgresql:app:hunter2@h",
      "app:hunter2@h/d",
      "//app:hunter2@h/d",
      " postgresql://app:hunter2@h/d",
      "hunter2",
      "://app:hunter2@h",
      "password hunter2",
      "password=hunter2",
      "password = hunter2 host=h",
      "password='hunter2 host=h",
      "password='hun\\'ter2' host=h",
      "password=hunter2\\",
      "password='a'hunter2",
      "password='a'host=hunter2",
      "host=h password=a hunter2",
      "dbname=postgresql://app:hunter2",
      "host=h PASSWORD=hunter2",
      "host=h service=hunter2",
      "postgresql://app%3Ahunter2@h/d",
      "postgresql://a/hunter2:x@h/d",
      "postgresql://app:pw@h:hunter2/d",
      "postgresql://app:x@y/hunter2@h/d",
      "sqlite://app:hunter2@h/d",
      "postgresql://h/d?application_name=x%20password=hunter2",
      "postgresql://app:hunter2@",
      "postgresql://:hunter2@h",
      "postgresql://h/d?a=1&&=hunter2",
      "postgresql://[hunter2/d",
      "postgresql://app:x@[::1]hunter2/d",
  };
  TEST("when in doubt the secret is hidden") {
    for (size_t i = 0; i < sizeof doubtful / sizeof doubtful[0]; i++)
      if (!CHECK(strstr(redacted(doubtful[i]), "hunter2") == NULL)) printf("  %s -> %s\n", doubtful[i], result);
  }
  TEST("digits too long for a port are hidden, for they may be a password whose host is missing") {
    CHECK_TEXT(redacted("postgresql://app:123456/shop"), "postgresql://***");
  }
  TEST("a connection string in words keeps what is harmless") {
    CHECK_TEXT(redacted("host=localhost port=5432 user=app password=hunter2 dbname='my db'"),
               "host=localhost port=5432 user=app password=*** dbname=***");
    CHECK_TEXT(redacted("password = 'hun\\'ter2 x'  host = h"), "password=*** host=h");
    CHECK_TEXT(redacted(""), "");
  }
  TEST("the result is cut to its buffer") {
    char small[12];
    CHECK_TEXT(url_redact("postgresql://app:hunter2@h/d", small, sizeof small), "postgresql:");
    CHECK_TEXT(url_redact("postgresql://app:hunter2@h/d", small, 1), "");
  }
  TEST("control characters of a URL do not reach a log") {
    CHECK(strpbrk(redacted("postgresql://h/d\ninjected"), "\n\r\x1b") == NULL);
    CHECK(strpbrk(redacted("sqlite:///a\nb\x1b.db?mode=\n"), "\n\r\x1b") == NULL);
    CHECK(strpbrk(redacted("host=h\x1b[31m"), "\n\r\x1b") == NULL);
  }
}

static void for_postgres(void) {
  TEST("libpq gets the scheme without a driver and the rest as it was") {
    CHECK_TEXT(for_libpq("postgresql+psycopg2://app:pw@h:5432/shop?sslmode=require"), "postgresql://app:pw@h:5432/shop?sslmode=require");
    CHECK_TEXT(for_libpq("postgres://h1:1,h2:2/d?target_session_attrs=read-write"),
               "postgresql://h1:1,h2:2/d?target_session_attrs=read-write");
    CHECK_TEXT(for_libpq("postgresql://app@[::1]:5432/d"), "postgresql://app@[::1]:5432/d");
    CHECK_TEXT(for_libpq("postgresql:///d?host=/var/run/postgresql"), "postgresql:///d?host=/var/run/postgresql");
    CHECK_TEXT(for_libpq("postgresql://"), "postgresql://");
    CHECK_TEXT(for_libpq("postgresql://u:@h"), "postgresql://u:@h");
    CHECK_TEXT(for_libpq("postgresql://%2Ftmp/d?options=-csearch_path%3Dx"), "postgresql://%2Ftmp/d?options=-csearch_path%3Dx");
  }
  TEST("a password is encoded anew where libpq would stumble") {
    CHECK_TEXT(for_libpq("postgresql://app:p@ss@h/d"), "postgresql://app:p%40ss@h/d");
    CHECK_TEXT(for_libpq("postgresql://app:hun%ter2@h/d"), "postgresql://app:hun%25ter2@h/d");
    CHECK_TEXT(for_libpq("postgresql://app:a:b#c d@h/d"), "postgresql://app:a%3Ab%23c%20d@h/d");
    CHECK_TEXT(for_libpq("postgresql://app:%40%2f@h/d"), "postgresql://app:%40%2f@h/d");
    CHECK_TEXT(for_libpq("postgresql://app:%"),
               "! database_url: what follows // must be [user[:password]@]host[:port], several with commas");
    CHECK_TEXT(for_libpq("postgresql://app:\xc3\xa9@h"), "postgresql://app:%C3%A9@h");
  }
  TEST("a URL that could be read in two ways is refused, saying what to write and showing nothing of it") {
    static const char *const doubtful[] = {
        "postgresql://app:hunter2/x@h/d",   "postgresql://app:hunter2?x@h/d", "postgresql://app:a@hunter2/x@h/d",
        "postgresql://app:a@b?hunter2@h/d", "postgresql://app:1?hunter2@h/d", "postgresql://app:hunter2/d",
        "postgresql://h/d?hunter2",         "postgresql://h/d?a=b=hunter2",   "postgresql://app:hunter2%00@h/d",
        "postgresql://[::1/hunter2",        "postgresql://[]/hunter2"};
    for (size_t i = 0; i < sizeof doubtful / sizeof doubtful[0]; i++) {
      const char *got = for_libpq(doubtful[i]);
      CHECK(got[0] == '!' && strstr(got, "hunter2") == NULL && strstr(got, "database_url: ") != NULL);
    }
    CHECK_TEXT(for_libpq("postgresql://app:hunter2/x@h/d"), "! database_url: in a password, / is written %2F, ? %3F and @ %40");
  }
  TEST("a URL too long for the buffer is refused") {
    char small[20];
    struct pool_error error;
    CHECK(!url_for_libpq("postgresql://h/database", small, sizeof small, &error));
    CHECK_TEXT(error.message, "database_url: too long");
  }
  TEST("connect_timeout is found in the query, the last one counts") {
    char text[16];
    CHECK(url_connect_timeout("postgresql://h/d?connect_timeout=3", text, sizeof text));
    CHECK_TEXT(text, "3");
    CHECK(url_connect_timeout("postgresql://h/d?connect_timeout=3&sslmode=x&connect_timeout=%34.5", text, sizeof text));
    CHECK_TEXT(text, "4.5");
    CHECK(!url_connect_timeout("postgresql://h/connect_timeout=3", text, sizeof text));
    CHECK(!url_connect_timeout("postgresql://h/d?xconnect_timeout=3&connect_timeoutx=4", text, sizeof text));
    CHECK(!url_connect_timeout("sqlite:///d?connect_timeout=3", text, sizeof text));
  }
}

static void for_sqlite(void) {
  TEST("three slashes are a relative path, four an absolute one") {
    CHECK_TEXT(sqlite_path("sqlite:///pool.db"), "pool.db");
    CHECK_TEXT(sqlite_path("sqlite:///dir/pool.db"), "dir/pool.db");
    CHECK_TEXT(sqlite_path("sqlite:////var/lib/pool.db"), "/var/lib/pool.db");
    CHECK_TEXT(sqlite_path("sqlite+pysqlite:///pool.db"), "pool.db");
  }
  TEST("memory is :memory:, an empty path or none") {
    CHECK_TEXT(sqlite_path("sqlite:///:memory:"), ":memory:");
    CHECK_TEXT(sqlite_path("sqlite:///"), ":memory:");
    CHECK_TEXT(sqlite_path("sqlite://"), ":memory:");
  }
  TEST("the path is percent-decoded, a lone percent stands for itself") {
    CHECK_TEXT(sqlite_path("sqlite:///my%20data%3F.db"), "my data?.db");
    CHECK_TEXT(sqlite_path("sqlite:///100%.db"), "100%.db");
    CHECK_TEXT(sqlite_path("sqlite:///a%2"), "a%2");
    CHECK_TEXT(sqlite_path("sqlite:///a%00b"), "! database_url: a file's name cannot hold %00");
  }
  TEST("mode=ro is the only parameter") {
    CHECK_TEXT(sqlite_path("sqlite:///a.db?mode=ro"), "a.db (read only)");
    CHECK_TEXT(sqlite_path("sqlite:///a.db?"), "a.db");
    CHECK(strstr(sqlite_path("sqlite:///a.db?mode=rw"), "mode=ro") != NULL && result[0] == '!');
    CHECK(sqlite_path("sqlite:///a.db?key=hunter2")[0] == '!' && strstr(result, "hunter2") == NULL);
  }
  TEST("a host is refused") {
    CHECK(strstr(sqlite_path("sqlite://pool.db"), "three slashes") != NULL);
    CHECK(sqlite_path("sqlite://u:hunter2@h/pool.db")[0] == '!' && strstr(result, "hunter2") == NULL);
    CHECK(sqlite_path("postgresql://h/d")[0] == '!');
  }
  TEST("a path too long for the buffer is refused") {
    char small[6];
    bool read_only;
    struct pool_error error;
    CHECK(!url_sqlite_path("sqlite:///pool.db", small, sizeof small, &read_only, &error));
  }
}

/* Random texts made of what URLs are made of: whatever comes, nothing is over-read and a marked password is never shown. */
static void random_texts(void) {
  static const char *const pieces[] = {
      "postgresql://", "sqlite:///", "app", ":", "@", "/", "?", "&",   "=",    "%", "%4", "%40", "%00",  "host",
      "password=",     "'",          "\\",  " ", ",", "[", "]", "::1", "5432", "#", "+",  "\n",  "\xff", "connect_timeout="};
  uint64_t seed = 7;
  TEST("random texts are read within their bounds") {
    for (int round = 0; round < 100000; round++) {
      char text[256] = "", out[64];
      bool read_only;
      int count = (int)((seed >> 60) & 15);
      for (int i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        strcat(text, pieces[(seed >> 33) % (sizeof pieces / sizeof pieces[0])]);
      }
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      const char *url = guarded(text);
      CHECK(strlen(url_redact(url, out, sizeof out)) < sizeof out);
      url_for_libpq(url, out, sizeof out, NULL);
      url_sqlite_path(url, out, sizeof out, &read_only, NULL);
      url_connect_timeout(url, out, sizeof out);
      url_scheme_name(url, out, sizeof out);
    }
  }
  TEST("a password of any characters behind user: and before @ is never shown") {
    for (int round = 0; round < 100000; round++) {
      char text[256] = "postgresql://app:";
      int count = 1 + (int)((seed >> 60) & 7), where = (int)((seed >> 40) % (unsigned)count);
      for (int i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        strcat(text, i == where ? "hunter2" : pieces[2 + (seed >> 33) % (sizeof pieces / sizeof pieces[0] - 2)]);
      }
      strcat(text, "@db.example/shop");
      if (!CHECK(strstr(redacted(text), "hunter2") == NULL)) printf("  %s -> %s\n", text, result);
      const char *got = for_libpq(text);
      CHECK(got[0] != '!' || strstr(got, "hunter2") == NULL);
    }
  }
}

int main(void) {
  schemes();
  drivers();
  redaction_of_urls();
  redaction_in_doubt();
  for_postgres();
  for_sqlite();
  random_texts();
  return check_done();
}
