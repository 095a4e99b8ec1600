/*
** scarce: see the header. glibc's allocator stays underneath, by its own names; what it gives by other ways (posix_memalign) may be freed
** here as well, and is counted.
*/
#include "scarce.h"

#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

static struct {
  atomic_long count, live, sparing, at; /* at: the allocation that fails */
  atomic_bool on, for_good, failed;
  atomic_int limit;   /* milliseconds */
  atomic_llong until; /* when memory is back by itself, in microseconds; 0: not yet known */
} scarce = {.at = LONG_MAX};
static _Thread_local int spared;

void scarce_set(long n, bool for_good) {
  atomic_store(&scarce.at, n);
  atomic_store(&scarce.for_good, for_good);
  atomic_store(&scarce.failed, false);
  atomic_store(&scarce.until, 0);
}

void scarce_limit(int milliseconds) { atomic_store(&scarce.limit, milliseconds); }

void scarce_on(void) {
  atomic_store(&scarce.count, 0);
  atomic_store(&scarce.on, true);
}

void scarce_off(void) { atomic_store(&scarce.on, false); }
bool scarce_failed(void) { return atomic_load(&scarce.failed); }
bool scarce_for_good(void) { return atomic_load(&scarce.for_good); }
long scarce_count(void) { return atomic_load(&scarce.count); }

/* Threads that were let go free what is theirs when they end: waited for, 5 s at most. */
long scarce_live(void) {
  struct stat tasks;
  for (int i = 0; i < 5000 && stat("/proc/self/task", &tasks) == 0 && tasks.st_nlink > 3; i++) poll(NULL, 0, 1); /* ., .., this one */
  return atomic_load(&scarce.live);
}

void scarce_spare(void) { spared++; }
void scarce_mind(void) { spared--; }
long scarce_spared(void) { return atomic_load(&scarce.sparing); }

void *scarce_sparing(void *block, long size) {
  scarce_spare();
  void *got = NULL;
  if (size > 0) atomic_fetch_add(&scarce.sparing, 1), got = realloc(block, (size_t)size);
  else free(block);
  scarce_mind();
  return got;
}

__attribute__((noinline)) static void scarce_hit(void) { __asm__ volatile(""); }

/* Has it been short for long enough? */
static bool scarce_over(void) {
  struct timespec t;
  int limit = atomic_load(&scarce.limit);
  if (limit == 0) return false;
  clock_gettime(CLOCK_MONOTONIC, &t);
  long long now = t.tv_sec * 1000000LL + t.tv_nsec / 1000, none = 0;
  atomic_compare_exchange_strong(&scarce.until, &none, now + limit * 1000LL);
  return now > atomic_load(&scarce.until);
}

/* Does this one fail? */
static bool scarce_fails(void) {
  if (!atomic_load(&scarce.on) || spared > 0) return false;
  long number = atomic_fetch_add(&scarce.count, 1), at = atomic_load(&scarce.at);
  if (number < at || (number > at && !atomic_load(&scarce.for_good)) || scarce_over()) return false;
  atomic_store(&scarce.failed, true);
  scarce_hit();
  errno = ENOMEM;
  return true;
}

#ifdef __SANITIZE_ADDRESS__

void *__real_malloc(size_t);
void *__real_calloc(size_t, size_t);
void *__real_realloc(void *, size_t);
char *__real_strdup(const char *);
char *__real_strndup(const char *, size_t);
void *__wrap_malloc(size_t);
void *__wrap_calloc(size_t, size_t);
void *__wrap_realloc(void *, size_t);
char *__wrap_strdup(const char *);
char *__wrap_strndup(const char *, size_t);

void *__wrap_malloc(size_t size) { return scarce_fails() ? NULL : __real_malloc(size); }
void *__wrap_calloc(size_t count, size_t size) { return scarce_fails() ? NULL : __real_calloc(count, size); }
char *__wrap_strdup(const char *text) { return scarce_fails() ? NULL : __real_strdup(text); }
char *__wrap_strndup(const char *text, size_t most) { return scarce_fails() ? NULL : __real_strndup(text, most); }

void *__wrap_realloc(void *block, size_t size) {
  bool grows = !block || size > malloc_usable_size(block);
  return grows && scarce_fails() ? NULL : __real_realloc(block, size);
}

#else

#define SEEN __attribute__((visibility("default"), used))

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void __libc_free(void *);

static void *counted(void *block) {
  if (block) atomic_fetch_add(&scarce.live, 1);
  return block;
}

SEEN void *malloc(size_t size) { return scarce_fails() ? NULL : counted(__libc_malloc(size)); }
SEEN void *calloc(size_t count, size_t size) { return scarce_fails() ? NULL : counted(__libc_calloc(count, size)); }

SEEN void *realloc(void *block, size_t size) {
  if (!block) return malloc(size);
  if (size > malloc_usable_size(block) && scarce_fails()) return NULL;
  void *got = __libc_realloc(block, size);
  if (!got && size == 0) atomic_fetch_sub(&scarce.live, 1); /* it was freed */
  return got;
}

SEEN void free(void *block) {
  if (block) atomic_fetch_sub(&scarce.live, 1);
  __libc_free(block);
}

SEEN void *memalign(size_t alignment, size_t size) { return scarce_fails() ? NULL : counted(__libc_memalign(alignment, size)); }
SEEN void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

SEEN int posix_memalign(void **out, size_t alignment, size_t size) {
  void *block = memalign(alignment, size);
  if (!block) return ENOMEM;
  *out = block;
  return 0;
}

#endif
