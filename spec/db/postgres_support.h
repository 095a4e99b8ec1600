/*
** postgres_support: what the specs of the PostgreSQL driver share: a database of the private cluster (POOL_SPEC_PG_*), an
** operation awaited with poll(), and the one-line query. Every step is timed: a step that took long has blocked.
*/
#ifndef POOL_SPEC_POSTGRES_SUPPORT_H
#define POOL_SPEC_POSTGRES_SUPPORT_H

#include "db/driver.h"
#include "support/check.h"

#define D (&postgres_driver)

struct world {
  struct db *db;
  struct db_settings settings;
  char log[4096];      /* every line, "level: message\n" */
  usec slowest_step; /* of those that slept in it */
  int patience;        /* of await, milliseconds; 0: 20 s */
};

struct url_parts {
  const char *host, *options; /* NULL: the socket; options begin with "&" */
  const char *user, *password, *database;
  int port;
};

const char *url_of(const struct url_parts *, char *buffer, size_t size); /* what is left out is the cluster's */
bool world_open(struct world *, const char *url, struct pool_error *);   /* url NULL: the socket */
void world_close(struct world *);

enum db_want await(struct world *, struct db_conn *, struct pool_error *); /* DB_DONE or DB_FAILED; after 20 s DB_READ */
struct db_conn *connect_to(struct world *, struct pool_error *);        /* NULL: it failed, error filled */
struct db_conn *must_connect(struct world *);
void goodbye(struct world *, struct db_conn *);                         /* close, await, abandon */

struct statement statement_of(const char *sql);
struct db_result *run(struct world *, struct db_conn *, const struct statement *, struct pool_error *); /* NULL: failed, or no result */
const char *one(struct world *, struct db_conn *, const char *sql);     /* the first cell as text; in static memory */
bool execute(struct world *, struct db_conn *, const char *sql);
bool fails(struct world *, struct db_conn *, const char *sql, struct pool_error *);
const char *cell_text(struct db_result *, int row, int column);
bool await_reset(struct world *, struct db_conn *, struct pool_error *);
usec clock_now(void);
void pause_for(int milliseconds);

void open_specs(void);
void query_specs(void);
void type_specs(void);
void cache_specs(void);
void fake_specs(void);
void end_specs(void);
void cancel_specs(void);

#endif
