/*
** The words that the three simulators are started with: --seeds FILE, --steps N, --from SEED, and --seconds N where it is known. Whatever
** else is a mistake that says so: a flag that was ignored would have run something else than was asked for.
*/
#ifndef SIM_OPTIONS_H
#define SIM_OPTIONS_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct options {
  const char *usage;
  const char *seeds; /* a file of seeds to run first; NULL: none */
  uint64_t steps;    /* of all schedules together */
  uint64_t from;     /* the first seed */
  double seconds;    /* ends before its steps are done; 0: not known here */
};

static inline void options_refuse(const struct options *o, const char *word) {
  fprintf(stderr, "%s: what is that?\nusage: %s\n", word, o->usage);
  exit(2);
}

/* A whole number, or the program ends. */
static inline uint64_t options_number(const struct options *o, const char *word) {
  char *end;
  errno = 0;
  uint64_t n = strtoull(word, &end, 10);
  if (errno != 0 || end == word || *end != '\0' || *word == '-') options_refuse(o, word);
  return n;
}

static inline void options_read(struct options *o, int argc, char **argv) {
  for (int i = 1; i < argc; i += 2) {
    const char *flag = argv[i], *value = argv[i + 1]; /* argv ends with NULL */
    bool known = strcmp(flag, "--seeds") == 0 || strcmp(flag, "--steps") == 0 || strcmp(flag, "--from") == 0 ||
                 (o->seconds > 0 && strcmp(flag, "--seconds") == 0);
    if (!known || value == NULL) options_refuse(o, flag);
    if (strcmp(flag, "--seeds") == 0) o->seeds = value;
    if (strcmp(flag, "--steps") == 0) o->steps = options_number(o, value);
    if (strcmp(flag, "--from") == 0) o->from = options_number(o, value);
    if (strcmp(flag, "--seconds") == 0) o->seconds = (double)options_number(o, value), o->steps = UINT64_MAX;
  }
}

#endif
