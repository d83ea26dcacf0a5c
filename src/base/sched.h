/* SPDX-License-Identifier: Apache-2.0
 *
 * How soon the kernel lets a thread run. A thread that does next to nothing, but that at once
 * (it hears of the owner's return), asks for short slices: with kernels from 6.12 on it need not
 * wait for the slice of whatever occupies the core, and with older ones its niceness helps.
 */
#ifndef YADO_BASE_SCHED_H
#define YADO_BASE_SCHED_H

#include <sys/types.h>

enum {
    SCHED_NICE_PROMPT = -10, /* where we may; otherwise the short slices alone */
};

/* An ordinary thread with short slices and this niceness. 0 is the caller's thread. -errno when
 * not even the slices could be set, which is no reason to stop. */
int sched_set_prompt(pid_t tid, int nice);

#endif
