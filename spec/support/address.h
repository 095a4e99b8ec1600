/*
** address: where the specs' instruments (proxy, fake_postgres) listen and connect: "tcp:ADDRESS:PORT" (numeric; port 0 picks a free
** one) or "unix:PATH". What fails ends the program: it has only just started.
*/
#ifndef POOL_SPEC_ADDRESS_H
#define POOL_SPEC_ADDRESS_H

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct address {
  union { struct sockaddr any; struct sockaddr_in in; struct sockaddr_un un; } at;
  socklen_t len;
};

static inline void die(const char *what) {
  perror(what);
  exit(1);
}

static inline int address_is_tcp(const struct address *a) { return a->at.any.sa_family == AF_INET; }

static inline struct address address_of(char *text) {
  struct address a = {.len = 0};
  char *port = strrchr(text, ':');
  if (strncmp(text, "unix:", 5) == 0 && strlen(text + 5) < sizeof a.at.un.sun_path) {
    a.at.un.sun_family = AF_UNIX;
    memcpy(a.at.un.sun_path, text + 5, strlen(text + 5) + 1);
    a.len = sizeof a.at.un;
    return a;
  }
  if (strncmp(text, "tcp:", 4) == 0 && port > text + 3) {
    *port = '\0';
    a.at.in.sin_family = AF_INET;
    a.at.in.sin_port = htons((uint16_t)atoi(port + 1));
    a.len = sizeof a.at.in;
    if (inet_pton(AF_INET, text + 4, &a.at.in.sin_addr) == 1) return a;
  }
  fprintf(stderr, "not an address: %s\n", text);
  exit(1);
}

/* A socket bound to it, not listening yet. */
static inline int address_bind(const struct address *a, int flags) {
  int one = 1, fd = socket(a->at.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
  if (fd < 0) die("socket");
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (!address_is_tcp(a)) unlink(a->at.un.sun_path);
  if (bind(fd, &a->at.any, a->len) != 0) die("bind");
  return fd;
}

/* Prints `listening on PORT` for whoever started the program; 0: a Unix socket. */
static inline void address_tell(int fd) {
  struct address a = {.len = sizeof a.at};
  getsockname(fd, &a.at.any, &a.len);
  printf("listening on %d\n", address_is_tcp(&a) ? ntohs(a.at.in.sin_port) : 0);
  fflush(stdout);
}

#endif
