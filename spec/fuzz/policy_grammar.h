/*
** policy_grammar: policies made of pieces of Lua, as bytes choose them.
*/
#ifndef POOL_SPEC_FUZZ_POLICY_GRAMMAR_H
#define POOL_SPEC_FUZZ_POLICY_GRAMMAR_H

#include "fuzz/fuzz.h"

/* Writes a policy's text into out, at most size - 1 bytes and a NUL; what does not fit is cut. Returns its length. Always of correct
   grammar unless it was cut; what it means is up to the bytes. */
size_t policy_write(struct fuzz *, char *out, size_t size);

#endif
