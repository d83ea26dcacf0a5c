/* SPDX-License-Identifier: Apache-2.0
 *
 * SHA-256 against the vectors of FIPS 180-2, whole, in pieces and of a file.
 */
#include "host/digest.h"
#include "base/cleanup.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>
#include <sys/mman.h>

#define ABC "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
#define EMPTY "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define MILLION_A "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"

static void test_vectors(void **state)
{
    char hex[DIGEST_HEX_BYTES], block[1000];
    struct digest *d = digest_new();

    digest_of("abc", 3, hex);
    assert_string_equal(hex, ABC);
    digest_of(NULL, 0, hex);
    assert_string_equal(hex, EMPTY);
    memset(block, 'a', sizeof block);
    for (int i = 0; i < 1000; i++)
        digest_update(d, block, sizeof block);
    digest_end(d, hex);
    assert_string_equal(hex, MILLION_A);
}

static void test_file(void **state)
{
    AUTO_CLOSE int fd = memfd_create("digest", MFD_CLOEXEC);
    char hex[DIGEST_HEX_BYTES];
    uint64_t size = 0;

    assert_int_equal(write(fd, "abc", 3), 3);
    assert_int_equal(digest_of_fd(fd, hex, &size), 0);
    assert_string_equal(hex, ABC);
    assert_int_equal(size, 3);
    assert_true(digest_of_fd(-1, hex, NULL) < 0);
}

static void test_names(void **state)
{
    assert_true(digest_is_valid(ABC));
    assert_false(digest_is_valid(""));
    assert_false(
        digest_is_valid("BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD"));
    assert_false(
        digest_is_valid("../../../../../../../../../../../../../../../../../../etc/passwd"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
