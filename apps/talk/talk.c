/* SPDX-License-Identifier: Apache-2.0
 *
 * What the programs that show mail have in common; see talk.h.
 */
#include "talk.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void die(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(1);
}

void *allocate(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size);

    if (!p)
        die("no memory for %zu x %zu bytes", count, size);
    return p;
}

uint64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

void pause_ms(uint64_t ms)
{
    struct timespec t = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};

    while (ms && nanosleep(&t, &t) < 0 && errno == EINTR)
        ;
}

static void read_option(const char *word, const char *value, const struct option_number *options,
                        size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char *end;

        if (strncmp(word, "--", 2) != 0 || strcmp(word + 2, options[i].name) != 0)
            continue;
        errno = 0;
        *options[i].value = strtoull(value ? value : "", &end, 10);
        if (!value || *value < '0' || *value > '9' || *end || errno ||
            *options[i].value < options[i].min || *options[i].value > options[i].max)
            die("%s: a number from %" PRIu64 " to %" PRIu64 ", not \"%s\"", word, options[i].min,
                options[i].max, value ? value : "");
        return;
    }
    die("there is no option \"%s\"", word);
}

void read_options(int argc, char **argv, const struct option_number *options, size_t count)
{
    for (int i = 1; i < argc; i += 2)
        read_option(argv[i], i + 1 < argc ? argv[i + 1] : NULL, options, count);
    setvbuf(stdout, NULL, _IOLBF, 0);
}

struct yado *talk_open(void)
{
    struct yado *y;
    int r = yado_open(&y);

    if (r == -ENOENT)
        die("this is a job whose parts talk: run it in a grid, or try it with `yado local -n 4 -- "
            "PROGRAM`");
    if (r)
        die("no mail: %s", strerror(-r));
    return y;
}

void talk_send(struct yado *y, unsigned to, const void *data, size_t len)
{
    int r = yado_send(y, to, data, len);

    if (r)
        die("sending to %u: %s", to, strerror(-r));
}

unsigned talk_recv(struct yado *y, int from, void *data, size_t len)
{
    struct yado_message m;
    int r = yado_recv(y, from, -1, &m);

    if (r)
        die("receiving: %s", strerror(-r));
    if (m.gone)
        die("rank %u is gone", m.from);
    if (m.len != len)
        die("rank %u sent %zu bytes, not %zu", m.from, m.len, len);
    memcpy(data, m.data, len);
    free(m.data);
    return m.from;
}

void talk_send_large(struct yado *y, unsigned to, const void *data, size_t len)
{
    const uint8_t *p = data;

    for (size_t n; len; p += n, len -= n) {
        n = len < YADO_MESSAGE_MAX ? len : YADO_MESSAGE_MAX;
        talk_send(y, to, p, n);
    }
}

void talk_recv_large(struct yado *y, unsigned from, void *data, size_t len)
{
    uint8_t *p = data;

    for (size_t n; len; p += n, len -= n) {
        n = len < YADO_MESSAGE_MAX ? len : YADO_MESSAGE_MAX;
        (void)talk_recv(y, (int)from, p, n);
    }
}

uint64_t digest(uint64_t start, const void *data, size_t len)
{
    const uint8_t *p = data;

    while (len--)
        start = (start ^ *p++) * 1099511628211u;
    return start;
}

size_t share_of(size_t n, unsigned rank, unsigned ranks, size_t *ret_first)
{
    *ret_first = n * rank / ranks;
    return n * (rank + 1) / ranks - *ret_first;
}
