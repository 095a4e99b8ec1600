/*
** scripted_driver: a `struct driver` whose database does what a test says, in virtual time.
**
** Every operation is given an answer and a delay when it begins: those that stand in scripted.answers, or what `choose` says.
** NEVER as the delay: it waits until the test answers (scripted_answer) or for ever. Descriptors are plain numbers; whoever runs
** the loop calls scripted_announce before a turn, which makes ready, like a level-triggered poll, what has something to say, and
** asks scripted_next how far time may jump.
**
** Statements are as plain as can be: begin, commit, rollback and savepoints (pool_1, pool_2 ... inside each other) are transaction
** control; whatever else has a number, its first integer parameter or the first digits of its text, and is answered with rows of it: n
** (that number), conn (the connection's serial), tx (which transaction it ran in, 0 none) and row (from 1). A stream comes in `batches`
** batches. `note` hears what becomes of each: sent, answered, failed, committed. Numbers of a transaction are committed with it.
**
** The driver holds its caller to the contract of driver.h: one operation at a time, none on a connection whose cancel may still hit
** (quarantine), no batch left untaken, no step of a dead connection.
*/
#ifndef POOL_SPEC_SCRIPTED_DRIVER_H
#define POOL_SPEC_SCRIPTED_DRIVER_H

#include "db/driver.h"
#include "io/loop.h"

enum operation { OP_NONE, OP_OPEN, OP_PING, OP_STATEMENT, OP_RESET, OP_CLOSE, OP_CANCEL, OPERATIONS };

enum answer_kind {
  ANSWER_OK,
  ANSWER_FAIL,      /* an error that the connection survives; of an open: a passing one */
  ANSWER_DIE,       /* the connection is lost; of an open: a permanent failure */
  ANSWER_DISCONNECT /* lost, and others are suspect; of a statement: its server is a standby now, the connection lives */
};

struct answer {
  enum answer_kind kind;
  usec after;
  const char *sqlstate; /* of a failed statement; NULL: 42601 */
  bool ran;             /* a statement whose end nobody hears of had its effect all the same */
};

enum scripted_note { NOTE_SENT, NOTE_ANSWERED, NOTE_FAILED, NOTE_COMMITTED };
enum { SCRIPTED_PENDING = 64, SCRIPTED_SAVEPOINTS = 8 };

struct db_conn;

struct scripted {
  struct loop *loop;
  struct answer answers[OPERATIONS];
  struct answer (*choose)(void *user, enum operation); /* NULL: answers[] */
  void (*note)(void *user, enum scripted_note, const struct db_conn *, int64_t number); /* number 0: it has none. NULL: nobody listens */
  void *user;
  int batches;          /* of a stream */
  int batch_rows;       /* of each */
  int addresses;        /* of the database */
  int size_limit;       /* 0: none */
  bool refuse_open;     /* open() itself fails */
  bool refuse_send;     /* send() of a healthy connection refuses the statement */
  bool deaf;            /* send() does not see that the connection died; the first step does */
  bool lingers;         /* who is told farewell while idle, or fails a check, is there still for a while */
  bool candid;          /* and that step can tell that the statement did not run */
  bool prompt;          /* what is due at once is there with the first step, not the second */
  bool write_first;     /* a statement is not sent in one go: wants to read and write until the answer is there */
  int reset_setting, configured;
  /* what has happened */
  struct list conns;    /* struct db_conn */
  int live, most;       /* connections: begun and not abandoned; the most there ever were */
  int results;          /* given and not freed */
  int opened, sends, cancels, resets, pings, closes, idles, steps, next_addresses;
  int descriptors;      /* handed out */
  int64_t transactions; /* begun */
};

struct db_conn {
  struct list link;
  struct scripted *db;
  enum operation op;
  struct answer answer;
  usec due;             /* of the operation's answer */
  usec cancelled_at;    /* when the cancel's effect and its end come; 0 none */
  bool cancel_hits;     /* the cancel ends a statement that is still waiting then; else it only comes to its end */
  bool ended;           /* the statement is over; the cancel is not */
  bool stream, resting; /* resting: a batch was given, the next not asked for */
  bool fresh;           /* begun, and not stepped yet */
  bool writing;
  bool killed, spread;  /* the server has hung up; spread: others are suspect */
  bool dead;            /* and the caller knows */
  bool given_up;        /* the caller has declared it dead, and reads it no more: whoever runs the loop says so */
  usec mute;            /* until then the network swallows it all, its end too */
  bool noise;           /* readable with nothing wrong */
  int left;             /* batches to come */
  int address;          /* of `addresses`, the one being tried */
  int fd, serial;
  enum db_status status;
  char sql[96];
  int64_t number;       /* of the statement under way */
  bool unsent;          /* it never came to the server, which had hung up */
  int64_t transaction;  /* 0: in none */
  int64_t pending[SCRIPTED_PENDING]; /* numbers that its transaction would commit */
  int pendings;
  int marks[SCRIPTED_SAVEPOINTS];    /* how many there were at each savepoint */
  int savepoints;
  struct db_result *ready;
};

extern const struct driver scripted_driver;

void scripted_init(struct scripted *, struct loop *);
/* The database URL that leads a driver to this database. */
void scripted_url(const struct scripted *, char *buffer, size_t size);

void scripted_answer(struct db_conn *, enum answer_kind); /* what is under way is answered now */
void scripted_kill(struct db_conn *, bool spread);        /* the server hangs up */
void scripted_mute(struct db_conn *, usec until);         /* hangs up, and nobody can see it before then */
struct db_conn *scripted_conn(struct scripted *, int index); /* the living ones, oldest first; NULL beyond */
bool scripted_busy(const struct db_conn *);               /* a statement or its cancel is under way */

bool scripted_announce(struct scripted *); /* readies what has something to say; false: nothing has */
usec scripted_next(const struct scripted *); /* when something will have, NEVER when nothing will */

#endif
