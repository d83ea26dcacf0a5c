/* SPDX-License-Identifier: Apache-2.0
 *
 * Files of events; see ring.h.
 */
#include "master/ring.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "state/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A digest looks at all rows: once in so many events, that is little for each. */
enum { MARK_EVERY = 16, MARK_ROWS = 8, SNAPSHOTS = 4 };

static void give_up(struct ring *r, int error)
{
    log_warn("the ring of events cannot be written: %s", strerror(error));
    ring_end(r);
}

static void write_out(struct ring *r)
{
    size_t done = 0;
    while (r->fd >= 0 && done < r->waiting.len) {
        ssize_t n = write(r->fd, r->waiting.data + done, r->waiting.len - done);
        if (n < 0 && errno != EINTR)
            give_up(r, errno);
        else if (n > 0)
            done += (size_t)n;
    }
    r->bytes += done;
    buf_clear(&r->waiting);
}

static char *name_of(const char *state_dir, int age)
{
    return age ? xasprintf("%s/events.ring.%d", state_dir, age)
               : xasprintf("%s/events.ring", state_dir);
}

static void age_files(const char *state_dir)
{
    for (int age = RING_FILES - 1; age > 0; age--) {
        AUTO_FREE char *from = name_of(state_dir, age - 1), *to = name_of(state_dir, age);
        (void)rename(from, to); /* there may be none yet; else the file is written over */
    }
}

static void count_row(void *arg, const struct grid_row *row)
{
    ++*(uint64_t *)arg;
}

void ring_begin(struct ring *r, const char *state_dir, const struct grid_config *config,
                const struct grid *g)
{
    AUTO_FREE char *path = name_of(state_dir, 0);
    uint64_t rows = 0;
    ring_end(r);
    age_files(state_dir);
    r->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (r->fd < 0) {
        give_up(r, errno);
        return;
    }
    grid_each_row(g, count_row, &rows);
    ring_put_header(&r->waiting);
    ring_put_grid(&r->waiting, config, g);
    write_out(r);
    r->most = SNAPSHOTS * r->bytes > RING_BYTES ? SNAPSHOTS * r->bytes : RING_BYTES;
    r->mark_every = rows / MARK_ROWS > MARK_EVERY ? rows / MARK_ROWS : MARK_EVERY;
}

void ring_event(struct ring *r, const struct grid_event *e)
{
    if (r->fd < 0)
        return;
    ring_put(&r->waiting, &(struct ring_record){.kind = RING_EVENT, .event = *e});
    write_out(r);
    r->events++;
}

void ring_renew(struct ring *r, uint64_t pc, uint64_t now_ms)
{
    if (r->fd >= 0)
        ring_put(&r->waiting, &(struct ring_record){.kind = RING_RENEW, .renew = {pc, now_ms}});
}

bool ring_pause(struct ring *r, const struct grid *g)
{
    if (r->fd < 0)
        return false;
    if (r->events >= r->mark_every) {
        struct ring_record mark = {.kind = RING_MARK,
                                   .mark = {grid_get_meta(g)->step, grid_digest(g)}};
        ring_put(&r->waiting, &mark);
        r->events = 0;
    }
    write_out(r);
    return r->bytes >= r->most;
}

void ring_end(struct ring *r)
{
    if (r->fd >= 0)
        close(r->fd);
    buf_deinit(&r->waiting);
    *r = (struct ring){.fd = -1};
}
