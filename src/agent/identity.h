/* SPDX-License-Identifier: Apache-2.0
 *
 * What a PC's state folder says of who it is: STATE/url, name, ca.pem, cert.pem and key.pem, made
 * by `yado enroll`. The key never leaves the PC. The folder can be read by all (guests' files lie
 * below it), the key only by its owner.
 */
#ifndef YADO_AGENT_IDENTITY_H
#define YADO_AGENT_IDENTITY_H

#include "base/str.h"

#include <stddef.h>

#define AGENT_STATE_DEFAULT "/var/lib/yadokari/agent"

struct identity {
    char *url; /* "https://host:port", no slash at the end */
    char *name;
    char *ca_file, *cert_file, *key_file;
};

/* -ENOENT with the remedy when the PC is not enrolled. */
int identity_load(const char *state, struct identity *ret_identity, struct err *ret_err);
void identity_deinit(struct identity *id);

/* Replaces a file: written beside it, synced, renamed, the folder synced. */
int identity_write(const char *dir, const char *file, const char *text, size_t len, unsigned mode,
                   struct err *ret_err);

#endif
