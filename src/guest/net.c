/* SPDX-License-Identifier: Apache-2.0
 *
 * Interfaces by the classic ioctls; see net.h.
 */
#include "guest/net.h"

#include "base/cleanup.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static struct sockaddr address(const char *text)
{
    struct sockaddr_in in = {.sin_family = AF_INET};
    struct sockaddr any;

    (void)inet_pton(AF_INET, text, &in.sin_addr); /* our own constants */
    memcpy(&any, &in, sizeof any);
    return any;
}

static int set_up(int fd, const char *name)
{
    struct ifreq r = {0};

    snprintf(r.ifr_name, sizeof r.ifr_name, "%s", name);
    r.ifr_flags = IFF_UP | IFF_RUNNING;
    return ioctl(fd, SIOCSIFFLAGS, &r);
}

void net_up_loopback(void)
{
    AUTO_CLOSE int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd >= 0)
        (void)set_up(fd, "lo"); /* a job that needs it will say so itself */
}

static int write_resolver(void)
{
    static const char text[] = "nameserver 10.0.2.3\n";
    AUTO_CLOSE int fd = -1;

    (void)unlink("/etc/resolv.conf"); /* often a link to what does not run here */
    fd = open("/etc/resolv.conf", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    return fd >= 0 && write(fd, text, sizeof text - 1) == sizeof text - 1 ? 0 : -1;
}

int net_up_nat(struct err *ret_err)
{
    AUTO_CLOSE int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
    struct ifreq r = {0};

    snprintf(r.ifr_name, sizeof r.ifr_name, "eth0");
    r.ifr_addr = address("10.0.2.15");
    if (fd < 0 || ioctl(fd, SIOCSIFADDR, &r) < 0)
        return err_set(ret_err, -errno, "network: no address for eth0: %s", strerror(errno));
    r.ifr_addr = address("255.255.255.0");
    route.rt_dst = address("0.0.0.0");
    route.rt_genmask = address("0.0.0.0");
    route.rt_gateway = address("10.0.2.2");
    if (ioctl(fd, SIOCSIFNETMASK, &r) < 0 || set_up(fd, "eth0") < 0 ||
        ioctl(fd, SIOCADDRT, &route) < 0 || write_resolver() < 0)
        return err_set(ret_err, -errno, "network: eth0 does not come up: %s", strerror(errno));
    return 0;
}
