/*
** check: what a C test program needs, and no more.
**
**   #include "support/check.h"
**   int main(void)
**   {
**     TEST("a returned connection is lent again") {
**       CHECK(pool_acquire(...) == POOL_OK);
**       CHECK_INT(slot->uses, 2);
**     }
**     return check_done();
**   }
**
** TEST ends the test before it, so it works as a block and as a plain statement. A CHECK that fails is printed with its place
** and fails its test; the test goes on, and CHECK's value (a bool) lets it stop. A test that checked nothing has failed. A
** program of several files shares one count. check_done prints `N passed, N failed` last and is the exit code.
*/
#ifndef POOL_SPEC_CHECK_H
#define POOL_SPEC_CHECK_H

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* The one thing here that changes: a program's count. Weak, so that every file of a program shares it. */
struct check {
  const char *name; /* of the test under way, NULL when none is */
  int checks;       /* made by it */
  int failures;     /* of them */
  int passed, failed;
  bool quiet; /* prints no failures: check.h's own test */
};
extern struct check check_state;
__attribute__((weak)) struct check check_state;

static inline void check_end(void) {
  struct check *c = &check_state;
  if (c->name == NULL) return;
  if (c->checks == 0 && !c->quiet) printf("FAILED: %s: it checked nothing\n", c->name);
  if (c->checks == 0 || c->failures > 0)
    c->failed++;
  else
    c->passed++;
  c->name = NULL;
  fflush(stdout);
}

static inline bool check_begin(const char *name) {
  check_end();
  check_state.name = name;
  check_state.checks = check_state.failures = 0;
  return true;
}

/* Counts one check; true when it held. Outside any TEST a failed check still fails the program. */
static inline bool check_that(bool held, const char *what, const char *file, int line) {
  struct check *c = &check_state;
  if (c->name == NULL && !held) c->failed++;
  c->checks++;
  if (!held) {
    c->failures++;
    if (!c->quiet) printf("FAILED: %s\n  %s:%d: %s\n", c->name ? c->name : "(outside a test)", file, line, what);
  }
  return held;
}

static inline bool check_int(long long got, long long want, const char *what, const char *file, int line) {
  char text[512];
  if (got == want) return check_that(true, what, file, line);
  snprintf(text, sizeof text, "%.400s is %lld, not %lld", what, got, want);
  return check_that(false, text, file, line);
}

static inline bool check_text(const char *got, const char *want, const char *what, const char *file, int line) {
  char text[2048];
  if (got != NULL && want != NULL && strcmp(got, want) == 0) return check_that(true, what, file, line);
  if (got == NULL && want == NULL) return check_that(true, what, file, line);
  snprintf(text, sizeof text, "%.200s is \"%.800s\", not \"%.800s\"", what, got ? got : "(NULL)", want ? want : "(NULL)");
  return check_that(false, text, file, line);
}

/* The last call of main: `return check_done();`. A program without a single test has failed. */
static inline int check_done(void) {
  check_end();
  printf("%d passed, %d failed\n", check_state.passed, check_state.failed);
  return check_state.failed > 0 || check_state.passed == 0;
}

#define CHECK_ONCE(line) check_once_##line
#define CHECK_NAME(line) CHECK_ONCE(line)
#define TEST(sentence) for (bool CHECK_NAME(__LINE__) = check_begin(sentence); CHECK_NAME(__LINE__); CHECK_NAME(__LINE__) = false)
#define CHECK(condition) check_that((condition), #condition, __FILE__, __LINE__)
#define CHECK_INT(got, want) check_int((got), (want), #got, __FILE__, __LINE__)
#define CHECK_TEXT(got, want) check_text((got), (want), #got, __FILE__, __LINE__)

#endif
