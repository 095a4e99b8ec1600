/*
** policy_grammar: see policy_grammar.h. Each choice is a byte; a text has at most PIECES_MAX of them and is nested DEPTH_MAX deep, so that
** every input is written in no time. Names are few, so that what one line has made the next one uses.
*/
#include "fuzz/policy_grammar.h"

#include <stdio.h>
#include <string.h>

enum { DEPTH_MAX = 8, PIECES_MAX = 600 };

struct writer {
  struct fuzz *f;
  char *out;
  size_t size, used;
  int pieces, depth;
};

#define COUNT(array) (unsigned)(sizeof(array) / sizeof((array)[0]))

static const char *const names[] = {"a", "b", "c", "d", "s", "state"};
static const char *const fields[] = {"size",     "max_overflow", "settings", "wait", "p95",     "utilization", "waiting",
                                     "timeout",  "queue",        "x",        "n",    "__index", "mean",        "1",
                                     "interval", "tick"};
static const char *const words[] = {"\"\"",          "\"size\"",  "\"%d+\"",      "\".-b\"",     "\"%f[%w]\"", "\"aaaaaaaaaaaaaaaa\"",
                                    "\"%s%q%5.1f\"", "\"codel\"", "\"\\0\\xff\"", "\"__index\"", "\"usl\"",    "\"%b()\"",
                                    "\"(a*)%1\"",    "[[x]]"};
static const char *const numbers[] = {"0",
                                      "1",
                                      "-1",
                                      "2",
                                      "0.5",
                                      "3.7",
                                      "10",
                                      "63",
                                      "255",
                                      "4096",
                                      "1e9",
                                      "2^53",
                                      "1/0",
                                      "-1/0",
                                      "0/0",
                                      "65536",
                                      "100000",
                                      "math.huge",
                                      "math.mininteger"};
static const char *const operators[] = {"+", "-", "*", "/", "//", "%", "^", "..", "==", "<", "<=", "and", "or", "~", "&", "<<"};
static const char *const functions[] = {
    "string.rep",   "string.format",  "string.find", "string.match",   "string.gmatch",  "string.gsub",  "string.sub",    "string.byte",
    "string.char",  "string.upper",   "string.len",  "table.concat",   "table.insert",   "table.remove", "table.sort",    "table.unpack",
    "table.pack",   "table.move",     "utf8.char",   "utf8.len",       "utf8.codepoint", "utf8.offset",  "utf8.codes",    "math.floor",
    "math.random",  "math.max",       "math.type",   "math.tointeger", "math.fmod",      "tostring",     "tonumber",      "type",
    "pairs",        "ipairs",         "next",        "select",         "rawget",         "rawset",       "rawlen",        "rawequal",
    "setmetatable", "getmetatable",   "pcall",       "xpcall",         "error",          "assert",       "compose",       "math.abs",
    "_G.tostring",  "string.reverse", "load",        "require",        "string.dump",    "io",           "debug.getinfo", "coroutine.wrap"};
static const char *const metamethods[] = {"__index", "__newindex", "__call",   "__tostring",  "__eq",    "__lt",
                                          "__le",    "__len",      "__concat", "__close",     "__pairs", "__add",
                                          "__unm",   "__gc",       "__mode",   "__metatable", "__name"};
static const char *const parts[] = {"\"usl\"",
                                    "\"guard\"",
                                    "\"default\"",
                                    "\"deadline\"",
                                    "{\"fixed\", size = 3}",
                                    "{policy = \"little\"}",
                                    "\"nobody\"",
                                    "{tick = function(s) return {size = s.settings.size + 1} end}"};

static void emit(struct writer *w, const char *text) {
  size_t n = strlen(text);
  if (n >= w->size - w->used) n = w->size - w->used - 1;
  memcpy(w->out + w->used, text, n);
  w->used += n;
  w->out[w->used] = '\0';
}

static void emit_of(struct writer *w, const char *const *list, unsigned count) { emit(w, list[fuzz_below(w->f, count)]); }

static void expression(struct writer *w);
static void block(struct writer *w);

static void expressions(struct writer *w, unsigned count) {
  for (unsigned i = 0; i < count; i++) {
    if (i > 0) emit(w, ", ");
    expression(w);
  }
}

static void call(struct writer *w) {
  if (fuzz_byte(w->f) < 220)
    emit_of(w, functions, COUNT(functions));
  else
    emit_of(w, names, COUNT(names));
  emit(w, "(");
  expressions(w, fuzz_below(w->f, 4));
  emit(w, ")");
}

static void table(struct writer *w) {
  emit(w, "{");
  for (unsigned i = 0, n = fuzz_below(w->f, 4); i < n; i++) {
    unsigned kind = fuzz_below(w->f, 3);
    if (kind == 1) emit(w, "["), expression(w), emit(w, "] = ");
    if (kind == 2) emit_of(w, fields, 13), emit(w, " = ");
    expression(w);
    emit(w, ", ");
  }
  emit(w, "}");
}

static void function(struct writer *w, const char *parameters) {
  emit(w, "function(");
  emit(w, parameters);
  emit(w, ") ");
  block(w);
  if (fuzz_byte(w->f) & 1) emit(w, "return "), expressions(w, 1 + fuzz_below(w->f, 2));
  emit(w, " end");
}

