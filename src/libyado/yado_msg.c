/* SPDX-License-Identifier: Apache-2.0
 *
 * yado-msg: mail for shell scripts (docs/messages.md). Each call is a program of its own: a message
 * counts as read when it was written to standard output whole.
 */
#include "yado.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, FAILED = 1, USAGE = 2, NONE = 3, GONE = 4, READ_BYTES = 65536 };

static const char help[] =
    "usage: yado-msg rank | ranks\n"
    "       yado-msg send RANK [TEXT]       without a text: standard input\n"
    "       yado-msg broadcast [TEXT]       to all other ranks\n"
    "       yado-msg recv [--from RANK] [--timeout SECONDS] [--show-from]\n"
    "       yado-msg barrier                waits until all ranks are here\n"
    "       yado-msg put NAME [FILE]        without a file: standard input\n"
    "       yado-msg get NAME [FILE]        without a file: standard output\n"
    "\n"
    "Messages between the parts of a job. recv writes one message as it is; --show-from writes\n"
    "the sender's rank and a space before it.\n"
    "Exit status: 0; 1 it failed; 2 wrong usage; 3 recv: none came in time, get: no such blob;\n"
    "4 a rank is gone for good (its number is written).\n";

static int fail(const char *what, int error)
{
    if (error == -ENOENT && strcmp(what, "open") == 0)
        fprintf(stderr, "yado-msg: no mail here: this is no part of a job with mail, nor run by "
                        "`yado local`\n");
    else
        fprintf(stderr, "yado-msg: %s: %s\n", what, strerror(-error));
    return FAILED;
}

static int wrong(const char *what, const char *word)
{
    fprintf(stderr, "yado-msg: %s \"%s\"; see yado-msg --help\n", what, word);
    return USAGE;
}

/* All of a descriptor; the caller's to free. */
static int slurp(int fd, unsigned char **ret_data, size_t *ret_len)
{
    unsigned char *data = NULL, *more;
    size_t len = 0;
    ssize_t n;

    do {
        more = realloc(data, len + READ_BYTES);
        if (!more) {
            free(data);
            return -ENOMEM;
        }
        data = more;
        n = read(fd, data + len, READ_BYTES);
        len += n > 0 ? (size_t)n : 0;
    } while (n > 0 || (n < 0 && errno == EINTR));
    if (n < 0) {
        n = -errno;
        free(data);
        return (int)n;
    }
    *ret_data = data;
    *ret_len = len;
    return 0;
}

