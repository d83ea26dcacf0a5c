/* SPDX-License-Identifier: Apache-2.0
 *
 * yado sim replay: a master's ring of events (docs/formats/ring.md) once more through the core. At
 * each mark the digest must be the one that the master had.
 */
#include "base/buf.h"
#include "base/cleanup.h"
#include "sim/replay.h"
#include "sim/sim.h"
#include "state/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int differs(struct replay *r, const struct ring_record *x, struct err *err)
{
    uint64_t digest = grid_digest(r->g);

    if (!r->marks++)
        r->first_digest = digest;
    if (digest == x->mark.digest && grid_get_meta(r->g)->step == x->mark.step)
        return 0;
    return err_set(err, -EBADMSG,
                   "after %" PRIu64 " events the master was at step %" PRIu64
                   " with digest %016" PRIx64 ", and this core is at step %" PRIu64
                   " with %016" PRIx64,
                   r->events, x->mark.step, x->mark.digest, grid_get_meta(r->g)->step, digest);
}

static int take(struct replay *r, const struct ring_record *x, struct err *err)
{
    if (x->kind == RING_CONFIG) {
        grid_effects_clear(&r->fx);
        grid_free(r->g);
        r->g = grid_new(&x->config);
        r->loading = true;
        return 0;
    }
    if (!r->g || (x->kind == RING_ROW && !r->loading))
        return err_set(err, -EBADMSG, "events and rows stand in the wrong order");
    if (x->kind == RING_ROW) {
        r->rows++;
        return grid_load(r->g, &x->row, err);
    }
    if (r->loading && grid_load_done(r->g, err) != 0)
        return -EBADMSG;
    r->loading = false;
    if (x->kind == RING_MARK)
        return differs(r, x, err);
    if (x->kind == RING_RENEW) {
        r->renewals++;
        grid_renew(r->g, x->renew.pc, x->renew.now_ms);
        return 0;
    }
    r->events++;
    (void)grid_step(r->g, &x->event, &r->fx); /* what was refused is refused again */
    return 0;
}

int replay_run(struct replay *r, const struct buf *file, struct err *err)
{
    struct ring_reader reader;
    struct ring_record x;
    int found, bad = ring_open(&reader, file->data, file->len, err);

    if (bad)
        return bad;
    while ((found = ring_next(&reader, &x, err)) == RING_HAS && bad == 0)
        bad = take(r, &x, err);
    r->cut = found == RING_CUT;
    ring_close(&reader);
    return bad ? bad : found < 0 ? found : 0;
}

void replay_deinit(struct replay *r)
{
    grid_effects_deinit(&r->fx);
    grid_free(r->g);
}

static int read_file(const char *path, struct buf *to, struct err *err)
{
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : 1;

    while (n > 0) {
        n = read(fd, buf_reserve(to, 1 << 20), 1 << 20);
        if (n > 0)
            to->len += (size_t)n;
    }
    return n < 0 ? err_set(err, -errno, "%s", strerror(errno)) : 0;
}

static void show(const struct replay *r)
{
    printf("%" PRIu64 " rows, %" PRIu64 " events, %" PRIu64 " renewals of leases, %" PRIu64
           " marks: the same at every mark\n"
           "at the end: step %" PRIu64 ", digest %016" PRIx64 "%s\n",
           r->rows, r->events, r->renewals, r->marks, grid_get_meta(r->g)->step, grid_digest(r->g),
           r->cut ? " (the file ends within a record)" : "");
}

static json_t *json_of(const struct replay *r)
{
    char first[17], last[17];

    snprintf(first, sizeof first, "%016" PRIx64, r->first_digest);
    snprintf(last, sizeof last, "%016" PRIx64, grid_digest(r->g));
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:b}", "rows", (json_int_t)r->rows,
                     "events", (json_int_t)r->events, "renewals", (json_int_t)r->renewals, "marks",
                     (json_int_t)r->marks, "step", (json_int_t)grid_get_meta(r->g)->step,
                     "first_digest", first, "digest", last, "cut", r->cut);
}

int sim_replay(const struct sim_options *o)
{
    AUTO_BUF struct buf file = {0};
    struct replay r = {0};
    struct err err = {""};
    int status = SIM_OK, bad;

    bad = read_file(o->file, &file, &err);
    if (!bad)
        bad = replay_run(&r, &file, &err);
    if (!bad && !r.g)
        bad = err_set(&err, -EBADMSG, "there is nothing in it");
    if (bad) {
        fprintf(stderr, "yado: sim: %s: %s\n", o->file, err.text);
        status = SIM_FAILED;
    } else if (o->json) {
        status = sim_print_json(json_of(&r));
    } else {
        show(&r);
    }
    replay_deinit(&r);
    return status;
}
