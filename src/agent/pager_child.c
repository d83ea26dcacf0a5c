/* SPDX-License-Identifier: Apache-2.0
 *
 * The pager as its parent sees it; see pager_child.h.
 */
#include "agent/pager_child.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static int spawn(const char *title, int input, int output, pid_t *ret_pid)
{
    char *argv[] = {(char *)"yado", (char *)"pager", (char *)title, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none;
    int r;

    sigemptyset(&none);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, input, 0);
    posix_spawn_file_actions_adddup2(&actions, output, 1);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setsigmask(&attr, &none);
    r = posix_spawn(ret_pid, "/proc/self/exe", &actions, &attr, argv, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    return -r;
}

static int send_config(int fd, json_t *config)
{
    AUTO_FREE char *text = json_dumps(config, JSON_COMPACT);
    AUTO_BUF struct buf line = {0};
    size_t sent = 0;

    if (!text)
        return -EINVAL;
    buf_put_str(&line, text);
    buf_put_u8(&line, '\n');
    while (sent < line.len) {
        ssize_t n = send(fd, line.data + sent, line.len - sent, MSG_NOSIGNAL);

        if (n < 0 && errno != EINTR)
            return -errno;
        sent += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

int pager_child_spawn(const char *title, struct pager_child *ret, struct err *ret_err)
{
    struct pager_child p = PAGER_CHILD_NONE;
    AUTO_CLOSE int their_input = -1;
    AUTO_CLOSE int their_output = -1;
    int in[2], out[2], r;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, in) == 0) {
        p.input = in[0];
        their_input = in[1];
    }
    if (pipe2(out, O_CLOEXEC) == 0) {
        p.output = out[0];
        their_output = out[1];
    }
    r = their_input < 0 || their_output < 0 ? -errno
                                            : spawn(title, their_input, their_output, &p.pid);
    if (r) {
        pager_child_end(&p);
        return err_set(ret_err, r, "cannot start the pager: %s", strerror(-r));
    }
    *ret = p;
    return 0;
}

int pager_child_start(const char *dir, json_t *config, struct pager_child *p, struct err *ret_err)
{
    AUTO_FREE char *mount = xasprintf("%s/mnt", dir);
    AUTO_FREE char *log = xasprintf("%s/pager.log", dir);
    int r = 0;

    if (mkdir(mount, 0711) && errno != EEXIST)
        r = err_set(ret_err, -errno, "cannot make %s: %s", mount, strerror(errno));
    json_object_set_new(config, "mount", json_string(mount));
    json_object_set_new(config, "log", json_string(log));
    if (r == 0 && (!p->pid || send_config(p->input, config))) {
        if (p->pid)
            pager_child_end(p); /* it has died since it was started */
        /* The folder is on its command line so that people and the agent see whose it is. */
        r = pager_child_spawn(mount, p, ret_err);
        if (r == 0 && (r = send_config(p->input, config)))
            err_format(ret_err, "cannot tell the pager what to do: %s", strerror(-r));
    }
    if (r)
        pager_child_end(p);
    else
        p->mount = TAKE_PTR(mount);
    return r;
}

int pager_child_wait_ready(struct pager_child *p, int timeout_ms, struct err *ret_err)
{
    struct pollfd fd = {.fd = p->output, .events = POLLIN};
    char word[6];

    if (poll(&fd, 1, timeout_ms) != 1)
        return err_set(ret_err, -ETIMEDOUT, "the pager does not get ready");
    if (read(p->output, word, sizeof word) != sizeof word || memcmp(word, "ready\n", 6) != 0)
        return err_set(ret_err, -EIO, "the pager ended before its mount was there: see pager.log");
    return 0;
}

bool pager_child_ended(const struct pager_child *p)
{
    siginfo_t info = {0};

    return waitid(P_PID, (id_t)p->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid;
}

void pager_child_ask_why(struct pager_child *p)
{
    char text[128]; /* perhaps with a "ready" that nobody waited for */
    ssize_t n = read(p->output, text, sizeof text - 1);
    const char *line;

    text[n > 0 ? n : 0] = 0;
    line = strstr(text, "damaged ");
    if (!line || sscanf(line, "damaged %64[0-9a-f]", p->damaged) != 1)
        p->damaged[0] = 0;
    p->disk_full = strstr(text, "disk full\n") != NULL;
}

void pager_child_say(struct pager_child *p, const char *word)
{
    char line[16];
    int n = snprintf(line, sizeof line, "%s\n", word);

    /* One that is gone is noticed by the end of its output. */
    if (p->pid && send(p->input, line, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) != n)
        log_warn("the pager does not hear \"%s\"", word);
}

static void unmount(const char *path)
{
    char *argv[] = {(char *)"fusermount3", (char *)"-uzq", (char *)"--", (char *)path, NULL};
    posix_spawn_file_actions_t actions;
    pid_t pid;

    if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0 || errno != EPERM)
        return;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    if (posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ) == 0)
        (void)waitpid(pid, NULL, 0);
    posix_spawn_file_actions_destroy(&actions);
}

void pager_child_end(struct pager_child *p)
{
    if (p->pid) {
        (void)kill(p->pid, SIGKILL); /* our child, not yet waited for */
        while (waitpid(p->pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    if (p->mount) {
        unmount(p->mount);
        (void)rmdir(p->mount); /* the folder above goes away as a whole */
    }
    cleanup_close(&p->input);
    cleanup_close(&p->output);
    free(p->mount);
    *p = (struct pager_child)PAGER_CHILD_NONE;
}
