/* mask: what of a server's message is hidden, and what is left. */
#include "db/mask.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "support/check.h"

static struct pool_error error;

static struct param text_param(const char *text) { return (struct param){.type = PARAM_TEXT, .text = text, .len = strlen(text)}; }

/* The message, once a statement with this one parameter (NULL: none) has failed with it. */
static const char *masked(const char *sqlstate, const char *message, const char *sql, const char *text) {
  struct param param = text_param(text ? text : "");
  struct statement s = {.sql = sql, .len = sql ? strlen(sql) : 0, .params = &param, .nparams = text != NULL};
  error_set(&error, POOL_QUERY, "%s", message);
  text_copy(error.sqlstate, sizeof error.sqlstate, sqlstate);
  mask_error(&error, &s);
  return error.message;
}

static const char *masked_of(struct param param, const char *message) {
  struct statement s = {.sql = "select $1", .params = &param, .nparams = 1};
  error_set(&error, POOL_QUERY, "%s", message);
  mask_error(&error, &s);
  return error.message;
}

static void values(void) {
  TEST("a parameter's value in quotes becomes its number, however short it is and whatever it holds") {
    CHECK_TEXT(masked("22P02", "invalid input syntax for type integer: \"x\"", "select $1::int", "x"),
               "invalid input syntax for type integer: $1");
    CHECK_TEXT(masked("22P02", "invalid: \"a\"b\"", "select $1::int", "a\"b"), "invalid: $1");
    CHECK_TEXT(masked("42P01", "relation \"hunter2\" does not exist", "select $1", "hunter2"), "relation $1 does not exist");
  }
  TEST("without quotes too, when it stands alone with four bytes, or anywhere with eight") {
    CHECK_TEXT(masked("P0001", "no hun7 here", "select f($1)", "hun7"), "no $1 here");
    CHECK_TEXT(masked("P0001", "no shun7 here, hun7s", "select f($1)", "hun7"), "no shun7 here, hun7s");
    CHECK_TEXT(masked("P0001", "xhunter22y hunter22", "select f($1)", "hunter22"), "x$1y $1");
    CHECK_TEXT(masked("P0001", "no hun here", "select f($1)", "hun"), "no hun here");
  }
  TEST("numbers as they were sent") {
    CHECK_TEXT(masked_of((struct param){.type = PARAM_INTEGER, .integer = -99999}, "value \"-99999\" is out of range, -99999"),
               "value $1 is out of range, $1");
    CHECK_TEXT(masked_of((struct param){.type = PARAM_REAL, .real = 37.0}, "type boolean: \"37\", \"37.0\""), "type boolean: $1, $1");
    CHECK_TEXT(masked_of((struct param){.type = PARAM_REAL, .real = 0.25}, "type boolean: \"0.25\""), "type boolean: $1");
  }
  TEST("each of several") {
    struct param two[] = {text_param("secret-1"), text_param("secret-2")};
    struct statement s = {.sql = "select $1, $2", .params = two, .nparams = 2};
    error_set(&error, POOL_QUERY, "secret-2 and \"secret-1\"");
    mask_error(&error, &s);
    CHECK_TEXT(error.message, "$2 and $1");
  }
}

/* A message that the server made longer than an error's, so that it ends in the middle of the value. */
static const char *masked_long(const char *before, const char *sqlstate) {
  static char message[4096], value[3000];
  memset(value, 's', sizeof value - 1);
  snprintf(message, sizeof message, "%s%s\"", before, value);
  return masked(sqlstate, message, "select $1::int", value);
}

static void pieces(void) {
  TEST("a value that was cut with the message is hidden all the same") {
    CHECK_TEXT(masked_long("could not open \"", "58P01"), "could not open \"\xe2\x80\xa6\"");
    CHECK_TEXT(masked_long("could not open ", "58P01"), "could not open $1");
    CHECK_TEXT(masked_long("invalid integer: \"", "22P02"), "invalid integer: \"\xe2\x80\xa6\"");
  }
  TEST("a part of a parameter in quotes is hidden, unless the statement says it") {
    CHECK_TEXT(masked("42000", "JSON path error near 'hunter2[x'", "select json_extract(a, $1)", "$.hunter2[x"),
               "JSON path error near '\xe2\x80\xa6'");
    CHECK_TEXT(masked("42P01", "relation \"task\" does not exist", "select $1 from task", "my task"), "relation \"task\" does not exist");
    CHECK_TEXT(masked("42P01", "relation \"task\" does not exist", "select f($1)", "my task"),
               "relation \"\xe2\x80\xa6\" does not exist");
    CHECK_TEXT(masked("23505", "can't: \"t_key\", it isn't", "select f($1)", "x"), "can't: \"t_key\", it isn't");
  }
}

