/* SPDX-License-Identifier: Apache-2.0
 *
 * Folders as tar files and back, by libarchive; see tarball.h.
 *
 * Why a link cannot lead out: ".." is allowed only at the beginning of a link's target and only
 * as often as the link's own folder is deep, and that folder is a real one, because libarchive
 * refuses to go through a link (SECURE_SYMLINKS). Every link thus points inside, so a path that
 * goes through several of them stays inside too.
 */
#include "cli/tarball.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/num.h"

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK_BYTES = 1024 * 1024, GUEST_ID = 1000, DEPTH_MAX = 200 };

/* ---- packing --------------------------------------------------------------------------------- */

struct packer {
    struct archive *a;
    int fd;
    bool given_up; /* nothing more is to be written, not even the padding of an unfinished file */
    uint8_t *chunk;
    struct err *err;
};

static int pack_failed(struct packer *p, const char *path)
{
    return err_set(p->err, -EIO, "%s: %s", path, archive_error_string(p->a));
}

static la_ssize_t on_write(struct archive *a, void *arg, const void *data, size_t len)
{
    const struct packer *p = arg;
    ssize_t n;

    do
        n = p->given_up ? -1 : write(p->fd, data, len);
    while (n < 0 && !p->given_up && errno == EINTR);
    if (n < 0)
        archive_set_error(a, errno, "the temporary file: %s", strerror(errno));
    return n;
}

static int pack_content(struct packer *p, int fd, const char *path, uint64_t size)
{
    while (size) {
        size_t want = size < CHUNK_BYTES ? (size_t)size : CHUNK_BYTES;
        ssize_t n = read(fd, p->chunk, want);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(p->err, -errno, "%s: %s", path, strerror(errno));
        if (n == 0)
            return err_set(p->err, -EAGAIN, "%s: became shorter while it was read; try again",
                           path);
        if (archive_write_data(p->a, p->chunk, (size_t)n) < 0)
            return pack_failed(p, path);
        size -= (uint64_t)n;
    }
    return 0;
}

static int pack_dir(struct packer *p, int dir, const char *path, const char *inner, int depth);

/* One entry: `name` in the folder behind dir; `path` for texts, `inner` in the tar. */
static int pack_entry(struct packer *p, int dir, const char *name, const char *path,
                      const char *inner, int depth)
{
    struct archive_entry *e;
    AUTO_CLOSE int fd = -1;
    struct stat st;
    char target[4096];
    int r = 0;

    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return err_set(p->err, -errno, "%s: %s", path, strerror(errno));
    if (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)) {
        fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd < 0 || fstat(fd, &st) < 0)
            return err_set(p->err, -errno, "%s: %s", path, strerror(errno));
    }
    if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode) && !S_ISLNK(st.st_mode))
        return err_set(p->err, -EINVAL, "%s: neither a file, a folder nor a link", path);
    e = archive_entry_new();
    archive_entry_set_pathname(e, inner);
    archive_entry_set_mode(e, (st.st_mode & S_IFMT) | (st.st_mode & 0777) |
                                  (S_ISDIR(st.st_mode) ? 0555 : 0444));
    archive_entry_set_uid(e, GUEST_ID);
    archive_entry_set_gid(e, GUEST_ID);
    archive_entry_set_mtime(e, 0, 0);
    if (S_ISLNK(st.st_mode)) {
        ssize_t n = readlinkat(dir, name, target, sizeof target - 1);

        target[n > 0 ? n : 0] = 0;
        archive_entry_set_symlink(e, target);
    } else if (S_ISREG(st.st_mode)) {
        archive_entry_set_size(e, st.st_size);
    }
    if (archive_write_header(p->a, e) != ARCHIVE_OK)
        r = pack_failed(p, path);
    archive_entry_free(e);
    if (r == 0 && S_ISREG(st.st_mode))
        r = pack_content(p, fd, path, (uint64_t)st.st_size);
    if (r == 0 && S_ISDIR(st.st_mode))
        r = pack_dir(p, fd, path, inner, depth + 1);
    return r;
}

