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

struct vm_out {
    int fd;
    char *path;
    struct buf pending;
    uint64_t bytes;
    gnutls_hash_hd_t hash;
};

/* Replaces what is there. */
int vm_out_open(struct vm_out *o, const char *path, struct err *ret_err);
/* A layer_sink_fn; arg is the struct vm_out. */
int vm_out_put(void *arg, const void *data, size_t len);
/* Both free what o has. */
int vm_out_finish(struct vm_out *o, char ret_digest[65], struct err *ret_err);
void vm_out_abort(struct vm_out *o);

#endif