static void data(void) {
  TEST("in a complaint about data what is in quotes is hidden, unless the statement says it") {
    CHECK_TEXT(masked("22P02", "invalid input syntax for type integer: \"HUNTER2\"", "select upper($1)::int", "hunter2"),
               "invalid input syntax for type integer: \"\xe2\x80\xa6\"");
    CHECK_TEXT(masked("22P02", "invalid input syntax for type integer: \"a \"b\" c\"", "select t::int from x", NULL),
               "invalid input syntax for type integer: \"\xe2\x80\xa6\"");
    CHECK_TEXT(masked("22P02", "invalid input syntax for type integer: \"abc\"", "select 'abc'::int", NULL),
               "invalid input syntax for type integer: \"abc\"");
    CHECK_TEXT(masked("42601", "syntax error at or near \"hunter\"", "select f()", NULL), "syntax error at or near \"\xe2\x80\xa6\"");
    CHECK_TEXT(masked("42601", "syntax error at or near \"selct\"", "selct 1", NULL), "syntax error at or near \"selct\"");
    CHECK_TEXT(masked("22P02", "invalid: \"abc\"", NULL, NULL), "invalid: \"\xe2\x80\xa6\"");
    CHECK_TEXT(masked("22P02", "invalid: \"abc", "select 1", NULL), "invalid: \"\xe2\x80\xa6");
    CHECK_TEXT(masked("22001", "value too long for type character varying(3)", "select 1", NULL),
               "value too long for type character varying(3)");
  }
  TEST("in whatever quotation marks the server's language has") {
    CHECK_TEXT(masked("22P02", "ung\xc3\xbcltig: \xc2\xbbhunter2\xc2\xab", "select 1", NULL),
               "ung\xc3\xbcltig: \xc2\xbb\xe2\x80\xa6\xc2\xab");
    CHECK_TEXT(masked("22P02", "invalide : \xc2\xab\xc2\xa0hunter2\xc2\xa0\xc2\xbb", "select 1", NULL),
               "invalide : \xc2\xab\xe2\x80\xa6\xc2\xbb");
    CHECK_TEXT(masked("22P02", "x: \xe2\x80\x9ehunter2\xe2\x80\x9d", "select 1", NULL), "x: \xe2\x80\x9e\xe2\x80\xa6\xe2\x80\x9d");
  }
  TEST("names of what was violated stay: a complaint of another class names no data") {
    const char *message = "duplicate key value violates unique constraint \"task_key\"";
    CHECK_TEXT(masked("23505", message, "insert into task values ($1)", "hunter2"), message);
  }
}

static void cases(void) {
  TEST("what the server made lower case of a value, as it does with names, is that value") {
    CHECK_TEXT(masked("42P01", "relation \"plantedtable77\" does not exist", "select $1::regclass", "PlantedTable77"),
               "relation $1 does not exist");
    CHECK_TEXT(masked("42601", "improper relation name (too many dotted names): plantedt77.x.y.z", "select to_regclass($1)",
                      "PlantedT77.X.y.z"), "improper relation name (too many dotted names): $1");
  }
  TEST("and a part of one is a part") {
    CHECK_TEXT(masked("3F000", "schema \"plantedschema\" does not exist", "select $1::regclass", "PlantedSchema.t"),
               "schema \"\xe2\x80\xa6\" does not exist");
  }
  TEST("what the statement says in whatever case stays") {
    CHECK_TEXT(masked("42P01", "relation \"tableofmine\" does not exist", "select $1 from TableOfMine", "a TABLEOFMINE"),
               "relation \"tableofmine\" does not exist");
  }
}

