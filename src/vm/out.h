/* SPDX-License-Identifier: Apache-2.0
 *
 * A file that is written once, front to back, with its SHA-256. Half a file is none: it goes away
 * unless vm_out_finish() succeeds. Not synced. Where much is written, a thread of its own seals and
 * writes while the caller makes what comes next.
 */
#ifndef YADO_VM_OUT_H
#define YADO_VM_OUT_H

#include "base/buf.h"
#include "base/str.h"

#include <gnutls/crypto.h>
#include <pthread.h>
#include <stdbool.h>

/* Bytes from offset on become what is written, in place. */
typedef void (*vm_out_seal)(const void *arg, uint64_t offset, void *data, size_t len);

/* So many bytes are written; on whatever thread writes. */
typedef void (*vm_out_written)(void *arg, uint64_t bytes);

struct vm_out {
    int fd;
    char *path;
    vm_out_seal seal; /* may be NULL */
    const void *seal_arg;
    vm_out_written tell; /* may be NULL; the caller sets both after vm_out_open() */
    void *tell_arg;
    uint64_t written;
    uint64_t bytes; /* put */
    struct buf pending;
    gnutls_hash_hd_t hash;
    /* The thread, from the first full buffer on; it has fd, seal, written and full while full is
     * not empty. */
    pthread_t thread;
    bool has_thread, ending;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct buf full;
    int error;
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
