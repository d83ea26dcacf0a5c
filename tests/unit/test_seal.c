/* SPDX-License-Identifier: Apache-2.0
 *
 * Sealed bytes: the keystream, any range alone, and what is no key.
 */
#include "base/str.h"
#include "host/seal.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define KEY "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"

/* As docs/formats/layer.md says it: the keystream is AES-256 of nonce and block number. */
static void test_the_keystream(void **state)
{
    static const uint8_t nonce[] = {0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7};
    uint8_t block[AES_BLOCK_SIZE] = {0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7,
                                     0,    0,    0,    0,    1,    2,    3,    4};
    uint8_t data[AES_BLOCK_SIZE] = {0}, key[SEAL_KEY_BYTES];
    struct aes256_ctx aes;
    struct seal s;

    assert_int_equal(seal_init(&s, KEY, nonce), 0);
    seal_apply(&s, 0x01020304ull * 16, data, sizeof data);
    assert_int_equal(str_unhex(KEY, key, sizeof key), 0);
    aes256_set_encrypt_key(&aes, key);
    aes256_encrypt(&aes, sizeof block, block, block);
    assert_memory_equal(data, block, sizeof block);
}

static void test_any_range(void **state)
{
    enum { BYTES = 300 };
    static const uint8_t nonce[SEAL_NONCE_BYTES] = {1, 2, 3};
    uint8_t plain[BYTES], sealed[BYTES], part[BYTES];
    struct seal s;

    for (size_t i = 0; i < BYTES; i++)
        plain[i] = (uint8_t)(i * 7);
    memcpy(sealed, plain, BYTES);
    assert_int_equal(seal_init(&s, KEY, nonce), 0);
    seal_apply(&s, 4096, sealed, BYTES);
    assert_memory_not_equal(sealed, plain, BYTES);
    for (size_t from = 0; from < 40; from++)
        for (size_t len = 0; len < 40; len++) {
            memcpy(part, sealed + from, len);
            seal_apply(&s, 4096 + from, part, len);
            assert_memory_equal(part, plain + from, len);
        }
}

static void test_keys(void **state)
{
    static const uint8_t nonce[SEAL_NONCE_BYTES];
    uint8_t data[4] = "abc";
    struct seal s;

    assert_int_equal(seal_init(&s, "", nonce), 0);
    seal_apply(&s, 3, data, sizeof data);
    assert_string_equal(data, "abc");
    assert_int_equal(seal_init(&s, NULL, nonce), 0);
    assert_false(s.on);
    assert_int_equal(seal_init(&s, "60", nonce), -EINVAL);
    assert_int_equal(seal_init(&s, KEY "00", nonce), -EINVAL);
    assert_false(s.on);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_keystream),
        cmocka_unit_test(test_any_range),
        cmocka_unit_test(test_keys),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
