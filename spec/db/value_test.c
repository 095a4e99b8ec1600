/* value: reals as text and back, cells from text, PostgreSQL's array literals. */
#include "db/value.h"

#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>

#include "support/check.h"

static const char *real_text(double d) {
  static char out[32];
  size_t len = real_format(out, d);
  CHECK(strlen(out) == len);
  return out;
}

static uint64_t random_next(uint64_t *state) {
  *state += UINT64_C(0x9e3779b97f4a7c15);
  uint64_t z = *state;
  z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
  return z ^ z >> 31;
}

static double real_from_bits(uint64_t bits) {
  double d;
  memcpy(&d, &bits, sizeof d);
  return d;
}

/* How many digits before the exponent, without leading and trailing zeros. */
static int digits_count(const char *text) {
  int count = 0, zeros = 0;
  for (; *text && *text != 'e'; text++) {
    if (*text == '.' || *text == '-' || (*text == '0' && count == 0)) continue;
    count++;
    zeros = *text == '0' ? zeros + 1 : 0;
  }
  return count - zeros;
}

/* Does any decimal of this many digits read back as d? Looks at the nearest and at both its neighbours. */
static bool digits_suffice(double d, int digits) {
  char text[40];
  snprintf(text, sizeof text, "%.*e", digits - 1, d);
  if (strtod(text, NULL) == d) return true;
  char *last = strchr(text, 'e') - 1, was = *last;
  for (int step = -1; step <= 1; step += 2) {
    *last = (char)(was + step);
    if (*last >= '0' && *last <= '9' && strtod(text, NULL) == d) return true;
  }
  return false;
}

static void test_reals(void) {
  static const struct {
    double d;
    const char *text;
  } known[] = {{0.0, "0.0"},
               {-0.0, "-0.0"},
               {1.0, "1.0"},
               {-1.0, "-1.0"},
               {0.1, "0.1"},
               {-2.5, "-2.5"},
               {3.141592653589793, "3.141592653589793"},
               {5e-324, "5e-324"},
               {2.2250738585072014e-308, "2.2250738585072014e-308"},
               {2.225073858507201e-308, "2.225073858507201e-308"},
               {DBL_MAX, "1.7976931348623157e+308"},
               {1e22, "1e+22"},
               {1e23, "1e+23"},
               {9007199254740993.0, "9007199254740992.0"},
               {12345678901234567000.0, "1.2345678901234567e+19"},
               {100000.0, "100000.0"},
               {999999999999999.0, "999999999999999.0"},
               {1e15, "1e+15"},
               {1e20, "1e+20"},
               {123456789.125, "123456789.125"},
               {0x1p-44, "5.684341886080802e-14"},
               {0x1p-1022, "2.2250738585072014e-308"},
               {1.0 / 3, "0.3333333333333333"},
               {0.1 + 0.2, "0.30000000000000004"}};
  TEST("known reals have their shortest texts") {
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) CHECK_TEXT(real_text(known[i].d), known[i].text);
  }
  TEST("what is no number has a word") {
    CHECK_TEXT(real_text((double)NAN), "nan");
    CHECK_TEXT(real_text((double)INFINITY), "inf");
    CHECK_TEXT(real_text(-(double)INFINITY), "-inf");
  }
}

static void test_round_trip(void) {
  uint64_t state = 20240607;
  TEST("a million random reals read back equal") {
    int wrong = 0, count = 0;
    while (count < 1000000) {
      uint64_t bits = random_next(&state);
      double d = real_from_bits(count % 16 ? bits : bits & ~(UINT64_C(0x7ff) << 52)); /* every 16th is subnormal */
      char out[32];
      if (!isfinite(d)) continue;
      real_format(out, d);
      double back = strtod(out, NULL);
      wrong += memcmp(&back, &d, sizeof d) != 0;
      count++;
    }
    CHECK_INT(wrong, 0);
  }
  TEST("no shorter text of a real reads back, for powers of two and random ones") {
    int longer = 0;
    for (int i = 0; i < 22000; i++) {
      char out[32];
      double d = i < 2098 ? ldexp(1, i - 1074) : real_from_bits(random_next(&state));
      if (!isfinite(d)) continue;
      real_format(out, d);
      int digits = digits_count(out);
      if (digits > 1 && digits_suffice(d, digits - 1)) longer++;
    }
    CHECK_INT(longer, 0);
  }
}

static struct value cell(enum value_type type, const char *text) {
  struct value v;
  value_from_text(&v, type, text, strlen(text));
  return v;
}

