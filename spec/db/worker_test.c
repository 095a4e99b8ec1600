/*
** worker_test: threads for what blocks: jobs that end, jobs that never do, and who lets go when.
*/
#include "db/worker.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "support/check.h"

/* A job that blocks until `gate` is readable; a gate of -1 is open. */
struct job {
  struct worker_job job;
  int gate;
  atomic_int *freed;
};

static atomic_int freed, begun;

static void job_block(struct worker_job *each) {
  atomic_fetch_add(&begun, 1);
  struct pollfd gate = {.fd = CONTAINER(each, struct job, job)->gate, .events = POLLIN};
  if (gate.fd >= 0) poll(&gate, 1, 10000);
}

static void job_free(struct worker_job *each) {
  atomic_fetch_add(CONTAINER(each, struct job, job)->freed, 1);
  free(CONTAINER(each, struct job, job));
}

static struct worker_job *submit(struct worker_group *group, int gate) {
  struct job *made = calloc(1, sizeof *made);
  if (made == NULL) abort();
  made->gate = gate;
  made->freed = &freed;
  CHECK(worker_submit(group, &made->job, job_block, job_free));
  return &made->job;
}

/* Does the descriptor become readable within so many milliseconds, and does worker_done agree? */
static bool ends_within(struct worker_job *job, int milliseconds) {
  struct pollfd end = {.fd = job->fd, .events = POLLIN};
  bool readable = poll(&end, 1, milliseconds) == 1;
  CHECK(worker_done(job) == readable);
  return readable;
}

static bool all_freed(int count) {
  for (int i = 0; i < 1000 && atomic_load(&freed) < count; i++) poll(NULL, 0, 5);
  return atomic_load(&freed) == count;
}

static bool has_begun(int count) {
  for (int i = 0; i < 1000 && atomic_load(&begun) < count; i++) poll(NULL, 0, 1);
  return atomic_load(&begun) == count;
}

static void open_gate(int gate) {
  uint64_t one = 1;
  CHECK(write(gate, &one, sizeof one) == sizeof one);
}

static void ordinary(void) {
  TEST("jobs end in their own time, and are freed once both have let go") {
    struct worker_group *group = worker_create(2);
    struct worker_job *jobs[20];
    atomic_store(&freed, 0);
    for (int i = 0; i < 20; i++) jobs[i] = submit(group, -1);
    for (int i = 0; i < 20; i++) CHECK(ends_within(jobs[i], 5000));
    CHECK_INT(atomic_load(&freed), 0);
    for (int i = 0; i < 20; i++) worker_leave(jobs[i]);
    CHECK(all_freed(20));
    worker_destroy(group);
  }
}

static void stuck(void) {
  int gate = eventfd(0, EFD_CLOEXEC);
  TEST("a job that nobody waits for keeps nobody waiting, though it never ends") {
    struct worker_group *group = worker_create(1);
    atomic_store(&freed, 0);
    struct worker_job *first = submit(group, gate), *second = submit(group, -1);
    CHECK(!ends_within(second, 50)); /* there is one thread */
    worker_leave(first);
    CHECK(ends_within(second, 5000));
    worker_leave(second);
    for (int i = 0; i < 10; i++) {
      struct worker_job *next = submit(group, -1);
      CHECK(ends_within(next, 5000));
      worker_leave(next);
    }
    CHECK(all_freed(11));
    open_gate(gate);
    CHECK(all_freed(12));
    struct worker_job *last = submit(group, -1); /* its thread is back, or gone */
    CHECK(ends_within(last, 5000));
    worker_leave(last);
    worker_destroy(group);
    CHECK(all_freed(13));
  }
  TEST("one that has not begun is dropped where its asker lets go") {
    struct worker_group *group = worker_create(1);
    int other = eventfd(0, EFD_CLOEXEC);
    atomic_store(&freed, 0);
    struct worker_job *running = submit(group, other);
    CHECK(!ends_within(running, 20));
    for (int i = 0; i < 1000; i++) worker_leave(submit(group, -1)); /* more than there are descriptors, were they kept */
    CHECK_INT(atomic_load(&freed), 1000);
    open_gate(other);
    CHECK(ends_within(running, 5000));
    worker_leave(running);
    worker_destroy(group);
    CHECK(all_freed(1001));
    close(other);
  }
  TEST("a group is let go with threads stuck in it, and they free what is left") {
    int both = eventfd(0, EFD_CLOEXEC);
    struct worker_group *group = worker_create(2);
    atomic_store(&freed, 0);
    worker_leave(submit(group, both));
    worker_leave(submit(group, both));
    worker_destroy(group);
    open_gate(both);
    CHECK(all_freed(2));
    close(both);
  }
  close(gate);
}

static void many(void) {
  TEST("so many may be stuck and no more: then the next ones wait for one of them") {
    enum { STUCK = 64 };
    int gate = eventfd(0, EFD_CLOEXEC), other = eventfd(0, EFD_CLOEXEC);
    struct worker_group *group = worker_create(2);
    atomic_store(&freed, 0);
    atomic_store(&begun, 0);
    for (int i = 0; i < STUCK + 2; i++) {
      struct worker_job *job = submit(group, i < STUCK ? gate : other);
      CHECK(has_begun(i + 1)); /* a queued one would be dropped */
      worker_leave(job);
    }
    struct worker_job *waits = submit(group, -1);
    CHECK(!ends_within(waits, 50));
    open_gate(gate); /* the last two stay where they are */
    CHECK(ends_within(waits, 5000));
    worker_leave(waits);
    CHECK(all_freed(STUCK + 1));
    open_gate(other);
    CHECK(all_freed(STUCK + 3));
    worker_destroy(group);
    close(gate);
    close(other);
  }
}

int main(void) {
  ordinary();
  stuck();
  many();
  return check_done();
}
