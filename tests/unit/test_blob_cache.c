/* SPDX-License-Identifier: Apache-2.0
 *
 * The files of the blob cache: names that are none, sizes that changed, files that are on this PC
 * anyway, and what goes first when it is too large. Fetching and damage are tested with a server,
 * in tests/e2e/test_pager.py.
 */
#include "base/buf.h"
#include "base/cleanup.h"
#include "host/blob_cache.h"
#include "host/digest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64];

static int make_dir(void **state)
{
    strcpy(dir, "/tmp/yado-cache-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    struct dirent *e;
    DIR *d = opendir(dir);

    while (d && (e = readdir(d)))
        (void)unlinkat(dirfd(d), e->d_name, 0); /* "." and ".." stay */
    if (d)
        closedir(d);
    return rmdir(dir);
}

static const char *digest(char digit)
{
    static char text[65];

    memset(text, digit, 64);
    return text;
}

/* A blob of which `blocks` blocks are there, last used at `used`. */
static void add(char digit, uint64_t blocks, time_t used)
{
    const struct timespec times[2] = {{.tv_sec = used}, {.tv_sec = used}};
    AUTO_FREE char *have = xasprintf("%s/%s.have", dir, digest(digit));
    AUTO_FREE char *data = xcalloc(blocks, BLOB_BLOCK_BYTES);
    struct blob *b;
    struct err err;

    memset(data, digit, blocks * BLOB_BLOCK_BYTES);
    assert_int_equal(blob_open(dir, digest(digit), 10 * BLOB_BLOCK_BYTES, &b, &err), 0);
    assert_int_equal(pwrite(blob_fd(b), data, blocks * BLOB_BLOCK_BYTES, 0),
                     (ssize_t)(blocks * BLOB_BLOCK_BYTES));
    blob_close(b);
    assert_int_equal(utimensat(AT_FDCWD, have, times, 0), 0);
}

static bool is_there(char digit, const char *suffix)
{
    AUTO_FREE char *path = xasprintf("%s/%s.%s", dir, digest(digit), suffix);

    return access(path, F_OK) == 0;
}

static void test_names_and_sizes(void **state)
{
    struct blob *b = NULL;
    struct err err;
    struct stat st;

    assert_int_equal(blob_open(dir, "../../etc/passwd", 1, &b, &err), -EINVAL);
    assert_int_equal(blob_open(dir, digest('a'), UINT64_MAX, &b, &err), -EFBIG);
    assert_int_equal(blob_open("/nonexistent", digest('a'), 1, &b, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/nonexistent"));
    assert_int_equal(blob_open(dir, digest('a'), BLOB_BLOCK_BYTES + 1, &b, &err), 0);
    assert_int_equal(blob_count_blocks(b), 2);
    assert_int_equal(fstat(blob_fd(b), &st), 0);
    assert_int_equal(st.st_size, BLOB_BLOCK_BYTES + 1);
    assert_int_equal(st.st_blocks, 0);
    blob_close(b);
    assert_int_equal(blob_open(dir, digest('b'), 0, &b, &err), 0);
    assert_int_equal(blob_count_blocks(b), 0);
    blob_close(b);
}

static void test_longest_unused_goes_first(void **state)
{
    AUTO_FREE char *memory = xasprintf("%s/%s.mem", dir, digest('d'));
    const struct timespec old[2] = {{.tv_sec = 50}, {.tv_sec = 50}};
    AUTO_CLOSE int fd = -1;

    add('a', 4, 300);
    add('b', 4, 100);
    add('c', 4, 200);
    fd = open(memory, O_RDWR | O_CREAT, 0600);
    assert_int_equal(ftruncate(fd, 1 << 20), 0);
    assert_int_equal(flock(fd, LOCK_SH), 0); /* a VM uses it */
    assert_int_equal(futimens(fd, old), 0);
    assert_int_equal(blob_cache_trim(dir, 64 << 20), 0);
    assert_true(is_there('a', "have") && is_there('b', "have") && is_there('c', "have"));
    assert_int_equal(blob_cache_trim(dir, 9 * BLOB_BLOCK_BYTES), 0);
    assert_false(is_there('b', "have") || is_there('b', "data"));
    assert_true(is_there('a', "data") && is_there('c', "data"));
    assert_int_equal(blob_cache_trim(dir, 0), 0);
    assert_false(is_there('a', "have") || is_there('a', "data") || is_there('c', "have"));
    assert_true(is_there('d', "mem"));
    assert_int_equal(flock(fd, LOCK_UN), 0);
    add('a', 1, 300);
    assert_int_equal(blob_cache_trim(dir, 0), 0);
    assert_false(is_there('d', "mem") || is_there('a', "have"));
}

static void test_open_blobs_stay(void **state)
{
    struct blob *b;
    struct err err;

    add('a', 4, 100);
    assert_int_equal(blob_open(dir, digest('a'), 10 * BLOB_BLOCK_BYTES, &b, &err), 0);
    assert_int_equal(blob_cache_trim(dir, 0), 0);
    assert_true(is_there('a', "have") && is_there('a', "data"));
    blob_close(b);
    assert_int_equal(blob_cache_trim(dir, 0), 0);
    assert_false(is_there('a', "have") || is_there('a', "data"));
    assert_int_equal(blob_cache_trim("/nonexistent", 0), -ENOENT);
}

static void test_files_of_this_pc(void **state)
{
    enum { BYTES = 2 * BLOB_BLOCK_BYTES + 5 };
    AUTO_FREE char *path = xasprintf("%s/file", dir);
    AUTO_FREE char *data = xmalloc(BYTES), *got = xmalloc(BYTES);
    AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    char hex[DIGEST_HEX_BYTES];
    struct blob *b;
    struct err err;

    memset(data, 'x', BYTES);
    assert_int_equal(write(fd, data, BYTES), BYTES);
    digest_of(data, BYTES, hex);
    for (int times = 0; times < 2; times++) {
        assert_int_equal(blob_cache_add(dir, path, &err), 0);
        assert_int_equal(blob_open(dir, hex, BYTES, &b, &err), 0);
        for (uint64_t i = 0; i < 3; i++)
            assert_true(blob_has_block(b, i));
        assert_int_equal(pread(blob_fd(b), got, BYTES, 0), BYTES);
        assert_memory_equal(got, data, BYTES);
        blob_close(b);
    }
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(blob_cache_add(dir, path, &err), 0); /* nothing is a blob, too */
    assert_int_equal(blob_cache_add(dir, "/nonexistent", &err), -ENOENT);
    assert_non_null(strstr(err.text, "/nonexistent"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_names_and_sizes, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_longest_unused_goes_first, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_open_blobs_stay, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(test_files_of_this_pc, make_dir, remove_dir),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
