/* Files that are saved, however that is done: real inotify, real directories. */
#include "io/file_watch.h"

#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/check.h"

static char directory[] = "/tmp/file_watch_test.XXXXXX";

static void shell(const char *command) {
  char line[512];
  snprintf(line, sizeof line, "cd %s && %s", directory, command);
  INSIST(system(line) == 0);
}

struct seen {
  struct loop *loop;
  int count;
};

static void changed(void *user) { ((struct seen *)user)->count++; }

/* Turns until something was seen, or for `patience`; how often it was, then nothing for twice the quiet time. */
static int settle(struct seen *seen, usec patience) {
  struct loop *loop = seen->loop;
  usec end = loop_update(loop) + patience;
  seen->count = 0;
  while (seen->count == 0 && loop_update(loop) < end) loop_turn(loop, loop_now(loop) + 20000);
  end = loop_update(loop) + 2 * FILE_WATCH_QUIET;
  while (loop_update(loop) < end) loop_turn(loop, end);
  return seen->count;
}

#define SOON ((usec)5000000)
#define NEVER_MIND ((usec)200000)

static void test_ways_of_saving(struct seen *seen) {
  TEST("written in place is one change, however many writes it takes") {
    shell("for i in 1 2 3 4 5; do echo $i >> tune.lua; done");
    CHECK_INT(settle(seen, SOON), 1);
  }
  TEST("renamed over is a change, and so is the next one") {
    shell("echo 1 > .swp && mv .swp tune.lua");
    CHECK_INT(settle(seen, SOON), 1);
    shell("echo 2 > .swp && mv .swp tune.lua");
    CHECK_INT(settle(seen, SOON), 1);
  }
  TEST("another file of the directory is none") {
    shell("echo 1 > other.lua && echo 1 > tune.lua.swp && rm other.lua");
    CHECK_INT(settle(seen, NEVER_MIND), 0);
  }
  TEST("a file that was removed and is there again is a change") {
    shell("rm tune.lua");
    settle(seen, NEVER_MIND);
    shell("echo 1 > tune.lua");
    CHECK_INT(settle(seen, SOON), 1);
  }
  TEST("a link that is switched, at whatever depth of the same directory, is a change") {
    shell("mkdir a b && echo a > a/tune.lua && echo b > b/tune.lua && ln -s a ..data && ln -sf ..data/tune.lua tune.lua");
    CHECK_INT(settle(seen, SOON), 1);
    shell("ln -s b ..new && mv -T ..new ..data");
    CHECK_INT(settle(seen, SOON), 1);
  }
}

static void test_directory(struct seen *seen, const char *path) {
  struct pool_error error;
  struct file_watch *f = file_watch_open(seen->loop, path, changed, seen, &error);
  INSIST(f != NULL);
  TEST("a directory that is moved away and made anew is found again, which is a change") {
    shell("mv dir gone && mkdir dir && echo 1 > dir/tune.lua");
    CHECK(settle(seen, SOON) >= 1);
    shell("echo 2 > dir/tune.lua");
    CHECK_INT(settle(seen, SOON), 1);
  }
  TEST("a directory that is removed too") {
    shell("rm -r dir");
    settle(seen, NEVER_MIND);
    shell("mkdir dir && echo 1 > dir/tune.lua");
    CHECK(settle(seen, SOON) >= 1);
  }
  file_watch_close(f);
}

int main(void) {
  struct pool_error error = {0};
  struct seen seen = {0};
  char path[64], inner[64];
  INSIST(mkdtemp(directory) != NULL);
  snprintf(path, sizeof path, "%s/tune.lua", directory);
  snprintf(inner, sizeof inner, "%s/dir/tune.lua", directory);
  seen.loop = loop_ev_create();
  shell("echo 0 > tune.lua && mkdir dir && echo 0 > dir/tune.lua");
  struct file_watch *f = file_watch_open(seen.loop, path, changed, &seen, &error);
  INSIST(f != NULL);
  test_ways_of_saving(&seen);
  file_watch_close(f);
  TEST("closed, it tells nothing any more, though a change was on its way") {
    f = file_watch_open(seen.loop, path, changed, &seen, &error);
    shell("echo 9 > tune.lua");
    loop_turn(seen.loop, loop_now(seen.loop) + 20000);
    file_watch_close(f);
    CHECK_INT(settle(&seen, NEVER_MIND), 0);
  }
  TEST("a directory that is not there is an error that names the path") {
    CHECK(file_watch_open(seen.loop, "/nowhere/at/all.lua", changed, &seen, &error) == NULL);
    CHECK(strstr(error.message, "/nowhere/at/all.lua") != NULL);
  }
  test_directory(&seen, inner);
  loop_destroy(seen.loop);
  char command[128];
  snprintf(command, sizeof command, "rm -r %s", directory);
  CHECK(system(command) == 0);
  return check_done();
}
