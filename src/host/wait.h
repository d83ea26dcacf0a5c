/* SPDX-License-Identifier: Apache-2.0
 *
 * Waiting on a condition for so long, by a clock that nobody sets.
 */
#ifndef YADO_HOST_WAIT_H
#define YADO_HOST_WAIT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* Milliseconds of CLOCK_MONOTONIC. */
uint64_t wait_now_ms(void);
/* A condition for wait_until_ms(). */
void wait_cond_init(pthread_cond_t *cond);
/* With the lock held. False when the time has come; else somebody signalled, or nobody did. */
bool wait_until_ms(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t at_ms);

#endif
