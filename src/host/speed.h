/* SPDX-License-Identifier: Apache-2.0
 *
 * How fast this PC's processor is, to compare PCs with each other.
 */
#ifndef YADO_HOST_SPEED_H
#define YADO_HOST_SPEED_H

#include <stdint.h>

/* Million steps of a fixed computation (a multiplication and addition of doubles, and some integer
 * work) that one CPU does in a second, to two figures, so that it is the same the next time. Takes
 * some hundredths of a second of CPU; what else runs meanwhile counts little: the best of several
 * tries, by the thread's own CPU time. Never 0. */
uint32_t host_speed(void);

#endif
