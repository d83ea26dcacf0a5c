/* SPDX-License-Identifier: Apache-2.0
 *
 * The supervisor's files in DIR: config.json, made by the agent, and saved.json, made here when a
 * layer or a result is whole on the disk.
 */
#include "agent/identity.h"
#include "agent/supervisor.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *dup_or_null(const char *s)
{
    return s && s[0] ? xstrdup(s) : NULL;
}

static int fill(const char *path, json_t *json, struct supervisor_config *c, struct err *ret_err)
{
    json_t *desired = NULL, *qemu = NULL, *cgroup = NULL;
    const char *url, *ca_file, *cache_dir, *machine, *cpu, *accel;
    json_int_t version = 0, silence = GUEST_LINK_SILENCE_MS;
    int idle = 0;
    json_error_t e;

    if (json_unpack_ex(json, &e, 0,
                       "{s:o, s:s, s:s, s:s, s?o, s:{s:s, s:s, s:s, s:I}, s:I, s:I, s:I, s:I, "
                       "s?o, s:b, s?I}",
                       "desired", &desired, "url", &url, "ca_file", &ca_file, "cache_dir",
                       &cache_dir, "qemu", &qemu, "class", "machine", &machine, "cpu", &cpu,
                       "accel", &accel, "qemu_version", &version, "uid", &c->uid, "gid", &c->gid,
                       "pager_uid", &c->pager_uid, "pager_gid", &c->pager_gid, "cgroup", &cgroup,
                       "idle_priority", &idle, "guest_silence_ms", &silence))
        return err_set(ret_err, -EINVAL, "%s: %s", path, e.text);
    if (sync_desired_from_json(desired, &c->desired, ret_err))
        return -EINVAL;
    snprintf(c->cls.machine, sizeof c->cls.machine, "%s", machine);
    snprintf(c->cls.cpu, sizeof c->cls.cpu, "%s", cpu);
    snprintf(c->cls.accel, sizeof c->cls.accel, "%s", accel);
    c->cls.qemu_version = (uint32_t)version;
    c->url = xasprintf("%s/v1/vm/%llu.%llu.%llu/", url, (unsigned long long)c->desired.job,
                       (unsigned long long)c->desired.part, (unsigned long long)c->desired.epoch);
    c->ca_file = xstrdup(ca_file);
    c->cache_dir = xstrdup(cache_dir);
    c->qemu = dup_or_null(json_string_value(qemu));
    c->cgroup = dup_or_null(json_string_value(cgroup));
    c->idle_priority = idle;
    c->guest_silence_ms = (uint64_t)silence;
    return 0;
}

const struct sync_layer *supervisor_config_layer(const struct supervisor_config *c)
{
    const struct sync_desired *d = &c->desired;

    return d->count_chain ? &d->chain[d->count_chain - 1] : NULL;
}

int supervisor_config_load(const char *dir, struct supervisor_config *ret, struct err *ret_err)
{
    AUTO_FREE char *path = xasprintf("%s/config.json", dir);
    json_error_t e;
    json_t *json = json_load_file(path, JSON_REJECT_DUPLICATES, &e);
    int r;

    if (!json)
        return err_set(ret_err, -EINVAL, "%s: %s", path, e.text);
    r = fill(path, json, ret, ret_err);
    json_decref(json);
    return r;
}

int saved_load(const char *dir, struct sync_vm *ret_report, struct err *ret_err)
{
    AUTO_FREE char *path = xasprintf("%s/" SUPERVISOR_SAVED_FILE, dir);
    json_error_t e;
    json_t *json;
    int r;

    if (access(path, F_OK))
        return -errno;
    json = json_load_file(path, JSON_REJECT_DUPLICATES, &e);
    if (!json)
        return err_set(ret_err, -EINVAL, "%s: %s", path, e.text);
    r = sync_vm_from_json(json, ret_report, ret_err);
    json_decref(json);
    return r;
}

void saved_remove(const char *dir)
{
    AUTO_FREE char *path = xasprintf("%s/" SUPERVISOR_SAVED_FILE, dir);

    if (unlink(path) && errno != ENOENT)
        log_warn("cannot remove %s: %s", path, strerror(errno));
}

int saved_store(const char *dir, const struct sync_vm *report, struct err *ret_err)
{
    json_t *json = sync_vm_to_json(report);
    AUTO_FREE char *text = json_dumps(json, JSON_INDENT(1));

    json_decref(json);
    /* The folder is synced with it, and so are the names of the layers. */
    return identity_write(dir, SUPERVISOR_SAVED_FILE, text, strlen(text), 0600, ret_err);
}
