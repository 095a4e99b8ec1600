/*
** settings: the table of the database's settings (struct db_settings in driver.h). The functions are the core's.
*/
#include "driver.h"

static const char *const reset_choices[] = {"rollback", "discard", "none", NULL};  /* RESET_... */
static const char *const pooler_choices[] = {"auto", "none", "transaction", NULL}; /* POOLER_... */

#define AT(member) offsetof(struct db_settings, member)

static const struct setting db_rows[] = {
    {"database_url", "DATABASE_URL", SETTING_TEXT, AT(database_url), "sqlite:///pool.db", .secret = true,
     .help = "postgresql://user:password@host:port/database or sqlite:///file.db"},
    {"connect_timeout", "DB_CONNECT_TIMEOUT", SETTING_DURATION, AT(connect_timeout), "10", .max = 1e9, .zero = "none", .live = true,
     .help = "to open a connection, names and every address included"},
    {"reset", "DB_POOL_RESET", SETTING_CHOICE, AT(reset), "rollback", .choices = reset_choices, .live = true,
     .help = "at return: rollback undoes an open transaction alone; discard leaves nothing; none closes what is in one"},
    {"statement_timeout", "DB_STATEMENT_TIMEOUT", SETTING_DURATION, AT(statement_timeout), "0", .max = 1e9, .zero = "none", .live = true,
     .help = "a statement that takes longer is cancelled"},
    {"statement_cache", "DB_POOL_STATEMENT_CACHE", SETTING_COUNT, AT(statement_cache), "256", .max = 1e9, .zero = "off",
     .help = "prepared statements kept by each connection"},
    {"pooler", "DB_POOL_POOLER", SETTING_CHOICE, AT(pooler), "auto", .choices = pooler_choices,
     .help = "whether a transaction pooler stands before the server: no named statements, no session SET"},
};

const struct settings_table db_settings_table = {"database", db_rows, sizeof db_rows / sizeof db_rows[0], sizeof(struct db_settings)};
