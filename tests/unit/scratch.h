/* SPDX-License-Identifier: Apache-2.0
 *
 * Folders for tests that need real files: made under $TMPDIR or /var/tmp, removed with all that
 * is in them; and a file system of a few megabytes, to be filled up.
 */
#ifndef YADO_TESTS_SCRATCH_H
#define YADO_TESTS_SCRATCH_H

#include <ftw.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

struct scratch {
    char path[128];
    bool mounted;
};

static inline struct scratch scratch_new(void)
{
    struct scratch s = {0};
    const char *base = getenv("TMPDIR");

    snprintf(s.path, sizeof s.path, "%s/yado-unit-XXXXXX", base ? base : "/var/tmp");
    if (!mkdtemp(s.path)) {
        perror(s.path);
        abort();
    }
    return s;
}

static inline int scratch_unlink(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static inline void scratch_remove(struct scratch *s)
{
    if (s->mounted)
        umount2(s->path, MNT_DETACH);
    nftw(s->path, scratch_unlink, 16, FTW_DEPTH | FTW_PHYS);
}

/* Puts a small file system there, seen by this process only; false without the privilege. */
static inline bool scratch_small(struct scratch *s, const char *size)
{
    char options[32];

    snprintf(options, sizeof options, "size=%s", size);
    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mount("small", s->path, "tmpfs", 0, options))
        return false;
    s->mounted = true;
    return true;
}

#endif
