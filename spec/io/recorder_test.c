/* The recorder: its files, its bound, what it refuses, a disk that is full. */
#include "io/recorder.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/check.h"

#define BEGAN ((usec)5000000)

static char directory[] = "/tmp/recorder_test.XXXXXX";

static const char *in_directory(const char *name) {
  static char path[4][128];
  static int next;
  next = (next + 1) % 4;
  snprintf(path[next], sizeof path[next], "%s/%s", directory, name);
  return path[next];
}

/* The text of a file; "" when there is none. Static, the last one's. */
static const char *text_of(const char *path) {
  static char text[1 << 20];
  FILE *file = fopen(path, "r");
  size_t n = file ? fread(text, 1, sizeof text - 1, file) : 0;
  if (file) fclose(file);
  text[n] = '\0';
  return text;
}

static void save(const char *path, const char *text) {
  FILE *file = fopen(path, "w");
  INSIST(file != NULL);
  fputs(text, file);
  fclose(file);
}

static long size_of(const char *path) {
  struct stat s;
  return stat(path, &s) == 0 ? (long)s.st_size : -1;
}

static struct recorder *begin(const char *path) {
  struct pool_error error = {0};
  struct recorder *r = recorder_open(path, RECORDER_LEAST, "\"who\":\"test\"", BEGAN, &error);
  if (r == NULL) printf("%s\n", error.message);
  INSIST(r != NULL);
  return r;
}

static void test_lines(void) {
  const char *path = in_directory("lines");
  struct recorder *r = begin(path);
  struct pool_error error;
  recorder_add(r, &(struct recorded){.arrived = BEGAN + 17, .waited = 250, .held = 10412, .priority = 5, .outcome = 'g'});
  recorder_add(r, &(struct recorded){.arrived = BEGAN + 20, .waited = 3, .key = 0xabc, .priority = 7, .outcome = 't'});
  recorder_add(r, &(struct recorded){.arrived = BEGAN - 20, .priority = 6, .outcome = 'o'});
  recorder_line(r, "s 1.0 {}", 8);
  TEST("nothing is written before a flush but the first line") {
    CHECK(strchr(text_of(path), '\n') != NULL && strchr(text_of(path), '\n')[1] == '\0');
    CHECK(strncmp(text_of(path), "{\"pool\":\"recording\",\"version\":1,\"run\":\"", 39) == 0);
    CHECK(strstr(text_of(path), "\",\"part\":1,\"who\":\"test\"}\n") != NULL);
  }
  TEST("a request is a line of numbers; key and priority are there when they say something; times count from the beginning") {
    CHECK_INT(recorder_flush(r, &error), POOL_OK);
    const char *lines = strchr(text_of(path), '\n') + 1;
    CHECK(strcmp(lines, "r 17 250 10412 g\nr 20 3 0 t abc 7\nr 0 0 0 o - 6\ns 1.0 {}\n") == 0);
    CHECK_INT((int)recorder_requests(r), 3);
  }
  TEST("the file is its owner's alone") {
    struct stat s;
    CHECK(stat(path, &s) == 0 && (s.st_mode & 0777) == 0600);
  }
  recorder_close(r);
}

