/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading a tar (ustar, with pax headers and GNU's long names) from a stream that may be hostile.
 * Entries come one by one with clean relative paths; anything else than files, folders and links
 * is refused, as are absolute paths and "..". Memory: 1 MiB for an extended header, no more.
 */
#ifndef YADO_GUEST_TAR_READ_H
#define YADO_GUEST_TAR_READ_H

#include "base/buf.h"
#include "base/str.h"
#include "guest/start.h"

#include <sys/types.h>

struct tar_reader {
    /* Reads n bytes, fewer only at the end; negative errno. */
    ssize_t (*read)(void *ctx, void *buf, size_t n);
    void *ctx;
    uint64_t left; /* bytes of the current entry not yet read, padding not counted */
    uint32_t pad;
};

enum tar_type { TAR_FILE, TAR_DIR, TAR_SYMLINK, TAR_HARDLINK };

struct tar_entry {
    enum tar_type type;
    uint32_t mode; /* permission bits */
    uint64_t size;
    int64_t mtime;
    char path[START_PATH_MAX];   /* clean; "" for the top folder itself */
    char target[START_PATH_MAX]; /* of a symlink: as it is; of a hard link: clean */
};

/* 1 with an entry, 0 at the end, -EINVAL or the reader's error with a text. */
int tar_next(struct tar_reader *t, struct tar_entry *ret, struct err *ret_err);
/* The next bytes of the current file: their count, 0 at its end, negative errno with a text. */
ssize_t tar_data(struct tar_reader *t, void *buf, size_t n, struct err *ret_err);

#endif
