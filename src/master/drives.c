/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of network drives, cuts and care; see drives.h. What is wrong with a drive's files is
 * found out when it is used, and told to the PC that uses it.
 */
#include "master/drives_internal.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/num.h"
#include "master/drive_daemon.h"
#include "master/drive_folder.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DRIVES_PART_BITS = 17 };

/* ---- the table ------------------------------------------------------------------------------ */

static uint64_t key_of(uint64_t job, uint64_t part)
{
    return job << DRIVES_PART_BITS | part;
}

/* With the lock of all. */
static struct drive *add(struct drives *all, uint64_t job, uint64_t part)
{
    struct drive *d = xcalloc(1, sizeof *d);
    d->all = all;
    d->key = key_of(job, part);
    d->dir = xasprintf("%s/%llu.%llu", all->dir, (unsigned long long)job, (unsigned long long)part);
    d->refs = 1;
    pthread_mutex_init(&d->lock, NULL);
    table_put(&all->table, d->key, d);
    return d;
}

static struct drive *hold(struct drives *all, uint64_t job, uint64_t part)
{
    drive_lock(&all->lock);
    struct drive *d = table_get(&all->table, key_of(job, part));
    if (d)
        d->refs++;
    drive_unlock(&all->lock);
    return d;
}

static void release(struct drive *d)
{
    struct drives *all = d->all;
    drive_lock(&all->lock);
    bool last = --d->refs == 0;
    drive_unlock(&all->lock);
    if (!last)
        return;
    MUST(!d->session);
    pthread_mutex_destroy(&d->lock);
    free(d->wanted.cuts);
    free(d->dir);
    free(d);
}

/* With the lock of all. */
static void touch(struct drive *d)
{
    d->dirty = true;
    pthread_cond_signal(&d->all->news);
}

void drive_touch(struct drive *d)
{
    drive_lock(&d->all->lock);
    touch(d);
    drive_unlock(&d->all->lock);
}

/* A copy for one look; cuts are the caller's to free. */
static struct drive_wanted wanted_of(struct drive *d)
{
    drive_lock(&d->all->lock);
    struct drive_wanted w = d->wanted;
    w.cuts = xcalloc(w.count_cuts + 1, sizeof *w.cuts);
    if (w.count_cuts)
        memcpy(w.cuts, d->wanted.cuts, w.count_cuts * sizeof *w.cuts);
    drive_unlock(&d->all->lock);
    return w;
}

/* 0 when that placement may use the drive. */
static int check_current(struct drive *d, uint64_t epoch, struct err *ret_err)
{
    drive_lock(&d->all->lock);
    bool current = !d->wanted.gone && d->wanted.current && d->wanted.epoch == epoch;
    bool stopping = d->all->stopping;
    drive_unlock(&d->all->lock);
    if (stopping)
        return err_set(ret_err, -ESHUTDOWN, "the master is ending: try again soon");
    if (!current)
        return err_set(ret_err, -ESTALE, "this placement is a thing of the past: give up");
    return 0;
}

/* ---- what the rows say ---------------------------------------------------------------------- */

bool drives_has(struct drives *all, uint64_t job, uint64_t part)
{
    drive_lock(&all->lock);
    bool has = table_get(&all->table, key_of(job, part));
    drive_unlock(&all->lock);
    return has;
}

void drives_keep(struct drives *all, uint64_t job, uint64_t part, uint64_t epoch, bool current,
                 const uint64_t *cuts, size_t count_cuts)
{
    uint64_t *copy = xcalloc(count_cuts + 1, sizeof *copy);
    if (count_cuts)
        memcpy(copy, cuts, count_cuts * sizeof *copy);
    drive_lock(&all->lock);
    struct drive *d = table_get(&all->table, key_of(job, part));
    if (!d)
        d = add(all, job, part);
    free(d->wanted.cuts);
    d->wanted = (struct drive_wanted){
        .told = true, .epoch = epoch, .current = current, .cuts = copy, .count_cuts = count_cuts};
    touch(d);
    drive_unlock(&all->lock);
}

void drives_forget(struct drives *all, uint64_t job, uint64_t part)
{
    drive_lock(&all->lock);
    struct drive *d = table_get(&all->table, key_of(job, part));
    if (d) {
        d->wanted.told = d->wanted.gone = true;
        touch(d);
    }
    drive_unlock(&all->lock);
}

/* ---- files and plans ------------------------------------------------------------------------ */

void drive_look_deinit(struct drive_look *l)
{
    free(l->files);
    free(l->wanted.cuts);
}

int drive_look(struct drive *d, struct drive_look *ret, struct err *ret_err)
{
    size_t count = 0;
    int r = drive_folder_list(d->dir, &ret->files, &count);
    if (r < 0)
        return err_set(ret_err, r, "cannot read the drive %s: %s", d->dir, strerror(-r));
    ret->wanted = wanted_of(d);
    ret->view = (struct drive_view){.files = ret->files,
                                    .count_files = count,
                                    .epoch = ret->wanted.epoch,
                                    .cuts = ret->wanted.cuts,
                                    .count_cuts = ret->wanted.count_cuts};
    return 0;
}

