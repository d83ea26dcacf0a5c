/* SPDX-License-Identifier: Apache-2.0
 *
 * Overlays in a folder of their own, with the real qemu-storage-daemon; qemu-io writes and reads.
 */
#include "base/buf.h"
#include "base/cleanup.h"
#include "master/drive_daemon.h"
#include "master/drive_folder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define N(epoch, seq) ((uint64_t)(epoch) << DRIVE_SEQ_BITS | (seq))
#define BYTES (64ull << 20)

enum { COUNT = 6, MERGE_MS = 20000 };

struct scratch {
    char root[64], *dir;
    uint64_t chain[COUNT];
};

static int has_programs(void)
{
    return system("command -v qemu-storage-daemon qemu-io >/dev/null && "
                  "PATH=$PATH:/sbin command -v mke2fs >/dev/null") == 0;
}

/* "write -P 3 1M 4k" */
static int io(const struct scratch *s, uint64_t number, const char *what)
{
    char name[DRIVE_NAME_MAX];

    drive_name(number, name);
    AUTO_FREE char *line =
        xasprintf("cd %s && qemu-io -f qcow2 -c '%s' %s >/dev/null 2>&1", s->dir, what, name);
    return system(line);
}

/* Each overlay holds its own number in a place of its own and in one that all write to. */
static void write_own(const struct scratch *s, int i)
{
    AUTO_FREE char *own = xasprintf("write -P %d %dM 64k", i + 1, i + 1);
    AUTO_FREE char *shared = xasprintf("write -P %d 32M 64k", i + 1);

    assert_int_equal(io(s, s->chain[i], own), 0);
    assert_int_equal(io(s, s->chain[i], shared), 0);
}

static void assert_holds(const struct scratch *s, uint64_t number, int count)
{
    AUTO_FREE char *shared = xasprintf("read -P %d 32M 64k", count);

    for (int i = 0; i < count; i++) {
        AUTO_FREE char *own = xasprintf("read -P %d %dM 64k", i + 1, i + 1);
        assert_int_equal(io(s, number, own), 0);
    }
    assert_int_equal(io(s, number, shared), 0);
}

static void begin(struct scratch *s)
{
    struct drive_daemon *d;
    struct err err = {""};

    *s = (struct scratch){.root = "/var/tmp/yado-drive-XXXXXX"};
    assert_non_null(mkdtemp(s->root));
    s->dir = xasprintf("%s/1.0", s->root);
    assert_int_equal(drive_folder_make(s->root, s->dir, BYTES, &err), 0);
    for (int i = 0; i < COUNT; i++) {
        s->chain[i] = N(1 + i / 4, 1 + i % 4);
        assert_int_equal(drive_daemon_start(s->dir, &d, &err), 0);
        assert_int_equal(drive_daemon_create(d, s->chain[i], i ? s->chain[i - 1] : 0, BYTES, &err),
                         0);
        drive_daemon_end(d);
        write_own(s, i);
    }
}

static void end(struct scratch *s)
{
    drive_folder_remove(s->dir);
    drive_bases_sweep(s->root);
    assert_int_equal(rmdir(s->root), 0); /* nothing else was made */
    free(s->dir);
}

static void assert_files(const struct scratch *s, const uint64_t *want, size_t count)
{
    struct drive_file *files = NULL;
    size_t have = 0;

    assert_int_equal(drive_folder_list(s->dir, &files, &have), 0);
    assert_int_equal(have, count);
    for (size_t i = 0; i < count; i++) {
        size_t k = 0;
        while (k < have && files[k].number != want[i])
            k++;
        assert_true(k < have);
        assert_int_equal(files[k].backing, i ? want[i - 1] : 0);
    }
    free(files);
}

