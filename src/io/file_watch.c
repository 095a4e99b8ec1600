/*
** file_watch: inotify on the directory.
**
** An event counts when it names the file, and, when the file is a symbolic link, whatever it names: what the link leads through
** (..data of a mounted ConfigMap) is switched in the same directory. A directory that goes away is looked for every FILE_WATCH_AGAIN until
** it is back, which counts as a change. An overflow of the kernel's queue counts as one too.
*/
#include "file_watch.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#define EVENTS (IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR)

struct file_watch {
  struct loop *loop;
  void (*changed)(void *user);
  void *user;
  struct watch watch;
  struct timer quiet; /* runs from the last event on */
  struct timer again; /* runs while the directory is not watched */
  int fd, wd;         /* wd -1: the directory is gone */
  char *path, *directory, *name; /* owned: path and directory */
};

static bool is_link(const struct file_watch *f) {
  struct stat s;
  return lstat(f->path, &s) == 0 && S_ISLNK(s.st_mode);
}

static bool directory_watch(struct file_watch *f) {
  f->wd = inotify_add_watch(f->fd, f->directory, EVENTS);
  return f->wd >= 0;
}

static void quiet_begin(struct file_watch *f) { timer_start(f->loop, &f->quiet, loop_now(f->loop) + FILE_WATCH_QUIET); }

static void directory_lost(struct file_watch *f) {
  if (f->wd >= 0) inotify_rm_watch(f->fd, f->wd); /* of one that was moved; fails for one that is gone */
  f->wd = -1;
  timer_start(f->loop, &f->again, loop_now(f->loop) + FILE_WATCH_AGAIN);
}

static void again_fired(struct timer *t) {
  struct file_watch *f = CONTAINER(t, struct file_watch, again);
  if (directory_watch(f)) quiet_begin(f);
  else timer_start(f->loop, &f->again, loop_now(f->loop) + FILE_WATCH_AGAIN);
}

static void quiet_fired(struct timer *t) {
  struct file_watch *f = CONTAINER(t, struct file_watch, quiet);
  f->changed(f->user);
}

static bool event_counts(const struct file_watch *f, const struct inotify_event *e) {
  if (e->mask & IN_Q_OVERFLOW) return true;
  return e->len > 0 && (strcmp(e->name, f->name) == 0 || is_link(f));
}

static void watch_ready(struct watch *w, int events) {
  struct file_watch *f = CONTAINER(w, struct file_watch, watch);
  _Alignas(struct inotify_event) char buffer[4096];
  bool counts = false, lost = false;
  ssize_t n;
  (void)events;
  while ((n = read(f->fd, buffer, sizeof buffer)) > 0) {
    for (char *at = buffer; at < buffer + n;) {
      const struct inotify_event *e = (const struct inotify_event *)(void *)at;
      if (e->wd == f->wd && e->mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT)) lost = true;
      else counts = event_counts(f, e) || counts;
      at += sizeof *e + e->len;
    }
  }
  if (lost) directory_lost(f);
  if (counts) quiet_begin(f);
}

/* path, directory, name; false when memory is short. */
static bool path_take(struct file_watch *f, const char *path) {
  char *absolute = NULL;
  if (path[0] != '/') {
    char *here = getcwd(NULL, 0);
    size_t size = here != NULL ? strlen(here) + strlen(path) + 2 : 0;
    absolute = here != NULL ? malloc(size) : NULL;
    if (absolute != NULL) snprintf(absolute, size, "%s/%s", here, path);
    free(here);
  } else {
    absolute = strdup(path);
  }
  f->path = absolute;
  f->directory = absolute != NULL ? strdup(absolute) : NULL;
  if (f->directory == NULL) return false;
  f->name = strrchr(f->path, '/') + 1;
  f->directory = dirname(f->directory); /* cuts in place: paths here begin with a slash */
  return true;
}

struct file_watch *file_watch_open(struct loop *loop, const char *path, void (*changed)(void *user), void *user, struct pool_error *error) {
  struct file_watch *f = calloc(1, sizeof *f);
  if (f == NULL || !path_take(f, path)) {
    error_set(error, POOL_SETTINGS, "not enough memory");
    goto fail;
  }
  f->loop = loop;
  f->changed = changed;
  f->user = user;
  f->watch.ready = watch_ready;
  f->quiet.fire = quiet_fired;
  f->again.fire = again_fired;
  f->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  if (f->fd < 0) {
    error_set(error, POOL_SETTINGS, "%s cannot be watched: %s", path, strerror(errno));
    goto fail;
  }
  if (!directory_watch(f)) {
    error_set(error, POOL_SETTINGS, "the directory of %s cannot be watched: %s", path, strerror(errno));
    close(f->fd);
    goto fail;
  }
  watch_set(loop, &f->watch, f->fd, LOOP_READ);
  return f;
fail:
  if (f != NULL) {
    free(f->path);
    free(f->directory);
  }
  free(f);
  return NULL;
}

void file_watch_close(struct file_watch *f) {
  if (f == NULL) return;
  timer_stop(f->loop, &f->quiet);
  timer_stop(f->loop, &f->again);
  watch_set(f->loop, &f->watch, f->fd, 0);
  close(f->fd);
  free(f->path);
  free(f->directory);
  free(f);
}
