/* SPDX-License-Identifier: Apache-2.0
 *
 * SHA-256 as this project names blobs: 64 lower-case hexadecimal digits. Streaming or at once.
 */
#ifndef YADO_HOST_DIGEST_H
#define YADO_HOST_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { DIGEST_HEX_BYTES = 65 }; /* with the NUL */

struct digest;

struct digest *digest_new(void);
/* Takes NULL; needed only when digest_end() was not called. */
void digest_free(struct digest *d);
void digest_update(struct digest *d, const void *data, size_t len);
/* Frees d. */
void digest_end(struct digest *d, char ret_hex[DIGEST_HEX_BYTES]);

void digest_of(const void *data, size_t len, char ret_hex[DIGEST_HEX_BYTES]);
/* Reads fd from its beginning to its end by pread; the file position does not matter.
 * ret_size may be NULL. 0 or -errno of the read. */
int digest_of_fd(int fd, char ret_hex[DIGEST_HEX_BYTES], uint64_t *ret_size);

/* 64 lower-case hexadecimal digits: everything that becomes a file name is asked this first. */
bool digest_is_valid(const char *hex);

#endif
