/* SPDX-License-Identifier: Apache-2.0
 *
 * See seal.h.
 */
#include "host/seal.h"
#include "base/must.h"
#include "base/str.h"

#include <errno.h>
#include <nettle/ctr.h>
#include <string.h>

enum { BLOCK = AES_BLOCK_SIZE };

int seal_init(struct seal *s, const char *key, const uint8_t nonce[SEAL_NONCE_BYTES])
{
    uint8_t bytes[SEAL_KEY_BYTES];

    *s = (struct seal){0};
    if (!key || !key[0])
        return 0;
    if (str_unhex(key, bytes, sizeof bytes))
        return -EINVAL;
    s->on = true;
    aes256_set_encrypt_key(&s->key, bytes);
    memcpy(s->nonce, nonce, sizeof s->nonce);
    return 0;
}

int seal_init_blob(struct seal *s, const char *key, const char *digest)
{
    uint8_t bytes[32];

    MUST(str_unhex(digest, bytes, sizeof bytes) == 0);
    return seal_init(s, key, bytes);
}

static void crypt(const struct seal *s, uint8_t counter[BLOCK], void *data, size_t len)
{
    ctr_crypt(&s->key, (nettle_cipher_func *)aes256_encrypt, BLOCK, counter, len, data, data);
}

void seal_apply(const void *arg, uint64_t offset, void *data, size_t len)
{
    const struct seal *s = arg;
    uint8_t counter[BLOCK], first[BLOCK] = {0}, *p = data;
    size_t skip = offset % BLOCK, n = BLOCK - skip < len ? BLOCK - skip : len;

    if (!s->on)
        return;
    memcpy(counter, s->nonce, sizeof s->nonce);
    for (int i = 0; i < 8; i++)
        counter[8 + i] = (uint8_t)(offset / BLOCK >> (56 - 8 * i));
    if (skip) {
        memcpy(first + skip, p, n);
        crypt(s, counter, first, BLOCK);
        memcpy(p, first + skip, n);
        p += n;
        len -= n;
    }
    if (len)
        crypt(s, counter, p, len);
}