static void test_runs_become_one(void **state)
{
    struct scratch s;
    struct drive_daemon *d;
    struct err err = {""};

    if (!has_programs())
        skip();
    begin(&s);
    assert_int_equal(drive_daemon_start(s.dir, &d, &err), 0);
    assert_int_equal(drive_daemon_open(d, s.chain, COUNT, &err), 0);
    /* Two, then two more into the same file, which the daemon opens anew for that. */
    assert_int_equal(drive_daemon_merge(d, s.chain[0], s.chain[1], MERGE_MS, &err), 0);
    assert_int_equal(drive_daemon_count(d), COUNT - 1);
    assert_int_equal(drive_daemon_merge(d, s.chain[1], s.chain[3], MERGE_MS, &err), 0);
    assert_int_equal(drive_daemon_count(d), COUNT - 3);
    assert_int_equal(drive_daemon_top(d), s.chain[5]);
    /* Not with the last one, nor with one that is gone. */
    assert_int_equal(drive_daemon_merge(d, s.chain[4], s.chain[5], MERGE_MS, &err), -EINVAL);
    assert_int_equal(drive_daemon_merge(d, s.chain[2], s.chain[4], MERGE_MS, &err), -EINVAL);
    assert_int_equal(drive_daemon_serve(d, &err), 0);
    drive_daemon_end(d);
    assert_files(&s, s.chain + 3, 3);
    drive_folder_tidy(s.dir); /* of the names of one file the newest stays */
    assert_files(&s, s.chain + 3, 3);
    assert_holds(&s, s.chain[3], 4);
    assert_holds(&s, s.chain[5], 6);
    end(&s);
}

/* Killed between the merge and the names: old names on a file that holds more are the same. */
static void test_a_merge_without_its_names(void **state)
{
    struct scratch s;
    char first[DRIVE_NAME_MAX], third[DRIVE_NAME_MAX];

    if (!has_programs())
        skip();
    begin(&s);
    drive_name(s.chain[0], first);
    drive_name(s.chain[2], third);
    AUTO_FREE char *commit =
        xasprintf("cd %s && qemu-img commit -q -f qcow2 -d -b %s %s", s.dir, first, third);
    assert_int_equal(system(commit), 0);
    assert_files(&s, s.chain, COUNT);
    assert_holds(&s, s.chain[5], 6);
    assert_int_equal(drive_folder_give_name(s.dir, first, third), 0);
    assert_holds(&s, s.chain[5], 6); /* and with the name, before the others are removed */
    end(&s);
}

/* What is no overlay is out of the way, and not lost. */
static void test_damage_is_set_aside(void **state)
{
    char dir[] = "/tmp/yado-drive-XXXXXX";
    struct drive_file *files = NULL;
    size_t count = 1;

    assert_non_null(mkdtemp(dir));
    AUTO_FREE char *name = xasprintf("%s/7-1.qcow2", dir);
    AUTO_FREE char *aside = xasprintf("%s.damaged", name);
    FILE *f = fopen(name, "w");
    assert_non_null(f);
    assert_true(fputs("damaged", f) >= 0);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(drive_folder_list(dir, &files, &count), 0);
    assert_int_equal(count, 0);
    free(files);
    assert_int_not_equal(access(name, F_OK), 0);
    assert_int_equal(access(aside, F_OK), 0);
    drive_folder_remove(dir);
    assert_int_not_equal(access(dir, F_OK), 0);
}

struct lister {
    const char *dir;
    atomic_bool over;
    atomic_int refused;
};

static void *list_until_over(void *arg)
{
    struct lister *l = arg;
    struct drive_file *files = NULL;
    size_t count;

    while (!atomic_load(&l->over)) {
        if (drive_folder_list(l->dir, &files, &count) < 0)
            atomic_fetch_add(&l->refused, 1);
        else
            free(files);
    }
    return NULL;
}

/* As a sweep does: an overlay that is only being made is not damage. */
static void test_a_list_while_overlays_are_made(void **state)
{
    struct scratch s = {.root = "/var/tmp/yado-drive-XXXXXX"};
    struct drive_daemon *d;
    struct err err = {""};
    pthread_t thread;

    if (!has_programs())
        skip();
    assert_non_null(mkdtemp(s.root));
    s.dir = xasprintf("%s/1.0", s.root);
    assert_int_equal(drive_folder_make(s.root, s.dir, BYTES, &err), 0);
    assert_int_equal(drive_daemon_start(s.dir, &d, &err), 0);
    struct lister l = {.dir = s.dir};
    assert_int_equal(pthread_create(&thread, NULL, list_until_over, &l), 0);
    for (int i = 0; i < COUNT; i++) {
        s.chain[i] = N(1, 1 + i);
        if (drive_daemon_create(d, s.chain[i], i ? s.chain[i - 1] : 0, BYTES, &err))
            break; /* said below */
    }
    atomic_store(&l.over, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_string_equal(err.text, "");
    assert_int_equal(atomic_load(&l.refused), 0);
    drive_daemon_end(d);
    assert_files(&s, s.chain, COUNT);
    end(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_damage_is_set_aside),
        cmocka_unit_test(test_a_list_while_overlays_are_made),
        cmocka_unit_test(test_runs_become_one),
        cmocka_unit_test(test_a_merge_without_its_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
