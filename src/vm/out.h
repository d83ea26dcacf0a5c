/* SPDX-License-Identifier: Apache-2.0
 *
 * A file that is written once, front to back, with its SHA-256. Half a file is none: it goes away
 * unless vm_out_finish() succeeds. Not synced.
 */
#ifndef YADO_VM_OUT_H
#define YADO_VM_OUT_H

#include "base/buf.h"
#include "base/str.h"

#include <gnutls/crypto.h>

/* Bytes from offset on become what is written, in place. */
typedef void (*vm_out_seal)(const void *arg, uint64_t offset, void *data, size_t len);

struct vm_out {
    int fd;
    vm_out_seal seal; /* may be NULL */
    const void *seal_arg;
    uint64_t written;
    char *path;
    struct buf pending;
    uint64_t bytes;
    gnutls_hash_hd_t hash;
};

/* Replaces what is there. The digest is that of the bytes before seal. */
int vm_out_open(struct vm_out *o, const char *path, vm_out_seal seal, const void *seal_arg,
                struct err *ret_err);
/* A layer_sink_fn; arg is the struct vm_out. */
int vm_out_put(void *arg, const void *data, size_t len);
/* Both free what o has. */
int vm_out_finish(struct vm_out *o, char ret_digest[65], struct err *ret_err);
void vm_out_abort(struct vm_out *o);

#endif
