/*
** engine_check: what is true of a connection of an engine between two of its settles, over the scripted driver.
*/
#ifndef POOL_SPEC_SIM_ENGINE_CHECK_H
#define POOL_SPEC_SIM_ENGINE_CHECK_H

#include "io/engine.h"
#include "io/scripted_driver.h"

static inline void engine_check_conn(const struct conn *c) {
  bool resting = c->job == CONN_IDLE || ((c->job == CONN_LEASED || c->job == CONN_SETUP) && !c->dead && !c->streaming);
  if (resting) INSIST(c->watch.events == LOOP_READ && c->watch.fd == c->db->fd && !c->timer.running && !c->moving && !c->call);
  if (resting) INSIST(!scripted_busy(c->db));
  if (c->dead && c->job == CONN_LEASED) INSIST(c->watch.events == 0 && !c->timer.running);
  if (c->job == CONN_EMPTY) INSIST(!c->db && c->watch.events == 0 && !c->timer.running);
  if (c->job == CONN_RUNNING) INSIST(c->call && c->call->state == CALL_RUNNING && c->watch.events != 0);
  bool bounded = c->job == CONN_STOPPING || c->job == CONN_RESETTING || c->job == CONN_CLOSING || (c->job == CONN_RUNNING && c->moving);
  if (bounded || (c->job == CONN_OPENING && c->connect_by != NEVER)) INSIST(c->timer.running);
  if (c->timed_out && c->job == CONN_RUNNING) INSIST(c->moving); /* statement_timeout cancels it */
  if (c->held) INSIST(c->job == CONN_STOPPING && c->held->state == CALL_HELD);
}

#endif
