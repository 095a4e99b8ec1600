/*
** standalone: a fuzz target without libFuzzer, for spec/run, where there may be no clang: the committed corpus, then mutations of it.
**
**   fuzz_NAME CORPUS [--seconds N] [--seed N]   replays every file of the directory, then mutates them for N seconds (1)
**   fuzz_NAME FILE ...                          replays these inputs, nothing else
**
** The work is done by a child, which puts each input into shared memory before it runs it. So whatever ends the child, a signal, a
** sanitizer, a broken property, a loop without an end, the parent has the input: it writes it to a file and says how to run it again.
** The mutations are few and simple (bits, bytes, pieces moved, doubled, cut out, taken from another input); where a run of mutations
** begins is the seed's alone, how far it comes is the machine's.
*/
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fuzz.h"

#define INPUT_MAX 16384 /* bytes of an input */
#define CORPUS_MAX 256  /* files */
#define HANGS_AFTER 30  /* seconds on one input */

int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));

struct input {
  char name[128];
  size_t size;
  uint8_t *bytes;
};

/* What parent and child share. */
struct shared {
  volatile uint64_t runs;      /* begun */
  volatile uint64_t mutations; /* of them */
  char name[128];              /* of the file that is run or was mutated first */
  size_t size;
  uint8_t bytes[INPUT_MAX];
};

static struct input corpus[CORPUS_MAX];
static int corpus_count;
static struct shared *shared;

static uint64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* ---- the corpus ---- */

static void corpus_add(const char *path, const char *name) {
  struct input *in = &corpus[corpus_count];
  uint8_t *bytes = malloc(INPUT_MAX);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t size = fd >= 0 && bytes != NULL ? read(fd, bytes, INPUT_MAX) : -1;
  if (size < 0 || corpus_count == CORPUS_MAX) {
    fprintf(stderr, "%s: %s\n", path, size < 0 ? strerror(errno) : "too many files");
    exit(2);
  }
  close(fd);
  snprintf(in->name, sizeof in->name, "%s", name);
  in->size = (size_t)size;
  in->bytes = bytes;
  corpus_count++;
}

