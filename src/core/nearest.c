/*
** nearest: edit distance, in a row of fixed size. Case does not count, whatever the locale. A name longer than
** NEAREST_LENGTH_MAX, wanted or offered, matches nothing: nobody mistypes one.
*/
#include "nearest.h"

#include <stdbool.h>
#include <string.h>

#include "base.h"

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c; }

static bool name_long(const char *name) { return strnlen(name, NEAREST_LENGTH_MAX + 1) > NEAREST_LENGTH_MAX; }

/* Letters to insert, delete or replace to make one of the other; both at most NEAREST_LENGTH_MAX long. */
static int name_distance(const char *a, const char *b) {
  int row[NEAREST_LENGTH_MAX + 1];
  int width = (int)strlen(b);
  INSIST(width <= NEAREST_LENGTH_MAX);
  for (int j = 0; j <= width; j++) row[j] = j;
  for (int i = 0; a[i]; i++) {
    int diagonal = row[0];
    row[0] = i + 1;
    for (int j = 0; j < width; j++) {
      int best = diagonal + (lower(a[i]) != lower(b[j]));
      diagonal = row[j + 1];
      if (diagonal + 1 < best) best = diagonal + 1;
      if (row[j] + 1 < best) best = row[j] + 1;
      row[j + 1] = best;
    }
  }
  return row[width];
}

void nearest_begin(struct nearest *n, const char *wanted) {
  *n = (struct nearest){.wanted = wanted, .least = name_long(wanted) ? -1 : (int)strlen(wanted) / 3};
}

void nearest_offer(struct nearest *n, const char *candidate) {
  if (n->least < 0 || name_long(candidate)) return;
  int distance = name_distance(n->wanted, candidate);
  if (distance > n->least || (distance == n->least && n->name != NULL)) return;
  n->least = distance;
  n->name = candidate;
}
