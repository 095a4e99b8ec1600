/* json_text: strings, scalars, cells and whole results as JSON. */
#include "db/json_text.h"

#include <math.h>

#include "support/check.h"
#include "support/fake_driver.h"

static const struct driver fake = FAKE_DRIVER(false);

static const char *buffer_text(struct json_buffer *b) {
  json_append(b, "", 0);
  json_append(b, "\0", 1);
  CHECK(!b->failed);
  b->len--;
  return b->data;
}

/* A check of what `append` writes, at the end of its own memory. */
#define CHECK_JSON(append, want)              \
  do {                                        \
    struct json_buffer b;                     \
    json_buffer_init(&b);                     \
    append;                                   \
    CHECK_TEXT(buffer_text(&b), want);        \
    json_buffer_free(&b);                     \
  } while (0)
#define STRING(s) json_append_string(&b, s, sizeof(s) - 1)
#define BYTES(s) json_append_bytes(&b, s, sizeof(s) - 1)

static void test_strings(void) {
  TEST("strings are quoted, and only what must be is escaped") {
    CHECK_JSON(STRING(""), "\"\"");
    CHECK_JSON(STRING("plain text, long enough for words of eight"), "\"plain text, long enough for words of eight\"");
    CHECK_JSON(STRING("\"\\/"), "\"\\\"\\\\/\"");
    CHECK_JSON(STRING("\b\f\n\r\t"), "\"\\b\\f\\n\\r\\t\"");
    CHECK_JSON(STRING("a\0b\x01\x1f\x7f"), "\"a\\u0000b\\u0001\\u001f\x7f\"");
    CHECK_JSON(STRING("ü € 😀"), "\"ü € 😀\"");
  }
  TEST("every byte is escaped or not at every place of a word of eight") {
    for (int c = 0; c < 128; c++)
      for (size_t at = 0; at < 17; at++) {
        char text[17], want[32];
        memset(text, 'x', sizeof text);
        text[at] = (char)c;
        struct json_buffer b;
        json_buffer_init(&b);
        json_append_string(&b, text, sizeof text);
        bool plain = c >= 0x20 && c != '"' && c != '\\';
        CHECK(plain == (b.len == sizeof text + 2));
        snprintf(want, sizeof want, "\\u%04x", c);
        if (c < 0x20 && !strchr("\b\f\n\r\t", c)) CHECK(memcmp(b.data + 1 + at, want, 6) == 0);
        if (c == 0) CHECK(memcmp(b.data + 1 + at, want, 6) == 0);
        json_buffer_free(&b);
      }
  }
}

static void test_scalars(void) {
  TEST("integers are exact") {
    CHECK_JSON(json_append_integer(&b, INT64_MIN), "-9223372036854775808");
    CHECK_JSON(json_append_integer(&b, INT64_MAX), "9223372036854775807");
    CHECK_JSON(json_append_integer(&b, 0), "0");
  }
  TEST("reals are shortest, NaN and infinities null") {
    CHECK_JSON(json_append_real(&b, 1), "1.0");
    CHECK_JSON(json_append_real(&b, 0.1), "0.1");
    CHECK_JSON(json_append_real(&b, (double)NAN), "null");
    CHECK_JSON(json_append_real(&b, -(double)INFINITY), "null");
  }
  TEST("bytes are base64") {
    CHECK_JSON(BYTES(""), "\"\"");
    CHECK_JSON(BYTES("f"), "\"Zg==\"");
    CHECK_JSON(BYTES("fo"), "\"Zm8=\"");
    CHECK_JSON(BYTES("foo"), "\"Zm9v\"");
    CHECK_JSON(BYTES("\xff\xfe\x00\x3e"), "\"//4APg==\"");
  }
}

static bool valid(const char *text, size_t len) {
  char *copy = malloc(len ? len : 1);
  memcpy(copy, text, len);
  bool answer = utf8_valid(copy, len);
  free(copy);
  return answer;
}
#define VALID(s) valid(s, sizeof(s) - 1)

