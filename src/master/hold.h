/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests that wait for news: an agent's sync, `events -f`, `logs -f`. A held request costs a
 * suspended connection and no thread. When its key is woken or its time is up, its `next` runs on
 * an I/O thread, which looks again and may hold it again (`expired` says that it must answer).
 *
 * Nothing is missed between looking and holding: a looker takes holds_turn() of the key first,
 * and holds_add() refuses when the key was woken since.
 */
#ifndef YADO_MASTER_HOLD_H
#define YADO_MASTER_HOLD_H

#include "master/server.h"

struct holds;

struct holds *holds_new(void);
void holds_free(struct holds *h);

uint64_t holds_turn(struct holds *h, const struct hold_key *key);
/* Holds a suspended request under r->hold until r->hold_until_ms; false: the key was woken since
 * that turn, or the server is ending (then it is expired as well), and the caller still has the
 * request. A newer sync of a PC releases the one before it. */
bool holds_add(struct holds *h, struct req *r, uint64_t turn);
void holds_wake(struct holds *h, const struct hold_key *key);
/* Releases what is overdue; returns the next deadline, UINT64_MAX for none. */
uint64_t holds_expire(struct holds *h, uint64_t now_ms);
/* Releases everything, for good. */
void holds_close(struct holds *h);

/* CLOCK_MONOTONIC in milliseconds, the clock of the deadlines. */
uint64_t holds_now(void);
/* Sets the deadline when the request is held for the first time. */
void holds_set_deadline(struct req *r, uint64_t wait_ms);

#endif
