/* SPDX-License-Identifier: Apache-2.0
 *
 * Finds and mounts the network drive; see disk.h. Golden booted without that device: so the bus is
 * looked through again.
 */
#include "guest/disk.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "guest/system.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define SERIAL "drive"

enum { DISK_PATH_MAX = 32 };

static bool is_drive(const char *name)
{
    AUTO_FREE char *path = xasprintf("/sys/block/%s/serial", name);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    char serial[32] = "";

    return fd >= 0 && read(fd, serial, sizeof serial - 1) > 0 && strcmp(serial, SERIAL) == 0;
}

static int find(char path[DISK_PATH_MAX])
{
    DIR *d = opendir("/sys/block");
    const struct dirent *e;
    int r = -ENODEV;

    while (d && r && (e = readdir(d))) {
        if (!is_drive(e->d_name))
            continue;
        snprintf(path, DISK_PATH_MAX, "/dev/%.20s", e->d_name);
        r = 0;
    }
    if (d)
        closedir(d);
    return r;
}

int disk_mount(struct err *ret_err)
{
    char path[DISK_PATH_MAX];

    system_write("/sys/bus/pci/rescan", "1");
    if (find(path) < 0)
        return err_set(ret_err, -ENODEV, "the network drive is missing");
    (void)mkdir("/disk", 0755); /* else the mount says so */
    /* Nothing is written that the program did not write: neither access times, nor inode tables,
     * which are zeros already. */
    if (mount(path, "/disk", "ext4", MS_NOSUID | MS_NODEV | MS_NOATIME, "noinit_itable") < 0)
        return err_set(ret_err, -errno, "mounting /disk: %s", strerror(errno));
    return 0;
}
