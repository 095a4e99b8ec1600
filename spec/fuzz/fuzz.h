/*
** fuzz: what the fuzz targets share.
**
** A target is a file of its own with one LLVMFuzzerTestOneInput. It is built twice: with clang's libFuzzer (preset `fuzz`, spec/fuzz/run),
** which looks for inputs that reach new code, and with standalone.c for spec/run, which replays the committed corpus and some mutations
** of it with whatever compiler there is. Its rules:
**
**   It is deterministic: the same bytes do the same, whatever ran before. What it keeps between two runs (a lua_State) must not show.
**   It checks properties: HOLDS ends the process, and the input is then kept by whoever runs the target.
**   It is quick: what an input can ask for is bounded, so that one that hangs is a finding.
**
** Where structure goes deeper than plain bytes, the bytes choose: fuzz_byte and its like take them one after another, and give zeros
** when there are none left, so that every input means something.
*/
#ifndef POOL_SPEC_FUZZ_H
#define POOL_SPEC_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A property: what does not hold ends the process. */
#define HOLDS(condition) ((condition) ? (void)0 : fuzz_broken(#condition, __FILE__, __LINE__))
_Noreturn void fuzz_broken(const char *what, const char *file, int line);

/* The input, taken from its beginning. */
struct fuzz {
  const uint8_t *at, *end;
};

static inline struct fuzz fuzz_of(const uint8_t *data, size_t size) { return (struct fuzz){data, data + size}; }
static inline size_t fuzz_left(const struct fuzz *f) { return (size_t)(f->end - f->at); }
static inline unsigned fuzz_byte(struct fuzz *f) { return f->at < f->end ? *f->at++ : 0; }
static inline unsigned fuzz_below(struct fuzz *f, unsigned n) { return fuzz_byte(f) % n; }
uint64_t fuzz_number(struct fuzz *, int bytes); /* little-endian */

/* `len` bytes, or what is left, and a NUL after them, in memory of exactly that size: an over-read is seen. The caller frees. *taken
   (may be NULL) is how many. */
char *fuzz_take(struct fuzz *, size_t len, size_t *taken);
/* The same for a text that ends at `stop`, which is passed over, or with the input. */
char *fuzz_until(struct fuzz *, char stop, size_t *taken);

/* The whole input as a text: cut at its first NUL. The caller frees. */
char *fuzz_text(const uint8_t *data, size_t size);

/* Whether one of two descriptors becomes readable in time; -1: there is none. libFuzzer's clock interrupts a poll. */
bool fuzz_readable(int fd, int other, int ms);

/* A file that the target writes anew each time: one a process, in the directory that POOL_FUZZ_DIR names, removed at its end. */
const char *fuzz_file(void);
void fuzz_file_write(const void *bytes, size_t len);

#endif