static void test_cells(void) {
  TEST("integers are exact to the limits of 64 bits") {
    CHECK(cell(VALUE_INTEGER, "9223372036854775807").integer == INT64_MAX);
    CHECK(cell(VALUE_INTEGER, "-9223372036854775808").integer == INT64_MIN);
    CHECK(cell(VALUE_INTEGER, "+7").integer == 7);
    CHECK(cell(VALUE_INTEGER, "-0").integer == 0);
  }
  TEST("text that is not what its type says stays text") {
    static const char *const integers[] = {"9223372036854775808", "-9223372036854775809", "99999999999999999999", "", "-",
                                           "1.0", " 1", "1x"};
    static const char *const reals[] = {"", "1e400", "0x10", "1,5", "nan", "1e", ".", "e5", "1.5 ", "--1"};
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
      struct value v = cell(VALUE_INTEGER, integers[i]);
      CHECK(v.type == VALUE_TEXT && v.len == strlen(integers[i]) && v.text == integers[i]);
    }
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) CHECK(cell(VALUE_REAL, reals[i]).type == VALUE_TEXT);
    CHECK(cell(VALUE_BOOLEAN, "yes").type == VALUE_TEXT);
  }
  TEST("reals are read as strtod reads them") {
    static const char *const texts[] = {"1", "-1.5", "1e22", "1e23", "1.7976931348623157e+308", "4.9e-324", "0.1", "3e-5", ".5", "5.",
                                        "9007199254740993", "123456789012345678901234567890", "1e-400", "2.2250738585072011e-308", "-0"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
      struct value v = cell(VALUE_REAL, texts[i]);
      double want = strtod(texts[i], NULL);
      CHECK(v.type == VALUE_REAL && memcmp(&v.real, &want, sizeof want) == 0);
    }
    CHECK(isnan(cell(VALUE_REAL, "NaN").real));
    CHECK(cell(VALUE_REAL, "-Infinity").real < -DBL_MAX);
  }
  TEST("booleans are t and f") {
    CHECK(cell(VALUE_BOOLEAN, "t").boolean && cell(VALUE_BOOLEAN, "true").boolean);
    CHECK(cell(VALUE_BOOLEAN, "f").type == VALUE_BOOLEAN && !cell(VALUE_BOOLEAN, "f").boolean);
  }
}

static void test_locale(void) {
  TEST("a decimal comma of the host changes nothing") {
    const char *set = setlocale(LC_NUMERIC, "de_DE.UTF-8");
    if (!set) set = setlocale(LC_NUMERIC, "fr_FR.UTF-8");
    CHECK_TEXT(real_text(0.30000000000000004), "0.30000000000000004");
    CHECK(cell(VALUE_REAL, "2.2250738585072011e-308").type == VALUE_REAL);
    CHECK(cell(VALUE_REAL, "1,5").type == VALUE_TEXT);
    printf("# locale with a comma: %s\n", set ? set : "none installed here");
    setlocale(LC_NUMERIC, "C");
  }
}

/* The tokens of a literal as one line: { } elements in <>, N for NULL, ! for malformed. */
static const char *array_line(const char *literal, enum value_type element, char delimiter) {
  static char line[512];
  size_t len = strlen(literal), at = 0;
  char *text = malloc(len ? len : 1), *scratch = malloc(len ? len : 1); /* the literal ends where its memory does */
  memcpy(text, literal, len);
  struct value v = {.type = VALUE_ARRAY, .element = element, .delimiter = delimiter, .text = text, .len = len};
  struct array_reader r;
  enum array_token token;
  array_begin(&r, &v, scratch);
  while ((token = array_next(&r)) != ARRAY_END && token != ARRAY_MALFORMED) {
    struct value e;
    if (token == ARRAY_ELEMENT) {
      if (!array_value(&r, element, &e)) {
        token = ARRAY_MALFORMED;
        break;
      }
      at += (size_t)snprintf(line + at, sizeof line - at, "<%.*s>", (int)e.len, e.text);
    } else
      line[at++] = token == ARRAY_OPEN ? '{' : token == ARRAY_CLOSE ? '}' : 'N';
  }
  if (token == ARRAY_MALFORMED) line[at++] = '!';
  line[at] = '\0';
  free(text);
  free(scratch);
  return line;
}

