/*
** nearest: the name that somebody who wrote another one probably meant. Names are offered one by one, so that whoever keeps
** them need not make a list: begin, offer each, read `name`.
*/
#ifndef POOL_CORE_NEAREST_H
#define POOL_CORE_NEAREST_H

#define NEAREST_LENGTH_MAX 64 /* of a name that may have been meant for one of ours; a longer one is near to nothing */

struct nearest {
  const char *wanted; /* borrowed */
  const char *name;   /* the nearest of those offered so far, borrowed; NULL: none is near */
  int least;          /* how far it is; while there is none, how far it may be: a third of the length wanted */
};

void nearest_begin(struct nearest *, const char *wanted);

/* Of two names equally near, the one offered first stays. */
void nearest_offer(struct nearest *, const char *candidate);

#endif
