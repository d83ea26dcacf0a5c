/* SPDX-License-Identifier: Apache-2.0
 *
 * Tests of the depot: what was put comes back, what was not whole never does, also after kill -9
 * and on a full disk.
 */
#include "base/buf.h"
#include "base/rng.h"
#include "depot/depot.h"
#include "scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <xxhash.h>

#include <cmocka.h>

static struct buf bytes_of(uint64_t seed, size_t len)
{
    struct rng r = rng_seed(seed);
    struct buf b = {0};
    uint8_t *p = buf_extend(&b, len);

    for (size_t i = 0; i < len; i++)
        p[i] = (uint8_t)rng_u64(&r);
    return b;
}

static void sha(const struct buf *b, uint8_t digest[32])
{
    assert_int_equal(gnutls_hash_fast(GNUTLS_DIG_SHA256, b->data, b->len, digest), 0);
}

static struct depot *open_depot(const struct scratch *s)
{
    struct depot *d;
    struct err err = {0};

    if (depot_open(s->path, &d, &err))
        fail_msg("%s", err.text);
    return d;
}

static int put(struct depot *d, const struct buf *b, const uint8_t *expected, size_t step)
{
    struct depot_put *p;
    int r = depot_put_begin(d, &p);

    if (r)
        return r;
    for (size_t at = 0; at < b->len; at += step) {
        r = depot_put_write(p, b->data + at, b->len - at < step ? b->len - at : step);
        if (r) {
            depot_put_abort(p);
            return r;
        }
    }
    return depot_put_commit(p, expected, NULL, NULL);
}

static struct buf read_fd(int fd, uint64_t size)
{
    struct buf b = {0};

    assert_int_equal(pread(fd, buf_extend(&b, size), size, 0), size);
    close(fd);
    return b;
}

static void assert_stored(struct depot *d, const struct buf *b)
{
    uint8_t digest[32];
    uint64_t size;
    struct buf got;
    int fd;

    sha(b, digest);
    assert_int_equal(depot_get(d, digest, &fd, &size), 0);
    assert_int_equal(size, b->len);
    got = read_fd(fd, size);
    if (size)
        assert_memory_equal(got.data, b->data, size);
    buf_deinit(&got);
    assert_int_equal(depot_get_blocks(d, digest, &fd, &size), 0);
    assert_int_equal(size, (b->len + DEPOT_BLOCK_BYTES - 1) / DEPOT_BLOCK_BYTES * 16);
    got = read_fd(fd, size);
    for (size_t i = 0; i * DEPOT_BLOCK_BYTES < b->len; i++) {
        size_t at = i * DEPOT_BLOCK_BYTES, n = b->len - at;
        XXH128_canonical_t sum;

        XXH128_canonicalFromHash(
            &sum, XXH3_128bits(b->data + at, n < DEPOT_BLOCK_BYTES ? n : DEPOT_BLOCK_BYTES));
        assert_memory_equal(got.data + i * 16, sum.digest, 16);
    }
    buf_deinit(&got);
}

static int count_one(void *arg, const uint8_t *digest, uint64_t size)
{
    (void)digest;
    *(uint64_t *)arg += 1 + (size > UINT32_MAX);
    return 0;
}

static uint64_t count(struct depot *d)
{
    uint64_t n = 0;

    assert_int_equal(depot_each(d, count_one, &n), 0);
    return n;
}

static int count_tmp(const struct scratch *s)
{
    char cmd[256];
    FILE *f;
    int n = -1;

    snprintf(cmd, sizeof cmd, "ls %s/tmp | wc -l", s->path);
    f = popen(cmd, "r");
    assert_int_equal(fscanf(f, "%d", &n), 1);
    pclose(f);
    return n;
}

static void what_is_put_comes_back(void **state)
{
    static const size_t sizes[] = {0, 1, 4096, 262143, 262144, 262145, 1000000};
    struct scratch s = scratch_new();
    struct depot *d = open_depot(&s);

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct buf b = bytes_of(i, sizes[i]);
        uint8_t digest[32];

        sha(&b, digest);
        assert_int_equal(put(d, &b, digest, 70001), 0);
        assert_stored(d, &b);
        assert_int_equal(put(d, &b, digest, 1 << 20), 0); /* again: nothing changes */
        assert_int_equal(count(d), i + 1);
        buf_deinit(&b);
    }
    assert_int_equal(count_tmp(&s), 0);
    depot_close(d);
    scratch_remove(&s);
}

static void a_file_is_put_whole(void **state)
{
    struct scratch s = scratch_new();
    struct depot *d = open_depot(&s);
    struct buf b = bytes_of(9, 700000);
    uint8_t digest[32], want[32];
    uint64_t size;
    FILE *f = tmpfile();

    assert_int_equal(fwrite(b.data, 1, b.len, f), b.len);
    fflush(f); /* and the position is at its end: the whole file is meant all the same */
    assert_int_equal(depot_put_file(d, fileno(f), digest, &size), 0);
    assert_int_equal(size, b.len);
    sha(&b, want);
    assert_memory_equal(digest, want, 32);
    assert_stored(d, &b);
    fclose(f);
    buf_deinit(&b);
    depot_close(d);
    scratch_remove(&s);
}

