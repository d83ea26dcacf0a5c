/* SPDX-License-Identifier: Apache-2.0
 *
 * Closes the PC's own loopback addresses to the processes of a control group (version 2), whatever
 * user they run as and whatever a guest makes its QEMU send: with `network: nat` a guest's packets
 * to the gateway arrive at 127.0.0.1, where services listen that trust whoever reaches them.
 * The kernel enforces it, by a program that looks at each connect() and sendto(); port 53 stays
 * open, since the PC's name server may listen there and QEMU asks it for the guest.
 */
#ifndef YADO_HOST_LOOPBACK_H
#define YADO_HOST_LOOPBACK_H

#include "base/str.h"

/* For the group at that directory and all below it, those made later included, for as long as the
 * group is there. Again is the same as once. 0 or -errno (root, or CAP_BPF and CAP_NET_ADMIN). */
int loopback_close(const char *group_dir);

#endif
