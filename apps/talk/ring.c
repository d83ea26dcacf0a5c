/* SPDX-License-Identifier: Apache-2.0
 *
 * ring: a token goes round all ranks, each of which adds its number. Rank 0 knows what must have
 * come together, and says how long a hop took.
 *
 *   --laps N   how often it goes round (100)     --bytes N  size of the token (64, at least 24)
 *   --pause N  milliseconds that each rank keeps it (0)
 *   --slow N   rank 0 tells of laps that take N milliseconds or more (none)
 */
#include "talk.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct token {
    uint64_t lap, hops, sum; /* and rubbish behind, which must stay the same */
};

static uint8_t filler(uint64_t lap, size_t i)
{
    return (uint8_t)(lap * 31 + i * 7);
}

static void check(const uint8_t *data, size_t bytes, const struct token *want)
{
    struct token t;

    memcpy(&t, data, sizeof t);
    if (t.lap != want->lap || t.hops != want->hops || t.sum != want->sum)
        die("lap %" PRIu64 ": a token of lap %" PRIu64 " with %" PRIu64 " hops and sum %" PRIu64
            ", not %" PRIu64 " and %" PRIu64,
            want->lap, t.lap, t.hops, t.sum, want->hops, want->sum);
    for (size_t i = sizeof t; i < bytes; i++)
        if (data[i] != filler(want->lap, i))
            die("lap %" PRIu64 ": byte %zu of the token is wrong", want->lap, i);
}

/* What a rank gets it with, in a lap. */
static struct token expected(uint64_t lap, unsigned rank, unsigned ranks)
{
    uint64_t before = rank ? rank : ranks; /* ranks that had it in this lap */

    return (struct token){lap, before, before * (before + 1) / 2};
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static void report(uint64_t *lap_us, uint64_t laps, unsigned ranks, uint64_t bytes)
{
    uint64_t median, p99;

    qsort(lap_us, laps, sizeof *lap_us, by_size);
    median = lap_us[laps / 2];
    p99 = lap_us[laps * 99 / 100];
    printf("ring: ranks=%u laps=%" PRIu64 " bytes=%" PRIu64 " hop_us: median=%.1f p99=%.1f "
           "longest_lap_us=%" PRIu64 "\n",
           ranks, laps, bytes, (double)median / ranks, (double)p99 / ranks, lap_us[laps - 1]);
}

int main(int argc, char **argv)
{
    uint64_t laps = 100, bytes = 64, pause = 0, slow_ms = UINT64_MAX / 1000, *lap_us;
    const struct option_number options[] = {
        {"laps", &laps, 1, 1000000},
        {"bytes", &bytes, sizeof(struct token), YADO_MESSAGE_MAX},
        {"pause", &pause, 0, 60000},
        {"slow", &slow_ms, 1, 1000000}};
    struct token t;
    struct yado *y;
    unsigned rank, ranks;
    uint8_t *data;

    read_options(argc, argv, options, 4);
    y = talk_open();
    rank = yado_rank(y);
    ranks = yado_ranks(y);
    data = allocate(bytes, 1);
    lap_us = allocate(laps, sizeof *lap_us);
    for (uint64_t lap = 0; lap < laps; lap++) {
        uint64_t start = now_us();
        int from = (int)((rank + ranks - 1) % ranks);

        if (rank == 0) {
            t = (struct token){lap, 1, 1};
            for (size_t i = sizeof t; i < bytes; i++)
                data[i] = filler(lap, i);
        } else {
            (void)talk_recv(y, from, data, bytes);
            t = expected(lap, rank, ranks);
            check(data, bytes, &t);
            t.hops++;
            t.sum += rank + 1;
        }
        pause_ms(pause);
        memcpy(data, &t, sizeof t);
        talk_send(y, (rank + 1) % ranks, data, bytes);
        if (rank == 0) {
            (void)talk_recv(y, from, data, bytes);
            t = expected(lap, 0, ranks);
            check(data, bytes, &t);
        }
        lap_us[lap] = now_us() - start;
        if (rank == 0 && lap_us[lap] >= slow_ms * 1000)
            printf("ring: lap %" PRIu64 " took %.1f ms\n", lap, (double)lap_us[lap] / 1000);
    }
    if (rank == 0)
        report(lap_us, laps, ranks, bytes);
    free(lap_us);
    free(data);
    yado_close(y);
    return 0;
}
