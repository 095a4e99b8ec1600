/*
** sqlite_words: the little SQL that the driver reads itself: where a statement begins, what it is called, whether a text is
** JSON. It never decides what SQLite does, only what the result says of itself and what counts as "a second statement".
*/
#include "sqlite.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const char *words_comment(const char *at, const char *end) {
  if (end - at < 2) return at;
  if (at[0] == '-' && at[1] == '-') {
    const char *line = memchr(at, '\n', (size_t)(end - at));
    return line ? line : end; /* the line end is a blank */
  }
  if (at[0] != '/' || at[1] != '*' || end - at == 2) return at; /* an opening that is the very end is none */
  for (at += 2; end - at >= 2; at++)
    if (at[0] == '*' && at[1] == '/') return at + 2;
  return end; /* SQLite too takes an unclosed comment as one */
}

#define BYTE_ORDER_MARK "\xef\xbb\xbf" /* a blank to SQLite, wherever it stands */

/* SQLite's own blanks, whatever the locale says. */
static bool words_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\f' || c == '\r'; }

static const char *words_space(const char *at, const char *end) {
  for (;;) {
    const char *start = at;
    if (at < end && words_blank(*at))
      for (at++; at < end && (words_blank(*at) || *at == '\v');) at++; /* a vertical tab counts after another blank alone */
    if (end - at >= 3 && memcmp(at, BYTE_ORDER_MARK, 3) == 0) at += 3;
    at = words_comment(at, end);
    if (at == start) return at;
  }
}

const char *words_skip(const char *at, const char *end) {
  for (at = words_space(at, end); at < end && *at == ';'; at = words_space(at, end)) at++;
  return at;
}

/* The word at `at` in capitals; what is longer than the buffer is cut, which no word we know is. */
static const char *words_word(const char *at, const char *end, char word[WORDS_COMMAND]) {
  size_t n = 0;
  for (; at < end && (isalnum((unsigned char)*at) || *at == '_'); at++)
    if (n < WORDS_COMMAND / 2 - 1) word[n++] = (char)toupper((unsigned char)*at);
  word[n] = '\0';
  return at;
}

/* Past a quoted text or name; a doubled quote is two texts in a row, which comes to the same. */
static const char *words_quoted(const char *at, const char *end) {
  char close = *at == '[' ? ']' : *at;
  const char *found = memchr(at + 1, close, (size_t)(end - at - 1));
  return found ? found + 1 : end;
}

static bool words_is(const char *word, const char *const *list) {
  for (; *list; list++)
    if (strcmp(word, *list) == 0) return true;
  return false;
}

/* What a statement that begins WITH is: its first such word outside parentheses. */
static void words_with(const char *at, const char *end, char command[WORDS_COMMAND]) {
  static const char *const verbs[] = {"SELECT", "VALUES", "INSERT", "REPLACE", "UPDATE", "DELETE", NULL};
  int depth = 0;
  while (at < end) {
    at = words_space(at, end);
    if (at == end) break;
    if (isalpha((unsigned char)*at) || *at == '_') {
      at = words_word(at, end, command);
      if (depth == 0 && words_is(command, verbs)) return;
    } else if (strchr("'\"`[", *at)) {
      at = words_quoted(at, end);
    } else {
      depth += *at == '(' ? 1 : *at == ')' ? -1 : 0;
      at++;
    }
  }
  command[0] = '\0';
}

/* CREATE UNIQUE INDEX is CREATE INDEX, as PostgreSQL says it. */
static void words_object(const char *at, const char *end, char command[WORDS_COMMAND]) {
  static const char *const skipped[] = {"TEMP", "TEMPORARY", "UNIQUE", "VIRTUAL", NULL};
  char word[WORDS_COMMAND];
  do at = words_word(words_space(at, end), end, word);
  while (words_is(word, skipped));
  size_t used = strlen(command);
  if (word[0]) snprintf(command + used, WORDS_COMMAND - used, " %.*s", WORDS_COMMAND / 2 - 1, word);
}

/* The pragmas that mean something outside a transaction only; [main.]name, in any case. */
static bool words_pragma_outside(const char *at, const char *end) {
  static const char *const names[] = {"AUTO_VACUUM", "FOREIGN_KEYS", "JOURNAL_MODE", "SYNCHRONOUS", "TEMP_STORE", "WAL_CHECKPOINT", NULL};
  char word[WORDS_COMMAND];
  at = words_space(words_word(words_space(at, end), end, word), end);
  if (at < end && *at == '.') words_word(words_space(at + 1, end), end, word);
  return words_is(word, names);
}

bool words_outside(const char *at, const char *end) {
  char word[WORDS_COMMAND];
  at = words_word(words_skip(at, end), end, word);
  return strcmp(word, "VACUUM") == 0 || (strcmp(word, "PRAGMA") == 0 && words_pragma_outside(at, end));
}

void words_command(const char *at, const char *end, char command[WORDS_COMMAND]) {
  static const char *const objects[] = {"CREATE", "DROP", "ALTER", NULL};
  static const struct { const char *word, *name; } same[] = {{"VALUES", "SELECT"}, {"REPLACE", "INSERT"}, {"END", "COMMIT"}};
  at = words_word(words_skip(at, end), end, command);
  if (strcmp(command, "WITH") == 0) words_with(at, end, command);
  if (words_is(command, objects)) words_object(at, end, command);
  for (size_t i = 0; i < sizeof same / sizeof *same; i++)
    if (strcmp(command, same[i].word) == 0) snprintf(command, WORDS_COMMAND, "%s", same[i].name);
}
