/* SPDX-License-Identifier: Apache-2.0
 *
 * SHA-256 by GnuTLS; see digest.h. The functions of GnuTLS fail here only when the library
 * itself is broken (a failed self test), so that is an invariant, not an error.
 */
#include "host/digest.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/must.h"
#include "base/str.h"

#include <errno.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <string.h>
#include <unistd.h>

enum { SHA256_BYTES = 32, READ_BYTES = 1024 * 1024 };

struct digest {
    gnutls_hash_hd_t hash;
};

struct digest *digest_new(void)
{
    struct digest *d = xcalloc(1, sizeof *d);

    MUST(gnutls_hash_init(&d->hash, GNUTLS_DIG_SHA256) == 0);
    return d;
}

void digest_free(struct digest *d)
{
    if (!d)
        return;
    gnutls_hash_deinit(d->hash, NULL);
    free(d);
}

void digest_update(struct digest *d, const void *data, size_t len)
{
    if (len)
        MUST(gnutls_hash(d->hash, data, len) == 0);
}

void digest_end(struct digest *d, char ret_hex[DIGEST_HEX_BYTES])
{
    uint8_t sum[SHA256_BYTES];

    gnutls_hash_deinit(d->hash, sum);
    free(d);
    str_hex(sum, sizeof sum, ret_hex);
}

void digest_of(const void *data, size_t len, char ret_hex[DIGEST_HEX_BYTES])
{
    struct digest *d = digest_new();

    digest_update(d, data, len);
    digest_end(d, ret_hex);
}

int digest_of_fd(int fd, char ret_hex[DIGEST_HEX_BYTES], uint64_t *ret_size)
{
    AUTO_FREE uint8_t *data = xmalloc(READ_BYTES);
    struct digest *d = digest_new();
    uint64_t size = 0;

    for (;;) {
        ssize_t n = pread(fd, data, READ_BYTES, (off_t)size);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            int r = -errno;

            digest_free(d);
            return r;
        }
        if (n == 0)
            break;
        digest_update(d, data, (size_t)n);
        size += (uint64_t)n;
    }
    digest_end(d, ret_hex);
    if (ret_size)
        *ret_size = size;
    return 0;
}

bool digest_is_valid(const char *hex)
{
    return strlen(hex) == DIGEST_HEX_BYTES - 1 &&
           strspn(hex, "0123456789abcdef") == DIGEST_HEX_BYTES - 1;
}
