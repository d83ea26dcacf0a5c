/* SPDX-License-Identifier: Apache-2.0
 *
 * Where blobs are kept: immutable bytes named by their SHA-256. Today a directory,
 * FOLDER/ab/abcdef…, with the block list of each blob beside it (abcdef….blocks: the XXH3-128, 16
 * bytes big endian, of each 256 KiB block, the last one shorter); FOLDER/tmp holds what is being
 * written and is emptied at open.
 *
 * Always true:
 *  - A blob that depot_get() opens is whole, durable, and its bytes have that digest.
 *  - depot_put_commit() returns 0 only after the data is fsynced, renamed and its folder fsynced.
 *  - A blob that was put or touched less than the grace period ago is not swept.
 *
 * All functions may be called by any thread; a struct depot_put belongs to one at a time.
 * Errors: 0, -ENOSPC (nothing was stored), -ENOENT (no such blob), other negative errno.
 */
#ifndef YADO_DEPOT_DEPOT_H
#define YADO_DEPOT_DEPOT_H

#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    DEPOT_DIGEST_BYTES = 32,
    DEPOT_BLOCK_BYTES = 256 * 1024,
    DEPOT_BLOCK_SUM_BYTES = 16,
};

enum { DEPOT_MISMATCH = 1 };

struct depot;
struct depot_put;

/* Makes the folder when it is missing; removes leftovers of unfinished puts. */
int depot_open(const char *folder, struct depot **ret_depot, struct err *ret_err);
void depot_close(struct depot *d);

/* Writing: begin, write any number of times, then commit or abort; both free the put. */
int depot_put_begin(struct depot *d, struct depot_put **ret_put);
/* After an error only depot_put_abort() makes sense. */
int depot_put_write(struct depot_put *put, const void *data, size_t len);
/* `expected` may be NULL; DEPOT_MISMATCH: the bytes have another digest, nothing is stored.
 * *ret_digest (may be NULL) gets the digest of what was written, after a mismatch as well.
 * A blob that is there already is not stored twice; its grace period starts anew. */
int depot_put_commit(struct depot_put *put, const uint8_t *expected,
                     uint8_t ret_digest[DEPOT_DIGEST_BYTES], uint64_t *ret_size);
void depot_put_abort(struct depot_put *put);
/* All of an open file, from its beginning. */
int depot_put_file(struct depot *d, int fd, uint8_t ret_digest[DEPOT_DIGEST_BYTES],
                   uint64_t *ret_size);

/* Opens a blob for reading by pread(2); the caller closes it. Sweeping it does not disturb him. */
int depot_get(struct depot *d, const uint8_t digest[DEPOT_DIGEST_BYTES], int *ret_fd,
              uint64_t *ret_size);
/* The same for its block list. */
int depot_get_blocks(struct depot *d, const uint8_t digest[DEPOT_DIGEST_BYTES], int *ret_fd,
                     uint64_t *ret_size);
/* Whether it is there; touches nothing. */
int depot_stat(struct depot *d, const uint8_t digest[DEPOT_DIGEST_BYTES], uint64_t *ret_size);
/* depot_stat() for somebody who will refer to the blob soon: its grace period starts anew. */
int depot_touch(struct depot *d, const uint8_t digest[DEPOT_DIGEST_BYTES], uint64_t *ret_size);
/* Reads all of it: 0, or DEPOT_MISMATCH when its bytes are not those that its digest and its block
 * list say. *ret_size is set unless it cannot be opened. */
int depot_verify(struct depot *d, const uint8_t digest[DEPOT_DIGEST_BYTES], uint64_t *ret_size);
/* 0 also when it was not there. */
int depot_remove(struct depot *d, const uint8_t digest[DEPOT_DIGEST_BYTES]);

/* All blobs, in no particular order; fn may remove the one it is called for. Not 0 from fn ends
 * it and is returned. */
int depot_each(struct depot *d,
               int (*fn)(void *arg, const uint8_t digest[DEPOT_DIGEST_BYTES], uint64_t size),
               void *arg);

struct depot_swept {
    uint64_t kept, removed, removed_bytes;
};

/* Removes blobs that were put or touched more than grace_ms ago and are not referenced.
 * is_referenced returns 0 (no), 1 (yes) or a negative errno, which ends the sweep. */
int depot_sweep(struct depot *d, uint64_t grace_ms,
                int (*is_referenced)(void *arg, const uint8_t digest[DEPOT_DIGEST_BYTES]),
                void *arg, struct depot_swept *ret_swept);

#endif
