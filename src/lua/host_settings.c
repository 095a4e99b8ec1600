/*
** host_settings: the table of struct host_settings.
*/
#include "host_settings.h"

static const char *const nested_choices[] = {"allow", "error", NULL};   /* NESTED_... */
static const char *const null_choices[] = {"absent", "sentinel", NULL}; /* NULL_... */

#define AT(member) offsetof(struct host_settings, member)

static const struct setting host_rows[] = {
    {"nested", "DB_POOL_NESTED", SETTING_CHOICE, AT(nested), "allow", .choices = nested_choices, .live = true,
     .help = "a second connection acquired by a task that holds one"},
    {"null", "DB_POOL_NULL", SETTING_CHOICE, AT(null), "absent", .choices = null_choices,
     .help = "NULL in a row: the key is absent, or pool.null"},
    {"leak_after", "DB_POOL_LEAK_AFTER", SETTING_DURATION, AT(leak_after), "60", .max = 1e9, .zero = "never", .live = true,
     .help = "a lease older than this is reported: where it was acquired, and where its task stands now"},
    {"policy_time", "DB_POOL_POLICY_TIME", SETTING_DURATION, AT(policy_time), "0.02", .min = 0.0001, .max = 60, .live = true,
     .help = "processor time of one call of a tuning policy; one that takes longer is killed"},
    {"policy_memory", "DB_POOL_POLICY_MEMORY", SETTING_COUNT, AT(policy_memory), "16777216", .min = 262144, .max = 1e9, .live = true,
     .help = "bytes that a tuning policy's Lua state may take"},
    {"policy_instructions", "DB_POOL_POLICY_INSTRUCTIONS", SETTING_COUNT, AT(policy_instructions), "10000000", .min = 1000, .max = 1e9,
     .live = true, .help = "Lua instructions of one call of a tuning policy"},
    {"probation", "DB_POOL_PROBATION", SETTING_COUNT, AT(probation), "10", .max = 100000, .zero = "none", .live = true,
     .help = "ticks in which a new version of a policy is watched, and taken back when it fails or makes the figures worse"},
    {"record_limit", "DB_POOL_RECORD_LIMIT", SETTING_COUNT, AT(record_limit), "67108864", .min = 65536, .max = 1e9, .live = true,
     .help = "bytes that a recording (pool serve --record) may take on the disk, its older part included; a change counts from the next "
             "one on"},
    {"echo", "DB_ECHO", SETTING_FLAG, AT(echo), "false", .live = true, .help = "log every statement, never its parameters"},
};

const struct settings_table host_settings_table = {"host", host_rows, sizeof host_rows / sizeof host_rows[0], sizeof(struct host_settings)};