static void wrong_digests_and_aborts_leave_nothing(void **state)
{
    struct scratch s = scratch_new();
    struct depot *d = open_depot(&s);
    struct buf b = bytes_of(1, 300000);
    uint8_t digest[32], got[32];
    struct depot_put *p;
    uint64_t size;
    int fd;

    sha(&b, digest);
    digest[5] ^= 1;
    assert_int_equal(put(d, &b, digest, 100000), DEPOT_MISMATCH);
    assert_int_equal(depot_get(d, digest, &fd, &size), -ENOENT);
    digest[5] ^= 1;
    assert_int_equal(depot_get(d, digest, &fd, &size), -ENOENT);
    assert_int_equal(depot_put_begin(d, &p), 0);
    assert_int_equal(depot_put_write(p, b.data, b.len), 0);
    depot_put_abort(p);
    assert_int_equal(count(d), 0);
    assert_int_equal(count_tmp(&s), 0);
    assert_int_equal(depot_put_begin(d, &p), 0);
    assert_int_equal(depot_put_write(p, b.data, b.len), 0);
    assert_int_equal(depot_put_commit(p, NULL, got, &size), 0);
    assert_memory_equal(got, digest, 32);
    assert_int_equal(depot_remove(d, digest), 0);
    assert_int_equal(depot_remove(d, digest), 0);
    assert_int_equal(depot_stat(d, digest, &size), -ENOENT);
    assert_int_equal(depot_touch(d, digest, &size), -ENOENT);
    assert_int_equal(depot_get_blocks(d, digest, &fd, &size), -ENOENT);
    buf_deinit(&b);
    depot_close(d);
    scratch_remove(&s);
}

/* Makes a blob look as if it had been put that long ago. */
static void age(const struct scratch *s, const uint8_t digest[32], int seconds)
{
    char hex[65], path[256];
    struct timespec t[2];

    str_hex(digest, 32, hex);
    snprintf(path, sizeof path, "%s/%.2s/%s", s->path, hex, hex);
    clock_gettime(CLOCK_REALTIME, &t[0]);
    t[0].tv_sec -= seconds;
    t[1] = t[0];
    assert_int_equal(utimensat(AT_FDCWD, path, t, 0), 0);
}

static int is_wanted(void *arg, const uint8_t *digest)
{
    return memcmp(arg, digest, 32) == 0;
}

static int cannot_say(void *arg, const uint8_t *digest)
{
    return -EIO;
}

/* In the blob or in its block list, in the first block or the last. */
static void a_flipped_bit_is_found(void **state)
{
    static const struct {
        const char *suffix;
        off_t at;
    } flips[] = {{"", 0}, {"", DEPOT_BLOCK_BYTES + 5}, {".blocks", 3}, {".blocks", 20}};
    struct scratch s = scratch_new();
    struct depot *d = open_depot(&s);
    struct buf b = bytes_of(5, DEPOT_BLOCK_BYTES + 77);
    uint8_t digest[DEPOT_DIGEST_BYTES], byte;
    char hex[65], path[300];
    uint64_t size;

    sha(&b, digest);
    str_hex(digest, sizeof digest, hex);
    assert_int_equal(depot_verify(d, digest, &size), -ENOENT);
    assert_int_equal(put(d, &b, digest, 1000), 0);
    for (size_t i = 0; i < sizeof flips / sizeof *flips; i++) {
        snprintf(path, sizeof path, "%s/%.2s/%s%s", s.path, hex, hex, flips[i].suffix);
        for (int again = 0; again < 2; again++) { /* there and back */
            int fd = open(path, O_RDWR);

            assert_int_equal(depot_verify(d, digest, &size), again ? DEPOT_MISMATCH : 0);
            assert_int_equal(size, b.len);
            assert_int_equal(pread(fd, &byte, 1, flips[i].at), 1);
            byte ^= 16;
            assert_int_equal(pwrite(fd, &byte, 1, flips[i].at), 1);
            close(fd);
        }
    }
    assert_int_equal(unlink(path), 0);
    assert_int_equal(depot_verify(d, digest, &size), DEPOT_MISMATCH);
    buf_deinit(&b);
    depot_close(d);
    scratch_remove(&s);
}

