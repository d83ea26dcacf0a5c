/* SPDX-License-Identifier: Apache-2.0
 *
 * The machine around a part: from the kernel's first process to a guest that is ready, and what
 * the kernel says about memory.
 */
#ifndef YADO_GUEST_SYSTEM_H
#define YADO_GUEST_SYSTEM_H

#include <stdint.h>

enum {
    SYSTEM_UID = 1000,
    SYSTEM_OUT_ENTRIES_MAX = 65536,
    SYSTEM_RESERVE_BYTES = 8 << 20, /* what the job's group may not take, so that init lives on */
    SYSTEM_TASKS_MAX = 4096,
};
#define SYSTEM_CGROUP "/sys/fs/cgroup/job"

/* Mounts, modules, the root image when /dev/vda holds one, the job's control group. What fails
 * is said on the console; a guest without its port never gets ready, which the host notices. */
void system_boot(void);

/* One short line to the console, for the log file of the host. */
void system_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* What the job may take: its group's memory, and three quarters of it for /out (or out_limit, if
 * that is less; 0: none), so that a full /out is "no space left" for the program and not the end of
 * its memory. Done at boot, so that golden holds it; again when inputs have taken memory. 0 or
 * -errno. */
int system_share_memory(uint64_t out_limit);
uint64_t system_memory_available(void);
/* Everything that is not free or reclaimable at once: programs, kernel, tmpfs. */
uint64_t system_memory_used(void);
/* Processes killed for lack of memory since boot. */
uint64_t system_oom_kills(void);
/* CLOCK_MONOTONIC: it stands still while the guest is stopped or saved. */
uint64_t system_now_ms(void);
void system_write(const char *path, const char *text);

#endif