/* ---- sessions and cuts ----------------------------------------------------------------------- */

/* With the drive's lock. */
static void end_session(struct drive *d)
{
    drive_session_end(d->session);
    d->session = NULL;
}

static int begin(struct drive *d, const struct drive_open *o, struct drive_session **ret_session,
                 struct err *ret_err)
{
    int r = check_current(d, o->epoch, ret_err);
    if (r < 0)
        return r;
    if (o->epoch == d->epoch && o->attempt <= d->attempt)
        return err_set(ret_err, -ESTALE, "a later request for this drive came before");
    d->epoch = o->epoch;
    d->attempt = o->attempt;
    end_session(d);
    drive_folder_tidy(d->dir);
    r = drive_folder_make(d->all->dir, d->dir, o->bytes, ret_err);
    if (r < 0)
        return r;
    r = drive_session_start(d, o, ret_session, ret_err);
    if (r == 0)
        d->session = *ret_session;
    return r;
}

int drives_begin(struct drives *all, const struct drive_open *o, struct drive_session **ret_session,
                 struct err *ret_err)
{
    struct drive *d = hold(all, o->job, o->part);
    if (!d)
        return err_set(ret_err, -ESTALE, "this part is over");
    drive_lock(&d->lock);
    int r = begin(d, o, ret_session, ret_err);
    drive_unlock(&d->lock);
    release(d);
    return r;
}

/* Nobody writes: what was written last is frozen by an overlay that a later session takes. */
static int cut_idle(struct drive *d, uint64_t bytes, uint64_t *ret_cut, struct err *ret_err)
{
    AUTO_DRIVE_LOOK struct drive_look l = {0};
    struct drive_daemon *daemon = NULL;
    int r = drive_look(d, &l, ret_err);
    uint64_t top = r ? 0 : drive_plan_top(&l.view);

    if (r == 0 && top == 0)
        r = err_set(ret_err, -ENOENT, "this placement has not opened its drive");
    if (r == 0)
        r = drive_daemon_start(d->dir, &daemon, ret_err);
    if (r == 0)
        r = drive_daemon_create(daemon, drive_plan_next(&l.view), top, bytes, ret_err);
    drive_daemon_end(daemon);
    if (r == 0)
        *ret_cut = top;
    return r;
}

static int cut(struct drive *d, uint64_t epoch, uint64_t bytes, uint64_t *ret_cut,
               struct err *ret_err)
{
    int r = check_current(d, epoch, ret_err);
    if (r < 0)
        return r;
    if (d->session && d->epoch == epoch) {
        r = drive_session_cut(d->session, ret_cut, ret_err);
        if (r == 0)
            return 0;
        if (r != -ENOTCONN)
            log_info("%s: no cut while it is written to: %s", d->dir, ret_err->text);
    }
    end_session(d);
    return cut_idle(d, bytes, ret_cut, ret_err);
}

int drives_cut(struct drives *all, uint64_t job, uint64_t part, uint64_t epoch, uint64_t bytes,
               uint64_t *ret_cut, struct err *ret_err)
{
    struct drive *d = hold(all, job, part);
    if (!d)
        return err_set(ret_err, -ENOENT, "this part has no drive");
    drive_lock(&d->lock);
    int r = cut(d, epoch, bytes, ret_cut, ret_err);
    drive_unlock(&d->lock);
    release(d);
    return r;
}

/* ---- care ----------------------------------------------------------------------------------- */

static void sweep(struct drive *d)
{
    AUTO_DRIVE_LOOK struct drive_look l = {0};
    struct err err;
    char name[DRIVE_NAME_MAX];

    if (drive_look(d, &l, &err) < 0)
        return; /* no folder yet; or told when it is used */
    for (size_t i = 0; i < l.view.count_files; i++) {
        if (!drive_plan_is_gone(&l.view, l.files[i].number))
            continue;
        drive_name(l.files[i].number, name);
        log_debug("%s/%s: not needed any more", d->dir, name);
        (void)drive_folder_remove_file(d->dir, name); /* else at the next look */
    }
}

/* From the table. */
static void strike(struct drive *d)
{
    struct drives *all = d->all;
    drive_lock(&all->lock);
    bool ours = table_get(&all->table, d->key) == d;
    if (ours)
        (void)table_remove(&all->table, d->key); /* it is d */
    drive_unlock(&all->lock);
    if (ours)
        release(d);
}

