/* SPDX-License-Identifier: Apache-2.0
 *
 * What the master's link can carry, as far as uploads have shown it: the most bytes a second of all
 * together over half a second without a gap, which fades, so that a link that has become slower is
 * believed in the end. A link that was never full is taken for slower than it is. Any thread.
 */
#ifndef YADO_MASTER_METER_H
#define YADO_MASTER_METER_H

#include <pthread.h>
#include <stdint.h>

struct meter {
    pthread_mutex_t lock;
    uint64_t from_ms, last_ms, bytes; /* of the time that is being looked at */
    double bytes_per_s;
};

void meter_init(struct meter *m);
/* So many bytes have come by now (CLOCK_MONOTONIC). */
void meter_add(struct meter *m, uint64_t now_ms, uint64_t bytes);
/* 0: nothing was measured yet. */
double meter_bytes_per_s(struct meter *m);

#endif
