/* SPDX-License-Identifier: Apache-2.0
 *
 * Traces of owners: what is taken, and what is wrong with those that are not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "sim/owners.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int read_text(const char *text, size_t len, struct owners_trace *t, struct err *e)
{
    char path[] = "/tmp/yado-trace-XXXXXX";
    int fd = mkstemp(path), r;

    assert_true(fd >= 0 && write(fd, text, len) == (ssize_t)len);
    close(fd);
    r = owners_trace_read(path, t, e);
    unlink(path);
    return r;
}

static void refused(const char *text, const char *says)
{
    struct owners_trace t;
    struct err e = {""};

    if (read_text(text, strlen(text), &t, &e) != -EINVAL || !strstr(e.text, says))
        fail_msg("%.60s: \"%s\" is not in \"%s\"", text, says, e.text);
}

static void test_taken(void **state)
{
    static const char text[] = "pc,start,end\n# office\n2,10,20.5\n0,1,2\n2,30,40\n\n2,1000000,2e6";
    struct owners_config c = {.kind = OWNERS_TRACE};
    struct owners_trace t;
    struct owner o;
    struct err e;

    assert_int_equal(read_text(text, strlen(text), &t, &e), 0);
    assert_true(t.count == 4 && t.count_pcs == 3); /* PC 1 has none: its owner never comes */
    c.trace = &t;
    owner_init(&o, &c, 1, 2);
    assert_int_equal(owner_next(&o, &c, 2), 10000);
    assert_int_equal(owner_next(&o, &c, 2), 20500);
    assert_int_equal(owner_next(&o, &c, 2), 30000); /* a gap is time without him */
    owner_init(&o, &c, 1, 1);
    assert_true(owner_next(&o, &c, 1) == UINT64_MAX);
    owner_init(&o, &c, 1, 99);
    assert_true(owner_next(&o, &c, 99) == UINT64_MAX);
    owners_trace_deinit(&t);
}

static void test_refused(void **state)
{
    char line[2000];

    refused("", "no intervals");
    refused("pc,start,end\n", "no intervals");
    refused("0,1,2\n0,nan,5\n", ":2: a line is pc,start,end");
    refused("0,1,inf\n", ":1: a line is");
    refused("0,-1,5\n", ":1: a line is");
    refused("-1,1,5\n", ":1: a line is");
    refused("0,1\n", ":1: a line is");
    refused("0,1,2,3\n", ":1: a line is");
    refused("0,1e300,2\n", ":1: a line is");
    refused("99999999999999999999,1,2\n", ":1: a line is");
    refused("0,5,5\n", ":1: the interval ends before it starts");
    refused("0,5,4\n", ":1: the interval ends before it starts");
    refused("0,10,20\n1,1,2\n0,15,30\n",
            ":3: an interval of PC 0 starts at 15.000 s, before the one above it");
    refused("# pc,start,end\n\n0,10,20\n0,1,2\n",
            ":4: an interval of PC 0 starts at 1.000 s, before the one above it");
    memset(line, '1', sizeof line - 1);
    line[sizeof line - 1] = '\0';
    refused(line, ":1: a line is");
    assert_int_equal(owners_trace_read("/no/such", &(struct owners_trace){0}, &(struct err){""}),
                     -ENOENT);
}

/* It is read as far as there may be lines, in bounded memory. */
static void test_without_an_end(void **state)
{
    struct owners_trace t;
    struct err e = {""};
    char path[32], lines[64 * 1024 / 6 * 6];
    int ends[2];
    pid_t child;

    for (size_t i = 0; i < sizeof lines; i += 6)
        memcpy(lines + i, "0,1,2\n", 6);
    assert_int_equal(pipe(ends), 0);
    child = fork();
    if (child == 0) {
        close(ends[0]);
        while (write(ends[1], lines, sizeof lines) > 0) /* SIGPIPE ends it */
            ;
        _exit(0);
    }
    close(ends[1]);
    snprintf(path, sizeof path, "/dev/fd/%d", ends[0]);
    assert_int_equal(owners_trace_read(path, &t, &e), -EINVAL);
    assert_non_null(strstr(e.text, "more than 10000000 lines"));
    close(ends[0]);
    assert_int_equal(waitpid(child, NULL, 0), child);
}

static void test_what_is_not_text(void **state)
{
    struct owners_trace t;
    struct err e = {""};

    assert_int_equal(read_text("0,1,2\n\0\xff\x01\n", 10, &t, &e), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_taken),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_without_an_end),
        cmocka_unit_test(test_what_is_not_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
