/* SPDX-License-Identifier: Apache-2.0
 *
 * How soon the kernel lets a thread run (sched.h), by sched_setattr(2), which the C library of
 * Debian 12 does not wrap.
 */
#include "base/sched.h"

#include <errno.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SLICE_NS = 100000 }; /* the shortest that the kernel takes */

struct attributes { /* struct sched_attr, its first version */
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

int sched_set_prompt(pid_t tid, int nice)
{
    struct attributes a = {.size = sizeof a, .nice = nice, .runtime = SLICE_NS};

    if (syscall(SYS_sched_setattr, tid, &a, 0) == 0)
        return 0;
    a.nice = 0;
    return syscall(SYS_sched_setattr, tid, &a, 0) == 0 ? 0 : -errno;
}
