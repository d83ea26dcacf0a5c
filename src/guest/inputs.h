/* SPDX-License-Identifier: Apache-2.0
 *
 * What must be in place before a part's program runs: its files in /in, an /out of its size, its
 * network drive at /disk, host name and network. What takes time runs in a child of init, so that
 * init goes on answering the host; mounts and addresses are the machine's and stay.
 */
#ifndef YADO_GUEST_INPUTS_H
#define YADO_GUEST_INPUTS_H

#include "guest/start.h"

#include <stdbool.h>
#include <sys/types.h>

bool inputs_take_time(const struct start *s);
/* 0, or a negative errno with a text for the user. */
int inputs_prepare(const struct start *s, struct err *ret_err);

/* Unpacks a tar below the folder; reads nothing but `read`. For inputs_prepare(), and tests. */
int inputs_unpack(ssize_t (*read)(void *ctx, void *buf, size_t n), void *ctx, int folder,
                  struct err *ret_err);

#endif
