/* SPDX-License-Identifier: Apache-2.0
 *
 * The slow owner sources: terminals, load, battery, hours of the day. Each looks at files of the
 * kernel below a directory that tests replace.
 */
#include "host/owner.h"

#include "base/cleanup.h"
#include "base/num.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { LOAD_LOOKS = 3 }; /* in a row, before load counts or no longer counts */

/* ---- terminals: the kernel notes reads (keys) in a terminal's access time, in steps of 8 s --- */

static void newest(const char *dir, const char *prefix, int64_t *last_s, uint32_t *found)
{
    DIR *d = opendir(dir);
    struct dirent *e;

    while (d && (e = readdir(d))) {
        struct stat st;
        size_t n = strlen(prefix);
        if (strncmp(e->d_name, prefix, n) != 0 || e->d_name[n] < '0' || e->d_name[n] > '9' ||
            fstatat(dirfd(d), e->d_name, &st, 0) < 0)
            continue;
        *found += 1;
        if (st.st_atim.tv_sec > *last_s)
            *last_s = st.st_atim.tv_sec;
    }
    if (d)
        closedir(d);
}

struct owner_look owner_tty_look(struct owner_tty *t, const char *dev)
{
    struct owner_look look = {0};
    int64_t last = t->last_s;
    char pts[256];

    snprintf(pts, sizeof pts, "%s/pts", dev);
    newest(dev, "tty", &last, &look.found);
    newest(pts, "", &last, &look.found);
    /* The first look only learns; a terminal opened since counts, too. */
    look.active = t->last_s != 0 && last > t->last_s;
    t->last_s = last;
    return look;
}

/* ---- load of others' processes: everything that is not ours -----------------------------------
 */

static bool is_ours(const char *comm)
{
    return strncmp(comm, "yado", 4) == 0 || strncmp(comm, "qemu-system", 11) == 0;
}

/* CPU ticks that living processes of others have used. A process that ended takes its ticks away;
 * then the difference is small or negative and counts as none. */
static uint32_t sum_others(const char *proc, uint64_t *ret_ticks)
{
    DIR *d = opendir(proc);
    struct dirent *e;
    uint32_t found = 0;

    *ret_ticks = 0;
    while (d && (e = readdir(d))) {
        char path[300], line[1024];
        unsigned long user, sys;
        if (e->d_name[0] < '0' || e->d_name[0] > '9')
            continue;
        snprintf(path, sizeof path, "%s/%.20s/stat", proc, e->d_name);
        AUTO_FCLOSE FILE *f = fopen(path, "re");
        if (!f || !fgets(line, sizeof line, f))
            continue;
        char *comm = strchr(line, '('), *end = strrchr(line, ')');
        if (!comm || !end ||
            sscanf(end + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &sys) !=
                2)
            continue;
        found++;
        if (!is_ours(comm + 1))
            *ret_ticks += user + sys;
    }
    if (d)
        closedir(d);
    return found;
}

struct owner_look owner_load_look(struct owner_load *l, const char *proc, uint64_t now_ms)
{
    struct owner_look look = {0};
    uint64_t ticks;

    look.found = sum_others(proc, &ticks) > 0;
    if (l->last_ms && now_ms > l->last_ms) {
        double used = ticks > l->last_others ? (double)(ticks - l->last_others) : 0;
        double cpus = used / (double)sysconf(_SC_CLK_TCK) * 1000 / (double)(now_ms - l->last_ms);
        l->above = cpus > l->limit_cpus ? l->above + 1 : 0;
        l->below = cpus < l->limit_cpus / 2 ? l->below + 1 : 0;
        if (l->above >= LOAD_LOOKS)
            l->busy = true;
        if (l->below >= LOAD_LOOKS)
            l->busy = false;
    }
    l->last_ms = now_ms;
    l->last_others = ticks;
    look.busy = l->busy;
    return look;
}

/* ---- battery ----------------------------------------------------------------------------------
 */

static bool read_word(const char *dir, const char *name, const char *file, char out[64])
{
    char path[600];

    snprintf(path, sizeof path, "%.250s/%.250s/%s", dir, name, file);
    AUTO_FCLOSE FILE *f = fopen(path, "re");
    if (!f || !fgets(out, 64, f))
        return false;
    out[strcspn(out, "\n")] = 0;
    return true;
}

struct owner_look owner_battery_look(const char *sys)
{
    /* A PC without a battery is one that is on mains: the source works and says nothing. */
    struct owner_look look = {.found = 1};
    DIR *d = opendir(sys);
    struct dirent *e;
    bool mains = false, discharging = false;

    while (d && (e = readdir(d))) {
        char type[64], text[64];
        if (e->d_name[0] == '.' || !read_word(sys, e->d_name, "type", type))
            continue;
        if (strcmp(type, "Battery") == 0 && read_word(sys, e->d_name, "scope", text) &&
            strcmp(text, "Device") == 0)
            continue; /* a mouse's */
        if (strcmp(type, "Battery") == 0 && read_word(sys, e->d_name, "status", text))
            discharging |= strcmp(text, "Discharging") == 0;
        else if (read_word(sys, e->d_name, "online", text))
            mains |= strcmp(text, "0") != 0;
    }
    if (d)
        closedir(d);
    look.busy = discharging && !mains;
    return look;
}

/* ---- hours ------------------------------------------------------------------------------------
 */

static int parse_time(const char *text, size_t len, int *ret_minute)
{
    char copy[8];
    uint64_t hour, minute = 0;

    if (len == 0 || len >= sizeof copy)
        return -EINVAL;
    memcpy(copy, text, len);
    copy[len] = 0;
    char *colon = strchr(copy, ':');
    if (colon)
        *colon++ = 0;
    if (num_parse_u64(copy, 24, &hour) < 0 || (colon && num_parse_u64(colon, 59, &minute) < 0) ||
        hour * 60 + minute > 24 * 60)
        return -EINVAL;
    *ret_minute = (int)(hour * 60 + minute);
    return 0;
}

int owner_hours_parse(const char *text, struct owner_hours *ret_hours)
{
    const char *dash = strchr(text, '-');
    struct owner_hours h;

    if (!dash || parse_time(text, (size_t)(dash - text), &h.from) < 0 ||
        parse_time(dash + 1, strlen(dash + 1), &h.to) < 0 || h.from == h.to)
        return -EINVAL;
    *ret_hours = h;
    return 0;
}

bool owner_hours_busy(const struct owner_hours *h, int minute_of_day)
{
    if (h->from < h->to)
        return minute_of_day >= h->from && minute_of_day < h->to;
    return minute_of_day >= h->from || minute_of_day < h->to;
}
