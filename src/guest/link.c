/* SPDX-License-Identifier: Apache-2.0
 *
 * The port to the host; see link.h.
 */
#include "guest/link.h"

#include "base/cleanup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define PORT_NAME "yado.0"
#define PORTS "/sys/class/virtio-ports"

enum { WAIT_ROUNDS = 1000, WAIT_MS = 10 };

static bool port_is_ours(const char *device)
{
    char path[320], name[sizeof PORT_NAME] = {0};
    AUTO_CLOSE int fd = -1;

    snprintf(path, sizeof path, PORTS "/%s/name", device);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd >= 0 && read(fd, name, sizeof name) == sizeof name &&
           memcmp(name, PORT_NAME "\n", sizeof name) == 0;
}

static int find_port(void)
{
    DIR *dir = opendir(PORTS);
    struct dirent *d;
    char path[320];
    int fd = -1;

    while (dir && fd < 0 && (d = readdir(dir)))
        if (port_is_ours(d->d_name)) {
            snprintf(path, sizeof path, "/dev/%s", d->d_name);
            fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
        }
    if (dir)
        closedir(dir);
    return fd;
}

int link_open(struct link *l)
{
    const struct timespec wait = {.tv_nsec = WAIT_MS * 1000000};

    for (int i = 0; i < WAIT_ROUNDS; i++) {
        l->fd = find_port();
        if (l->fd >= 0)
            return 0;
        nanosleep(&wait, NULL);
    }
    return -ENODEV;
}

void link_receive(struct link *l)
{
    static uint8_t chunk[32768];
    ssize_t n;

    while ((n = read(l->fd, chunk, sizeof chunk)) > 0)
        guest_reader_feed(&l->in, chunk, (size_t)n);
    l->away = n == 0;
}

bool link_flush(struct link *l)
{
    while (l->out_at < l->out.len) {
        ssize_t n = write(l->fd, l->out.data + l->out_at, l->out.len - l->out_at);

        if (n <= 0)
            return false;
        l->out_at += (size_t)n;
    }
    buf_clear(&l->out);
    l->out_at = 0;
    return true;
}
