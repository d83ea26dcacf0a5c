/* SPDX-License-Identifier: Apache-2.0
 *
 * See wait.h.
 */
#include "host/wait.h"

#include "base/must.h"

#include <errno.h>
#include <time.h>

uint64_t wait_now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

void wait_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;

    MUST(pthread_condattr_init(&attr) == 0);
    MUST(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0);
    MUST(pthread_cond_init(cond, &attr) == 0);
    pthread_condattr_destroy(&attr);
}

bool wait_until_ms(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t at_ms)
{
    struct timespec at = {(time_t)(at_ms / 1000), (long)(at_ms % 1000) * 1000000};

    return pthread_cond_timedwait(cond, lock, &at) != ETIMEDOUT;
}