static int not_dots(const struct dirent *d)
{
    return strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0;
}

/* By bytes, whatever the locale. */
static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int pack_dir(struct packer *p, int dir, const char *path, const char *inner, int depth)
{
    struct dirent **names = NULL;
    int n, r = 0;

    if (depth > DEPTH_MAX)
        return err_set(p->err, -ELOOP, "%s: more than %d folders deep", path, DEPTH_MAX);
    n = scandirat(dir, ".", &names, not_dots, by_name);
    if (n < 0)
        return err_set(p->err, -errno, "%s: %s", path, strerror(errno));
    for (int i = 0; i < n; i++) {
        const char *name = names[i]->d_name;

        if (r == 0) {
            AUTO_FREE char *full = xasprintf("%s/%s", path, name);
            AUTO_FREE char *in = *inner ? xasprintf("%s/%s", inner, name) : xstrdup(name);

            r = pack_entry(p, dir, name, full, in, depth);
        }
        free(names[i]);
    }
    free(names);
    return r;
}

int tarball_pack(const char *dir, int fd, struct err *ret_err)
{
    AUTO_CLOSE int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    AUTO_FREE uint8_t *chunk = xmalloc(CHUNK_BYTES);
    struct packer p = {.a = archive_write_new(), .fd = fd, .chunk = chunk, .err = ret_err};
    int r;

    if (dir_fd < 0)
        r = err_set(ret_err, -errno, "%s: %s", dir, strerror(errno));
    else if (archive_write_set_format_pax_restricted(p.a) != ARCHIVE_OK ||
             archive_write_set_bytes_in_last_block(p.a, 512) != ARCHIVE_OK ||
             archive_write_open(p.a, &p, NULL, on_write, NULL) != ARCHIVE_OK)
        r = pack_failed(&p, dir);
    else
        r = pack_dir(&p, dir_fd, dir, "", 0);
    if (r == 0 && archive_write_close(p.a) != ARCHIVE_OK)
        r = pack_failed(&p, dir);
    p.given_up = true;
    archive_write_free(p.a);
    return r;
}

/* ---- unpacking ------------------------------------------------------------------------------- */

/* How many folders deep the path's last component lies; -1: it is absolute, empty or has "..". */
static int depth_of(const char *path)
{
    int depth = -1;

    if (!*path || *path == '/')
        return -1;
    while (*path) {
        size_t n = strcspn(path, "/");

        if (n == 2 && path[0] == '.' && path[1] == '.')
            return -1;
        if (n && !(n == 1 && path[0] == '.'))
            depth++;
        path += n + (path[n] == '/');
    }
    return depth < 0 ? 0 : depth;
}

/* Whether a link's target, seen from a folder `depth` deep, begins with at most that many "..",
 * and has none later. */
static bool target_stays(const char *target, int depth)
{
    bool leading = true;

    if (!*target || *target == '/')
        return false;
    while (*target) {
        size_t n = strcspn(target, "/");

        if (n == 2 && target[0] == '.' && target[1] == '.') {
            if (!leading || depth-- == 0)
                return false;
        } else if (n && !(n == 1 && target[0] == '.')) {
            leading = false;
        }
        target += n + (target[n] == '/');
    }
    return true;
}

static const char *refusal_of(struct archive_entry *e, const char *path)
{
    const char *hard = archive_entry_hardlink(e), *soft = archive_entry_symlink(e);
    int depth = depth_of(path);
    mode_t type = archive_entry_filetype(e);

    if (depth < 0)
        return "its path leaves the folder";
    if (hard)
        return depth_of(hard) < 0 ? "it is a link that leaves the folder" : NULL;
    if (type == AE_IFLNK)
        return !soft || !target_stays(soft, depth) ? "it is a link that leaves the folder" : NULL;
    if (type != AE_IFREG && type != AE_IFDIR)
        return "it is a device, a pipe or a socket";
    if (type == AE_IFREG && (archive_entry_mode(e) & (S_ISUID | S_ISGID)))
        return "it is set-user-ID";
    return archive_entry_size(e) < 0 ? "its size is negative" : NULL;
}

