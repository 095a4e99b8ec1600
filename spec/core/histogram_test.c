/* The histogram, and what base.h does with texts. */
#include "core/histogram.h"
#include "support/check.h"

static void test_percentiles(void) {
  static struct histogram h;
  TEST("an empty histogram says 0") {
    CHECK_INT(histogram_percentile(&h, 0.5), 0);
    CHECK(histogram_mean(&h) == 0);
  }
  for (usec v = 1; v <= 100000; v++) histogram_record(&h, v);
  TEST("a percentile is at most a sixteenth above the true one, and never below it") {
    for (int percent = 1; percent <= 100; percent++) {
      usec truth = percent * 1000, said = histogram_percentile(&h, percent / 100.0);
      CHECK(said >= truth && said <= truth + truth / 16);
    }
  }
  TEST("count, mean and maximum are exact") {
    CHECK_INT(h.count, 100000);
    CHECK(histogram_mean(&h) == 50000.5);
    CHECK_INT(h.max, 100000);
    CHECK_INT(histogram_percentile(&h, 1), 100000);
  }
}

static void test_edges(void) {
  static struct histogram h;
  histogram_record(&h, -5);
  TEST("a negative duration counts as 0") {
    CHECK_INT(h.count, 1);
    CHECK_INT(h.sum, 0);
    CHECK_INT(histogram_percentile(&h, 1), 0);
  }
  histogram_record(&h, NEVER);
  histogram_record(&h, NEVER);
  TEST("what is longer than the last bucket goes there, and the sum does not overflow") {
    CHECK_INT(h.buckets[HISTOGRAM_BUCKETS - 1], 2);
    CHECK_INT(h.sum, NEVER);
    CHECK_INT(histogram_percentile(&h, 1), NEVER);
  }
  TEST("every power of two and its neighbours fall into a bucket that holds them") {
    for (int bit = 0; bit < 36; bit++) {
      for (usec v = ((usec)1 << bit) - 1; v <= ((usec)1 << bit) + 1; v++) {
        struct histogram one = {0};
        histogram_record(&one, v);
        one.max = NEVER; /* so that the bucket's own end is seen */
        usec end = histogram_percentile(&one, 1);
        CHECK(end >= v && (end <= v + v / 16 || v >= (usec)1 << 36));
      }
    }
  }
}

static void test_difference(void) {
  static struct histogram before, now, between;
  for (usec v = 0; v < 1000; v++) histogram_record(&before, 1000000 + v);
  now = before;
  for (usec v = 1; v <= 100; v++) histogram_record(&now, v);
  histogram_difference(&between, &now, &before);
  TEST("the difference of two snapshots is what was recorded between them") {
    CHECK_INT(between.count, 100);
    CHECK_INT(between.sum, 5050);
    CHECK(histogram_percentile(&between, 0.5) >= 50 && histogram_percentile(&between, 0.5) <= 53);
    CHECK(between.max >= 100 && between.max <= 106);
  }
  histogram_difference(&between, &now, &now);
  TEST("nothing between two snapshots is an empty histogram") {
    CHECK_INT(between.count, 0);
    CHECK_INT(between.max, 0);
    CHECK_INT(histogram_percentile(&between, 0.99), 0);
  }
}

static void test_texts(void) {
  char field[8];
  struct pool_error e;
  text_copy(field, sizeof field, "1234567");
  TEST("a text that fits is copied whole") CHECK_TEXT(field, "1234567");
  text_copy(field, sizeof field, "12345678");
  TEST("a text that does not fit ends in an ellipsis") CHECK_TEXT(field, "1234\xe2\x80\xa6");
  text_copy(field, sizeof field, "123\xc3\xa4" "678");
  TEST("a text is never cut inside a character") CHECK_TEXT(field, "123\xe2\x80\xa6");
  text_copy(field, 3, "\xe2\x82\xac");
  TEST("a field too short for an ellipsis holds whole characters or nothing") CHECK_TEXT(field, "");
  text_copy(field, sizeof field, NULL);
  TEST("no text at all is the empty text") CHECK_TEXT(field, "");
  TEST("what is not UTF-8 becomes question marks, what is stays") {
    char whole[] = "a\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\n", broken[] = "\xff\xc0\x80\xed\xa0\x80\xf4\x90\x80\x80\xe2\x82z\xc3";
    text_clean(whole);
    CHECK_TEXT(whole, "a\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\n");
    text_clean(broken);
    CHECK_TEXT(broken, "????????????z?");
    error_set(&e, POOL_QUERY, "%s", "x\xfe");
    CHECK_TEXT(e.message, "x?");
  }
  TEST("a line for the log has no control characters") {
    char line[] = "a\nb\x1b[2J\x7f\xff\xc3\xa4";
    text_line(line);
    CHECK_TEXT(line, "a b [2J ?\xc3\xa4");
  }
  memset(&e, 'x', sizeof e);
  TEST("error_set fills kind and message and clears the rest") {
    CHECK_INT(error_set(&e, POOL_CONNECT, "no %s on port %d", "server", 5432), POOL_CONNECT);
    CHECK_TEXT(e.message, "no server on port 5432");
    CHECK(e.kind == POOL_CONNECT && !e.permanent && e.sqlstate[0] == '\0' && e.column[0] == '\0');
    CHECK_INT(error_set(&e, POOL_LOST, "again: %s", e.message), POOL_LOST);
    CHECK_TEXT(e.message, "again: no server on port 5432");
    CHECK_INT(error_set(NULL, POOL_QUERY, "nobody asks"), POOL_QUERY);
  }
  error_set(&e, POOL_QUERY, "%01500d", 7);
  TEST("an error's message that is too long is cut and says so") {
    CHECK_INT(strlen(e.message), sizeof e.message - 1);
    CHECK_TEXT(e.message + sizeof e.message - 4, "\xe2\x80\xa6");
  }
  TEST("every kind of error has its name") {
    CHECK_TEXT(pool_err_name(POOL_OK), "ok");
    CHECK_TEXT(pool_err_name(POOL_OVERLOADED), "overloaded");
    CHECK_TEXT(pool_err_name(POOL_JSON), "json");
    for (int kind = 0; kind < POOL_ERR_KINDS; kind++) CHECK(strlen(pool_err_name((enum pool_err)kind)) > 1);
  }
}

int main(void) {
  test_percentiles();
  test_edges();
  test_difference();
  test_texts();
  return check_done();
}
