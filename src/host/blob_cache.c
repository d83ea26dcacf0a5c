/* SPDX-License-Identifier: Apache-2.0
 *
 * The PC's cache of blobs; see blob_cache.h.
 */
#include "host/blob_cache.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/must.h"
#include "host/digest.h"
#include "host/seal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum {
    SUM_BYTES = 16,
    RUN_BLOCKS = 64, /* of one request when everything is fetched: 16 MiB */
};

struct blob {
    char digest[DIGEST_HEX_BYTES];
    char *path;
    uint64_t size;
    uint64_t count;
    struct seal seal;
    int data_fd;
    int have_fd;   /* bears the lock */
    uint8_t *have; /* shared mapping, a byte and then a sum a block; NULL when count is 0 */
    pthread_mutex_t list_lock;
    uint8_t *list; /* the master's sums, when one was needed; set once, under list_lock */
};

struct http *blob_source_open(const struct blob_source *source)
{
    struct http_config config = {.ca_file = source->ca_file, .bearer = source->grant};

    return http_new(&config);
}

static uint64_t block_length(const struct blob *b, uint64_t block)
{
    uint64_t left = b->size - block * BLOB_BLOCK_BYTES;

    return left < BLOB_BLOCK_BYTES ? left : BLOB_BLOCK_BYTES;
}

static size_t have_bytes(const struct blob *b)
{
    return (size_t)b->count * (1 + SUM_BYTES);
}

/* What a block that is here must be. Bytes and sums may be of different writes after a power cut:
 * then they do not match, and the block is fetched anew. */
static uint8_t *kept_sum(const struct blob *b, uint64_t block)
{
    return b->have + b->count + block * SUM_BYTES;
}

static void put_sum(uint8_t *sum, const void *data, size_t len)
{
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, len));
    memcpy(sum, &canonical, SUM_BYTES);
}

static bool sum_matches(const uint8_t *sum, const void *data, size_t len)
{
    uint8_t got[SUM_BYTES];

    put_sum(got, data, len);
    return memcmp(got, sum, SUM_BYTES) == 0;
}

/* Opens and locks; -EAGAIN when the file was removed between the two. */
static int open_locked(const char *path, int *ret_fd)
{
    AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct stat st;

    if (fd < 0 || flock(fd, LOCK_SH) || fstat(fd, &st))
        return -errno;
    if (st.st_nlink == 0)
        return -EAGAIN;
    *ret_fd = take_fd(&fd);
    return 0;
}

static int set_size(int fd, uint64_t size, bool *ret_changed)
{
    struct stat st;

    if (fstat(fd, &st))
        return -errno;
    *ret_changed = (uint64_t)st.st_size != size;
    if (*ret_changed && (ftruncate(fd, 0) || ftruncate(fd, (off_t)size)))
        return -errno;
    return 0;
}

