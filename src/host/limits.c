/* SPDX-License-Identifier: Apache-2.0
 *
 * See limits.h.
 */
#include "host/limits.h"

#include "base/cleanup.h"
#include "base/num.h"
#include "host/loopback.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum { PERIOD_US = 20000, QEMU_OWN_BYTES = 256 << 20 };

static int parse_fraction(const char *text, uint64_t scale, uint64_t max, uint64_t *ret_value)
{
    char whole[24];
    uint64_t value, rest = 0, unit = scale;
    const char *dot = strchr(text, '.');
    size_t n = dot ? (size_t)(dot - text) : strlen(text);

    if (n >= sizeof whole)
        return -EINVAL;
    memcpy(whole, text, n);
    whole[n] = 0;
    if (num_parse_u64(whole, max, &value) < 0)
        return -EINVAL;
    for (const char *p = dot ? dot + 1 : ""; *p; p++) {
        if (*p < '0' || *p > '9')
            return -EINVAL;
        unit /= 10;
        rest += unit * (uint64_t)(*p - '0');
    }
    *ret_value = value * scale + rest;
    return 0;
}

/* 0 with thousandths of a percent, 1 when text is no percentage, or -EINVAL. */
static int parse_percent(const char *text, uint64_t *ret_millis)
{
    char number[24];
    size_t n = strlen(text);

    if (n == 0 || text[n - 1] != '%')
        return 1;
    if (n > sizeof number)
        return -EINVAL;
    memcpy(number, text, n - 1);
    number[n - 1] = 0;
    if (parse_fraction(number, 1000, 100, ret_millis) < 0 || *ret_millis == 0 ||
        *ret_millis > 100000)
        return -EINVAL;
    return 0;
}

int limits_parse_memory(const char *text, uint64_t total_bytes, uint64_t *ret_bytes,
                        struct err *ret_err)
{
    uint64_t millis, bytes;
    int r = parse_percent(text, &millis);

    if (r == 0)
        bytes = total_bytes / 100000 * millis;
    else if (r < 0 || num_parse_size(text, &bytes) < 0)
        return err_set(ret_err, -EINVAL,
                       "memory share \"%s\": a size such as 600M, or 1%% to 100%%", text);
    if (bytes < (96ull << 20))
        return err_set(ret_err, -EINVAL, "memory share \"%s\": no guest fits in less than 96M",
                       text);
    if (bytes > total_bytes)
        return err_set(ret_err, -EINVAL, "memory share \"%s\": this PC has only %llu MiB", text,
                       (unsigned long long)(total_bytes >> 20));
    *ret_bytes = bytes;
    return 0;
}

int limits_parse_cpu(const char *text, uint32_t total_cpus, uint32_t *ret_millis,
                     struct err *ret_err)
{
    uint64_t value;
    int r = parse_percent(text, &value);

    if (r == 0)
        value = value * total_cpus / 100;
    else if (r < 0 || parse_fraction(text, 1000, 65536, &value) < 0)
        return err_set(ret_err, -EINVAL,
                       "CPU share \"%s\": a number of CPUs such as 2 or 1.5, or 1%% to 100%%",
                       text);
    if (value == 0 || value > 1000ull * total_cpus)
        return err_set(ret_err, -EINVAL, "CPU share \"%s\": more than 0 and at most %u CPUs", text,
                       total_cpus);
    *ret_millis = (uint32_t)value;
    return 0;
}

