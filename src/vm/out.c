/* SPDX-License-Identifier: Apache-2.0
 *
 * See out.h.
 */
#include "vm/out.h"

#include "base/must.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WRITE_BYTES = 1 << 20, DIGEST_BYTES = 32 };

int vm_out_open(struct vm_out *o, const char *path, vm_out_seal seal, const void *seal_arg,
                struct err *ret_err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (fd < 0)
        return err_set(ret_err, -errno, "cannot make %s: %s", path, strerror(errno));
    *o = (struct vm_out){.fd = fd, .path = xstrdup(path), .seal = seal, .seal_arg = seal_arg};
    MUST(gnutls_hash_init(&o->hash, GNUTLS_DIG_SHA256) == 0);
    return 0;
}

static int flush(struct vm_out *o)
{
    if (o->seal)
        o->seal(o->seal_arg, o->written, o->pending.data, o->pending.len);
    for (size_t at = 0; at < o->pending.len;) {
        ssize_t n = write(o->fd, o->pending.data + at, o->pending.len - at);

        if (n < 0 && errno != EINTR)
            return -errno;
        at += n > 0 ? (size_t)n : 0;
    }
    o->written += o->pending.len;
    buf_clear(&o->pending);
    return 0;
}

int vm_out_put(void *arg, const void *data, size_t len)
{
    struct vm_out *o = arg;

    if (gnutls_hash(o->hash, data, len) < 0)
        return -EIO;
    o->bytes += len;
    buf_put(&o->pending, data, len);
    return o->pending.len >= WRITE_BYTES ? flush(o) : 0;
}

static void end(struct vm_out *o, uint8_t digest[DIGEST_BYTES])
{
    gnutls_hash_deinit(o->hash, digest);
    buf_deinit(&o->pending);
    free(o->path);
    o->path = NULL;
}

void vm_out_abort(struct vm_out *o)
{
    uint8_t digest[DIGEST_BYTES];

    (void)close(o->fd);
    (void)unlink(o->path); /* whatever it holds is of no use */
    end(o, digest);
}

int vm_out_finish(struct vm_out *o, char ret_digest[65], struct err *ret_err)
{
    uint8_t digest[DIGEST_BYTES];
    int r = flush(o);

    if (close(o->fd) < 0 && !r)
        r = -errno;
    if (r) {
        (void)unlink(o->path); /* half a file is none */
        err_format(ret_err, "cannot write %s: %s", o->path, strerror(-r));
    }
    end(o, digest);
    if (!r)
        str_hex(digest, sizeof digest, ret_digest);
    return r;
}
