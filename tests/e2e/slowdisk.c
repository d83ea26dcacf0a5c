/* SPDX-License-Identifier: Apache-2.0
 *
 * Preloaded into a daemon under test, and so into all it starts: the disk takes $SLOWDISK
 * milliseconds for each layer that it is to make durable; "error": it fails.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int fsync(int fd)
{
    char link[32], path[512];
    const char *how = getenv("SLOWDISK");
    ssize_t n;

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    if (how && n > 6 && strcmp(path + n - 6, ".layer") == 0) {
        if (strcmp(how, "error") == 0) {
            errno = EIO;
            return -1;
        }
        usleep((useconds_t)atoi(how) * 1000);
    }
    return (int)syscall(SYS_fsync, fd);
}
