/* SPDX-License-Identifier: Apache-2.0
 *
 * The program in the guest of bench/migrate: it holds so many megabytes that no compressor makes
 * smaller, reads all of them again and again, and meanwhile rewrites whole pages of a hot region,
 * the first pages of all, with fresh bytes. What the memory holds follows from the number of pages
 * rewritten so far alone, so that anybody outside can say which sums it must have (--sums).
 *
 * On standard output, a line each:
 *   f                                all memory is filled, the first sweep begins
 *   t PAGES WRITES                   every TICK_MS: pages read and pages rewritten since the start
 *   s SWEEPS WRITES COLD HOT         a sweep has ended: the sums of what it has read
 * Nothing is rewritten while the hot region is read, at the end of a sweep.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
    PAGE_WORDS = 512,
    PAGES_PER_MB = 256,
    CHUNK_PAGES = 64, /* between two looks at the clock */
    TICK_MS = 20,
    LATE_MS = 250, /* rewriting that is later than this is left out, not made up for */
};

struct memory {
    uint64_t *words;
    uint64_t pages, hot; /* all pages; those of the hot region */
};

struct progress {
    uint64_t read, writes, sweeps; /* pages, pages, whole sweeps */
    uint64_t mb_a_second;
    uint64_t owed; /* thousandths of a page that should have been rewritten until looked_ms */
    uint64_t looked_ms, ticked_ms;
};

static uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Neighbouring numbers to unlike ones (the finalizer of splitmix64). */
static uint64_t scatter(uint64_t x)
{
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* One multiplication a word: cheap under emulation, and enough against a compressor. */
static void page_fill(uint64_t *page, uint64_t number, uint64_t version)
{
    uint64_t x = scatter(number << 32 ^ version);

    for (int i = 0; i < PAGE_WORDS; i++) {
        x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        page[i] = x;
    }
}

/* Depends on every word, on its place in the page and on the page's number. */
static uint64_t page_sum(const uint64_t *page, uint64_t number)
{
    uint64_t a = 0, b = 0;

    for (int i = 0; i < PAGE_WORDS; i++) {
        a += page[i];
        b += a;
    }
    return (b ^ (a << 32 | a >> 32)) * (scatter(number) | 1);
}

/* The n-th rewriting goes to page n % hot. */
static void rewrite(const struct memory *m, uint64_t n)
{
    uint64_t page = n % m->hot;

    page_fill(m->words + page * PAGE_WORDS, page, n / m->hot + 1);
}

static void rewrite_what_is_due(const struct memory *m, struct progress *p)
{
    uint64_t now = now_ms(), passed = now - p->looked_ms;
    uint64_t per_ms = p->mb_a_second * PAGES_PER_MB;

    p->looked_ms = now;
    p->owed += passed * per_ms;
    if (p->owed > LATE_MS * per_ms)
        p->owed = LATE_MS * per_ms;
    for (; p->owed >= 1000; p->owed -= 1000)
        rewrite(m, p->writes++);
}

static void tick(struct progress *p)
{
    uint64_t now = now_ms();

    if (now - p->ticked_ms < TICK_MS)
        return;
    printf("t %" PRIu64 " %" PRIu64 "\n", p->read, p->writes);
    p->ticked_ms = now;
}

static uint64_t sweep(const struct memory *m, struct progress *p, uint64_t from, uint64_t to,
                      bool writes)
{
    uint64_t sum = 0;

    for (uint64_t page = from; page < to;) {
        uint64_t end = to - page > CHUNK_PAGES ? page + CHUNK_PAGES : to;

        p->read += end - page;
        for (; page < end; page++)
            sum += page_sum(m->words + page * PAGE_WORDS, page);
        if (writes)
            rewrite_what_is_due(m, p);
        tick(p);
    }
    return sum;
}

static _Noreturn void run(const struct memory *m, uint64_t mb_a_second)
{
    struct progress p = {.mb_a_second = mb_a_second};

    for (uint64_t page = 0; page < m->pages; page++)
        page_fill(m->words + page * PAGE_WORDS, page, 0);
    printf("f\n");
    p.looked_ms = p.ticked_ms = now_ms();
    for (;;) {
        uint64_t cold = sweep(m, &p, m->hot, m->pages, true);
        uint64_t hot = sweep(m, &p, 0, m->hot, false);

        printf("s %" PRIu64 " %" PRIu64 " %016" PRIx64 " %016" PRIx64 "\n", ++p.sweeps, p.writes,
               cold, hot);
    }
}

/* What memory must sum up to after so many rewritings. */
static void print_sums(const struct memory *m, char **writes)
{
    uint64_t page[PAGE_WORDS], cold = 0;

    for (uint64_t i = m->hot; i < m->pages; i++) {
        page_fill(page, i, 0);
        cold += page_sum(page, i);
    }
    for (; *writes; writes++) {
        uint64_t n = strtoull(*writes, NULL, 10), hot = 0;

        for (uint64_t i = 0; i < m->hot; i++) {
            page_fill(page, i, n / m->hot + (i < n % m->hot));
            hot += page_sum(page, i);
        }
        printf("%016" PRIx64 " %016" PRIx64 "\n", cold, hot);
    }
}

int main(int argc, char **argv)
{
    bool sums = argc > 4 && argv[1][0] == '-';
    char **arg = argv + 1 + sums;
    struct memory m = {0};

    if (argc != 4 && !sums) {
        fprintf(stderr, "usage: sweeper MB HOT_MB MB_A_SECOND\n"
                        "       sweeper --sums MB HOT_MB WRITES...\n");
        return 2;
    }
    m.pages = strtoull(arg[0], NULL, 10) * PAGES_PER_MB;
    m.hot = strtoull(arg[1], NULL, 10) * PAGES_PER_MB;
    if (m.hot == 0 || m.hot >= m.pages) {
        fprintf(stderr, "sweeper: the hot region must be smaller than all\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (sums) {
        print_sums(&m, arg + 2);
        return 0;
    }
    m.words = mmap(NULL, m.pages * PAGE_WORDS * sizeof(uint64_t), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m.words == MAP_FAILED) {
        perror("sweeper: mmap");
        return 1;
    }
    run(&m, strtoull(arg[2], NULL, 10));
}
