/*
** fuzz: see fuzz.h.
*/
#include "fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* libpq believes a message's length and asks for as much memory: two gigabytes of it are refused, as a small machine would. */
const char *__asan_default_options(void);
__attribute__((visibility("default"))) const char *__asan_default_options(void) {
  return "allocator_may_return_null=1:max_allocation_size_mb=256:detect_stack_use_after_return=0";
}

void fuzz_broken(const char *what, const char *file, int line) {
  fprintf(stderr, "%s:%d: a property does not hold: %s\n", file, line, what);
  fflush(NULL);
  abort();
}

uint64_t fuzz_number(struct fuzz *f, int bytes) {
  uint64_t n = 0;
  for (int i = 0; i < bytes; i++) n |= (uint64_t)fuzz_byte(f) << (8 * i);
  return n;
}

char *fuzz_take(struct fuzz *f, size_t len, size_t *taken) {
  if (len > fuzz_left(f)) len = fuzz_left(f);
  char *text = malloc(len + 1);
  if (text == NULL) abort();
  memcpy(text, f->at, len);
  text[len] = '\0';
  f->at += len;
  if (taken != NULL) *taken = len;
  return text;
}

char *fuzz_until(struct fuzz *f, char stop, size_t *taken) {
  const uint8_t *end = fuzz_left(f) > 0 ? memchr(f->at, stop, fuzz_left(f)) : NULL;
  char *text = fuzz_take(f, end != NULL ? (size_t)(end - f->at) : fuzz_left(f), taken);
  if (end != NULL) f->at++;
  return text;
}

char *fuzz_text(const uint8_t *data, size_t size) {
  struct fuzz f = fuzz_of(data, size);
  return fuzz_until(&f, '\0', NULL);
}

bool fuzz_readable(int fd, int other, int ms) {
  struct pollfd at[] = {{.fd = fd, .events = POLLIN}, {.fd = other, .events = POLLIN}};
  int n;
  do n = poll(at, 2, ms);
  while (n < 0 && errno == EINTR);
  return n > 0;
}

static char file_path[256];

static void file_remove(void) { unlink(file_path); }

const char *fuzz_file(void) {
  if (file_path[0]) return file_path;
  const char *directory = getenv("POOL_FUZZ_DIR"); /* whoever runs the target removes it; else this process does */
  snprintf(file_path, sizeof file_path, "%.200s/pool-fuzz-XXXXXX", directory ? directory : "/tmp");
  int fd = mkstemp(file_path);
  if (fd < 0) abort();
  close(fd);
  atexit(file_remove);
  return file_path;
}

void fuzz_file_write(const void *bytes, size_t len) {
  int fd = open(fuzz_file(), O_WRONLY | O_TRUNC | O_CLOEXEC);
  if (fd < 0 || write(fd, bytes, len) != (ssize_t)len) abort();
  close(fd);
}
