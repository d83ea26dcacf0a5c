/* SPDX-License-Identifier: Apache-2.0
 *
 * Tests of the output files: offsets, duplicates and gaps; cuts; threads; kill -9; a full disk.
 */
#include "base/rng.h"
#include "scratch.h"
#include "state/segment.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

static struct segments *open_segments(const struct scratch *s)
{
    struct segments *segments;
    struct err err = {0};

    if (segments_open(s->path, &segments, &err))
        fail_msg("%s", err.text);
    return segments;
}

static int read_part(struct segments *g, uint64_t job, uint64_t part, uint64_t offset, void *data,
                     size_t size, size_t *ret_len)
{
    struct segment_look look = {.offset = offset, .seen_cuts = SEGMENT_CUTS_UNKNOWN};
    struct buf into = {0};
    int r = segment_read(g, job, part, &look, &into, size);

    assert_true(into.len <= size);
    if (into.len)
        memcpy(data, into.data, into.len);
    *ret_len = into.len;
    buf_deinit(&into);
    return r;
}

/* What a reader is told who is at `offset` and knows of `seen` cuts. */
static void assert_told(struct segments *g, uint64_t part, uint64_t offset, uint64_t seen,
                        uint64_t cuts, uint64_t valid, const char *bytes)
{
    struct segment_look look = {.offset = offset, .seen_cuts = seen};
    struct buf into = {0};

    assert_int_equal(segment_read(g, 1, part, &look, &into, 64), 0);
    assert_int_equal(look.cuts, cuts);
    assert_int_equal(look.valid, valid);
    assert_int_equal(into.len, strlen(bytes));
    assert_true(into.len == 0 || memcmp(into.data, bytes, into.len) == 0);
    buf_deinit(&into);
}

static void assert_content(struct segments *g, uint64_t job, uint64_t part, const char *want)
{
    char got[64];
    uint64_t length;
    size_t n;

    assert_int_equal(segment_length(g, job, part, &length), 0);
    assert_int_equal(length, strlen(want));
    assert_int_equal(read_part(g, job, part, 0, got, sizeof got, &n), 0);
    assert_int_equal(n, length);
    assert_memory_equal(got, want, n);
}

static void offsets_decide(void **state)
{
    struct scratch s = scratch_new();
    struct segments *g = open_segments(&s);
    uint64_t have = 77;
    char got[8];
    size_t n = 99;

    assert_content(g, 1, 0, "");
    assert_int_equal(segment_append(g, 1, 0, 1, "x", 1, &have), SEGMENT_GAP);
    assert_int_equal(have, 0);
    assert_int_equal(segment_append(g, 1, 0, 0, "abcdef", 6, &have), 0);
    assert_int_equal(have, 6);
    assert_int_equal(segment_append(g, 1, 0, 0, "abcdef", 6, &have), 0); /* again */
    assert_int_equal(have, 6);
    assert_int_equal(segment_append(g, 1, 0, 3, "defghi", 6, &have), 0); /* overlapping */
    assert_int_equal(have, 9);
    assert_int_equal(segment_append(g, 1, 0, 2, "c", 1, &have), 0); /* all old */
    assert_int_equal(have, 9);
    assert_int_equal(segment_append(g, 1, 0, 10, "j", 1, &have), SEGMENT_GAP);
    assert_int_equal(have, 9);
    assert_int_equal(segment_append(g, 1, 0, UINT64_MAX, "jj", 2, &have), -EFBIG);
    assert_int_equal(segment_append(g, 1, 0, 9, "", 0, &have), 0);
    assert_content(g, 1, 0, "abcdefghi");
    assert_int_equal(read_part(g, 1, 0, 7, got, sizeof got, &n), 0);
    assert_int_equal(n, 2);
    assert_memory_equal(got, "hi", 2);
    assert_int_equal(read_part(g, 1, 0, 100, got, sizeof got, &n), 0);
    assert_int_equal(n, 0);
    assert_int_equal(read_part(g, 1, 0, UINT64_MAX, got, sizeof got, &n), 0);
    assert_int_equal(n, 0);
    segments_close(g);
    g = open_segments(&s);
    assert_content(g, 1, 0, "abcdefghi");
    segments_close(g);
    scratch_remove(&s);
}

static void going_back_truncates(void **state)
{
    struct scratch s = scratch_new();
    struct segments *g = open_segments(&s);
    uint64_t have;

    assert_int_equal(segment_truncate(g, 1, 0, 5), 0); /* it never wrote */
    assert_int_equal(segment_append(g, 1, 0, 0, "abcdef", 6, &have), 0);
    assert_int_equal(segment_truncate(g, 1, 0, 9), 0);
    assert_content(g, 1, 0, "abcdef");
    assert_int_equal(segment_truncate(g, 1, 0, 2), 0);
    assert_content(g, 1, 0, "ab");
    assert_int_equal(segment_append(g, 1, 0, 2, "XY", 2, &have), 0);
    assert_content(g, 1, 0, "abXY");
    segments_close(g);
    scratch_remove(&s);
}