static void object(struct writer *w) {
  emit(w, "setmetatable(");
  table(w);
  emit(w, ", {");
  for (unsigned i = 0, n = 1 + fuzz_below(w->f, 2); i < n; i++) {
    emit_of(w, metamethods, COUNT(metamethods));
    emit(w, " = ");
    if (fuzz_byte(w->f) < 180)
      function(w, "a, b");
    else
      expression(w);
    emit(w, ", ");
  }
  emit(w, "})");
}

static void method(struct writer *w) {
  static const char *const methods[] = {"rep", "find", "gsub", "format", "sub", "byte", "gmatch", "lower", "dump"};
  emit(w, "(");
  expression(w);
  emit(w, "):");
  emit_of(w, methods, COUNT(methods));
  emit(w, "(");
  expressions(w, fuzz_below(w->f, 3));
  emit(w, ")");
}

static void expression_of(struct writer *w, unsigned kind) {
  switch (kind) {
  case 0: emit(w, "nil"); break;
  case 1: emit(w, "true"); break;
  case 2:
  case 3:
  case 4: emit_of(w, numbers, COUNT(numbers)); break;
  case 5:
  case 6: emit_of(w, words, COUNT(words)); break;
  case 7:
  case 8: emit_of(w, names, COUNT(names)); break;
  case 9: emit_of(w, names, COUNT(names)), emit(w, "."), emit_of(w, fields, 13); break;
  case 10: emit_of(w, names, COUNT(names)), emit(w, "["), expression(w), emit(w, "]"); break;
  case 11:
  case 12:
    emit(w, "("), expression(w), emit(w, " "), emit_of(w, operators, COUNT(operators)), emit(w, " "), expression(w), emit(w, ")");
    break;
  case 13: emit(w, fuzz_byte(w->f) & 1 ? "#" : "-"), emit(w, "("), expression(w), emit(w, ")"); break;
  case 14:
  case 15: call(w); break;
  case 16: table(w); break;
  case 17: function(w, "a, ..."); break;
  case 18: object(w); break;
  default: method(w); break;
  }
}

static void expression(struct writer *w) {
  bool deep = ++w->depth > DEPTH_MAX || ++w->pieces > PIECES_MAX;
  expression_of(w, fuzz_below(w->f, deep ? 9 : 20));
  w->depth--;
}

static void statement_of(struct writer *w, unsigned kind) {
  switch (kind) {
  case 0:
  case 1: emit(w, "local "), emit_of(w, names, COUNT(names)), emit(w, " = "), expression(w); break;
  case 2: emit_of(w, names, COUNT(names)), emit(w, " = "), expression(w); break;
  case 3: emit_of(w, names, COUNT(names)), emit(w, "."), emit_of(w, fields, 13), emit(w, " = "), expression(w); break;
  case 4: emit_of(w, names, COUNT(names)), emit(w, "["), expression(w), emit(w, "] = "), expression(w); break;
  case 5:
  case 6: call(w); break;
  case 7: emit(w, "if "), expression(w), emit(w, " then "), block(w), emit(w, " else "), block(w), emit(w, " end"); break;
  case 8: emit(w, "while "), expression(w), emit(w, " do "), block(w), emit(w, " end"); break;
  case 9: emit(w, "for i = 1, "), expression(w), emit(w, " do "), block(w), emit(w, " end"); break;
  case 10: emit(w, "for c, d in "), expression(w), emit(w, " do "), block(w), emit(w, " end"); break;
  case 11: emit(w, "repeat "), block(w), emit(w, " until "), expression(w); break;
  case 12: emit(w, "pcall("), function(w, "..."), emit(w, ")"); break;
  case 13: emit(w, "do local b <close> = "), object(w), emit(w, " "), block(w), emit(w, " end"); break;
  case 14: emit(w, "local function a(b) "), block(w), emit(w, " end"); break;
  default: emit(w, "do "), block(w), emit(w, " end"); break;
  }
  emit(w, "\n"); /* a line each, so that no call continues the line before */
}

static void block(struct writer *w) {
  if (++w->depth <= DEPTH_MAX)
    for (unsigned i = 0, n = fuzz_below(w->f, 4); i < n && ++w->pieces <= PIECES_MAX; i++)
      statement_of(w, fuzz_below(w->f, 16)), emit(w, "; ");
  w->depth--;
}

static void hook(struct writer *w, const char *name, const char *parameters) {
  emit(w, name);
  emit(w, " = ");
  function(w, parameters);
  emit(w, ",\n");
}

size_t policy_write(struct fuzz *f, char *out, size_t size) {
  struct writer w = {.f = f, .out = out, .size = size};
  emit(&w, "local a, b, c, d, s, state = ..., 1, \"x\", {}, nil, {}\n");
  block(&w);
  unsigned hooks = fuzz_byte(f);
  if (hooks > 240) {
    emit(&w, "do return compose{");
    for (unsigned i = 0, n = fuzz_below(f, 4); i < n; i++) emit_of(&w, parts, COUNT(parts)), emit(&w, ", ");
    emit(&w, "} end\n");
  }
  emit(&w, "return {\n");
  hook(&w, "tick", "s, state");
  if (hooks & 1) hook(&w, "load", "a");
  if (hooks & 2) hook(&w, "admit", "s, a");
  if (hooks & 4) hook(&w, "weight", "a");
  if (hooks & 8) hook(&w, "on_event", "a, s");
  if (hooks & 16) emit(&w, "name = "), expression(&w), emit(&w, ",\n");
  if (hooks & 32) emit(&w, "every = "), expression(&w), emit(&w, ",\n");
  emit(&w, "}\n");
  return w.used;
}
