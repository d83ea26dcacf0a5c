/* SPDX-License-Identifier: Apache-2.0
 *
 * The verdict: who is tried, in which order, and where it is kept. See class_proof.h; the
 * experiment is in class_guest.c.
 */
#include "agent/class_proof.h"
#include "agent/class_guest.h"
#include "agent/identity.h"

#include "base/buf.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/utsname.h>

enum { KVM_BOOT_MS = 10000, TCG_BOOT_MS = 120000 };

#define QEMU_DEFAULT "qemu-system-x86_64"
#define CACHE_DIR "/var/cache/yado"

/* ---- the key: everything the verdict depends on -----------------------------------------------
 */

static void find_binary(const char *qemu, char *out, size_t size)
{
    const char *name = qemu ? qemu : QEMU_DEFAULT;
    AUTO_FREE char *path = xstrdup(getenv("PATH") ? getenv("PATH") : "/usr/bin:/bin");
    char *save = NULL;

    snprintf(out, size, "%s", name);
    if (strchr(name, '/'))
        return;
    for (char *dir = strtok_r(path, ":", &save); dir; dir = strtok_r(NULL, ":", &save)) {
        snprintf(out, size, "%s/%s", dir, name);
        if (access(out, X_OK) == 0)
            return;
    }
}

static void put_file(struct buf *key, const char *path)
{
    struct stat st = {0};

    (void)stat(path, &st); /* zeros are a key, too */
    buf_printf(key, "|%s %lld %lld.%09ld", path, (long long)st.st_size,
               (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
}

static char *make_key(const struct class_request *q, const struct vm_class *cls)
{
    AUTO_FREE char *kernel = xasprintf("%s/vmlinuz", q->images);
    AUTO_FREE char *initrd = xasprintf("%s/initrd", q->images);
    struct utsname host;
    struct buf key = {0};
    char binary[512];

    uname(&host);
    find_binary(q->qemu, binary, sizeof binary);
    buf_printf(&key, "1|%s|%s|%s|%u|%d|kvm %d", host.release, cls->machine, cls->cpu,
               cls->qemu_version, (int)q->uid, access("/dev/kvm", F_OK) == 0);
    put_file(&key, binary);
    put_file(&key, kernel);
    put_file(&key, initrd);
    return buf_take_str(&key);
}

/* ---- kept verdicts ----------------------------------------------------------------------------
 */

/* Only a file that nobody else can have written is believed. */
static bool trusted(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 022) == 0 &&
           (st.st_uid == 0 || st.st_uid == geteuid());
}

static bool load(const char *path, const char *key, struct class_verdict *v)
{
    json_t *json = trusted(path) ? json_load_file(path, 0, NULL) : NULL;
    const char *have = NULL, *accel = NULL, *kvm = NULL;
    json_int_t boot = 0, save = 0, resume = 0;
    bool good =
        json &&
        json_unpack(json, "{s:s, s:s, s:s, s:I, s:I, s:I}", "key", &have, "accel", &accel, "kvm",
                    &kvm, "boot_ms", &boot, "save_ms", &save, "resume_ms", &resume) == 0 &&
        strcmp(have, key) == 0;

    if (good) {
        snprintf(v->cls.accel, sizeof v->cls.accel, "%s", accel);
        snprintf(v->kvm, sizeof v->kvm, "%s", kvm);
        v->boot_ms = (uint32_t)boot;
        v->save_ms = (uint32_t)save;
        v->resume_ms = (uint32_t)resume;
        v->ok = v->cached = true;
    }
    json_decref(json);
    return good;
}

/* A verdict that cannot be kept is proven again next time. */
static void store(const char *dir, const char *file, const char *key, const struct class_verdict *v)
{
    json_t *json = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I}", "key", key, "accel", v->cls.accel,
                             "kvm", v->kvm, "boot_ms", (json_int_t)v->boot_ms, "save_ms",
                             (json_int_t)v->save_ms, "resume_ms", (json_int_t)v->resume_ms);
    AUTO_FREE char *text = json_dumps(json, JSON_INDENT(1));

    (void)identity_write(dir, file, text, strlen(text), 0644, NULL);
    json_decref(json);
}