static void the_sweep_takes_old_blobs_that_nobody_wants(void **state)
{
    struct scratch s = scratch_new();
    struct depot *d = open_depot(&s);
    struct depot_swept swept;
    uint8_t digest[4][32];
    struct buf open_before;
    uint64_t size;
    int fd;

    for (uint64_t i = 0; i < 4; i++) {
        struct buf b = bytes_of(i, 1000);

        sha(&b, digest[i]);
        assert_int_equal(put(d, &b, digest[i], 1000), 0);
        if (i)
            age(&s, digest[i], 7200); /* 0 is young */
        buf_deinit(&b);
    }
    assert_int_equal(depot_touch(d, digest[1], &size), 0); /* 1 was just spoken of */
    assert_int_equal(size, 1000);
    assert_int_equal(depot_sweep(d, 3600000, cannot_say, NULL, &swept), -EIO);
    assert_int_equal(count(d), 4);
    assert_int_equal(depot_get(d, digest[3], &fd, &size), 0);
    assert_int_equal(depot_sweep(d, 3600000, is_wanted, digest[2], &swept), 0);
    assert_int_equal(swept.kept, 3);
    assert_int_equal(swept.removed, 1);
    assert_int_equal(swept.removed_bytes, 1000);
    assert_int_equal(depot_stat(d, digest[3], &size), -ENOENT);
    open_before = read_fd(fd, 1000); /* asserts that all is still readable */
    buf_deinit(&open_before);
    for (int i = 0; i < 3; i++)
        assert_int_equal(depot_stat(d, digest[i], &size), 0);
    depot_close(d);
    scratch_remove(&s);
}

static void a_full_disk_is_told_and_stores_nothing(void **state)
{
    struct scratch s = scratch_new();
    struct buf b = bytes_of(3, 3 << 20), small = bytes_of(4, 10000);
    struct depot *d;

    if (!scratch_small(&s, "2m")) {
        scratch_remove(&s);
        skip();
    }
    d = open_depot(&s);
    assert_int_equal(put(d, &b, NULL, 65536), -ENOSPC);
    assert_int_equal(count(d), 0);
    assert_int_equal(count_tmp(&s), 0);
    assert_int_equal(put(d, &small, NULL, 65536), 0);
    assert_stored(d, &small);
    depot_close(d);
    scratch_remove(&s);
    buf_deinit(&b);
    buf_deinit(&small);
}

static void put_for_ever(const struct scratch *s, int out)
{
    struct depot *d = open_depot(s);

    for (uint64_t i = 0;; i++) {
        struct buf b = bytes_of(i, 1 + (i * 7919) % 600000);

        if (put(d, &b, NULL, 50000) || write(out, &i, sizeof i) != sizeof i)
            _exit(1);
        buf_deinit(&b);
    }
}

static void a_kill_loses_nothing_that_was_committed(void **state)
{
    struct rng r = rng_seed(20261123);

    for (int round = 0; round < 8; round++) {
        struct scratch s = scratch_new();
        uint64_t i, acknowledged = 0, found;
        struct depot *d;
        int p[2];
        pid_t pid;

        assert_int_equal(pipe(p), 0);
        pid = fork();
        if (pid == 0)
            put_for_ever(&s, p[1]);
        close(p[1]);
        while (acknowledged < 1 + rng_below(&r, 12) && read(p[0], &i, sizeof i) == sizeof i)
            acknowledged = i + 1;
        usleep((useconds_t)rng_below(&r, 8000)); /* anywhere within the next put */
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        while (read(p[0], &i, sizeof i) == sizeof i)
            acknowledged = i + 1;
        close(p[0]);
        d = open_depot(&s);
        assert_int_equal(count_tmp(&s), 0);
        for (i = 0; i < acknowledged; i++) {
            struct buf b = bytes_of(i, 1 + (i * 7919) % 600000);

            assert_stored(d, &b);
            buf_deinit(&b);
        }
        found = count(d);
        assert_in_range(found, acknowledged, acknowledged + 1);
        if (found > acknowledged) { /* renamed, not yet acknowledged: whole all the same */
            struct buf b = bytes_of(acknowledged, 1 + (acknowledged * 7919) % 600000);

            assert_stored(d, &b);
            buf_deinit(&b);
        }
        depot_close(d);
        scratch_remove(&s);
    }
}

static void *put_twenty(void *arg)
{
    for (uint64_t i = 0; i < 20; i++) {
        struct buf b = bytes_of(i, 5000);

        if (put(arg, &b, NULL, 5000))
            abort();
        buf_deinit(&b);
    }
    return NULL;
}

static void many_threads_put_the_same(void **state)
{
    struct scratch s = scratch_new();
    struct depot *d = open_depot(&s);
    pthread_t t[4];

    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, put_twenty, d), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(count(d), 20);
    assert_int_equal(count_tmp(&s), 0);
    depot_close(d);
    scratch_remove(&s);
}

static void an_unusable_folder_is_named(void **state)
{
    struct depot *d;
    struct err err = {0};

    assert_int_equal(depot_open("/proc/no/such", &d, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/proc/no/such"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_put_comes_back),
        cmocka_unit_test(a_file_is_put_whole),
        cmocka_unit_test(wrong_digests_and_aborts_leave_nothing),
        cmocka_unit_test(a_flipped_bit_is_found),
        cmocka_unit_test(the_sweep_takes_old_blobs_that_nobody_wants),
        cmocka_unit_test(a_full_disk_is_told_and_stores_nothing),
        cmocka_unit_test(a_kill_loses_nothing_that_was_committed),
        cmocka_unit_test(many_threads_put_the_same),
        cmocka_unit_test(an_unusable_folder_is_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
