/*
** recorder: lines in a buffer, a buffer into a file, a full file out of the way.
**
** A failure to write (a full disk) ends the recording, never the pool's work: `failed` says why, and recorder_flush tells it.
*/
#include "recorder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FLUSH = 32768, LINE_MAX_BYTES = 128 };

static const char MAGIC[] = "{\"pool\":\"recording\",";

struct recorder {
  int fd;
  char *path, *older;  /* FILE, FILE.1; owned */
  char *header;        /* owned */
  size_t limit;        /* of one file */
  size_t written;      /* into this one */
  usec began;
  uint64_t run;        /* tells two recordings' parts apart */
  int part;
  uint64_t requests;
  struct pool_error failed; /* kind POOL_OK: not */
  size_t used;
  char buffer[FLUSH];
};

static void fail(struct recorder *r, const char *what) {
  error_set(&r->failed, POOL_SETTINGS, "the recording %s %s: %s", r->path, what, strerror(errno));
}

/* ---- files ---- */

/* Is there a recording, or nothing? false: *error. */
static bool may_replace(const char *path, struct pool_error *error) {
  char start[sizeof MAGIC - 1];
  struct stat s;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
  if (fd < 0 && errno == ENOENT) return true;
  if (fd < 0) {
    error_set(error, POOL_SETTINGS, "%s cannot be read, to see whether it is a recording: %s", path, strerror(errno));
    return false;
  }
  bool fine = fstat(fd, &s) == 0 && S_ISREG(s.st_mode);
  if (fine && s.st_size > 0) fine = read(fd, start, sizeof start) == (ssize_t)sizeof start && memcmp(start, MAGIC, sizeof start) == 0;
  close(fd);
  if (!fine) error_set(error, POOL_SETTINGS, "%s is there and is no recording: give the name of a file to be made", path);
  return fine;
}

static bool write_all(struct recorder *r, const char *bytes, size_t length) {
  while (length > 0) {
    ssize_t n = write(r->fd, bytes, length);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      fail(r, "cannot be written");
      return false;
    }
    bytes += n;
    length -= (size_t)n;
    r->written += (size_t)n;
  }
  return true;
}

static bool begin_file(struct recorder *r) {
  char start[128];
  if (rename(r->path, r->older) != 0 && errno != ENOENT) {
    fail(r, "cannot be renamed");
    return false;
  }
  r->fd = open(r->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (r->fd < 0) {
    fail(r, "cannot be made");
    return false;
  }
  r->written = 0;
  int n = snprintf(start, sizeof start, "%s\"version\":1,\"run\":\"%016llx\",\"part\":%d%s", MAGIC, (unsigned long long)r->run, ++r->part,
                   r->header[0] ? "," : "");
  return write_all(r, start, (size_t)n) && write_all(r, r->header, strlen(r->header)) && write_all(r, "}\n", 2);
}

static void end_file(struct recorder *r) {
  if (r->fd >= 0) close(r->fd);
  r->fd = -1;
}

/* ---- the way in and out ---- */

struct recorder *recorder_open(const char *path, size_t limit, const char *header, usec began, struct pool_error *error) {
  struct recorder *r = calloc(1, sizeof *r);
  size_t size = strlen(path) + sizeof ".1";
  if (r != NULL) {
    r->fd = -1;
    r->path = strdup(path);
    r->older = malloc(size);
    r->header = strdup(header);
  }
  if (r == NULL || r->path == NULL || r->older == NULL || r->header == NULL) {
    error_set(error, POOL_SETTINGS, "not enough memory for a recording");
    goto fail;
  }
  snprintf(r->older, size, "%s.1", path);
  r->limit = limit / 2;
  r->began = began;
  if (getrandom(&r->run, sizeof r->run, GRND_NONBLOCK) != (ssize_t)sizeof r->run) r->run = (uint64_t)began ^ (uint64_t)getpid() << 32;
  if (!may_replace(r->path, error) || !may_replace(r->older, error)) goto fail;
  if (begin_file(r)) return r;
  *error = r->failed;
fail:
  recorder_close(r);
  return NULL;
}

enum pool_err recorder_flush(struct recorder *r, struct pool_error *error) {
  if (r->failed.kind == POOL_OK && r->used > 0) {
    if (r->written + r->used > r->limit) {
      end_file(r);
      begin_file(r);
    }
    if (r->failed.kind == POOL_OK) write_all(r, r->buffer, r->used);
  }
  r->used = 0;
  if (r->failed.kind != POOL_OK) {
    end_file(r);
    *error = r->failed;
  }
  return r->failed.kind;
}

void recorder_line(struct recorder *r, const char *line, size_t length) {
  struct pool_error error;
  if (length + 1 > sizeof r->buffer) return; /* no line of ours is that long */
  if (r->used + length + 1 > sizeof r->buffer) recorder_flush(r, &error);
  if (r->failed.kind != POOL_OK) return;
  memcpy(r->buffer + r->used, line, length);
  r->buffer[r->used + length] = '\n';
  r->used += length + 1;
}

void recorder_add(struct recorder *r, const struct recorded *is) {
  char line[LINE_MAX_BYTES], key[24] = "-";
  usec arrived = is->arrived > r->began ? is->arrived - r->began : 0;
  int n = snprintf(line, sizeof line, "r %lld %lld %lld %c", (long long)arrived, (long long)is->waited, (long long)is->held, is->outcome);
  if (is->key != 0) snprintf(key, sizeof key, "%llx", (unsigned long long)is->key);
  if (is->key != 0 || is->priority != 5) n += snprintf(line + n, sizeof line - (size_t)n, " %s %d", key, is->priority);
  if (r->failed.kind == POOL_OK) r->requests++;
  recorder_line(r, line, (size_t)n);
}

uint64_t recorder_requests(const struct recorder *r) { return r->requests; }

void recorder_close(struct recorder *r) {
  struct pool_error error;
  if (r == NULL) return;
  if (r->fd >= 0) recorder_flush(r, &error);
  end_file(r);
  free(r->path);
  free(r->older);
  free(r->header);
  free(r);
}