static void every_cut_is_told(void **state)
{
    struct scratch s = scratch_new();
    struct segments *g = open_segments(&s);
    char path[160];
    uint64_t have;
    FILE *f;

    assert_told(g, 0, 0, 0, 0, 0, "");
    assert_int_equal(segment_append(g, 1, 0, 0, "abcdef", 6, &have), 0);
    assert_int_equal(segment_truncate(g, 1, 0, 6), 0); /* nothing to cut */
    assert_told(g, 0, 6, 0, 0, 6, "");
    assert_int_equal(segment_truncate(g, 1, 0, 4), 0);
    assert_told(g, 0, 6, 0, 1, 4, "");
    /* It has grown beyond the reader; below the cut nothing is void. */
    assert_int_equal(segment_append(g, 1, 0, 4, "EFGHI", 5, &have), 0);
    assert_told(g, 0, 6, 0, 1, 4, "");
    assert_told(g, 0, 4, 0, 1, 4, "EFGHI");
    assert_told(g, 0, 6, 1, 1, 9, "GHI");
    assert_told(g, 0, 6, SEGMENT_CUTS_UNKNOWN, 1, 9, "GHI");
    /* Of several the deepest counts, for each reader from where he was. */
    assert_int_equal(segment_truncate(g, 1, 0, 2), 0);
    assert_int_equal(segment_append(g, 1, 0, 2, "cdefgh", 6, &have), 0);
    assert_int_equal(segment_truncate(g, 1, 0, 7), 0);
    assert_told(g, 0, 7, 0, 3, 2, "");
    assert_told(g, 0, 7, 1, 3, 2, "");
    assert_told(g, 0, 7, 2, 3, 7, "");
    assert_told(g, 0, 5, 2, 3, 7, "fg");
    assert_told(g, 1, 0, 0, 0, 0, ""); /* another part */
    for (int i = 0; i < 200; i++) {
        assert_int_equal(segment_append(g, 1, 0, 7, "h", 1, &have), 0);
        assert_int_equal(segment_truncate(g, 1, 0, 7), 0);
    }
    assert_told(g, 0, 8, 202, 203, 7, "");
    segments_close(g);
    /* It outlives the process; a piece of an entry that a crash left does not count. */
    snprintf(path, sizeof path, "%s/1/0.cuts", s.path);
    f = fopen(path, "a");
    assert_non_null(f);
    assert_int_equal(fwrite("\0\0\0", 1, 3, f), 3);
    assert_int_equal(fclose(f), 0);
    g = open_segments(&s);
    assert_told(g, 0, 8, 202, 203, 7, "");
    assert_int_equal(segment_truncate(g, 1, 0, 1), 0);
    assert_told(g, 0, 8, 203, 204, 1, "");
    assert_int_equal(segment_remove_job(g, 1), 0);
    assert_told(g, 0, 0, 0, 0, 0, "");
    segments_close(g);
    scratch_remove(&s);
}

static void a_job_is_removed_whole_and_alone(void **state)
{
    struct scratch s = scratch_new();
    struct segments *g = open_segments(&s);
    uint64_t have;

    for (uint64_t part = 0; part < 5; part++)
        assert_int_equal(segment_append(g, 7, part, 0, "seven", 5, &have), 0);
    assert_int_equal(segment_append(g, 8, 0, 0, "eight", 5, &have), 0);
    assert_int_equal(segment_remove_job(g, 7), 0);
    assert_int_equal(segment_remove_job(g, 7), 0);
    assert_content(g, 7, 3, "");
    assert_content(g, 8, 0, "eight");
    segments_close(g);
    scratch_remove(&s);
}

struct writer {
    struct segments *g;
    uint64_t part;
};

static void *write_lines(void *arg)
{
    struct writer *w = arg;
    char line[16];
    uint64_t have;

    for (unsigned i = 0; i < 60; i++) {
        snprintf(line, sizeof line, "%04u\n", i);
        if (segment_append(w->g, 3, w->part, 5 * i, line, 5, &have) || have < 5 * (i + 1))
            abort();
    }
    return NULL;
}