static void test_arrays(void) {
  TEST("array literals come apart") {
    CHECK_TEXT(array_line("{}", VALUE_TEXT, ','), "{}");
    CHECK_TEXT(array_line("{1,2,NULL}", VALUE_INTEGER, ','), "{<1><2>N}");
    CHECK_TEXT(array_line("{{1,2},{3,4}}", VALUE_INTEGER, ','), "{{<1><2>}{<3><4>}}");
    CHECK_TEXT(array_line("[0:1][2:3]={{1,2},{3,4}}", VALUE_INTEGER, ','), "{{<1><2>}{<3><4>}}");
    CHECK_TEXT(array_line("{\"\",\"NULL\",\"a,b\",\"{}\",\"q\\\"\\\\\"}", VALUE_TEXT, ','), "{<><NULL><a,b><{}><q\"\\>}");
    CHECK_TEXT(array_line("{(1,2),(3,4);(5,6),(7,8)}", VALUE_TEXT, ';'), "{<(1,2),(3,4)><(5,6),(7,8)>}");
    CHECK_TEXT(array_line("{\"\\\\x6869\",\"\\\\x\"}", VALUE_BYTES, ','), "{<hi><>}");
    CHECK_TEXT(array_line("{\"h\\\\151\\\\\\\\\"}", VALUE_BYTES, ','), "{<hi\\>}");
    CHECK_TEXT(array_line("{ünï}", VALUE_TEXT, ','), "{<ünï>}");
  }
  TEST("malformed literals are said to be so, without reading past their end") {
    static const char *const wrong[] = {"",     "{",      "{1",     "{1,",    "{,}",     "{1,}",  "{\"a",   "{\"a\\", "}",  "1",
                                        "{1}x", "{1}{2}", "{\"a\"b}", "{{1}2}", "[0:1]", "[0:1=", "[0:1]={", "{a\"b}", "{1}}"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
      const char *line = array_line(wrong[i], VALUE_TEXT, ',');
      CHECK(strlen(line) > 0 && line[strlen(line) - 1] == '!');
    }
    CHECK_TEXT(array_line("[0:1]x={1,2}", VALUE_INTEGER, ','), "!");
    CHECK_TEXT(array_line("{\"\\\\x68\",\"\\\\xzz\"}", VALUE_BYTES, ','), "{<h>!");
    CHECK(strchr(array_line("{{{{{{{{{{{{{{{{{{1}}}}}}}}}}}}}}}}}}", VALUE_TEXT, ','), '!'));
  }
}

/* The bytes of a bytea's text in hexadecimal, "none" when it is none. */
static const char *bytes_line(const char *text) {
  static char line[64];
  size_t len = strlen(text);
  char *out = malloc(len ? len : 1);
  bool fine = bytes_decode(out, text, &len);
  line[0] = '\0';
  for (size_t i = 0; fine && i < len; i++) snprintf(line + 2 * i, sizeof line - 2 * i, "%02x", (unsigned char)out[i]);
  free(out);
  return fine ? line : "none";
}

static void test_bytes(void) {
  TEST("bytea is read in either format, and what is neither is said to be none") {
    CHECK_TEXT(bytes_line("\\x00fF"), "00ff");
    CHECK_TEXT(bytes_line("\\x"), "");
    CHECK_TEXT(bytes_line(""), "");
    CHECK_TEXT(bytes_line("a\\\\\\377\\000"), "615cff00");
    CHECK_TEXT(bytes_line("\\0**"), "302a2a"); /* no octal: the backslash stands for what follows it */
    CHECK_TEXT(bytes_line("\\089"), "303839");
    CHECK_TEXT(bytes_line("\\400"), "343030");
    CHECK_TEXT(bytes_line("\\"), "5c");
    CHECK_TEXT(bytes_line("\\x0"), "none");
    CHECK_TEXT(bytes_line("\\x0g"), "none");
    CHECK_TEXT(bytes_line("a\x01"), "none"); /* the server writes it \001 */
    CHECK_TEXT(bytes_line("\xc3\xa4"), "none");
  }
}

static void test_arrays_random(void) {
  static const char letters[] = "{}{},,\"\"\\NULL1a[]=:;x";
  TEST("random bytes as array literals neither crash nor loop") {
    uint64_t state = 7;
    int ended = 0;
    for (int round = 0; round < 200000; round++) {
      size_t len = random_next(&state) % 24;
      char *text = malloc(len ? len : 1), *scratch = malloc(len ? len : 1);
      for (size_t i = 0; i < len; i++) text[i] = letters[random_next(&state) % (sizeof letters - 1)];
      if (len > 2) text[0] = '{';
      struct value v = {.type = VALUE_ARRAY, .delimiter = ',', .text = text, .len = len}, e;
      struct array_reader r;
      array_begin(&r, &v, scratch);
      enum array_token token = ARRAY_OPEN;
      for (int n = 0; n < 64 && token != ARRAY_END && token != ARRAY_MALFORMED; n++) {
        token = array_next(&r);
        if (token == ARRAY_ELEMENT && !array_value(&r, round % 2 ? VALUE_BYTES : VALUE_INTEGER, &e)) token = ARRAY_MALFORMED;
      }
      ended += token == ARRAY_END || token == ARRAY_MALFORMED;
      free(text);
      free(scratch);
    }
    CHECK_INT(ended, 200000);
  }
}

int main(void) {
  test_reals();
  test_round_trip();
  test_cells();
  test_locale();
  test_arrays();
  test_bytes();
  test_arrays_random();
  return check_done();
}
