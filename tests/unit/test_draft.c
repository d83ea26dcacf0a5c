/* SPDX-License-Identifier: Apache-2.0
 *
 * A file that is read while it is written: all of it comes, in order and unsealed, also when it is
 * renamed meanwhile; and who waits for it is let go when it comes to nothing.
 */
#include "agent/draft.h"
#include "scratch.h"

#include "base/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>

enum { PIECE = 10007, PIECES = 50 };

static const char digest[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

static uint8_t byte_at(uint64_t offset)
{
    return (uint8_t)(offset * 131 >> 3);
}

struct reader {
    struct draft *draft;
    uint64_t bytes;
    ssize_t end;
    bool right;
};

static void *read_all(void *arg)
{
    struct reader *r = arg;
    uint8_t data[PIECE / 3];

    r->right = true;
    while ((r->end = draft_read(r->draft, r->bytes, data, sizeof data)) > 0)
        for (ssize_t i = 0; i < r->end; i++, r->bytes++)
            r->right = r->right && data[i] == byte_at(r->bytes);
    return NULL;
}

/* Writes so many pieces; the file has its last name half way. */
static void write_pieces(struct draft *d, const struct seal *seal, const char *folder)
{
    char *path = xasprintf("%s/draft", folder), *name = xasprintf("%s/name", folder);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    uint8_t data[PIECE];
    uint64_t at = 0;

    assert_true(fd >= 0);
    draft_begin(d, path, seal);
    for (int i = 0; i < PIECES; i++) {
        for (size_t k = 0; k < PIECE; k++)
            data[k] = byte_at(at + k);
        seal_apply(seal, at, data, sizeof data);
        assert_int_equal(write(fd, data, sizeof data), sizeof data);
        at += PIECE;
        draft_written(d, at);
        if (i == PIECES / 2)
            assert_int_equal(rename(path, name), 0);
        usleep(200);
    }
    close(fd);
    free(path);
    free(name);
}

static void run(const char *key, const char *end, bool abandon, struct reader *r)
{
    const uint8_t nonce[SEAL_NONCE_BYTES] = {1, 2, 3};
    struct scratch folder = scratch_new();
    struct seal seal;
    pthread_t thread;

    assert_int_equal(seal_init(&seal, key, nonce), 0);
    *r = (struct reader){.draft = draft_new()};
    assert_int_equal(pthread_create(&thread, NULL, read_all, r), 0);
    write_pieces(r->draft, &seal, folder.path);
    if (abandon)
        draft_abandon(r->draft);
    else
        draft_end(r->draft, end);
    pthread_join(thread, NULL);
    if (abandon)
        draft_end(r->draft, end);
    if (end && !abandon)
        assert_string_equal(draft_digest(r->draft), end);
    draft_unref(r->draft);
    assert_true(r->right);
    scratch_remove(&folder);
}

static void test_all_of_it_comes(void **state)
{
    struct reader r;

    run("", digest, false, &r);
    assert_int_equal(r.end, 0);
    assert_int_equal(r.bytes, PIECES * PIECE);
    run(digest, digest, false, &r);
    assert_int_equal(r.end, 0);
    assert_int_equal(r.bytes, PIECES * PIECE);
}

static void test_it_comes_to_nothing(void **state)
{
    struct reader r;

    run("", NULL, false, &r);
    assert_int_equal(r.end, -ECANCELED);
    run("", digest, true, &r);
    assert_int_equal(r.end, -ECANCELED);
}

/* Its writer never began, or cannot be followed. */
static void test_there_is_no_file(void **state)
{
    const uint8_t nonce[SEAL_NONCE_BYTES] = {0};
    struct draft *d = draft_new();
    struct seal seal;
    uint8_t byte;

    draft_end(d, NULL);
    assert_int_equal(draft_read(d, 0, &byte, 1), -ECANCELED);
    draft_unref(d);

    assert_int_equal(seal_init(&seal, NULL, nonce), 0);
    d = draft_new();
    draft_begin(d, "/nowhere/at/all", &seal);
    draft_written(d, 1);
    assert_int_equal(draft_read(d, 0, &byte, 1), -ENOENT);
    draft_end(d, digest);
    draft_unref(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_of_it_comes),
        cmocka_unit_test(test_it_comes_to_nothing),
        cmocka_unit_test(test_there_is_no_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
