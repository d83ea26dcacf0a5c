/* SPDX-License-Identifier: Apache-2.0
 *
 * From init's child to the user's program; see program.h.
 */
#include "guest/program.h"

#include "base/cleanup.h"
#include "guest/system.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static void set_environment(char **env)
{
    /* Arrays, since putenv() wants what it may be given back for change. */
    static char defaults[][72] = {
        "PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
        "HOME=/work",
        "PWD=/work",
        "USER=job",
        "LOGNAME=job",
        "SHELL=/bin/sh",
        "LANG=C.UTF-8",
        "TMPDIR=/tmp",
        "YADO_IN=/in",
        "YADO_OUT=/out",
    };

    clearenv();
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++)
        putenv(defaults[i]);
    for (; env && *env; env++)
        putenv(*env);
}

/* Steps, in the job's group: (1) streams, (2) what a child inherits and must not, (3) the user, for
 * good. */
static _Noreturn void become(const struct start *s, int out, int err)
{
    const struct rlimit no_core = {0, 0}, files = {1024, 65536};
    sigset_t none;
    int null = open("/dev/null", O_RDONLY);

    system_write("/proc/self/oom_score_adj", "0");
    if (dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
        _exit(126);
    close(null);
    setsid();
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    setrlimit(RLIMIT_CORE, &no_core);
    setrlimit(RLIMIT_NOFILE, &files);
    if (setgroups(0, NULL) < 0 || setresgid(SYSTEM_UID, SYSTEM_UID, SYSTEM_UID) < 0 ||
        setresuid(SYSTEM_UID, SYSTEM_UID, SYSTEM_UID) < 0 ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || chdir("/work") < 0)
        _exit(126);
    set_environment(s->env);
    execvp(s->argv[0], s->argv);
    dprintf(2, "cannot run \"%s\": %s\n", s->argv[0], strerror(errno));
    _exit(errno == ENOENT ? 127 : 126);
}

/* A fork into the job's group. To move there costs the kernel a grace period of RCU. */
static pid_t fork_into_group(void)
{
    AUTO_CLOSE int group = open(SYSTEM_CGROUP, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct clone_args args = {
        .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)group};

    return group < 0 ? -1 : (pid_t)syscall(SYS_clone3, &args, sizeof args);
}

int program_start(const struct start *s, pid_t *ret_pid, int ret_pipes[2])
{
    int out[2], err[2];
    pid_t pid;

    if (pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0)
        return -errno;
    pid = fork_into_group();
    if (pid < 0)
        return -errno;
    if (pid == 0)
        become(s, out[1], err[1]);
    close(out[1]);
    close(err[1]);
    /* Ours only: the program's ends keep blocking, as a program expects. */
    fcntl(out[0], F_SETFL, O_NONBLOCK);
    fcntl(err[0], F_SETFL, O_NONBLOCK);
    *ret_pid = pid;
    ret_pipes[0] = out[0];
    ret_pipes[1] = err[0];
    return 0;
}
