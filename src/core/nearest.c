/*
** nearest: edit distance, in three rows of fixed size. Case does not count, whatever the locale. A name longer than
** NEAREST_LENGTH_MAX, wanted or offered, matches nothing: nobody mistypes one.
*/
#include "nearest.h"

#include <stdbool.h>
#include <string.h>

#include "base.h"

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c; }

static bool name_long(const char *name) { return strnlen(name, NEAREST_LENGTH_MAX + 1) > NEAREST_LENGTH_MAX; }

static bool letters_swapped(const char *a, const char *b) { return lower(a[0]) == lower(b[1]) && lower(a[1]) == lower(b[0]); }

static int least_of(int a, int b) { return a < b ? a : b; }

/* Letters to insert, delete, replace or swap with the next one to make one of the other (optimal string alignment: what was
   swapped is not edited again); both at most NEAREST_LENGTH_MAX long. rows[i % 3] are the distances from i letters of a. */
static int name_distance(const char *a, const char *b) {
  int rows[3][NEAREST_LENGTH_MAX + 1];
  int height = (int)strlen(a), width = (int)strlen(b);
  INSIST(height <= NEAREST_LENGTH_MAX && width <= NEAREST_LENGTH_MAX);
  for (int j = 0; j <= width; j++) rows[0][j] = j;
  for (int i = 1; i <= height; i++) {
    int *row = rows[i % 3], *above = rows[(i - 1) % 3];
    row[0] = i;
    for (int j = 1; j <= width; j++) {
      row[j] = least_of(least_of(above[j], row[j - 1]) + 1, above[j - 1] + (lower(a[i - 1]) != lower(b[j - 1])));
      if (i > 1 && j > 1 && letters_swapped(a + i - 2, b + j - 2)) row[j] = least_of(row[j], rows[(i - 2) % 3][j - 2] + 1);
    }
  }
  return rows[height % 3][width];
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
