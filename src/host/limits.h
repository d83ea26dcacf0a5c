/* SPDX-License-Identifier: Apache-2.0
 *
 * The share of the PC that guests may use: control groups where we may make them, version 2 or 1,
 * else only the lowest scheduling class, which every guest gets anyway (vm/engine.h).
 *
 * One group an agent, named after its state folder, with a CPU quota of the share, the idle class
 * (if wanted) and (version 2) memory.high; inside it one group a VM with a hard memory limit. The
 * group lies beside the agent's own: a child of it would forbid systemd to start the agent again
 * (version 2 has no processes in inner nodes). The supervisor and the pager stay outside: what
 * stops a guest must not wait for the guest's share.
 *
 * In the group, the PC's loopback addresses are closed (loopback.h): with version 1 that takes a
 * group in the tree of version 2, which distributions mount beside the others.
 *
 * A VM's group is given as one text: directories with ':' between them (version 1 has a tree for
 * each controller); a process joins by writing its pid to cgroup.procs of each.
 */
#ifndef YADO_HOST_LIMITS_H
#define YADO_HOST_LIMITS_H

#include "base/str.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* "600M", "50%": bytes, a percentage of total_bytes. */
int limits_parse_memory(const char *text, uint64_t total_bytes, uint64_t *ret_bytes,
                        struct err *ret_err);
/* "2", "1.5", "50%": thousandths of a CPU; a percentage of total_cpus. */
int limits_parse_cpu(const char *text, uint32_t total_cpus, uint32_t *ret_millis,
                     struct err *ret_err);
uint64_t limits_total_memory(void);
uint32_t limits_total_cpus(void);
/* Less than a tenth of the PC's memory is left, page cache not counted as used. */
bool limits_memory_is_short(void);

enum limits_kind { LIMITS_NONE, LIMITS_V1, LIMITS_V2 };

enum { LIMITS_DIRS = 3 };

struct limits {
    enum limits_kind kind;
    uint64_t memory_bytes;
    uint32_t cpu_millis;
    bool idle;    /* the idle class */
    int loopback; /* 0: closed to guests; -errno why not */
    /* V2: dirs[0]; V1: cpu, memory, unified; "" where we may not. */
    char dirs[LIMITS_DIRS][512];
};

/* root is "/sys/fs/cgroup", self "/proc/self/cgroup" (tests have others). Never fails: what is
 * not possible is in kind, and in ret_err why. Groups left by an earlier agent are taken over. */
void limits_init(struct limits *l, const char *root, const char *self, const char *name,
                 uint64_t memory_bytes, uint32_t cpu_millis, bool idle, struct err *ret_err);
/* The idle class and the quota hold for all of QEMU, the thread that stops the guest included.
 * Urgent: the guests are being stopped, and nothing may hold that up. Cheap. */
void limits_set_urgent(const struct limits *l, bool urgent);
/* Makes (or takes over) a VM's group for a guest of that size; an empty text where there are
 * no groups. The guest's size, a quarter and what QEMU itself needs are its limit. */
void limits_vm_add(const struct limits *l, const char *vm, uint64_t guest_bytes,
                   char ret_group[1024]);
/* Kills what is left in it and removes it; waits a moment for the dead to go. Blocking. */
void limits_vm_remove(const struct limits *l, const char *vm);
/* Removes the agent's group when no VM is left in it. */
void limits_deinit(struct limits *l);

#endif
