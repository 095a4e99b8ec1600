/*
** postgres_server: the server's side of a conversation of PostgreSQL's protocol, as bytes choose it: honest, confused or hostile. No
** thread: what the client has sent is taken and what is to be said is sent when the target asks for it.
*/
#ifndef POOL_SPEC_FUZZ_POSTGRES_SERVER_H
#define POOL_SPEC_FUZZ_POSTGRES_SERVER_H

#include "fuzz/fuzz.h"

struct server {
  struct fuzz *f;
  int listener; /* a place of its own, so that a cancel that comes late finds nobody */
  char url[512];
  int peer;         /* the connection, -1 none */
  bool raw;         /* what is left of the input is what is said, unchanged */
  bool greeted;     /* the client's start-up message has come */
  unsigned columns; /* of the last row description */
  char asked[64];   /* types of the client's messages not yet answered honestly; '!' for the start-up */
  unsigned asked_count;
  uint8_t in[4096]; /* what has come and is no whole message yet */
  size_t in_len;
  size_t skip; /* bytes of a long message still to come */
};

/* Listens; its place is named `hosts` times (1 or 2) in the URL. */
void server_begin(struct server *, struct fuzz *, int hosts);
void server_end(struct server *);

/* Takes in what the client has sent. */
void server_take(struct server *);
/* Accepts whoever has come. `opening`: it is the connection itself, in place of an earlier one; else it is a cancel, and is let go. */
void server_accept(struct server *, bool opening);
/* Says the next thing. false: the input has it that the client does something meanwhile, or nothing is left and the server has hung up. */
bool server_say(struct server *);
void server_hang_up(struct server *);

#endif