static void look_after(struct drive *d)
{
    struct err err;
    drive_lock(&d->lock);
    drive_lock(&d->all->lock);
    bool gone = d->wanted.gone;
    drive_unlock(&d->all->lock);
    if (d->session &&
        (gone || drive_session_is_over(d->session) || check_current(d, d->epoch, &err) == -ESTALE))
        end_session(d);
    if (gone) {
        drive_folder_remove(d->dir);
        drive_bases_sweep(d->all->dir);
    } else {
        sweep(d);
    }
    if (d->session)
        drive_session_wake(d->session);
    drive_unlock(&d->lock);
    if (gone)
        strike(d);
}

/* With the lock of all: one that there is news of, held. */
static struct drive *next_dirty(struct drives *all)
{
    for (size_t i = 0; i < all->table.cap; i++) {
        struct drive *d = all->table.slots[i].value;
        if (!d || !d->dirty || !d->wanted.told)
            continue;
        d->dirty = false;
        d->refs++;
        return d;
    }
    return NULL;
}

static void *care_main(void *arg)
{
    struct drives *all = arg;
    drive_lock(&all->lock);
    while (!all->stopping) {
        struct drive *d = next_dirty(all);
        if (!d) {
            pthread_cond_wait(&all->news, &all->lock);
            continue;
        }
        drive_unlock(&all->lock);
        look_after(d);
        release(d);
        drive_lock(&all->lock);
    }
    drive_unlock(&all->lock);
    return NULL;
}

/* ---- what it needs -------------------------------------------------------------------------- */

static bool is_program(const char *name)
{
    const char *path = getenv("PATH");
    /* mke2fs is not on the search path of an ordinary user. */
    AUTO_FREE char *folders = xasprintf("%s:/usr/sbin:/sbin", path ? path : "/usr/bin");
    char *save = NULL;
    for (char *f = strtok_r(folders, ":", &save); f; f = strtok_r(NULL, ":", &save)) {
        AUTO_FREE char *file = xasprintf("%s/%s", f, name);
        if (access(file, X_OK) == 0)
            return true;
    }
    return false;
}

const char *drives_lack(void)
{
    if (!is_program("qemu-storage-daemon"))
        return "qemu-storage-daemon (package qemu-system-common)";
    return is_program("mke2fs") ? NULL : "mke2fs (package e2fsprogs)";
}

/* ---- start and end -------------------------------------------------------------------------- */

/* "17.0" */
static bool parse_folder(const char *name, uint64_t *ret_job, uint64_t *ret_part)
{
    AUTO_FREE char *copy = xstrdup(name);
    char *dot = strchr(copy, '.');
    if (!dot)
        return false;
    *dot = '\0';
    return num_parse_u64(copy, INT64_MAX >> DRIVES_PART_BITS, ret_job) == 0 &&
           num_parse_u64(dot + 1, (1u << DRIVES_PART_BITS) - 1, ret_part) == 0;
}

int drives_open(const char *dir, struct drives **ret_drives, struct err *ret_err)
{
    struct dirent *e;
    uint64_t job, part;

    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        return err_set(ret_err, -errno, "cannot make %s: %s", dir, strerror(errno));
    DIR *folder = opendir(dir);
    if (!folder)
        return err_set(ret_err, -errno, "cannot read %s: %s", dir, strerror(errno));
    struct drives *all = xcalloc(1, sizeof *all);
    all->dir = xstrdup(dir);
    pthread_mutex_init(&all->lock, NULL);
    pthread_cond_init(&all->news, NULL);
    while ((e = readdir(folder)))
        if (parse_folder(e->d_name, &job, &part))
            (void)add(all, job, part); /* it is told of by the core, or forgotten */
    closedir(folder);
    *ret_drives = all;
    return 0;
}

void drives_start(struct drives *all)
{
    drive_lock(&all->lock);
    for (size_t i = 0; i < all->table.cap; i++) {
        struct drive *d = all->table.slots[i].value;
        if (d && !d->wanted.told)
            d->wanted = (struct drive_wanted){.told = true, .gone = true};
        if (d)
            d->dirty = true;
    }
    drive_unlock(&all->lock);
    MUST(pthread_create(&all->care, NULL, care_main, all) == 0);
    all->started = true;
}

void drives_stop(struct drives *all)
{
    if (!all)
        return;
    drive_lock(&all->lock);
    all->stopping = true;
    pthread_cond_signal(&all->news);
    drive_unlock(&all->lock);
    if (all->started)
        pthread_join(all->care, NULL);
    all->started = false;
    for (size_t i = 0; i < all->table.cap; i++) { /* nobody changes it any more */
        struct drive *d = all->table.slots[i].value;
        if (!d)
            continue;
        drive_lock(&d->lock);
        end_session(d);
        drive_unlock(&d->lock);
    }
}

void drives_free(struct drives *all)
{
    if (!all)
        return;
    for (size_t i = 0; i < all->table.cap; i++)
        if (all->table.slots[i].value)
            release(all->table.slots[i].value);
    table_deinit(&all->table);
    pthread_cond_destroy(&all->news);
    pthread_mutex_destroy(&all->lock);
    free(all->dir);
    free(all);
}