/* By the book: decodes, and compares with the shortest form. */
static bool valid_slowly(const unsigned char *p, size_t len) {
  for (size_t i = 0; i < len;) {
    int n = p[i] < 0x80 ? 1 : (p[i] & 0xe0) == 0xc0 ? 2 : (p[i] & 0xf0) == 0xe0 ? 3 : (p[i] & 0xf8) == 0xf0 ? 4 : 0;
    if (n == 0 || i + (size_t)n > len) return false;
    unsigned c = n == 1 ? p[i] : p[i] & (0xffu >> (n + 1));
    for (int k = 1; k < n; k++) {
      if ((p[i + (size_t)k] & 0xc0) != 0x80) return false;
      c = c << 6 | (p[i + (size_t)k] & 0x3f);
    }
    static const unsigned least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) return false;
    i += (size_t)n;
  }
  return true;
}

static void test_utf8(void) {
  TEST("UTF-8 is told from what is not") {
    CHECK(VALID("") && VALID("plain ascii of some length") && VALID("ü€😀") && VALID("\xf4\x8f\xbf\xbf") && VALID("a\0b"));
    CHECK(!VALID("\x80") && !VALID("\xc0\x80") && !VALID("\xe0\x80\x80") && !VALID("\xed\xa0\x80") && !VALID("\xf4\x90\x80\x80"));
    CHECK(!VALID("\xf8\x88\x80\x80\x80") && !VALID("12345678\xc3") && !VALID("\xe2\x82") && !VALID("\xff"));
  }
  TEST("random bytes are judged as the book does") {
    int differ = 0, good = 0;
    unsigned seed = 5;
    static const unsigned char some[] = {0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc1,
                                         0xc2, 0xdf, 0xe0, 0xe1, 0xed, 0xef, 0xf0, 0xf1, 0xf4, 0xf5};
    for (int i = 0; i < 500000; i++) {
      unsigned char text[5];
      for (size_t k = 0; k < sizeof text; k++) {
        seed = seed * 1103515245u + 12345u;
        text[k] = some[(seed >> 16) % sizeof some];
      }
      bool want = valid_slowly(text, sizeof text);
      good += want;
      differ += valid((const char *)text, sizeof text) != want;
    }
    CHECK_INT(differ, 0);
    CHECK(good > 1000);
  }
}

static void test_arrays(void) {
  static const struct value integers = ARRAY_CELL(VALUE_INTEGER, "{{1,NULL},{3,4}}"), empty = ARRAY_CELL(VALUE_TEXT, "{}"),
                            texts = ARRAY_CELL(VALUE_TEXT, "{a,\"b\\\"c\",\"NULL\"}"),
                            json = ARRAY_CELL(VALUE_JSON, "{\"{\\\"a\\\": 1}\",2}"),
                            bytes = ARRAY_CELL(VALUE_BYTES, "{\"\\\\x6869\"}"), numerics = ARRAY_CELL(VALUE_NUMERIC, "{1.10,NaN}"),
                            reals = ARRAY_CELL(VALUE_REAL, "{1,NaN,0.5}"), booleans = ARRAY_CELL(VALUE_BOOLEAN, "{t,f}"),
                            torn = ARRAY_CELL(VALUE_INTEGER, "{1,\"2");
  TEST("arrays are JSON arrays of their elements' types") {
    CHECK_JSON(json_append_value(&b, &integers), "[[1,null],[3,4]]");
    CHECK_JSON(json_append_value(&b, &empty), "[]");
    CHECK_JSON(json_append_value(&b, &texts), "[\"a\",\"b\\\"c\",\"NULL\"]");
    CHECK_JSON(json_append_value(&b, &json), "[{\"a\": 1},2]");
    CHECK_JSON(json_append_value(&b, &bytes), "[\"aGk=\"]");
    CHECK_JSON(json_append_value(&b, &numerics), "[\"1.10\",\"NaN\"]");
    CHECK_JSON(json_append_value(&b, &reals), "[1.0,null,0.5]");
    CHECK_JSON(json_append_value(&b, &booleans), "[true,false]");
  }
  TEST("a literal that is none is a string, and nothing of the attempt is left") {
    CHECK_JSON(json_append_value(&b, &torn), "\"{1,\\\"2\"");
  }
}

