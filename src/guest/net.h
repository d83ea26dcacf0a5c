/* SPDX-License-Identifier: Apache-2.0
 *
 * The guest's network: the loopback always, eth0 only for a job that asked for it.
 */
#ifndef YADO_GUEST_NET_H
#define YADO_GUEST_NET_H

#include "base/str.h"

void net_up_loopback(void);
/* eth0 with the addresses of QEMU's user network (10.0.2.15/24, gateway .2, names .3). */
int net_up_nat(struct err *ret_err);

#endif
