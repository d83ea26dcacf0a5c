/* SPDX-License-Identifier: Apache-2.0
 *
 * What a PC's disk holds of guests' memory is nothing without a key that the disk does not hold:
 * AES-256 in counter mode. Sizes stay what they are, and any range can be read alone. Whether
 * bytes are what they were is for the caller's own sums, over the plain bytes.
 *
 * Always true: under one key a nonce stands for one content. That of a blob comes from its digest;
 * that of a file whose digest is not known yet is random, and stands behind the file's bytes.
 */
#ifndef YADO_HOST_SEAL_H
#define YADO_HOST_SEAL_H

#include <nettle/aes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SEAL_NONCE_BYTES = 8, SEAL_KEY_BYTES = 32 };

struct seal {
    bool on; /* else bytes stay as they are: also what zeros mean */
    struct aes256_ctx key;
    uint8_t nonce[SEAL_NONCE_BYTES];
};

/* key: 64 hexadecimal digits; NULL or "": none. -EINVAL: it is no key. */
int seal_init(struct seal *s, const char *key, const uint8_t nonce[SEAL_NONCE_BYTES]);
/* The same for a blob's bytes; digest is a valid one. */
int seal_init_blob(struct seal *s, const char *key, const char *digest);
/* Bytes of a file from offset on, in place: seals plain ones and opens sealed ones. Any thread.
 * arg is the struct seal. */
void seal_apply(const void *arg, uint64_t offset, void *data, size_t len);

#endif
