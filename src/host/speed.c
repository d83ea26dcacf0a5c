/* SPDX-License-Identifier: Apache-2.0
 *
 * See speed.h. The numbers stay in the nearest cache: memory is not measured.
 */
#include "host/speed.h"

#include <time.h>

enum { TRIES = 12, ROUNDS = 4000, NUMBERS = 256 };

static uint64_t cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* What it comes to is used, so that no compiler leaves it out. */
static double compute(double numbers[NUMBERS], uint64_t *mix)
{
    double sum = 0;

    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < NUMBERS; i++)
            numbers[i] = numbers[i] * 0.999 + 0.5;
        *mix ^= *mix << 13;
        *mix ^= *mix >> 7;
        *mix ^= *mix << 17; /* xorshift64, Marsaglia 2003 */
        sum += numbers[*mix % NUMBERS];
    }
    return sum;
}

uint32_t host_speed(void)
{
    double numbers[NUMBERS] = {0};
    volatile double sink = 0;
    uint64_t mix = 88172645463325252u, best_ns = UINT64_MAX, speed, figure = 1;

    for (int i = 0; i < TRIES; i++) {
        uint64_t start = cpu_ns(), took;

        sink = sink + compute(numbers, &mix);
        took = cpu_ns() - start;
        if (took > 0 && took < best_ns)
            best_ns = took;
    }
    speed = (uint64_t)ROUNDS * NUMBERS * 1000 / best_ns;
    while (speed / figure >= 100)
        figure *= 10;
    speed = (speed + figure / 2) / figure * figure;
    return speed ? (uint32_t)speed : 1;
}
