/* SPDX-License-Identifier: Apache-2.0
 *
 * Tar files: a folder comes back as it was and gives the same bytes twice; what a hostile job
 * might send is refused, and nothing is written outside the folder.
 */
#include "cli/tarball.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "host/digest.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <cmocka.h>

struct place {
    char dir[64]; /* holds in/, out/ and whatever escapes */
    int out;
};

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static int setup(void **state)
{
    struct place *p = xcalloc(1, sizeof *p);
    char path[128];

    strcpy(p->dir, "/tmp/test-tarball-XXXXXX");
    if (!mkdtemp(p->dir))
        return -1;
    snprintf(path, sizeof path, "%s/in", p->dir);
    mkdir(path, 0755);
    snprintf(path, sizeof path, "%s/out", p->dir);
    mkdir(path, 0755);
    p->out = open(path, O_RDONLY | O_DIRECTORY);
    *state = p;
    return p->out < 0;
}

static int teardown(void **state)
{
    struct place *p = *state;

    close(p->out);
    nftw(p->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(p);
    return 0;
}

static void put(const struct place *p, const char *name, const char *content, mode_t mode)
{
    AUTO_FREE char *path = xasprintf("%s/in/%s", p->dir, name);
    int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, mode);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, content, strlen(content)), strlen(content));
    close(fd);
}

static int pack(const struct place *p, char digest[DIGEST_HEX_BYTES])
{
    AUTO_FREE char *path = xasprintf("%s/in", p->dir);
    int fd = memfd_create("tar", 0);
    struct err e = {""};

    if (tarball_pack(path, fd, &e))
        fail_msg("%s", e.text);
    assert_int_equal(digest_of_fd(fd, digest, NULL), 0);
    lseek(fd, 0, SEEK_SET);
    return fd;
}

static void test_there_and_back(void **state)
{
    struct place *p = *state;
    char first[DIGEST_HEX_BYTES], second[DIGEST_HEX_BYTES], long_name[201], text[8] = "";
    AUTO_FREE char *sub = xasprintf("%s/in/sub", p->dir);
    AUTO_FREE char *link = xasprintf("%s/in/sub/link", p->dir);
    struct timespec times[2] = {{1000, 0}, {1000, 0}};
    struct err e = {""};
    struct stat st;
    int fd;

    memset(long_name, 'n', 200);
    long_name[200] = 0;
    mkdir(sub, 0700);
    put(p, "b", "bb", 0644);
    put(p, "a", "aa", 0755);
    put(p, "sub/宿借り", "x", 0600);
    put(p, long_name, "y", 0644);
    assert_int_equal(symlink("../a", link), 0);
    close(pack(p, first));
    /* Neither times nor the order of making matter. */
    utimensat(AT_FDCWD, sub, times, 0);
    AUTO_FREE char *a = xasprintf("%s/in/a", p->dir);
    unlink(a);
    put(p, "a", "aa", 0755);
    fd = pack(p, second);
    assert_string_equal(first, second);

    if (tarball_unpack(fd, p->out, 1000, &e))
        fail_msg("%s", e.text);
    close(fd);
    fd = openat(p->out, "sub/link", O_RDONLY);
    assert_int_equal(read(fd, text, sizeof text), 2);
    assert_string_equal(text, "aa");
    close(fd);
    assert_int_equal(fstatat(p->out, "a", &st, 0), 0);
    assert_int_equal(st.st_mode & 0111, 0111);
    assert_int_equal(fstatat(p->out, "sub/宿借り", &st, 0), 0);
    assert_int_equal(fstatat(p->out, long_name, &st, 0), 0);
}

static void test_pack_refuses(void **state)
{
    struct place *p = *state;
    AUTO_FREE char *dir = xasprintf("%s/in", p->dir);
    AUTO_FREE char *fifo = xasprintf("%s/in/pipe", p->dir);
    AUTO_FREE char *want = xasprintf("%s: neither a file, a folder nor a link", fifo);
    int fd = memfd_create("tar", 0);
    struct err e;

    mkfifo(fifo, 0600);
    assert_int_equal(tarball_pack(dir, fd, &e), -EINVAL);
    assert_string_equal(e.text, want);
    assert_int_equal(tarball_pack("/nonexistent", fd, &e), -ENOENT);
    close(fd);
}

