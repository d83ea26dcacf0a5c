/* SPDX-License-Identifier: Apache-2.0
 *
 * CRC-32C (Castagnoli, RFC 3720 appendix B.4): the checksum of guest frames. Plain C, since it
 * is also compiled into the guest's static init.
 */
#ifndef YADO_BASE_CRC32C_H
#define YADO_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Continues from crc; start with 0. crc32c(0, "123456789", 9) is 0xe3069283. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);

#endif
