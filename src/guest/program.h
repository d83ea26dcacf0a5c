/* SPDX-License-Identifier: Apache-2.0
 *
 * Starting the program of a part as an ordinary user in the job's control group.
 */
#ifndef YADO_GUEST_PROGRAM_H
#define YADO_GUEST_PROGRAM_H

#include "guest/start.h"

#include <sys/types.h>

/* ret_pipes: the reading ends of its stdout and stderr, non-blocking. A program that cannot be
 * executed says so on its stderr and ends with status 127 (not found) or 126, as from a shell. */
int program_start(const struct start *s, pid_t *ret_pid, int ret_pipes[2]);

#endif
