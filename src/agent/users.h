/* SPDX-License-Identifier: Apache-2.0
 *
 * As whom QEMU and the pager run: users of their own where the agent is root and they exist, else
 * users that own next to nothing; our own where we are not root.
 */
#ifndef YADO_AGENT_USERS_H
#define YADO_AGENT_USERS_H

#include <sys/types.h>

struct users {
    uid_t qemu_uid, pager_uid; /* (uid_t)-1: as we are */
    gid_t qemu_gid, pager_gid;
};

void users_find(struct users *ret_users);

#endif
