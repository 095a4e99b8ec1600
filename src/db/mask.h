/*
** mask: what a server says, made fit for a log: no parameter's value, no cell's, no password.
**
** A server quotes what it was given: `invalid input syntax for type integer: "4711"`. Messages go to logs, so what may be a value
** becomes the parameter's number ($1) or "…". What stands in the statement's own text is no secret and stays, names mostly do
** too. Nothing here allocates; messages are NUL-terminated, in buffers of `size` bytes, and stay whole UTF-8.
*/
#ifndef POOL_DB_MASK_H
#define POOL_DB_MASK_H

#include "driver.h"

/* Each place where the message holds the value, or the value in lower case, becomes $n: in double quotes whatever it is, elsewhere when
   it is long enough (4 bytes standing alone, 8 anywhere). A beginning of it at the end of a message that was cut, too. */
void mask_value(char *message, size_t size, const char *value, size_t len, int n);

/* The message of the statement's error: every parameter's value (as above), texts in quotes that are part of a parameter's, and, where
   the complaint is about data (class 22) or a text that was put together elsewhere (42601), whatever is in quotes and not in
   the SQL. `s` without sql (it is gone): as if nothing was in it. */
void mask_error(struct pool_error *, const struct statement *s);

/* Each place where one of the error's texts holds it becomes ***. NULL and shorter than 4 bytes: nothing does. */
void mask_secret(struct pool_error *, const char *secret);

#endif
