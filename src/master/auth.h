/* SPDX-License-Identifier: Apache-2.0
 *
 * Who may do what: users by bearer tokens (stored as SHA-256), PCs by client certificates,
 * placements by grants. A grant is HMAC-SHA256(master's secret, "JOB.PART.EPOCH"): it needs no
 * memory, survives a restart of the master, and ends with its epoch (places.h decides that).
 */
#ifndef YADO_MASTER_AUTH_H
#define YADO_MASTER_AUTH_H

#include "master/server.h"

enum { AUTH_SECRET_MAX = 65, AUTH_HASH_BYTES = 32 };

/* Fills in who it is, or makes a reply: 401, 403, or 409 for a placement of the past. */
void auth_check(struct req *r);

/* A new random secret, hexadecimal. */
void auth_new_secret(char ret_secret[AUTH_SECRET_MAX]);
/* SHA-256 of a token's secret; what stands before a "." (the fingerprint) is skipped. */
void auth_hash(const char *token, uint8_t ret_hash[AUTH_HASH_BYTES]);
void auth_grant(const struct master *m, uint64_t job, uint64_t part, uint64_t epoch,
                char ret_grant[AUTH_SECRET_MAX]);
/* By which PCs seal the layers of a job on their disks: HMAC-SHA256(master's secret, "layers JOB").
 */
void auth_layer_key(const struct master *m, uint64_t job, char ret_key[AUTH_SECRET_MAX]);
#endif
