/* SPDX-License-Identifier: Apache-2.0
 *
 * The PC's cache of blobs: CACHE/DIGEST.data (sparse, the blob's bytes) and CACHE/DIGEST.have (a
 * byte for each 256 KiB block, 1 when it was fetched, and behind them the blocks' XXH3-128 sums of
 * 16 bytes), shared by all processes of the PC and surviving them. A block that comes is compared
 * with the master's list of sums, and with its own sum when a process first uses it. Nothing is
 * synced: what a power cut or a bad disk leaves does not match, and is fetched again.
 *
 * An open blob holds a shared lock on its .have file; blob_cache_trim() removes only what it can
 * lock alone. The functions of one struct blob may be called by several threads at once.
 */
#ifndef YADO_HOST_BLOB_CACHE_H
#define YADO_HOST_BLOB_CACHE_H

#include "base/str.h"
#include "host/http_client.h"

#include <stdbool.h>
#include <stdint.h>

enum { BLOB_BLOCK_BYTES = 256 * 1024 };

/* Where blobs come from: `url` + "blobs/DIGEST"; url ends with '/'. */
struct blob_source {
    const char *url;
    const char *ca_file;
    const char *grant; /* bearer token */
};

struct http *blob_source_open(const struct blob_source *source);

struct blob;

/* Makes the cache's files when they are missing. cache_dir exists. */
int blob_open(const char *cache_dir, const char *digest, uint64_t size, struct blob **ret_blob,
              struct err *ret_err);
/* The same; what the disk has of it is sealed with this key (seal.h), "" for none. */
int blob_open_sealed(const char *cache_dir, const char *digest, uint64_t size, const char *key,
                     struct blob **ret_blob, struct err *ret_err);
void blob_close(struct blob *b);
uint64_t blob_size(const struct blob *b);
uint64_t blob_count_blocks(const struct blob *b);
/* Of the .data file, for blobs that are not sealed. The path lives as long as the blob. */
int blob_fd(const struct blob *b);
const char *blob_path(const struct blob *b);

/* What the source said, as an error: -ESTALE (409: the placement is over), -ENOENT, -EACCES,
 * -EAGAIN (5xx, 429: try again), else -EPROTO. */
int blob_status_error(int status);
/* True when trying again later may help. */
bool blob_may_retry(int result);

/* Bytes of it that the disk has, unsealed, whether damaged or not. 0 or -errno. */
int blob_pread(const struct blob *b, uint64_t offset, void *data, size_t len);

/* True when the block was fetched at some time; it may be damaged since. */
bool blob_has_block(const struct blob *b, uint64_t block);
/* Makes the blocks first..end-1 good: what is on the disk is checked, what is missing or damaged
 * fetched, in long ranges; the master is asked for nothing else. One attempt: what was fetched
 * before an error stays. -EBADMSG: a block came that is not what the list says. */
int blob_fetch_blocks(struct blob *b, struct http *h, const char *url, uint64_t first, uint64_t end,
                      struct err *ret_err);
/* Reads a range, after getting the blocks of it that are missing. One attempt. */
int blob_read(struct blob *b, struct http *h, const char *url, uint64_t offset, void *data,
              size_t len, struct err *ret_err);
/* The same for all of them. */
int blob_fetch_all(struct blob *b, struct http *h, const char *url, struct err *ret_err);

/* Copies a file of this PC, so that it need not come over the network when a blob of its bytes is
 * needed. */
int blob_cache_add(const char *cache_dir, const char *path, struct err *ret_err);

/* Removes blobs (and .mem files) that nobody has open, longest unused first, until the cache's
 * files take at most max_bytes. */
int blob_cache_trim(const char *cache_dir, uint64_t max_bytes);

#endif
