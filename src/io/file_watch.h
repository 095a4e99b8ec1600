/*
** file_watch: tells when a file has been saved, however editors and deployments do it: written in place, renamed over, a symbolic link
** switched. By inotify on the file's directory, since a watch on the file itself is lost with the first rename.
**
** Several events within FILE_WATCH_QUIET are one. What the file holds then is for the caller to read: it may be empty, half written,
** or gone. On a virtual loop nothing is ever told.
*/
#ifndef POOL_IO_FILE_WATCH_H
#define POOL_IO_FILE_WATCH_H

#include "core/base.h"
#include "loop.h"

#define FILE_WATCH_QUIET ((usec)80000)   /* after the last event */
#define FILE_WATCH_AGAIN ((usec)500000)  /* between attempts to watch a directory that was removed or moved */

struct file_watch;

/* Copies the path, which may be relative to the working directory of now. The file need not be there, its directory must. `changed` is
   called from
   the loop's events and may not run Lua. NULL: *error (POOL_SETTINGS) says why. */
struct file_watch *file_watch_open(struct loop *, const char *path, void (*changed)(void *user), void *user, struct pool_error *error);
void file_watch_close(struct file_watch *); /* takes; NULL is harmless */

#endif
