/*
** url: database URLs as SQLAlchemy reads them: postgresql:// (postgres://, postgresql+psycopg2:// and other +drivers),
** sqlite:///relative.db, sqlite:////absolute.db, sqlite:///:memory:, sqlite:// (memory). Parsed once a pool.
*/
#ifndef POOL_DB_URL_H
#define POOL_DB_URL_H

#include "core/base.h"

enum url_scheme { URL_UNKNOWN, URL_POSTGRES, URL_SQLITE };

enum url_scheme url_scheme(const char *url);

/* The URL with password and every secret query parameter replaced by "***", fit for a log. Also works on text that is not a
   URL at all (a "host=... password=..." string, a broken one): when in doubt it hides. Returns buffer. */
const char *url_redact(const char *url, char *buffer, size_t size);

/* Copies the URL's scheme without +driver ("mysql"), "" when it has none that can be one. Safe to show. Returns buffer. */
const char *url_scheme_name(const char *url, char *buffer, size_t size);

/* Copies the last connect_timeout in the query of a PostgreSQL URL, percent-decoded; false when it has none. */
bool url_connect_timeout(const char *url, char *buffer, size_t size);

/* The path of a SQLite URL, percent-decoded, into buffer; ":memory:" for memory. false: *error says what is wrong. Query
   parameters: none are known but mode=ro. */
bool url_sqlite_path(const char *url, char *buffer, size_t size, bool *read_only, struct pool_error *error);

/* The URL as libpq takes it (scheme without +driver), into buffer. */
bool url_for_libpq(const char *url, char *buffer, size_t size, struct pool_error *error);

#endif