static void secrets(void) {
  TEST("a password is hidden in every text of an error, also where the text was cut") {
    error_set(&error, POOL_CONNECT, "your password hunter2 is nice, hunter2");
    text_copy(error.detail, sizeof error.detail, "hunter2");
    text_copy(error.hint, sizeof error.hint, "not(hunter2)");
    mask_secret(&error, "hunter2");
    CHECK_TEXT(error.message, "your password *** is nice, ***");
    CHECK_TEXT(error.detail, "***");
    CHECK_TEXT(error.hint, "not(***)");
    char message[2048];
    snprintf(message, sizeof message, "%*s", 1030, "hunter2hunter2");
    error_set(&error, POOL_CONNECT, "%s", message);
    mask_secret(&error, "hunter2hunter2");
    CHECK(strstr(error.message, "hunt") == NULL);
  }
  TEST("no password, or one that every text holds, hides nothing") {
    error_set(&error, POOL_CONNECT, "a b c");
    mask_secret(&error, NULL);
    mask_secret(&error, "");
    mask_secret(&error, "b");
    CHECK_TEXT(error.message, "a b c");
  }
}

static void limits(void) {
  TEST("a message that grows beyond its field is cut between characters, and no byte is written past it") {
    char *field = malloc(64);
    if (field == NULL) abort();
    memset(field, 'x', 64);
    snprintf(field, 64, "%s", "\"a\" \"a\" \"a\" \"a\" \"a\" \"a\" \"a\" \"a\" \"a\" \"a\" \xc3\xa9\xc3\xa9\xc3\xa9");
    mask_value(field, 64, "a", 1, 65535);
    CHECK(strlen(field) < 64);
    CHECK(strstr(field, "\"a\"") == NULL);
    CHECK(strncmp(field, "$65535 $65535 ", 14) == 0);
    free(field);
  }
  TEST("a value of megabytes, one with a NUL, an empty one and an empty message do no harm") {
    size_t size = (size_t)4 << 20;
    char *value = calloc(1, size), message[] = "relation \"public\" is, 'public' was";
    if (value == NULL) abort();
    mask_value(message, sizeof message, value, size, 1);
    mask_value(message, sizeof message, "a\0b", 3, 1);
    mask_value(message, sizeof message, "", 0, 1);
    CHECK_TEXT(message, "relation \"public\" is, 'public' was");
    CHECK_TEXT(masked("22P02", "", "select $1", "hunter2"), "");
    free(value);
  }
  TEST("in parameters too long to be looked through every quoted text passes for a part") {
    size_t size = (size_t)5 << 20;
    char *value = malloc(size + 1);
    if (value == NULL) abort();
    memset(value, 'x', size);
    value[size] = '\0';
    CHECK_TEXT(masked("P0001", "\"some\" and \"more\" of it", "select $1 as more", value), "\"\xe2\x80\xa6\"\xe2\x80\xa6\"more\" of it");
    free(value);
  }
  TEST("a statement of tens of thousands of parameters takes no longer for a message with names in it") {
    enum { PARAMS = 30000 };
    size_t size = PARAMS * 8 + 64;
    char *sql = malloc(size);
    struct param *params = calloc(PARAMS, sizeof *params);
    if (sql == NULL || params == NULL) abort();
    char *at = sql + sprintf(sql, "insert into users values ");
    for (int i = 0; i < PARAMS; i++) {
      at += sprintf(at, "($%d)", i + 1);
      params[i] = (struct param){.type = PARAM_TEXT, .text = "somebody", .len = 8};
    }
    struct statement s = {.sql = sql, .len = (size_t)(at - sql), .params = params, .nparams = PARAMS};
    error_set(&error, POOL_QUERY, "duplicate key value violates unique constraint \"users_a_key\"");
    clock_t began = clock();
    mask_error(&error, &s);
    CHECK_TEXT(error.message, "duplicate key value violates unique constraint \"users_a_key\"");
    CHECK(clock() - began < 2 * CLOCKS_PER_SEC); /* it takes milliseconds; it took seconds */
    free(sql);
    free(params);
  }
}

int main(void) {
  values();
  pieces();
  data();
  cases();
  secrets();
  limits();
  return check_done();
}
