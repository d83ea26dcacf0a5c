/* SPDX-License-Identifier: Apache-2.0
 *
 * How long a process waited for a CPU. Guests run in the lowest class: on a busy PC one may wait
 * for minutes, and who judges its silence by a wall clock calls a healthy guest dead.
 */
#ifndef YADO_HOST_STARVED_H
#define YADO_HOST_STARVED_H

#include <stdint.h>
#include <sys/types.h>

/* Of that thread of the process which waited longest, since its start; 0 where the kernel does
 * not say. */
uint64_t starved_ms(pid_t pid);

#endif