static void test_bound(void) {
  const char *path = in_directory("bound"), *older = in_directory("bound.1");
  struct recorder *r = begin(path);
  struct pool_error error;
  long most = 0;
  TEST("however much is recorded, both files together stay within the limit") {
    for (int i = 0; i < 20000; i++) {
      recorder_add(r, &(struct recorded){.arrived = BEGAN + i, .waited = i, .held = 10000, .priority = 5, .outcome = 'g'});
      if (i % 97 == 0) recorder_flush(r, &error);
      long now = size_of(path) + (size_of(older) > 0 ? size_of(older) : 0);
      if (now > most) most = now;
    }
    CHECK(most <= RECORDER_LEAST);
    CHECK(most > RECORDER_LEAST / 2);
    CHECK_INT((int)recorder_requests(r), 20000);
  }
  recorder_close(r);
  TEST("the older part is of the same run, and the part before") {
    char run[64], newer_run[64];
    int part = 0, newer_part = 0;
    CHECK_INT(sscanf(text_of(older), "{\"pool\":\"recording\",\"version\":1,\"run\":\"%16[0-9a-f]\",\"part\":%d", run, &part), 2);
    CHECK_INT(sscanf(text_of(path), "{\"pool\":\"recording\",\"version\":1,\"run\":\"%16[0-9a-f]\",\"part\":%d", newer_run,
                     &newer_part), 2);
    CHECK(strcmp(run, newer_run) == 0);
    CHECK_INT(newer_part, part + 1);
    CHECK(strstr(text_of(path), "r 19999 19999 10000 g\n") != NULL);
  }
}

static void test_refused(void) {
  struct pool_error error = {0};
  TEST("a file that is no recording is left alone, and so is one in the older part's place") {
    const char *path = in_directory("precious");
    save(path, "my thesis\n");
    CHECK(recorder_open(path, RECORDER_LEAST, "", 0, &error) == NULL);
    CHECK(strstr(error.message, "precious is there and is no recording") != NULL);
    CHECK(strcmp(text_of(path), "my thesis\n") == 0);
    save(in_directory("fresh.1"), "my thesis\n");
    CHECK(recorder_open(in_directory("fresh"), RECORDER_LEAST, "", 0, &error) == NULL);
    CHECK(strcmp(text_of(in_directory("fresh.1")), "my thesis\n") == 0);
    CHECK(size_of(in_directory("fresh")) < 0);
  }
  TEST("a symbolic link, a directory and a missing directory are refused") {
    CHECK(symlink(in_directory("elsewhere"), in_directory("link")) == 0);
    CHECK(recorder_open(in_directory("link"), RECORDER_LEAST, "", 0, &error) == NULL);
    CHECK(recorder_open(directory, RECORDER_LEAST, "", 0, &error) == NULL);
    CHECK(recorder_open(in_directory("no/where"), RECORDER_LEAST, "", 0, &error) == NULL);
    CHECK(strstr(error.message, "no/where") != NULL);
    CHECK(size_of(in_directory("elsewhere")) < 0);
  }
  TEST("a recording that is there becomes the older part") {
    recorder_close(begin(in_directory("again")));
    struct recorder *r = begin(in_directory("again"));
    CHECK(size_of(in_directory("again.1")) > 0);
    recorder_close(r);
  }
}

static void test_full_disk(void) {
  struct rlimit was, small;
  struct recorder *r = begin(in_directory("full"));
  struct pool_error error = {0};
  signal(SIGXFSZ, SIG_IGN);
  getrlimit(RLIMIT_FSIZE, &was);
  small = was;
  small.rlim_cur = 100;
  setrlimit(RLIMIT_FSIZE, &small);
  TEST("a disk that is full ends the recording, says so each time, and harms nothing") {
    for (int i = 0; i < 100; i++) recorder_add(r, &(struct recorded){.arrived = BEGAN, .priority = 5, .outcome = 'g'});
    CHECK_INT(recorder_flush(r, &error), POOL_SETTINGS);
    CHECK(strstr(error.message, "cannot be written") != NULL);
    recorder_add(r, &(struct recorded){.arrived = BEGAN, .priority = 5, .outcome = 'g'});
    CHECK_INT((int)recorder_requests(r), 100);
    CHECK_INT(recorder_flush(r, &error), POOL_SETTINGS);
  }
  setrlimit(RLIMIT_FSIZE, &was);
  recorder_close(r);
}

int main(void) {
  INSIST(mkdtemp(directory) != NULL);
  test_lines();
  test_bound();
  test_refused();
  test_full_disk();
  char command[128];
  snprintf(command, sizeof command, "rm -r %s", directory);
  CHECK(system(command) == 0);
  return check_done();
}
