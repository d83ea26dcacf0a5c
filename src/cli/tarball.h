/* SPDX-License-Identifier: Apache-2.0
 *
 * Folders as tar files and back. Packing is deterministic: sorted, without times and owners, so
 * the same content is the same blob. Unpacking trusts nothing: the tar comes from a job.
 */
#ifndef YADO_CLI_TARBALL_H
#define YADO_CLI_TARBALL_H

#include "base/str.h"

#include <stdint.h>

/* Writes the tar of a folder's content to fd. Refuses what is neither file, folder nor link. */
int tarball_pack(const char *dir, int fd, struct err *ret_err);

/* Unpacks the tar read from fd into the folder behind dir_fd, which should be empty. Refused with
 * -EPERM and a text that names the entry: absolute paths, "..", symbolic links that leave the
 * folder, devices and the like, set-user-ID. -EFBIG: more than max_bytes when unpacked, holes
 * included. What was unpacked before the refusal stays for the caller to remove.
 * Changes the working directory of the process for its time. */
int tarball_unpack(int fd, int dir_fd, uint64_t max_bytes, struct err *ret_err);

#endif
