/* SPDX-License-Identifier: Apache-2.0
 *
 * A folder that nobody changes any more, as a tar that can be read from any offset: only a list of
 * its entries is held, bytes are made when asked for. So a result needs no memory of its own and
 * can be sent again from where the host stands, after any resume.
 *
 * Entries are sorted by path (bytewise; a folder comes before what is in it). Files, folders and
 * symbolic links; anything else is left out. Hard links become files of their own. Times are
 * whole seconds, owners 0. Names that ustar cannot hold get a pax header.
 */
#ifndef YADO_GUEST_TAR_WRITE_H
#define YADO_GUEST_TAR_WRITE_H

#include "base/str.h"

#include <stddef.h>
#include <stdint.h>

struct tar_index;

/* -EFBIG with a text when the files' sizes (holes count) sum up to more than max_bytes or there
 * are more than max_entries; other negative errnos with a text. */
int tar_index_scan(const char *folder, uint64_t max_bytes, size_t max_entries,
                   struct tar_index **ret, struct err *ret_err);
void tar_index_free(struct tar_index *t);
/* Bytes of the whole tar; 0 when the folder is empty. */
uint64_t tar_index_size(const struct tar_index *t);
/* Fills buf from that offset; fewer than n bytes only at the end. A file that cannot be read, or
 * has become shorter, reads as zeros. */
size_t tar_index_read(struct tar_index *t, uint64_t offset, void *buf, size_t n);

#endif
