/*
** value: a cell on its way out of a database, a parameter on its way in. No ownership: texts are borrowed from the result
** or from the caller.
*/
#ifndef POOL_DB_VALUE_H
#define POOL_DB_VALUE_H

#include "core/base.h"

enum value_type {
  VALUE_NULL,
  VALUE_INTEGER, /* integer */
  VALUE_REAL,    /* real */
  VALUE_BOOLEAN, /* boolean */
  VALUE_TEXT,    /* text, len */
  VALUE_NUMERIC, /* text, len: exact decimal */
  VALUE_JSON,    /* text, len: JSON as the server wrote it */
  VALUE_BYTES,   /* text, len: raw bytes, already decoded */
  VALUE_ARRAY    /* text, len: PostgreSQL's literal {...}; element: the type of what is inside */
};

struct value {
  enum value_type type;
  enum value_type element; /* VALUE_ARRAY only */
  char delimiter;          /* VALUE_ARRAY only: ',' (';' for box) */
  union {
    int64_t integer;
    double real;
    bool boolean;
  };
  const char *text; /* not NUL-terminated; valid until the next cell of the same result is read or the result is freed */
  size_t len;
};

/* Fills a value from a text of the given type (an array's element, a cell in text format). Text that is not what the type
   says (an integer out of range) comes back as VALUE_TEXT: nothing is lost. Bytes must be given decoded. */
void value_from_text(struct value *, enum value_type type, const char *text, size_t len);

/* Walks a PostgreSQL array literal. ARRAY_OPEN and ARRAY_CLOSE bracket each dimension; ARRAY_ELEMENT fills text (unescaped
   into scratch when it must be), ARRAY_NULL is a NULL. Dimension decoration ("[0:2]=") is skipped. */
enum array_token { ARRAY_OPEN, ARRAY_CLOSE, ARRAY_ELEMENT, ARRAY_NULL, ARRAY_END, ARRAY_MALFORMED };
#define ARRAY_DEPTH_MAX 16 /* deeper is malformed; PostgreSQL's own limit is 6 */
struct array_reader {
  const char *at, *end;
  char delimiter;
  int depth;     /* brackets open, the one just opened included */
  int state;     /* what may come next: the reader's own */
  char *scratch; /* at least the literal's length; the reader writes unescaped elements here */
  const char *text;
  size_t len;
};
void array_begin(struct array_reader *, const struct value *array, char *scratch);
enum array_token array_next(struct array_reader *);

/* The ARRAY_ELEMENT just read as a value of the array's element type; bytes are decoded in the scratch. false: it is to be bytes and is
   none, and with it the whole literal is malformed. */
bool array_value(struct array_reader *, enum value_type element, struct value *);

/* Decodes a bytea's text (hex or escape format) into `out`, which has room for *len bytes and may be `text` itself; *len becomes how many
   they are. false: no bytea's text; what is in `out` is of no use. */
bool bytes_decode(char *out, const char *text, size_t *len);

enum param_type {
  PARAM_NULL,
  PARAM_INTEGER, /* integer */
  PARAM_REAL,    /* real; NaN is stored as NULL by SQLite, which has none */
  PARAM_BOOLEAN, /* boolean */
  PARAM_TEXT,    /* text, len */
  PARAM_BYTES,   /* text, len: raw */
  PARAM_JSON,    /* text, len */
  PARAM_ARRAY    /* text, len: in the driver's own notation (struct driver's json_arrays); element: of what */
};

struct param {
  enum param_type type;
  enum param_type element; /* PARAM_ARRAY only: PARAM_INTEGER, PARAM_REAL, PARAM_BOOLEAN, PARAM_TEXT; PARAM_NULL when unknown (empty) */
  union {
    int64_t integer;
    double real;
    bool boolean;
  };
  const char *text;
  size_t len;
};

/* Shortest decimal text of a finite double that reads back equal, whatever the locale; integral values without an exponent
   get ".0" ("1.0", "1e+20"). Returns its length; `out` holds at least 32 bytes. NaN and infinities: "nan", "inf", "-inf". */
size_t real_format(char *out, double);

#endif
