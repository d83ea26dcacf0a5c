/* SPDX-License-Identifier: Apache-2.0
 *
 * See users.h.
 */
#include "agent/users.h"

#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

static void find(const char *own, const char *other, uid_t *ret_uid, gid_t *ret_gid)
{
    struct passwd *p = getpwnam(own);

    if (!p)
        p = getpwnam(other);
    if (p) {
        *ret_uid = p->pw_uid;
        *ret_gid = p->pw_gid;
    }
}

void users_find(struct users *ret_users)
{
    struct users u = {(uid_t)-1, (uid_t)-1, (gid_t)-1, (gid_t)-1};
    struct stat kvm;

    if (geteuid() == 0) {
        find("yado-qemu", "nobody", &u.qemu_uid, &u.qemu_gid);
        find("yado-pager", "daemon", &u.pager_uid, &u.pager_gid);
        /* The group that may use /dev/kvm is QEMU's one group. */
        if (stat("/dev/kvm", &kvm) == 0 && kvm.st_gid != 0 && (kvm.st_mode & 0060) == 0060)
            u.qemu_gid = kvm.st_gid;
    }
    *ret_users = u;
}
