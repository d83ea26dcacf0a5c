/* SPDX-License-Identifier: Apache-2.0
 *
 * The part's network drive: an empty ext4 that the master made, mounted at /disk.
 */
#ifndef YADO_GUEST_DISK_H
#define YADO_GUEST_DISK_H

#include "base/str.h"

/* 0, or a negative errno with a text for the user. */
int disk_mount(struct err *ret_err);

#endif
