/* SPDX-License-Identifier: Apache-2.0
 *
 * The PC's loopback closed to a control group: what a process in it can reach, by TCP and UDP,
 * by version 4, version 6 and version 4 in version 6. Needs root and control groups of version 2.
 */
#include "host/loopback.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* 0 or -errno of reaching port of an address: 1 is a port where nobody listens. */
static int reach(const char *address, uint16_t port, int type)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    bool is_v4 = inet_pton(AF_INET, address, &v4.sin_addr) == 1;
    const struct sockaddr *to = is_v4 ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6;
    socklen_t len = is_v4 ? sizeof v4 : sizeof v6;
    int s = socket(is_v4 ? AF_INET : AF_INET6, type | SOCK_CLOEXEC, 0), r = 0;

    if (s < 0 || (!is_v4 && inet_pton(AF_INET6, address, &v6.sin6_addr) != 1))
        return -EAFNOSUPPORT;
    if (type == SOCK_STREAM ? connect(s, to, len) < 0 : sendto(s, "x", 1, 0, to, len) < 0)
        r = -errno;
    close(s);
    return r;
}

static int count_wrong(const char *const *addresses, uint16_t port, bool is_closed)
{
    int wrong = 0;

    for (; *addresses; addresses++) {
        int tcp = reach(*addresses, port, SOCK_STREAM), udp = reach(*addresses, port, SOCK_DGRAM);

        if ((tcp == -EPERM) != is_closed || (udp == -EPERM) != is_closed) {
            fprintf(stderr, "%s port %d: tcp %s, udp %s\n", *addresses, port, strerror(-tcp),
                    strerror(-udp));
            wrong++;
        }
    }
    return wrong;
}

/* In the group; the status of the child is how many were wrong. */
static int try_all(void)
{
    static const char *const loopback[] = {"127.0.0.1",        "127.3.2.1",      "0.0.0.0", "::1",
                                           "::ffff:127.0.0.1", "::ffff:0.0.0.0", "::",      NULL};
    /* No route, or not without asking: refused too, but not by us. */
    static const char *const others[] = {"255.255.255.255", "::2", "::1:0:0:1", NULL};

    return count_wrong(loopback, 1, true) + count_wrong(loopback, 53, false) +
           count_wrong(others, 1, false);
}

static const char *find_tree(void)
{
    static const char *const trees[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
    char path[64];

    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/cgroup.controllers", trees[i]);
        if (access(path, F_OK) == 0)
            return trees[i];
    }
    return NULL;
}

static void test_closed(void **state)
{
    const char *tree = find_tree();
    char group[128], inner[160], procs[200];
    int status = 0;

    if (geteuid() != 0 || !tree) {
        print_message("needs root and control groups of version 2\n");
        skip();
    }
    snprintf(group, sizeof group, "%s/yado-test-%d", tree, (int)getpid());
    snprintf(inner, sizeof inner, "%s/vm", group);
    snprintf(procs, sizeof procs, "%s/cgroup.procs", inner);
    assert_int_equal(mkdir(group, 0755), 0);
    int r = loopback_close(group);
    if (r == 0)
        r = loopback_close(group); /* an agent that was started again */
    mkdir(inner, 0755);            /* made later */
    pid_t pid = fork();
    if (pid == 0) {
        FILE *f = fopen(procs, "w");
        _exit(!f || fputs("0", f) < 0 || fclose(f) ? 100 : try_all());
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    rmdir(inner);
    rmdir(group);
    assert_int_equal(r, 0);
    assert_int_equal(status, 0);
    assert_int_not_equal(reach("127.0.0.1", 1, SOCK_STREAM), -EPERM); /* we are not in it */
}

static void test_no_group(void **state)
{
    assert_int_equal(loopback_close("/nowhere"), -ENOENT);
    assert_true(loopback_close("/tmp") < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_closed),
                                       cmocka_unit_test(test_no_group)};

    return cmocka_run_group_tests_name("loopback", tests, NULL, NULL);
}