static void test_results(void) {
  static const struct column columns[] = {{"id", VALUE_INTEGER}, {"a\"b", VALUE_TEXT}, {"id", VALUE_NUMERIC}, {"data", VALUE_BYTES},
                                          {"doc", VALUE_JSON},   {"ok", VALUE_BOOLEAN}};
  static const struct value cells[] = {
      INTEGER_CELL(1), TEXT_CELL(VALUE_TEXT, "ä"), TEXT_CELL(VALUE_NUMERIC, "1.50"), TEXT_CELL(VALUE_BYTES, "hi\0"),
      TEXT_CELL(VALUE_JSON, "{\"z\": 1.00}"),
      BOOLEAN_CELL(true), INTEGER_CELL(2), NULL_CELL, NULL_CELL, NULL_CELL, NULL_CELL, NULL_CELL};
  static const struct value bad[] = {TEXT_CELL(VALUE_TEXT, "fine"), TEXT_CELL(VALUE_TEXT, "\xff")};
  static const struct column two[] = {{"a", VALUE_TEXT}, {"secret", VALUE_TEXT}};
  struct pool_error error;
  TEST("a result shows every column in select order, a repeated name once with the last value") {
    struct db_result r = {.rows = 2, .columns = 6, .column = columns, .cells = cells};
    CHECK_JSON(CHECK(json_append_result(&b, &fake, &r, &error)),
               "[{\"id\":\"1.50\",\"a\\\"b\":\"ä\",\"data\":\"aGkA\",\"doc\":{\"z\": 1.00},\"ok\":true},"
               "{\"id\":null,\"a\\\"b\":null,\"data\":null,\"doc\":null,\"ok\":null}]");
    free(r.copy);
  }
  TEST("no rows are [], rows without columns {}") {
    struct db_result none = {.rows = 0, .columns = 6, .column = columns}, bare = {.rows = 2, .columns = 0};
    CHECK_JSON(CHECK(json_append_result(&b, &fake, &none, &error)), "[]");
    CHECK_JSON(CHECK(json_append_result(&b, &fake, &bare, &error)), "[{},{}]");
  }
  TEST("text that is not UTF-8 is an error that names the column") {
    struct db_result r = {.rows = 1, .columns = 2, .column = two, .cells = bad};
    struct json_buffer b;
    json_buffer_init(&b);
    CHECK(!json_append_result(&b, &fake, &r, &error));
    CHECK(error.kind == POOL_JSON);
    CHECK_TEXT(error.message, "column \"secret\", row 1: the text is not UTF-8, which JSON needs");
    json_buffer_free(&b);
    free(r.copy);
  }
}

static void test_many_columns(void) {
  static struct column columns[1600];
  static struct value cells[1600];
  static char names[1600][16];
  struct pool_error error;
  TEST("1,600 columns, all different and all the same") {
    for (int i = 0; i < 1600; i++) {
      snprintf(names[i], sizeof names[i], "c%d", i);
      columns[i] = (struct column){names[i], VALUE_INTEGER};
      cells[i] = (struct value)INTEGER_CELL(i);
    }
    struct db_result r = {.rows = 1, .columns = 1600, .column = columns, .cells = cells};
    struct json_buffer b;
    json_buffer_init(&b);
    CHECK(json_append_result(&b, &fake, &r, &error));
    const char *text = buffer_text(&b);
    CHECK(strncmp(text, "[{\"c0\":0,\"c1\":1,", 16) == 0);
    CHECK_TEXT(text + b.len - 14, "\"c1599\":1599}]");
    b.len = 0;
    for (int i = 0; i < 1600; i++) columns[i].name = "same";
    CHECK(json_append_result(&b, &fake, &r, &error));
    CHECK_TEXT(buffer_text(&b), "[{\"same\":1599}]");
    json_buffer_free(&b);
  }
}

static void test_memory(void) {
  TEST("a buffer that ran out of memory takes nothing more and says so") {
    struct json_buffer b;
    struct pool_error error;
    struct db_result r = {.rows = 0, .columns = 0};
    json_buffer_init(&b);
    json_append(&b, "x", SIZE_MAX / 2); /* never read: refused first */
    CHECK(b.failed && b.data == NULL);
    json_append_string(&b, "more", 4);
    json_append_bytes(&b, "more", 4);
    CHECK(b.len == 0);
    CHECK(!json_append_result(&b, &fake, &r, &error) && error.kind == POOL_JSON);
    json_buffer_free(&b);
  }
}

int main(void) {
  test_strings();
  test_scalars();
  test_utf8();
  test_arrays();
  test_results();
  test_many_columns();
  test_memory();
  return check_done();
}