/* ---- hostile tars ---------------------------------------------------------------------------- */

struct entry {
    const char *path;
    mode_t mode;
    const char *target; /* of a symbolic link, or "=" and the target of a hard link */
};

static int make_tar(const struct entry *entries, size_t n)
{
    struct archive *a = archive_write_new();
    int fd = memfd_create("tar", 0);

    archive_write_set_format_pax(a);
    assert_int_equal(archive_write_open_fd(a, fd), ARCHIVE_OK);
    for (size_t i = 0; i < n; i++) {
        struct archive_entry *e = archive_entry_new();
        const struct entry *x = &entries[i];
        bool plain = S_ISREG(x->mode) && !x->target;

        archive_entry_set_pathname(e, x->path);
        archive_entry_set_mode(e, x->mode);
        if (x->target && x->target[0] == '=')
            archive_entry_set_hardlink(e, x->target + 1);
        else if (x->target)
            archive_entry_set_symlink(e, x->target);
        if (plain)
            archive_entry_set_size(e, 1);
        assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
        if (plain)
            archive_write_data(a, "x", 1);
        archive_entry_free(e);
    }
    archive_write_close(a);
    archive_write_free(a);
    lseek(fd, 0, SEEK_SET);
    return fd;
}

#define FILE_MODE (S_IFREG | 0644)
#define LINK_MODE (S_IFLNK | 0777)

static void test_hostile(void **state)
{
    static const struct {
        struct entry entries[3];
        const char *message; /* NULL: any refusal */
    } cases[] = {
        {{{"/tmp/yado-escaped", FILE_MODE}}, "its path leaves the folder"},
        {{{"../escaped", FILE_MODE}}, "its path leaves the folder"},
        {{{"a/../../escaped", FILE_MODE}}, "its path leaves the folder"},
        {{{"link", LINK_MODE, "/etc"}}, "it is a link that leaves the folder"},
        {{{"link", LINK_MODE, ".."}}, "it is a link that leaves the folder"},
        {{{"d/link", LINK_MODE, "../../escaped"}}, "it is a link that leaves the folder"},
        {{{"link", LINK_MODE, "a/../../escaped"}}, "it is a link that leaves the folder"},
        /* Harmless alone, an escape together: up is the folder itself, up/.. is above it. */
        {{{"d/up", LINK_MODE, ".."}, {"link", LINK_MODE, "d/up/.."}},
         "it is a link that leaves the folder"},
        {{{"d/up", LINK_MODE, ".."}, {"d/up/../escaped", FILE_MODE}}, "its path leaves the folder"},
        /* Through a link, which a later entry could have pointed elsewhere. */
        {{{"d", LINK_MODE, "."}, {"d/file", FILE_MODE}}, NULL},
        {{{"hard", FILE_MODE, "=/etc/passwd"}}, "it is a link that leaves the folder"},
        {{{"hard", FILE_MODE, "=../in/secret"}}, "it is a link that leaves the folder"},
        {{{"null", S_IFCHR | 0666}}, "it is a device, a pipe or a socket"},
        {{{"disk", S_IFBLK | 0666}}, "it is a device, a pipe or a socket"},
        {{{"pipe", S_IFIFO | 0666}}, "it is a device, a pipe or a socket"},
        {{{"su", S_IFREG | 04755}}, "it is set-user-ID"},
        {{{"sg", S_IFREG | 02755}}, "it is set-user-ID"},
    };
    struct place *p = *state;
    AUTO_FREE char *escaped = xasprintf("%s/escaped", p->dir);

    put(p, "secret", "s", 0644);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = 0;
        struct err e = {""};
        int fd, r;

        while (n < 3 && cases[i].entries[n].path)
            n++;
        fd = make_tar(cases[i].entries, n);
        r = tarball_unpack(fd, p->out, 1000000, &e);
        close(fd);
        if (r != -EPERM && r != -EFBIG)
            fail_msg("case %zu (%s): %d %s", i, cases[i].entries[0].path, r, e.text);
        if (cases[i].message && !strstr(e.text, cases[i].message))
            fail_msg("case %zu (%s): %s", i, cases[i].entries[0].path, e.text);
        assert_int_equal(access(escaped, F_OK), -1);
        assert_int_equal(access("/tmp/yado-escaped", F_OK), -1);
        /* The next case begins with an empty folder. */
        AUTO_FREE char *out = xasprintf("%s/out", p->dir);
        close(p->out);
        nftw(out, remove_one, 16, FTW_DEPTH | FTW_PHYS);
        mkdir(out, 0755);
        p->out = open(out, O_RDONLY | O_DIRECTORY);
    }
}

