/* SPDX-License-Identifier: Apache-2.0
 *
 * Keeping the blob cache below its size: the longest unused entries that nobody has open go
 * first. An entry is DIGEST.have with DIGEST.data, a DIGEST.hot (what guests read first, by the
 * pager) or a DIGEST.mem (composed memory, of an earlier version); its lock is on the file named
 * first, and its last use is that file's modification time.
 */
#include "base/buf.h"
#include "base/cleanup.h"
#include "host/blob_cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct entry {
    char name[80]; /* of the file that bears the lock */
    uint64_t bytes;
    struct timespec used;
};

static void data_name(const char *name, char *out, size_t out_size)
{
    snprintf(out, out_size, "%.64s.data", name);
}

static int compare(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;

    if (x->used.tv_sec != y->used.tv_sec)
        return x->used.tv_sec < y->used.tv_sec ? -1 : 1;
    return (x->used.tv_nsec > y->used.tv_nsec) - (x->used.tv_nsec < y->used.tv_nsec);
}

static bool read_entry(int dir, const char *name, struct entry *ret)
{
    struct stat st, data;
    char other[80];

    if (strlen(name) >= sizeof ret->name ||
        !(str_ends(name, ".have") || str_ends(name, ".hot") || str_ends(name, ".mem")))
        return false;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode))
        return false;
    *ret = (struct entry){.bytes = (uint64_t)st.st_blocks * 512, .used = st.st_mtim};
    memcpy(ret->name, name, strlen(name) + 1);
    data_name(name, other, sizeof other);
    if (str_ends(name, ".have") && fstatat(dir, other, &data, AT_SYMLINK_NOFOLLOW) == 0)
        ret->bytes += (uint64_t)data.st_blocks * 512;
    return true;
}

/* The data goes first: a .have without .data is an entry without bytes, not the reverse. */
static bool remove_entry(int dir, const struct entry *e)
{
    AUTO_CLOSE int fd = openat(dir, e->name, O_RDONLY | O_CLOEXEC);
    char other[80];

    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB))
        return false;
    data_name(e->name, other, sizeof other);
    if (str_ends(e->name, ".have") && unlinkat(dir, other, 0) && errno != ENOENT)
        return false;
    return unlinkat(dir, e->name, 0) == 0;
}

int blob_cache_trim(const char *cache_dir, uint64_t max_bytes)
{
    struct entry *entries = NULL;
    size_t count = 0, cap = 0;
    uint64_t total = 0;
    struct dirent *item;
    DIR *d = opendir(cache_dir);

    if (!d)
        return -errno;
    while ((item = readdir(d))) {
        if (count == cap) {
            cap = cap ? 2 * cap : 64;
            entries = xreallocarray(entries, cap, sizeof *entries);
        }
        if (read_entry(dirfd(d), item->d_name, &entries[count]))
            total += entries[count++].bytes;
    }
    if (count)
        qsort(entries, count, sizeof *entries, compare);
    for (size_t i = 0; i < count && total > max_bytes; i++)
        if (remove_entry(dirfd(d), &entries[i]))
            total -= entries[i].bytes;
    free(entries);
    closedir(d);
    return 0;
}