uint64_t limits_total_memory(void)
{
    return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

bool limits_memory_is_short(void)
{
    AUTO_FCLOSE FILE *f = fopen("/proc/meminfo", "re");
    unsigned long long available_kb;
    char line[128];

    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu", &available_kb) == 1)
            return available_kb * 1024 < limits_total_memory() / 10;
    return false;
}

uint32_t limits_total_cpus(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return (uint32_t)CPU_COUNT(&set);
    return (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
}

/* 0 or -errno. A file that the kernel does not have is not our loss: callers mostly ignore it. */
static int put(const char *dir, const char *file, const char *text)
{
    char path[640];

    snprintf(path, sizeof path, "%s/%s", dir, file);
    AUTO_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    return write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

static void put_number(const char *dir, const char *file, uint64_t value)
{
    char text[32];

    snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    /* Older kernels lack some of the files; what can be set is set. */
    (void)put(dir, file, text);
}

/* Finds our group in a hierarchy: the line of /proc/self/cgroup that holds `controller` ("": the
 * unified one). */
static int own_group(const char *self, const char *controller, char *out, size_t size)
{
    AUTO_FCLOSE FILE *f = fopen(self, "re");
    char line[1024];

    while (f && fgets(line, sizeof line, f)) {
        char *list = strchr(line, ':');
        char *path = list ? strchr(list + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = 0;
        path[strcspn(path, "\n")] = 0;
        list++;
        size_t n = strlen(controller);
        for (char *p = list; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
            if (strncmp(p, controller, n) == 0 && (p[n] == 0 || p[n] == ',')) {
                snprintf(out, size, "%s", strcmp(path, "/") == 0 ? "" : path);
                return 0;
            }
    }
    return -ENOENT;
}

/* Makes base/own/name, or base/name where our own path is not visible (another namespace). */
static int make_group(const char *base, const char *own, const char *name, char out[512])
{
    const char *const parents[] = {own, ""};
    int r = -ENOENT;

    for (size_t i = 0; i < 2; i++) {
        snprintf(out, 512, "%s%s/%s", base, parents[i], name);
        if (mkdir(out, 0755) == 0 || errno == EEXIST)
            return 0;
        r = -errno;
    }
    out[0] = 0;
    return r;
}

static int init_v2(struct limits *l, const char *root, const char *self, const char *name)
{
    char own[512] = "", parent[640], text[64];
    int r = own_group(self, "", own, sizeof own);

    if (r < 0)
        return r;
    char *slash = strrchr(own, '/'); /* beside us, not below us: see limits.h */
    if (slash)
        *slash = 0;
    snprintf(parent, sizeof parent, "%s%s", root, own);
    r = make_group(root, own, name, l->dirs[0]);
    if (r < 0)
        return r;
    /* Not all need be there; what counts is whether the group then has a memory limit. */
    (void)put(parent, "cgroup.subtree_control", "+cpu");
    (void)put(parent, "cgroup.subtree_control", "+memory");
    (void)put(parent, "cgroup.subtree_control", "+io");
    snprintf(text, sizeof text, "%llu", (unsigned long long)l->memory_bytes);
    r = put(l->dirs[0], "memory.high", text);
    if (r < 0) {
        (void)rmdir(l->dirs[0]);
        l->dirs[0][0] = 0;
        return r;
    }
    (void)put(l->dirs[0], "io.weight", "default 1");
    (void)put(l->dirs[0], "cgroup.subtree_control", "+memory");
    l->kind = LIMITS_V2;
    l->loopback = loopback_close(l->dirs[0]);
    limits_set_urgent(l, false);
    return 0;
}

static int init_v1(struct limits *l, const char *root, const char *self, const char *name)
{
    static const char *const trees[LIMITS_DIRS] = {"cpu", "memory", "unified"};
    static const char *const controllers[LIMITS_DIRS] = {"cpu", "memory", ""};
    int r = -ENOENT;

    for (size_t i = 0; i < LIMITS_DIRS; i++) {
        char base[512], own[512] = "";
        snprintf(base, sizeof base, "%s/%s", root, trees[i]);
        if (access(base, F_OK) < 0 || own_group(self, controllers[i], own, sizeof own) < 0)
            continue;
        r = make_group(base, own, name, l->dirs[i]);
        if (r == 0)
            l->kind = LIMITS_V1;
    }
    if (l->dirs[2][0])
        l->loopback = loopback_close(l->dirs[2]);
    if (l->dirs[0][0])
        put_number(l->dirs[0], "cpu.cfs_period_us", PERIOD_US);
    limits_set_urgent(l, false);
    if (l->dirs[1][0])
        put_number(l->dirs[1], "memory.soft_limit_in_bytes", l->memory_bytes);
    return l->kind == LIMITS_V1 ? 0 : r;
}

void limits_init(struct limits *l, const char *root, const char *self, const char *name,
                 uint64_t memory_bytes, uint32_t cpu_millis, bool idle, struct err *ret_err)
{
    char unified[512];
    int r;

    *l = (struct limits){
        .memory_bytes = memory_bytes, .cpu_millis = cpu_millis, .idle = idle, .loopback = -ENOTSUP};
    snprintf(unified, sizeof unified, "%s/cgroup.controllers", root);
    if (access(unified, F_OK) == 0)
        r = init_v2(l, root, self, name);
    else
        r = init_v1(l, root, self, name);
    if (r < 0)
        err_format(ret_err, "no control groups (%s): guests get the lowest class only",
                   strerror(-r));
}

void limits_set_urgent(const struct limits *l, bool urgent)
{
    char quota[64];
    uint64_t us = (uint64_t)l->cpu_millis * PERIOD_US / 1000;

    if (l->kind == LIMITS_NONE || !l->dirs[0][0])
        return;
    /* What a kernel lacks it also did not set before. */
    (void)put(l->dirs[0], "cpu.idle", urgent || !l->idle ? "0" : "1");
    if (l->kind == LIMITS_V2) {
        snprintf(quota, sizeof quota, "%llu %d", (unsigned long long)us, PERIOD_US);
        (void)put(l->dirs[0], "cpu.max", urgent ? "max" : quota);
    } else {
        snprintf(quota, sizeof quota, "%llu", (unsigned long long)us);
        (void)put(l->dirs[0], "cpu.cfs_quota_us", urgent ? "-1" : quota);
    }
}

void limits_vm_add(const struct limits *l, const char *vm, uint64_t guest_bytes,
                   char ret_group[1024])
{
    uint64_t limit = guest_bytes + guest_bytes / 4 + QEMU_OWN_BYTES;
    size_t n = 0;

    ret_group[0] = 0;
    for (size_t i = 0; i < LIMITS_DIRS; i++) {
        char dir[768];
        if (!l->dirs[i][0])
            continue;
        snprintf(dir, sizeof dir, "%.500s/%.200s", l->dirs[i], vm);
        if ((mkdir(dir, 0755) < 0 && errno != EEXIST) || n + strlen(dir) + 2 > 1024)
            continue;
        put_number(dir, "memory.max", limit);
        put_number(dir, "memory.limit_in_bytes", limit);
        n += (size_t)snprintf(ret_group + n, 1024 - n, "%s%s", n ? ":" : "", dir);
    }
}

static void kill_group(const char *dir)
{
    char path[800];
    long pid;

    snprintf(path, sizeof path, "%s/cgroup.procs", dir);
    AUTO_FCLOSE FILE *f = fopen(path, "re");
    while (f && fscanf(f, "%ld", &pid) == 1)
        if (pid > 1)
            (void)kill((pid_t)pid, SIGKILL); /* may be gone already */
}

void limits_vm_remove(const struct limits *l, const char *vm)
{
    for (size_t i = 0; i < LIMITS_DIRS; i++) {
        char dir[768];
        if (!l->dirs[i][0])
            continue;
        snprintf(dir, sizeof dir, "%.500s/%.200s", l->dirs[i], vm);
        for (int tries = 0; rmdir(dir) < 0 && errno == EBUSY && tries < 200; tries++) {
            kill_group(dir);
            nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        }
    }
}

void limits_deinit(struct limits *l)
{
    for (size_t i = 0; i < LIMITS_DIRS; i++)
        if (l->dirs[i][0])
            (void)rmdir(l->dirs[i]); /* stays while a VM is in it: the next agent takes it over */
}
