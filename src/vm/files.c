/* SPDX-License-Identifier: Apache-2.0
 *
 * Layer files and plain memory files on disk: mapping the one, composing the other. src/layer
 * knows what they mean and touches no file.
 */
#include "vm/vm.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/must.h"
#include "layer/chain.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>

int vm_map_file(const char *path, uint8_t **ret_data, size_t *ret_len, struct err *ret_err)
{
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    void *p;

    if (fd < 0 || fstat(fd, &st) < 0)
        return err_set(ret_err, -errno, "cannot open %s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode) || st.st_size == 0)
        return err_set(ret_err, -EINVAL, "%s is empty or no plain file", path);
    p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return err_set(ret_err, -errno, "cannot map %s: %s", path, strerror(errno));
    *ret_data = p;
    *ret_len = (size_t)st.st_size;
    return 0;
}

int vm_layer_open(const char *path, struct layer **ret_layer, struct err *ret_err)
{
    struct err why;
    uint8_t *data = NULL;
    size_t len = 0;
    int r = vm_map_file(path, &data, &len, ret_err);

    if (r)
        return r;
    r = layer_open(&(struct layer_source){.file_bytes = len, .data = data}, ret_layer, &why);
    if (r) {
        (void)munmap(data, len);
        return err_set(ret_err, r, "%s: %s", path, why.text);
    }
    return 0;
}

void vm_layer_close(struct layer *layer)
{
    if (!layer)
        return;
    struct layer_source source = *layer_source_of(layer);
    layer_close(layer);
    (void)munmap((void *)source.data, source.file_bytes); /* our own mapping: cannot fail */
}

int vm_chain_push(struct layer_chain *chain, const char *path, const char *digest,
                  struct err *ret_err)
{
    uint8_t sha256[LAYER_DIGEST_BYTES];
    struct layer *layer;
    struct err why;
    int r;

    if (str_unhex(digest, sha256, sizeof sha256))
        return err_set(ret_err, -EINVAL, "\"%s\" is not the digest of a layer", digest);
    r = vm_layer_open(path, &layer, ret_err);
    if (r)
        return r;
    r = layer_chain_add(chain, layer, sha256, &why);
    if (r) {
        vm_layer_close(layer);
        return err_set(ret_err, r, "%s: %s", path, why.text);
    }
    return 0;
}

void vm_chain_close(struct layer_chain *chain)
{
    for (size_t i = 0; chain && i < layer_chain_count(chain); i++)
        vm_layer_close((struct layer *)layer_chain_at(chain, i));
    layer_chain_free(chain);
}

static int write_all(int fd, uint64_t offset, const uint8_t *data, size_t len)
{
    while (len) {
        ssize_t n = pwrite(fd, data, len, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        data += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

static int write_pages(void *arg, uint64_t offset, const uint8_t *data, size_t len)
{
    static const uint8_t zeros[1 << 16];
    int fd = *(int *)arg, r = 0;

    if (data)
        return write_all(fd, offset, data, len);
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len) == 0)
        return 0;
    for (size_t n; len && !r; len -= n, offset += n) {
        n = len < sizeof zeros ? len : sizeof zeros;
        r = write_all(fd, offset, zeros, n);
    }
    return r;
}

/* Copies from..end of a file, without the cache of the target where the kernel can. */
static int copy_range(int from, int to, off_t at, off_t end)
{
    uint8_t data[1 << 16];

    for (off_t out = at; at < end;) {
        ssize_t n = copy_file_range(from, &at, to, &out, (size_t)(end - at), 0);

        if (n > 0)
            continue;
        if (n < 0 && errno != EXDEV && errno != EINVAL && errno != EOPNOTSUPP && errno != ENOSYS)
            return -errno;
        n = pread(from, data, sizeof data < (size_t)(end - at) ? sizeof data : (size_t)(end - at),
                  at);
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        int r = write_all(to, (uint64_t)at, data, (size_t)n);
        if (r)
            return r;
        at += n;
        out = at;
    }
    return 0;
}

/* Makes `to` the same as `from`: shared blocks, else the parts that are no holes. */
static int copy_sparse(int from, int to, off_t size)
{
    off_t data = 0, hole;
    int r = 0;

    if (ioctl(to, FICLONE, from) == 0)
        return 0;
    while (!r && data < size) {
        data = lseek(from, data, SEEK_DATA);
        if (data < 0)
            return errno == ENXIO ? 0 : -errno; /* only holes are left */
        hole = lseek(from, data, SEEK_HOLE);
        if (hole < 0)
            return -errno;
        r = copy_range(from, to, data, hole);
        data = hole;
    }
    return r;
}

static int fill(int fd, const char *golden_memory, const struct layer_chain *chain,
                const char *path, struct err *err)
{
    AUTO_CLOSE int golden = golden_memory ? open(golden_memory, O_RDONLY | O_CLOEXEC) : -1;
    uint64_t bytes = layer_chain_memory_bytes(chain);
    struct stat st = {0};
    struct err why = {""};
    int r = 0;

    if (golden_memory && (golden < 0 || fstat(golden, &st) < 0))
        return err_set(err, -errno, "cannot open %s: %s", golden_memory, strerror(errno));
    if (golden_memory && (uint64_t)st.st_size != bytes)
        return err_set(err, -EINVAL, "%s has %lld bytes, the layers belong to memory of %llu",
                       golden_memory, (long long)st.st_size, (unsigned long long)bytes);
    if (ftruncate(fd, (off_t)bytes) < 0)
        r = -errno;
    if (!r && golden_memory)
        r = copy_sparse(golden, fd, st.st_size);
    if (!r && (!golden_memory || layer_chain_count(chain) > 1))
        r = layer_chain_walk(chain, golden_memory ? 1 : 0, write_pages, &fd, &why);
    if (r)
        return err_set(err, r, "cannot compose %s: %s", path,
                       why.text[0] ? why.text : strerror(-r));
    return 0;
}

int vm_compose(const char *golden_memory, const struct layer_chain *chain, const char *path,
               struct err *ret_err)
{
    AUTO_FREE char *draft = xasprintf("%s.draft", path);
    AUTO_CLOSE int fd = open(draft, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int r;

    MUST(layer_chain_count(chain));
    if (fd < 0)
        return err_set(ret_err, -errno, "cannot make %s: %s", draft, strerror(errno));
    r = fill(fd, golden_memory, chain, path, ret_err);
    if (!r && rename(draft, path) < 0)
        r = err_set(ret_err, -errno, "cannot make %s: %s", path, strerror(errno));
    if (r)
        (void)unlink(draft); /* the error is told already */
    return r;
}
