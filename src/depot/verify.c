/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether a blob is still what its name says: its bytes against its SHA-256, and its block list
 * against its bytes, since that is what pagers trust.
 */
#include "depot/depot.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/must.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

/* Up to len bytes; fewer at the end of the file. */
static ssize_t read_at(int fd, void *out, size_t len, uint64_t offset)
{
    size_t have = 0;

    while (have < len) {
        ssize_t n = pread(fd, (char *)out + have, len - have, (off_t)(offset + have));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        have += (size_t)n;
    }
    return (ssize_t)have;
}

static int verify(int data, int list, gnutls_hash_hd_t hash)
{
    AUTO_FREE uint8_t *block = xmalloc(DEPOT_BLOCK_BYTES);
    uint8_t listed[DEPOT_BLOCK_SUM_BYTES];
    XXH128_canonical_t sum;

    for (uint64_t i = 0;; i++) {
        ssize_t n = read_at(data, block, DEPOT_BLOCK_BYTES, i * DEPOT_BLOCK_BYTES);
        ssize_t m = read_at(list, listed, sizeof listed, i * sizeof listed);

        if (n < 0 || m < 0)
            return n < 0 ? (int)n : (int)m;
        if (n == 0)
            return m ? DEPOT_MISMATCH : 0;
        MUST(gnutls_hash(hash, block, (size_t)n) == 0);
        XXH128_canonicalFromHash(&sum, XXH3_128bits(block, (size_t)n));
        if (m != sizeof listed || memcmp(listed, sum.digest, sizeof listed) != 0)
            return DEPOT_MISMATCH;
        /* What nobody else reads need not push out what others do. */
        (void)posix_fadvise(data, (off_t)(i * DEPOT_BLOCK_BYTES), n, POSIX_FADV_DONTNEED);
    }
}

int depot_verify(struct depot *d, const uint8_t digest[DEPOT_DIGEST_BYTES], uint64_t *ret_size)
{
    AUTO_CLOSE int data = -1;
    AUTO_CLOSE int list = -1;
    uint8_t found[DEPOT_DIGEST_BYTES];
    gnutls_hash_hd_t hash;
    uint64_t list_bytes;
    int r = depot_get(d, digest, &data, ret_size);

    if (r)
        return r;
    r = depot_get_blocks(d, digest, &list, &list_bytes);
    if (r)
        return r == -ENOENT ? DEPOT_MISMATCH : r;
    MUST(gnutls_hash_init(&hash, GNUTLS_DIG_SHA256) == 0);
    r = verify(data, list, hash);
    gnutls_hash_deinit(hash, found);
    return r ? r : memcmp(found, digest, sizeof found) ? DEPOT_MISMATCH : 0;
}
