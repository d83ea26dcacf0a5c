/* SPDX-License-Identifier: Apache-2.0
 *
 * The part's network drive, as the supervisor's worker sees it: opened before QEMU is there, cut
 * with each layer.
 *
 * A cut names what the drive was when the guest stood for that layer. A checkpoint needs it before
 * the guest goes on. The last layer does not: nobody writes any more, so the master is asked when
 * it is there, if need be by a supervisor after us; until then the layer's cut is 0, and the master
 * is not told of it.
 */
#include "agent/retry.h"
#include "agent/supervisor.h"

#include <errno.h>

enum { CUT_MS = 1000 };

static bool has_drive(const struct work *w)
{
    const struct jobspec *spec = w->config->desired.spec;

    return spec && spec->disk_bytes;
}

static bool pause_work(void *arg, uint32_t ms)
{
    return work_pause(arg, ms);
}

/* What was written after the newest layer was made is given up. */
static int begin(void *arg, struct err *err)
{
    struct work *w = arg;
    const struct sync_layer *layer = supervisor_config_layer(w->config);

    return drive_link_begin(w->drive, layer ? layer->cut : 0, err);
}

int work_open_drive(struct work *w, char *ret_reason, struct err *ret_err)
{
    const struct supervisor_config *c = w->config;
    const struct retry retry = {pause_work, w};
    int r;

    if (!has_drive(w))
        return 0;
    r = drive_link_new(w->dir, &w->source, c->uid < 0 ? (uid_t)-1 : (uid_t)c->uid, &w->drive,
                       ret_err);
    if (r == 0)
        r = retry_until(&retry, begin, w, ret_err);
    return r ? work_fail(r, r == -ESTALE ? "stale" : "no drive", ret_reason) : 0;
}

int work_cut_drive(struct work *w, struct err *ret_err)
{
    w->layer.cut = 0;
    return w->drive ? drive_cut(w->http, w->source.url, CUT_MS, &w->layer.cut, ret_err) : 0;
}

bool work_needs_cut(const struct work *w)
{
    return has_drive(w) && w->config->desired.job && !w->layer.cut;
}

static int cut(void *arg, struct err *err)
{
    struct work *w = arg;

    return drive_cut(w->http, w->source.url, 0, &w->layer.cut, err);
}

int task_cut(struct work *w, char *ret_reason, struct err *ret_err)
{
    const struct retry retry = {pause_work, w};
    int r = retry_until(&retry, cut, w, ret_err);

    if (r)
        return work_fail(r, r == -ESTALE ? "stale" : "no drive", ret_reason);
    return task_store(w, ret_reason, ret_err);
}