static int copy_content(struct archive *in, struct archive *out, const char *path,
                        struct err *ret_err)
{
    const void *data;
    size_t len;
    la_int64_t offset;
    int r;

    while ((r = archive_read_data_block(in, &data, &len, &offset)) == ARCHIVE_OK)
        if (archive_write_data_block(out, data, len, offset) < ARCHIVE_OK)
            return err_set(ret_err, -EIO, "%s: %s", path, archive_error_string(out));
    if (r != ARCHIVE_EOF)
        return err_set(ret_err, -EBADMSG, "%s: %s", path, archive_error_string(in));
    return 0;
}

static int unpack_entry(struct archive *in, struct archive *out, struct archive_entry *e,
                        uint64_t *left, struct err *ret_err)
{
    const char *path = archive_entry_pathname(e), *why;
    mode_t mode = archive_entry_mode(e);
    uint64_t size;
    char text[NUM_TEXT_MAX];

    if (!path)
        return err_set(ret_err, -EPERM, "refused: an entry's name is no text");
    why = refusal_of(e, path);
    if (why)
        return err_set(ret_err, -EPERM, "refused: \"%.200s\": %s", path, why);
    size = archive_entry_size_is_set(e) ? (uint64_t)archive_entry_size(e) : 0;
    if (size > *left)
        return err_set(ret_err, -EFBIG, "refused: \"%.200s\" would be %s large when unpacked", path,
                       num_format_size(size, text));
    *left -= size;
    /* Whoever unpacks it must be able to read and to remove it. */
    archive_entry_set_mode(e, (mode & ~07000u) |
                                  (archive_entry_filetype(e) == AE_IFDIR ? 0700u : 0600u));
    if (archive_write_header(out, e) < ARCHIVE_OK)
        return err_set(ret_err, archive_errno(out) == ENOSPC ? -ENOSPC : -EPERM, "\"%.200s\": %s",
                       path, archive_error_string(out));
    return size ? copy_content(in, out, path, ret_err) : 0;
}

int tarball_unpack(int fd, int dir_fd, uint64_t max_bytes, struct err *ret_err)
{
    AUTO_CLOSE int back = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct archive *in = archive_read_new(), *out = archive_write_disk_new();
    struct archive_entry *e;
    uint64_t left = max_bytes;
    int r = 0, got = ARCHIVE_OK;

    archive_write_disk_set_options(out, ARCHIVE_EXTRACT_TIME | ARCHIVE_EXTRACT_SECURE_SYMLINKS |
                                            ARCHIVE_EXTRACT_SECURE_NODOTDOT |
                                            ARCHIVE_EXTRACT_SECURE_NOABSOLUTEPATHS);
    archive_read_support_format_tar(in); /* and no compression: what is sent is what there is */
    archive_read_support_format_empty(in);
    if (fchdir(dir_fd) < 0)
        r = err_set(ret_err, -errno, "the new folder: %s", strerror(errno));
    else if (archive_read_open_fd(in, fd, CHUNK_BYTES) != ARCHIVE_OK)
        r = err_set(ret_err, -EBADMSG, "the result is no tar file: %s", archive_error_string(in));
    while (r == 0 &&
           ((got = archive_read_next_header(in, &e)) == ARCHIVE_OK || got == ARCHIVE_WARN))
        r = unpack_entry(in, out, e, &left, ret_err);
    if (r == 0 && got != ARCHIVE_EOF)
        r = err_set(ret_err, -EBADMSG, "the result is damaged: %s", archive_error_string(in));
    if (archive_write_close(out) != ARCHIVE_OK && r == 0)
        r = err_set(ret_err, -EIO, "unpacking: %s", archive_error_string(out));
    archive_write_free(out);
    archive_read_free(in);
    if (back >= 0 && fchdir(back) < 0 && r == 0)
        r = err_set(ret_err, -errno, "the working folder: %s", strerror(errno));
    return r;
}