/* The folder for all agents of this PC. */
static const char *common_dir(void)
{
    const char *dir = getenv("YADO_CLASS_CACHE");

    if (dir && dir[0])
        return dir;
    (void)mkdir(CACHE_DIR, 0755); /* may be there; may not be ours to make */
    return CACHE_DIR;
}

/* The first agent proves, the others wait for its verdict. -1 where nothing can be shared. */
static int lock_common(const char *dir, const char *file)
{
    AUTO_FREE char *path = xasprintf("%s/%s.lock", dir, file);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    while (fd >= 0 && flock(fd, LOCK_EX) < 0 && errno == EINTR)
        ;
    return fd;
}

static void file_name(const char *key, char out[32])
{
    uint64_t hash = 1469598103934665603ull;

    for (const char *p = key; *p; p++)
        hash = (hash ^ (uint8_t)*p) * 1099511628211ull;
    snprintf(out, 32, "class-%08x.json", (unsigned)(hash ^ hash >> 32));
}

/* ---- trying -----------------------------------------------------------------------------------
 */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)remove(path); /* scratch; what stays is seen in the state folder */
    return 0;
}

static int try_one(const struct class_request *q, const char *accel, uint32_t deadline_ms,
                   struct class_verdict *v, struct err *ret_err)
{
    AUTO_FREE char *scratch = xasprintf("%s/proof-XXXXXX", q->state ? q->state : "/var/tmp");

    if (!mkdtemp(scratch))
        return err_set(ret_err, -errno, "cannot make %s: %s", scratch, strerror(errno));
    snprintf(v->cls.accel, sizeof v->cls.accel, "%s", accel);
    int r = class_guest_try(q, scratch, deadline_ms, v, ret_err);
    (void)nftw(scratch, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    return r;
}

static void experiment(const struct class_request *q, struct class_verdict *v)
{
    AUTO_CLOSE int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    struct vm_class wanted = v->cls;
    struct err err = {0};
    int r = -ENOENT;

    if (kvm < 0) {
        snprintf(v->kvm, sizeof v->kvm, "/dev/kvm: %s", strerror(errno));
    } else {
        r = try_one(q, "kvm", KVM_BOOT_MS, v, &err);
        if (r < 0)
            snprintf(v->kvm, sizeof v->kvm, "%.250s", err.text);
    }
    if (r < 0) {
        v->cls = wanted;
        r = try_one(q, "tcg", TCG_BOOT_MS, v, &err);
    }
    v->ok = r == 0;
    if (r < 0)
        snprintf(v->text, sizeof v->text,
                 "a tiny guest does not survive being saved and resumed: %.300s", err.text);
}

void class_prove(const struct class_request *q, struct class_verdict *ret_verdict)
{
    struct class_verdict v = {0};
    struct err err = {0};

    snprintf(v.cls.machine, sizeof v.cls.machine, "%s",
             q->machine && q->machine[0] ? q->machine : CLASS_MACHINE_DEFAULT);
    snprintf(v.cls.cpu, sizeof v.cls.cpu, "%s", q->cpu && q->cpu[0] ? q->cpu : CLASS_CPU_DEFAULT);
    *ret_verdict = v;
    if (vm_probe_version(q->qemu, &v.cls.qemu_version, &err) < 0 || !q->images) {
        snprintf(ret_verdict->text, sizeof v.text, "%s",
                 err.text[0] ? err.text
                             : "the built-in image is not found: name its folder with --images");
        return;
    }
    AUTO_FREE char *key = make_key(q, &v.cls);
    AUTO_FREE char *own = xasprintf("%s/class.json", q->state ? q->state : "");
    if (q->fresh || !q->state || !load(own, key, &v)) {
        const char *dir = common_dir();
        char file[32];
        file_name(key, file);
        AUTO_CLOSE int lock = lock_common(dir, file);
        AUTO_FREE char *common = xasprintf("%s/%s", dir, file);
        if (q->fresh || lock < 0 || !load(common, key, &v))
            experiment(q, &v);
        if (v.ok && !v.cached && lock >= 0)
            store(dir, file, key, &v);
        if (v.ok && q->state)
            store(q->state, "class.json", key, &v);
    }
    *ret_verdict = v;
}
