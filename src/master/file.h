/* SPDX-License-Identifier: Apache-2.0
 *
 * Small files of the state folder: keys, certificates, the address. Whole reads, and writes that
 * are either the old or the new content after a crash.
 */
#ifndef YADO_MASTER_FILE_H
#define YADO_MASTER_FILE_H

#include "base/buf.h"

#include <sys/types.h>

/* Appends the content, at most max bytes. 0, -EFBIG, or what open and read say. */
int file_read(const char *path, size_t max, struct buf *ret_content);
/* Replaces path by a synced file of that mode: written beside it, then renamed. */
int file_write(const char *path, const void *data, size_t len, mode_t mode);

#endif