static int name_compare(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

static void corpus_read(const char *directory) {
  struct dirent **names = NULL;
  char path[4096];
  int count = scandir(directory, &names, NULL, name_compare);
  for (int i = 0; i < count; i++) {
    snprintf(path, sizeof path, "%s/%s", directory, names[i]->d_name);
    if (names[i]->d_name[0] != '.') corpus_add(path, names[i]->d_name);
    free(names[i]);
  }
  free(names);
}

/* ---- mutations ---- */

static uint64_t random_state;

static uint64_t random_next(void) { /* splitmix64 */
  uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static size_t random_below(size_t n) { return n > 0 ? (size_t)(random_next() % n) : 0; }

/* Makes room at `at` for `len` bytes, as many as there is room for; returns how many. */
static size_t input_open(size_t at, size_t len) {
  if (len > INPUT_MAX - shared->size) len = INPUT_MAX - shared->size;
  memmove(shared->bytes + at + len, shared->bytes + at, shared->size - at);
  shared->size += len;
  return len;
}

static void input_cut(size_t at, size_t len) {
  if (len > shared->size - at) len = shared->size - at;
  memmove(shared->bytes + at, shared->bytes + at + len, shared->size - at - len);
  shared->size -= len;
}

static void input_splice(size_t at) {
  const struct input *other = &corpus[random_below((size_t)corpus_count)];
  size_t from = random_below(other->size + 1), len = random_below(other->size - from + 1);
  len = input_open(at, len < 256 ? len : 256);
  if (len > 0) memcpy(shared->bytes + at, other->bytes + from, len);
}

static void input_double(size_t at) {
  uint8_t piece[64];
  size_t from = random_below(shared->size), len = 1 + random_below(sizeof piece);
  if (len > shared->size - from) len = shared->size - from;
  memcpy(piece, shared->bytes + from, len);
  len = input_open(at, len);
  memcpy(shared->bytes + at, piece, len);
}

static void input_mutate(void) {
  static const uint8_t telling[] = {0, 1, 0x7f, 0x80, 0xff, '\n', '\r', '"', '\'', '\\', '%', '{', '}', '/', ' ', '0'};
  size_t at = random_below(shared->size);
  if (shared->size == 0) {
    shared->bytes[shared->size++] = (uint8_t)random_next();
    return;
  }
  switch (random_below(8)) {
  case 0: shared->bytes[at] ^= (uint8_t)(1u << random_below(8)); break;
  case 1: shared->bytes[at] = (uint8_t)random_next(); break;
  case 2: shared->bytes[at] = telling[random_below(sizeof telling)]; break;
  case 3: input_open(at, 1) ? (void)(shared->bytes[at] = telling[random_below(sizeof telling)]) : (void)0; break;
  case 4: input_cut(at, 1 + random_below(16)); break;
  case 5: input_double(at); break;
  case 6: input_splice(at); break;
  default: shared->bytes[at] = (uint8_t)(shared->bytes[at] + random_below(9) - 4); break;
  }
}

/* ---- the child ---- */

static void input_run(void) {
  shared->runs++;
  uint8_t *bytes = malloc(shared->size); /* of exactly that size: an over-read is seen */
  if (shared->size > 0) memcpy(bytes, shared->bytes, shared->size);
  alarm(HANGS_AFTER);
  LLVMFuzzerTestOneInput(bytes, shared->size);
  alarm(0);
  free(bytes);
}

static void input_load(const struct input *in) {
  snprintf(shared->name, sizeof shared->name, "%s", in->name);
  shared->size = in->size;
  memcpy(shared->bytes, in->bytes, in->size);
}

static void child_main(uint64_t seed, double seconds) {
  for (int i = 0; i < corpus_count; i++) {
    input_load(&corpus[i]);
    input_run();
  }
  random_state = seed;
  uint64_t end = now_ms() + (uint64_t)(seconds * 1000);
  while (corpus_count > 0 && now_ms() < end) {
    input_load(&corpus[random_below((size_t)corpus_count)]);
    shared->mutations++;
    for (size_t n = 1 + random_below(6); n > 0; n--) input_mutate();
    input_run();
  }
  for (int i = 0; i < corpus_count; i++) free(corpus[i].bytes);
}

/* ---- the parent ---- */

static const char *input_keep(const char *program) {
  static char path[256];
  const char *directory = getenv("TMPDIR"), *name = strrchr(program, '/') ? strrchr(program, '/') + 1 : program;
  snprintf(path, sizeof path, "%.100s/pool-%.60s-XXXXXX", directory ? directory : "/tmp", name);
  int fd = mkstemp(path);
  if (fd < 0 || write(fd, shared->bytes, shared->size) != (ssize_t)shared->size) snprintf(path, sizeof path, "(it could not be written)");
  if (fd >= 0) close(fd);
  return path;
}

static void report(const char *program, int status, uint64_t seed) {
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
    printf("FAILED: %s took more than %d s", program, HANGS_AFTER);
  else if (WIFSIGNALED(status))
    printf("FAILED: %s was ended by signal %d", program, WTERMSIG(status));
  else
    printf("FAILED: %s ended with %d", program, WEXITSTATUS(status));
  if (shared->mutations > 0)
    printf(" on mutation %llu of seed %llu, made of %s\n", (unsigned long long)shared->mutations, (unsigned long long)seed, shared->name);
  else
    printf(" on %s\n", shared->name[0] ? shared->name : "nothing");
  const char *path = input_keep(program);
  printf("  the input is %s; again: %s %s\n", path, program, path);
}

static int replay(int count, char **paths) {
  for (int i = 0; i < count; i++) {
    corpus_add(paths[i], paths[i]);
    input_load(&corpus[i]);
    input_run();
    free(corpus[i].bytes);
  }
  printf("%d passed, 0 failed\n", count);
  return 0;
}

static void directory_remove(const char *path) {
  struct dirent **names = NULL;
  char file[4096];
  int count = scandir(path, &names, NULL, NULL);
  for (int i = 0; i < count; i++) {
    snprintf(file, sizeof file, "%s/%s", path, names[i]->d_name);
    unlink(file);
    free(names[i]);
  }
  free(names);
  rmdir(path);
}

/* Runs the child; false: it ended badly, and the report is printed. */
static bool corpus_run(const char *program, uint64_t seed, double seconds) {
  char directory[] = "/tmp/pool-fuzz-XXXXXX";
  int status = 0;
  if (mkdtemp(directory) == NULL) return false;
  setenv("POOL_FUZZ_DIR", directory, 1);
  fflush(NULL);
  uint64_t begun = now_ms();
  pid_t child = fork();
  if (child == 0) {
    child_main(seed, seconds);
    exit(0); /* leaks are looked for now */
  }
  if (child < 0 || waitpid(child, &status, 0) != child) status = 1;
  directory_remove(directory);
  bool fine = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  if (!fine) report(program, status, seed);
  printf("# %d inputs, %llu mutations of seed %llu, %.1f s\n", corpus_count, (unsigned long long)shared->mutations,
         (unsigned long long)seed, (double)(now_ms() - begun) / 1000);
  return fine;
}

int main(int argc, char **argv) {
  uint64_t seed = 1;
  double seconds = 1;
  struct stat is;
  signal(SIGPIPE, SIG_IGN);
  shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED || argc < 2) {
    fprintf(stderr, "usage: %s CORPUS [--seconds N] [--seed N] | FILE ...\n", argv[0]);
    return 2;
  }
  for (int i = 2; i + 1 < argc; i += 2) {
    if (strcmp(argv[i], "--seconds") == 0)
      seconds = atof(argv[i + 1]);
    else if (strcmp(argv[i], "--seed") == 0)
      seed = strtoull(argv[i + 1], NULL, 10);
    else
      break;
  }
  if (LLVMFuzzerInitialize != NULL) LLVMFuzzerInitialize(&argc, &argv);
  if (stat(argv[1], &is) == 0 && !S_ISDIR(is.st_mode)) return replay(argc - 1, argv + 1);
  corpus_read(argv[1]);
  if (corpus_count == 0) printf("FAILED: no corpus in %s\n", argv[1]);
  bool fine = corpus_run(argv[0], seed, seconds) && corpus_count > 0;
  for (int i = 0; i < corpus_count; i++) free(corpus[i].bytes);
  printf("%d passed, %d failed\n", fine ? corpus_count : 0, !fine);
  return !fine;
}
