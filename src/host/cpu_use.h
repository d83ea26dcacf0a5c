/* SPDX-License-Identifier: Apache-2.0
 *
 * What a process had of the CPUs, and how long it waited for one. Guests run in the lowest class:
 * on a busy PC one may wait for minutes, and who judges its silence by a wall clock calls a healthy
 * guest dead.
 */
#ifndef YADO_HOST_CPU_USE_H
#define YADO_HOST_CPU_USE_H

#include <stdint.h>
#include <sys/types.h>

/* Since the start of each of its threads; all 0 where the kernel does not say. */
struct cpu_use {
    uint64_t ran_us;          /* all threads together */
    uint64_t waited_us;       /* runnable, all together */
    uint64_t longest_wait_us; /* that of the thread which waited longest */
};

struct cpu_use cpu_use_of(pid_t pid);

#endif