static int open_files(struct blob *b, const char *have_path)
{
    const struct timespec now[2] = {{.tv_nsec = UTIME_NOW}, {.tv_nsec = UTIME_NOW}};
    bool changed = false, data_changed = false;
    int r;

    do
        r = open_locked(have_path, &b->have_fd);
    while (r == -EAGAIN);
    if (r)
        return r;
    b->data_fd = open(b->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (b->data_fd < 0)
        return -errno;
    r = set_size(b->data_fd, b->size, &data_changed);
    if (r == 0)
        r = set_size(b->have_fd, have_bytes(b), &changed);
    if (r)
        return r;
    (void)futimens(b->have_fd, now); /* only the order of removal depends on it */
    if (b->count == 0)
        return 0;
    b->have = mmap(NULL, have_bytes(b), PROT_READ | PROT_WRITE, MAP_SHARED, b->have_fd, 0);
    if (b->have == MAP_FAILED) {
        b->have = NULL;
        return -errno;
    }
    if (data_changed)
        memset(b->have, 0, b->count);
    return 0;
}

int blob_open(const char *cache_dir, const char *digest, uint64_t size, struct blob **ret_blob,
              struct err *ret_err)
{
    return blob_open_sealed(cache_dir, digest, size, "", ret_blob, ret_err);
}

int blob_open_sealed(const char *cache_dir, const char *digest, uint64_t size, const char *key,
                     struct blob **ret_blob, struct err *ret_err)
{
    AUTO_FREE char *have_path = NULL;
    struct blob *b;
    int r;

    if (!digest_is_valid(digest))
        return err_set(ret_err, -EINVAL, "\"%.80s\" is not the digest of a blob", digest);
    if (size > (1ull << 50))
        return err_set(ret_err, -EFBIG, "blob %s: a size of %llu bytes is not credible", digest,
                       (unsigned long long)size);
    b = xcalloc(1, sizeof *b);
    memcpy(b->digest, digest, sizeof b->digest);
    b->size = size;
    b->count = (size + BLOB_BLOCK_BYTES - 1) / BLOB_BLOCK_BYTES;
    b->path = xasprintf("%s/%s.data", cache_dir, digest);
    b->data_fd = b->have_fd = -1;
    MUST(pthread_mutex_init(&b->list_lock, NULL) == 0);
    have_path = xasprintf("%s/%s.have", cache_dir, digest);
    r = seal_init_blob(&b->seal, key, digest);
    if (r == 0)
        r = open_files(b, have_path);
    if (r) {
        blob_close(b);
        return err_set(ret_err, r, "cache %s: blob %s: %s", cache_dir, digest, strerror(-r));
    }
    *ret_blob = b;
    return 0;
}

void blob_close(struct blob *b)
{
    if (!b)
        return;
    if (b->have)
        munmap(b->have, have_bytes(b));
    if (b->data_fd >= 0)
        close(b->data_fd);
    if (b->have_fd >= 0)
        close(b->have_fd);
    pthread_mutex_destroy(&b->list_lock);
    free(b->path);
    free(b->list);
    free(b);
}

static int read_full(int fd, uint8_t *data, size_t len, uint64_t offset)
{
    while (len) {
        ssize_t n = pread(fd, data, len, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n ? -errno : -EIO;
        data += n;
        len -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

static int write_full(int fd, const uint8_t *data, size_t len, uint64_t offset)
{
    while (len) {
        ssize_t n = pwrite(fd, data, len, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        data += n;
        len -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

int blob_pread(const struct blob *b, uint64_t offset, void *data, size_t len)
{
    int r = read_full(b->data_fd, data, len, offset);

    if (r == 0)
        seal_apply(&b->seal, offset, data, len);
    return r;
}

/* The file's digest has been made, so its blocks are what their sums must be. */
static int copy_file(int from, const struct blob *b)
{
    AUTO_FREE uint8_t *data = xmalloc(BLOB_BLOCK_BYTES);
    int r = 0;

    for (uint64_t i = 0; i < b->count && r == 0; i++) {
        uint64_t at = i * BLOB_BLOCK_BYTES;
        size_t len = block_length(b, i);

        r = read_full(from, data, len, at);
        if (r == 0)
            r = write_full(b->data_fd, data, len, at);
        if (r == 0) {
            put_sum(kept_sum(b, i), data, len);
            b->have[i] = 1;
        }
    }
    return r;
}

int blob_cache_add(const char *cache_dir, const char *path, struct err *ret_err)
{
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    char digest[DIGEST_HEX_BYTES];
    struct blob *b = NULL;
    uint64_t size = 0;
    int r = fd < 0 ? -errno : digest_of_fd(fd, digest, &size);

    if (r)
        return err_set(ret_err, r, "%s: %s", path, strerror(-r));
    r = blob_open(cache_dir, digest, size, &b, ret_err);
    if (r)
        return r;
    if (b->have && memchr(b->have, 0, b->count))
        r = copy_file(fd, b);
    if (r)
        err_format(ret_err, "%s: cannot copy %s: %s", b->path, path, strerror(-r));
    blob_close(b);
    return r;
}

uint64_t blob_size(const struct blob *b)
{
    return b->size;
}

uint64_t blob_count_blocks(const struct blob *b)
{
    return b->count;
}

int blob_fd(const struct blob *b)
{
    return b->data_fd;
}

const char *blob_path(const struct blob *b)
{
    return b->path;
}

int blob_status_error(int status)
{
    switch (status) {
    case 409:
        return -ESTALE;
    case 404:
        return -ENOENT;
    case 401:
    case 403:
        return -EACCES;
    default:
        return http_may_retry(0, status) ? -EAGAIN : -EPROTO;
    }
}

bool blob_may_retry(int result)
{
    return result == -EAGAIN || http_may_retry(result, 0);
}

/* The verdict over an answer: its status as an error with the server's words. */
static int judge(const struct blob *b, const struct http_response *answer, struct err *ret_err)
{
    struct err why;

    if (answer->status >= 200 && answer->status < 300)
        return 0;
    http_error_text(answer, &why);
    return err_set(ret_err, blob_status_error(answer->status), "blob %s: %.300s", b->digest,
                   why.text);
}

static int fetch_list(struct blob *b, struct http *h, const char *url, struct err *ret_err)
{
    AUTO_FREE char *full = xasprintf("%sblobs/%s/blocks", url, b->digest);
    AUTO_HTTP_RESPONSE struct http_response answer = {0};
    struct http_request q = {.method = "GET", .url = full, .body_max = b->count * SUM_BYTES + 1};
    int r = http_do(h, &q, &answer, ret_err);

    if (r == 0)
        r = judge(b, &answer, ret_err);
    if (r)
        return r;
    if (answer.body.len != b->count * SUM_BYTES)
        return err_set(ret_err, -EPROTO, "blob %s: a block list of %zu bytes for %llu blocks",
                       b->digest, answer.body.len, (unsigned long long)b->count);
    b->list = (uint8_t *)buf_take_str(&answer.body);
    return 0;
}

static int need_list(struct blob *b, struct http *h, const char *url, struct err *ret_err)
{
    int r = 0;

    pthread_mutex_lock(&b->list_lock);
    if (!b->list)
        r = fetch_list(b, h, url, ret_err);
    pthread_mutex_unlock(&b->list_lock);
    return r;
}

bool blob_has_block(const struct blob *b, uint64_t block)
{
    MUST(block < b->count);
    return b->have[block] != 0;
}

/* True when the block is on the disk and is what it was; a damaged one is forgotten. */
static bool check_block(struct blob *b, uint64_t block)
{
    size_t len = block_length(b, block);
    AUTO_FREE uint8_t *data = NULL;

    MUST(block < b->count);
    if (!b->have[block])
        return false;
    data = xmalloc(len);
    if (blob_pread(b, block * BLOB_BLOCK_BYTES, data, len) == 0 &&
        sum_matches(kept_sum(b, block), data, len))
        return true;
    log_debug("cache: block %llu of %s is damaged", (unsigned long long)block, b->digest);
    b->have[block] = 0;
    return false;
}

/* Takes a stream of bytes that begins at a block's start and stores it block by block. */
struct intake {
    struct blob *b;
    uint64_t block;
    uint64_t end; /* behind the last block that was asked for */
    size_t filled;
    uint8_t *data; /* BLOB_BLOCK_BYTES */
};

static int intake_block(struct intake *in, size_t len)
{
    struct blob *b = in->b;
    const uint8_t *sum = b->list + in->block * SUM_BYTES;
    int r;

    if (!sum_matches(sum, in->data, len))
        return -EBADMSG;
    seal_apply(&b->seal, in->block * BLOB_BLOCK_BYTES, in->data, len);
    r = write_full(b->data_fd, in->data, len, in->block * BLOB_BLOCK_BYTES);
    if (r)
        return r;
    memcpy(kept_sum(b, in->block), sum, SUM_BYTES);
    b->have[in->block] = 1;
    in->block++;
    in->filled = 0;
    return 0;
}

static int intake_take(void *arg, const void *data, size_t len)
{
    struct intake *in = arg;
    const uint8_t *p = data;

    while (len) {
        size_t want, n;
        int r;

        if (in->block == in->end)
            return -EPROTO; /* more than was asked for */
        want = block_length(in->b, in->block);
        n = want - in->filled < len ? want - in->filled : len;
        memcpy(in->data + in->filled, p, n);
        in->filled += n;
        p += n;
        len -= n;
        r = in->filled == want ? intake_block(in, want) : 0;
        if (r)
            return r;
    }
    return 0;
}

static int fetch_run(struct blob *b, struct http *h, const char *url, uint64_t block,
                     uint64_t count, struct err *ret_err)
{
    AUTO_FREE char *full = xasprintf("%sblobs/%s", url, b->digest);
    AUTO_FREE uint8_t *data = xmalloc(BLOB_BLOCK_BYTES);
    AUTO_HTTP_RESPONSE struct http_response answer = {0};
    struct intake in = {.b = b, .block = block, .end = block + count, .data = data};
    uint64_t start = block * BLOB_BLOCK_BYTES;
    uint64_t last = (block + count - 1) * BLOB_BLOCK_BYTES + block_length(b, block + count - 1);
    struct http_request q = {.method = "GET",
                             .url = full,
                             .range_offset = start,
                             .range_bytes = last - start,
                             .sink = intake_take,
                             .sink_arg = &in};
    int r = http_do(h, &q, &answer, ret_err);

    if (r == -EBADMSG)
        return err_set(ret_err, r, "blob %s: block %llu came damaged from the source", b->digest,
                       (unsigned long long)in.block);
    if (r == 0)
        r = judge(b, &answer, ret_err);
    if (r == 0 && in.block != in.end)
        r = err_set(ret_err, -EAGAIN, "blob %s: the answer was too short", b->digest);
    return r;
}

int blob_fetch_blocks(struct blob *b, struct http *h, const char *url, uint64_t first, uint64_t end,
                      struct err *ret_err)
{
    int r = 0;

    for (uint64_t i = first; r == 0 && i < end;) {
        uint64_t run = 0;

        while (run < RUN_BLOCKS && i + run < end && !check_block(b, i + run))
            run++;
        if (run)
            r = need_list(b, h, url, ret_err);
        if (run && r == 0)
            r = fetch_run(b, h, url, i, run, ret_err);
        i += run ? run : 1;
    }
    return r;
}

int blob_fetch_all(struct blob *b, struct http *h, const char *url, struct err *ret_err)
{
    return blob_fetch_blocks(b, h, url, 0, b->count, ret_err);
}

int blob_read(struct blob *b, struct http *h, const char *url, uint64_t offset, void *data,
              size_t len, struct err *ret_err)
{
    int r;

    MUST(len && offset < b->size && len <= b->size - offset);
    r = blob_fetch_blocks(b, h, url, offset / BLOB_BLOCK_BYTES,
                          (offset + len - 1) / BLOB_BLOCK_BYTES + 1, ret_err);
    if (r)
        return r;
    r = blob_pread(b, offset, data, len);
    return r ? err_set(ret_err, r, "blob %s: %s", b->digest, strerror(-r)) : 0;
}