/* Files of holes, which are small as tar and large when unpacked, alone or all together. */
static void test_sparse_bombs(void **state)
{
    struct place *p = *state;
    AUTO_FREE char *make =
        xasprintf("cd %s && truncate -s 600K in/half in/more && "
                  "truncate -s 1T in/whole && "
                  "tar -C in -cSf whole.tar whole && tar -C in -cSf two.tar half more",
                  p->dir);
    AUTO_FREE char *whole = xasprintf("%s/whole.tar", p->dir);
    AUTO_FREE char *two = xasprintf("%s/two.tar", p->dir);
    struct err e = {""};
    int fd;

    assert_int_equal(system(make), 0);
    fd = open(whole, O_RDONLY);
    assert_int_equal(tarball_unpack(fd, p->out, 1000000, &e), -EFBIG);
    assert_string_equal(e.text, "refused: \"whole\" would be 1.0 TiB large when unpacked");
    close(fd);
    fd = open(two, O_RDONLY);
    assert_int_equal(tarball_unpack(fd, p->out, 1000000, &e), -EFBIG);
    assert_string_equal(e.text, "refused: \"more\" would be 600 KiB large when unpacked");
    close(fd);
}

static void test_harmless_links(void **state)
{
    static const struct entry entries[] = {
        {"a/b/file", FILE_MODE},
        {"a/b/up", LINK_MODE, "../../top"},
        {"top", LINK_MODE, "a/b/file"},
        {"hard", FILE_MODE, "=a/b/file"},
        {"dangling", LINK_MODE, "not/there"},
        {"./dot/./file", FILE_MODE},
        {"closed", S_IFREG | 0},
    };
    struct place *p = *state;
    int fd = make_tar(entries, sizeof entries / sizeof *entries);
    struct err e = {""};
    struct stat st;
    char text[4];

    if (tarball_unpack(fd, p->out, 1000, &e))
        fail_msg("%s", e.text);
    close(fd);
    fd = openat(p->out, "a/b/up", O_RDONLY);
    assert_int_equal(read(fd, text, sizeof text), 1);
    close(fd);
    assert_int_equal(fstatat(p->out, "hard", &st, 0), 0);
    assert_int_equal(st.st_nlink, 2);
    assert_int_equal(fstatat(p->out, "dot/file", &st, 0), 0);
    assert_int_equal(fstatat(p->out, "closed", &st, 0), 0);
    assert_int_equal(st.st_mode & 0600, 0600);
}

static void test_damaged(void **state)
{
    struct place *p = *state;
    int fd = memfd_create("tar", 0);
    struct err e = {""};
    char junk[4096];

    memset(junk, 'j', sizeof junk);
    assert_int_equal(write(fd, junk, sizeof junk), sizeof junk);
    lseek(fd, 0, SEEK_SET);
    assert_int_equal(tarball_unpack(fd, p->out, 1000, &e), -EBADMSG);
    close(fd);
    /* Cut in the middle of a file. */
    put(p, "long", "some text that is cut", 0644);
    char digest[DIGEST_HEX_BYTES];

    fd = pack(p, digest);
    assert_int_equal(ftruncate(fd, 520), 0);
    assert_int_equal(tarball_unpack(fd, p->out, 1000, &e), -EBADMSG);
    close(fd);
    /* No bytes at all: an empty result. */
    fd = memfd_create("tar", 0);
    assert_int_equal(tarball_unpack(fd, p->out, 1000, &e), 0);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_there_and_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pack_refuses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hostile, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sparse_bombs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_harmless_links, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
    };

    if (!setlocale(LC_CTYPE, "C.UTF-8"))
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