static int spill(int fd, const void *data, size_t len)
{
    const char *p = data;

    while (len) {
        ssize_t n = write(fd, p, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

/* The text, or standard input. */
static int body(char **words, unsigned char **ret_data, size_t *ret_len)
{
    if (!words[0])
        return slurp(STDIN_FILENO, ret_data, ret_len);
    *ret_len = strlen(words[0]);
    *ret_data = (unsigned char *)strdup(words[0]);
    return *ret_data ? 0 : -ENOMEM;
}

static bool number(const char *s, long max, long *ret)
{
    char *end;

    errno = 0;
    *ret = strtol(s, &end, 10);
    return *s >= '0' && *s <= '9' && !*end && !errno && *ret <= max;
}

static int cmd_send(struct yado *y, char **words)
{
    unsigned char *data = NULL;
    size_t len = 0;
    long to;
    int r;

    if (!words[0] || !number(words[0], INT_MAX, &to))
        return wrong("send: no rank", words[0] ? words[0] : "");
    r = body(words + 1, &data, &len);
    if (r == 0)
        r = yado_send(y, (unsigned)to, data, len);
    free(data);
    if (r == -EINVAL)
        return wrong("send: there is no rank", words[0]);
    return r ? fail("send", r) : OK;
}

static int cmd_broadcast(struct yado *y, char **words)
{
    unsigned char *data = NULL;
    size_t len = 0;
    int r = body(words, &data, &len);

    if (r == 0)
        r = yado_broadcast(y, data, len);
    free(data);
    return r ? fail("broadcast", r) : OK;
}

struct recv_options {
    int from, timeout_ms;
    bool show_from;
};

static int recv_options(char **words, struct recv_options *o)
{
    *o = (struct recv_options){YADO_ANY, -1, false};
    for (; *words; words++) {
        const char *value = words[1] ? words[1] : "";
        char *end;
        long n;

        if (strcmp(*words, "--show-from") == 0) {
            o->show_from = true;
            continue;
        }
        if (strcmp(*words, "--from") == 0 && number(value, INT_MAX, &n)) {
            o->from = (int)n;
        } else if (strcmp(*words, "--timeout") == 0 && *value) {
            double seconds = strtod(value, &end);

            if (*end || !(seconds >= 0 && seconds < INT_MAX / 1000))
                return wrong("recv: --timeout wants seconds, not", value);
            o->timeout_ms = (int)(seconds * 1000 + 0.999);
        } else {
            return wrong("recv: cannot make sense of", *words);
        }
        words++;
    }
    return OK;
}

static int cmd_recv(struct yado *y, char **words)
{
    struct recv_options o;
    struct yado_message m;
    int r = recv_options(words, &o);

    if (r)
        return r;
    r = yado_recv(y, o.from, o.timeout_ms, &m);
    if (r == -ETIMEDOUT)
        return NONE;
    if (r)
        return fail("recv", r);
    if (m.gone || o.show_from)
        printf(m.gone ? "%u\n" : "%u ", m.from);
    r = fflush(stdout) ? -errno : spill(STDOUT_FILENO, m.data, m.len);
    free(m.data);
    if (r)
        return fail("standard output", r);
    return m.gone ? GONE : OK;
}

static int cmd_barrier(struct yado *y)
{
    int r = yado_barrier(y);

    if (r == -EPIPE) {
        fprintf(stderr, "yado-msg: barrier: a rank is gone\n");
        return GONE;
    }
    return r ? fail("barrier", r) : OK;
}

static int cmd_put(struct yado *y, char **words)
{
    int fd = words[0] && words[1] ? open(words[1], O_RDONLY) : STDIN_FILENO, r;
    unsigned char *data = NULL;
    size_t len = 0;

    if (!words[0])
        return wrong("put: no name", "");
    if (fd < 0)
        return fail(words[1], -errno);
    r = slurp(fd, &data, &len);
    if (r == 0)
        r = yado_put(y, words[0], data, len);
    free(data);
    if (fd != STDIN_FILENO)
        close(fd);
    return r < 0 ? fail("put", r) : OK;
}

static int cmd_get(struct yado *y, char **words)
{
    unsigned char *data;
    size_t len = 0;
    int fd = STDOUT_FILENO, r;

    if (!words[0])
        return wrong("get: no name", "");
    r = yado_get(y, words[0], &data, &len);
    if (r == -ENOENT)
        return NONE;
    if (r)
        return fail("get", r);
    if (words[1])
        fd = open(words[1], O_WRONLY | O_CREAT | O_TRUNC, 0666);
    r = fd < 0 ? -errno : spill(fd, data, len);
    free(data);
    if (fd != STDOUT_FILENO && fd >= 0 && close(fd) < 0 && r == 0)
        r = -errno;
    return r ? fail(words[1] ? words[1] : "standard output", r) : OK;
}

static int run(struct yado *y, const char *command, char **words)
{
    if (strcmp(command, "rank") == 0)
        return printf("%u\n", yado_rank(y)) < 0 ? FAILED : OK;
    if (strcmp(command, "ranks") == 0)
        return printf("%u\n", yado_ranks(y)) < 0 ? FAILED : OK;
    if (strcmp(command, "send") == 0)
        return cmd_send(y, words);
    if (strcmp(command, "broadcast") == 0)
        return cmd_broadcast(y, words);
    if (strcmp(command, "recv") == 0)
        return cmd_recv(y, words);
    if (strcmp(command, "barrier") == 0)
        return cmd_barrier(y);
    if (strcmp(command, "put") == 0)
        return cmd_put(y, words);
    if (strcmp(command, "get") == 0)
        return cmd_get(y, words);
    return wrong("there is no command", command);
}

int main(int argc, char **argv)
{
    struct yado *y;
    int r;

    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        fputs(help, argc < 2 ? stderr : stdout);
        return argc < 2 ? USAGE : OK;
    }
    r = yado_open(&y);
    if (r)
        return fail("open", r);
    r = run(y, argv[1], argv + 2);
    yado_close(y);
    return r;
}
