/* SPDX-License-Identifier: Apache-2.0
 *
 * `fill MB ORDER`: writes one word to each page of fresh memory, "sequential" or "random", and
 * prints for how many milliseconds.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { PAGE = 4096 };

static uint64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* All numbers below count, in random order. */
static uint32_t *shuffled(uint32_t count)
{
    uint32_t *order = malloc(count * sizeof *order);
    uint64_t random = 88172645463325252u;

    for (uint32_t i = 0; i < count; i++) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        uint32_t k = (uint32_t)(random % (i + 1));
        order[i] = order[k];
        order[k] = i;
    }
    return order;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    uint32_t count = (uint32_t)strtoul(argv[1], NULL, 10) * (1024 * 1024 / PAGE);
    uint32_t *order = strcmp(argv[2], "random") == 0 ? shuffled(count) : NULL;
    volatile uint64_t *memory = mmap(NULL, (size_t)count * PAGE, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return 1;
    uint64_t begin = now_us();
    for (uint32_t i = 0; i < count; i++)
        memory[(size_t)(order ? order[i] : i) * (PAGE / 8)] = i;
    printf("%.1f\n", (double)(now_us() - begin) / 1000);
    return 0;
}
