/* SPDX-License-Identifier: Apache-2.0
 *
 * Asks a QEMU binary for its version, without starting a guest.
 */
#include "vm/vm.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

enum { OLDEST_QEMU = 70200 };

extern char **environ;

/* Runs `qemu --version` and gives the first line. */
static int first_line(const char *qemu, char *line, int size)
{
    int ends[2], status = 0, r;
    char *argv[] = {(char *)qemu, (char *)"--version", NULL};
    posix_spawn_file_actions_t actions;
    pid_t pid;

    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    r = posix_spawnp(&pid, qemu, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    if (r) {
        close(ends[0]);
        return -r;
    }
    FILE *out = fdopen(ends[0], "r");
    bool got = out && fgets(line, size, out);
    /* The rest is read so that it does not die of a closed pipe. */
    while (out && fgetc(out) != EOF)
        ;
    if (out)
        fclose(out);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return got && WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EINVAL;
}

int vm_check_version(const char *qemu, uint32_t version, struct err *ret_err)
{
    if (version >= OLDEST_QEMU)
        return 0;
    return err_set(ret_err, -EINVAL,
                   "%s is version %u.%u, which is too old: 7.2 or newer is needed", qemu,
                   version / 10000, version / 100 % 100);
}

int vm_probe_version(const char *qemu, uint32_t *ret_version, struct err *ret_err)
{
    const char *name = qemu ? qemu : "qemu-system-x86_64";
    char line[256];
    unsigned major, minor, micro;
    int r = first_line(name, line, sizeof line);

    if (r == -ENOENT || r == -EACCES)
        return err_set(ret_err, -ENOENT,
                       "%s cannot be run (%s): install qemu-system-x86 or name it with --qemu",
                       name, strerror(-r));
    if (r)
        return err_set(ret_err, r, "%s --version does not work: is it a whole QEMU?", name);
    line[strcspn(line, "\n")] = 0;
    if (sscanf(line, "QEMU emulator version %u.%u.%u", &major, &minor, &micro) != 3 ||
        major > 9999 || minor > 99 || micro > 99)
        return err_set(ret_err, -EINVAL, "%s does not call itself a QEMU: %.80s", name, line);
    r = vm_check_version(name, major * 10000 + minor * 100 + micro, ret_err);
    if (r == 0)
        *ret_version = major * 10000 + minor * 100 + micro;
    return r;
}
