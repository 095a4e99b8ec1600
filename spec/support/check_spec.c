/*
** The test of check.h itself: a check that fails must fail its test, else every other program here proves nothing.
*/
#include "support/check.h"

/* Runs `body` with an empty count and nothing on the screen; what it counted. */
static struct check check_apart(void (*body)(void)) {
  struct check before = check_state, after;
  memset(&check_state, 0, sizeof check_state);
  check_state.quiet = true;
  body();
  check_end();
  after = check_state;
  check_state = before;
  return after;
}

static void a_test_that_fails(void) {
  TEST("(meant to fail)") {
    CHECK(true);
    CHECK(1 == 2);
    CHECK_INT(1, 1);
  }
  TEST("(meant to pass)");
  CHECK_TEXT("a", "a");
}

static void a_test_without_checks(void) {
  TEST("(meant to fail: no check)") {}
}

static void checks_of_values(void) {
  TEST("(meant to fail: numbers)") { CHECK_INT(1, 2); }
  TEST("(meant to fail: texts)") { CHECK_TEXT("a", "b"); }
  TEST("(meant to fail: no text)") { CHECK_TEXT(NULL, "b"); }
}

static void a_check_outside(void) { CHECK(1 == 2); }

int main(void) {
  struct check c;
  c = check_apart(a_test_that_fails);
  TEST("one failed check fails its test and no other") {
    CHECK_INT(c.passed, 1);
    CHECK_INT(c.failed, 1);
  }
  c = check_apart(a_test_without_checks);
  TEST("a test that checked nothing has failed") {
    CHECK_INT(c.passed, 0);
    CHECK_INT(c.failed, 1);
  }
  c = check_apart(checks_of_values);
  TEST("numbers and texts that differ fail") { CHECK_INT(c.failed, 3); }
  c = check_apart(a_check_outside);
  TEST("a failed check outside any test is counted too") { CHECK_INT(c.failed, 1); }
  return check_done();
}
