/* SPDX-License-Identifier: Apache-2.0
 *
 * See meter.h.
 */
#include "master/meter.h"

enum { WINDOW_MS = 500, GAP_MS = 100 };
#define FADES 0.98 /* each time that something slower is seen */

void meter_init(struct meter *m)
{
    *m = (struct meter){0};
    pthread_mutex_init(&m->lock, NULL);
}

void meter_add(struct meter *m, uint64_t now_ms, uint64_t bytes)
{
    pthread_mutex_lock(&m->lock);
    if (now_ms - m->last_ms > GAP_MS) {
        m->from_ms = now_ms;
        m->bytes = 0; /* these came before */
    } else {
        m->bytes += bytes;
    }
    m->last_ms = now_ms;
    if (now_ms - m->from_ms >= WINDOW_MS) {
        double rate = (double)m->bytes * 1000 / (double)(now_ms - m->from_ms);
        m->bytes_per_s *= FADES;
        if (rate > m->bytes_per_s)
            m->bytes_per_s = rate;
        m->from_ms = now_ms;
        m->bytes = 0;
    }
    pthread_mutex_unlock(&m->lock);
}

double meter_bytes_per_s(struct meter *m)
{
    pthread_mutex_lock(&m->lock);
    double rate = m->bytes_per_s;
    pthread_mutex_unlock(&m->lock);
    return rate;
}