static void threads_do_not_disturb_each_other(void **state)
{
    struct scratch s = scratch_new();
    struct segments *g = open_segments(&s);
    struct writer w[8];
    pthread_t t[8];
    char got[400];
    size_t n;

    for (uint64_t i = 0; i < 8; i++) {
        w[i] = (struct writer){g, i / 2}; /* two send the same part */
        assert_int_equal(pthread_create(&t[i], NULL, write_lines, &w[i]), 0);
    }
    for (int i = 0; i < 8; i++)
        pthread_join(t[i], NULL);
    for (uint64_t part = 0; part < 4; part++) {
        assert_int_equal(read_part(g, 3, part, 0, got, sizeof got, &n), 0);
        assert_int_equal(n, 300);
        for (int i = 0; i < 60; i++)
            assert_int_equal(atoi(got + 5 * i), i);
    }
    segments_close(g);
    scratch_remove(&s);
}

/* Byte `at` of the stream of a part. */
static uint8_t byte_at(uint64_t part, uint64_t at)
{
    return (uint8_t)(at * 2654435761u >> 11 ^ part * 37);
}

struct ack {
    uint64_t part, have;
};

static void append_for_ever(const struct scratch *s, uint64_t seed, int out)
{
    struct rng r = rng_seed(seed);
    static uint8_t data[50000];
    uint64_t have[3] = {0};
    struct segments *g;

    if (segments_open(s->path, &g, NULL))
        _exit(1);
    for (;;) {
        struct ack a = {.part = rng_below(&r, 3)};
        size_t n = 1 + rng_below(&r, sizeof data);

        for (size_t i = 0; i < n; i++)
            data[i] = byte_at(a.part, have[a.part] + i);
        if (segment_append(g, 5, a.part, have[a.part], data, n, &have[a.part]))
            _exit(1);
        a.have = have[a.part];
        if (write(out, &a, sizeof a) != sizeof a)
            _exit(1);
    }
}

static void check_part(struct segments *g, uint64_t part, uint64_t acknowledged)
{
    static uint8_t data[50000];
    uint64_t length, at = 0;
    size_t n;

    assert_int_equal(segment_length(g, 5, part, &length), 0);
    assert_true(length >= acknowledged);
    for (; at < length; at += n) {
        assert_int_equal(read_part(g, 5, part, at, data, sizeof data, &n), 0);
        assert_int_not_equal(n, 0);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(data[i], byte_at(part, at + i));
    }
}

static void a_kill_loses_nothing_that_was_acknowledged(void **state)
{
    for (uint64_t round = 0; round < 10; round++) {
        struct scratch s = scratch_new();
        struct rng r = rng_seed(round);
        uint64_t acknowledged[3] = {0};
        struct segments *g;
        struct ack a;
        uint64_t n = 0;
        int p[2];
        pid_t pid;

        assert_int_equal(pipe(p), 0);
        pid = fork();
        if (pid == 0)
            append_for_ever(&s, round, p[1]);
        close(p[1]);
        for (uint64_t want = 1 + rng_below(&r, 40); n < want; n++) {
            assert_int_equal(read(p[0], &a, sizeof a), sizeof a);
            acknowledged[a.part] = a.have;
        }
        usleep((useconds_t)rng_below(&r, 3000));
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        while (read(p[0], &a, sizeof a) == sizeof a)
            acknowledged[a.part] = a.have;
        close(p[0]);
        g = open_segments(&s);
        for (uint64_t part = 0; part < 3; part++)
            check_part(g, part, acknowledged[part]);
        segments_close(g);
        scratch_remove(&s);
    }
}

static void a_full_disk_takes_nothing_and_loses_nothing(void **state)
{
    static char data[3 << 20];
    struct scratch s = scratch_new();
    struct segments *g;
    uint64_t have = 0;

    if (!scratch_small(&s, "1m")) {
        scratch_remove(&s);
        skip();
    }
    g = open_segments(&s);
    assert_int_equal(segment_append(g, 1, 0, 0, "kept", 4, &have), 0);
    assert_int_equal(segment_append(g, 1, 0, 4, data, sizeof data, &have), -ENOSPC);
    assert_int_equal(have, 4);
    assert_content(g, 1, 0, "kept");
    assert_int_equal(segment_append(g, 1, 0, 4, "!", 1, &have), 0);
    assert_content(g, 1, 0, "kept!");
    segments_close(g);
    scratch_remove(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(offsets_decide),
        cmocka_unit_test(going_back_truncates),
        cmocka_unit_test(every_cut_is_told),
        cmocka_unit_test(a_job_is_removed_whole_and_alone),
        cmocka_unit_test(threads_do_not_disturb_each_other),
        cmocka_unit_test(a_kill_loses_nothing_that_was_acknowledged),
        cmocka_unit_test(a_full_disk_takes_nothing_and_loses_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
