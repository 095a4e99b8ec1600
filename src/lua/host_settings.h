/*
** host_settings: the settings of what is said in Lua: how tasks, rows and the log behave. The functions are core/settings.h's.
*/
#ifndef POOL_LUA_HOST_SETTINGS_H
#define POOL_LUA_HOST_SETTINGS_H

#include "core/settings.h"

enum { NESTED_ALLOW, NESTED_ERROR };
enum { NULL_ABSENT, NULL_SENTINEL };

struct host_settings {
  int nested;      /* NESTED_...: a second acquire in one task */
  int null;        /* NULL_...: how a NULL comes to a row */
  usec leak_after; /* a lease older than this is reported; 0 never */
  usec policy_time; /* CPU time of one call of a policy */
  int policy_memory, policy_instructions; /* bytes of its state; Lua instructions of one call */
  int probation;    /* ticks; 0 none */
  int record_limit; /* bytes of a recording's two files together */
  bool echo;       /* log SQL, never its parameters */
};

extern const struct settings_table host_settings_table;

#endif
