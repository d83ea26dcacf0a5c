/* SPDX-License-Identifier: Apache-2.0
 *
 * Lines of JSON over a socket: torn and joined lines, bad ones, a full socket, the end.
 */
#include "agent/json_line.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void pair(struct json_line *a, int *ret_other)
{
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    json_line_init(a, fds[0]);
    *ret_other = fds[1];
}

static void test_torn_and_joined(void **state)
{
    struct json_line l;
    json_t *json = NULL;
    int other;

    pair(&l, &other);
    assert_int_equal(write(other, "{\"a\"", 4), 4);
    assert_int_equal(json_line_read(&l), 0);
    assert_int_equal(json_line_next(&l, &json), 0);
    assert_null(json);
    assert_int_equal(write(other, ":1}\nnonsense\n[]\n{}\n", 19), 19);
    close(other);
    assert_int_equal(json_line_read(&l), -EPIPE);
    assert_int_equal(json_line_next(&l, &json), 0);
    assert_int_equal(json_integer_value(json_object_get(json, "a")), 1);
    json_decref(json);
    assert_int_equal(json_line_next(&l, &json), -EINVAL);
    assert_int_equal(json_line_next(&l, &json), -EINVAL);
    assert_int_equal(json_line_next(&l, &json), 0);
    assert_non_null(json);
    json_decref(json);
    json_line_deinit(&l);
}

static void test_too_long(void **state)
{
    struct json_line l;
    char block[4096];
    int other, r = 0;

    pair(&l, &other);
    memset(block, '[', sizeof block);
    for (size_t i = 0; r == 0 && i < 2 * JSON_LINE_MAX / sizeof block; i++) {
        assert_int_equal(write(other, block, sizeof block), sizeof block);
        r = json_line_read(&l);
    }
    assert_int_equal(r, -EMSGSIZE);
    close(other);
    json_line_deinit(&l);
}

/* A peer that does not read holds nobody up, and gets everything when it does. */
static void test_full_socket(void **state)
{
    struct json_line l;
    json_t *json = json_pack("{s:s}", "text", "0123456789012345678901234567890123456789");
    char block[65536];
    size_t sent = 0, got = 0;
    int other;

    pair(&l, &other);
    while (!json_line_wants_write(&l)) {
        assert_int_equal(json_line_send(&l, json), 0);
        sent++;
    }
    while (got < sent) {
        ssize_t n = read(other, block, sizeof block);

        assert_true(n > 0);
        for (ssize_t i = 0; i < n; i++)
            got += block[i] == '\n';
        assert_int_equal(json_line_flush(&l), 0);
    }
    assert_false(json_line_wants_write(&l));
    close(other);
    assert_true(json_line_send(&l, json) < 0);
    json_decref(json);
    json_line_deinit(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_torn_and_joined),
        cmocka_unit_test(test_too_long),
        cmocka_unit_test(test_full_socket),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
