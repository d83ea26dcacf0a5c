/* SPDX-License-Identifier: Apache-2.0
 *
 * One function a struct walks its fields, in both directions (struct io). Numbers are in groups of
 * seven bits, the lowest first; texts and lists have their length before them. A reader that meets
 * what cannot be sets `bad` and goes on with zeros.
 */
#include "state/ring.h"

#include "base/crc32c.h"
#include "base/must.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char magic[8] = {'y', 'a', 'd', 'o', 'r', 'i', 'n', 'g'};

enum { HEADER_BYTES = 12, FRAME_BYTES = 8, THEN_DEPTH_MAX = 16, LIST_MAX = 1 << 20 };

struct io {
    struct buf *out; /* NULL: reading */
    const uint8_t *p, *end;
    struct ring_reader *reader;
    bool bad;
};

/* ---- kinds of fields ------------------------------------------------------------------------- */

static uint64_t get_number(struct io *io)
{
    uint64_t v = 0;

    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte;

        if (io->p == io->end)
            break;
        byte = *io->p++;
        if (shift == 63 && byte > 1)
            break;
        v |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return v;
    }
    io->bad = true;
    return 0;
}

static void u64(struct io *io, uint64_t *v)
{
    uint64_t rest = *v;

    if (!io->out) {
        *v = get_number(io);
        return;
    }
    for (; rest > 0x7f; rest >>= 7)
        buf_put_u8(io->out, (uint8_t)(rest | 0x80));
    buf_put_u8(io->out, (uint8_t)rest);
}

/* A number up to `most`. */
static uint64_t upto(struct io *io, uint64_t v, uint64_t most)
{
    u64(io, &v);
    if (v > most) {
        io->bad = true;
        v = 0;
    }
    return v;
}

/* Nothing is stored in writing: it may be constant. */
#define STORE(io, v, value)              \
    do {                                 \
        uint64_t value_ = value;         \
        if (!(io)->out)                  \
            (v) = (__typeof__(v))value_; \
    } while (0)
#define CHOICE(io, v, most) STORE(io, v, upto(io, (uint64_t)(v), most))

static void u32(struct io *io, uint32_t *v)
{
    STORE(io, *v, upto(io, *v, UINT32_MAX));
}

static void u16(struct io *io, uint16_t *v)
{
    STORE(io, *v, upto(io, *v, UINT16_MAX));
}

static void i32(struct io *io, int32_t *v)
{
    STORE(io, *v, upto(io, (uint32_t)*v, UINT32_MAX));
}

static void boolean(struct io *io, bool *v)
{
    STORE(io, *v, upto(io, *v, 1));
}

static void bytes(struct io *io, void *v, size_t len)
{
    if (io->out) {
        buf_put(io->out, v, len);
    } else if ((size_t)(io->end - io->p) < len) {
        io->bad = true;
        memset(v, 0, len);
    } else {
        memcpy(v, io->p, len);
        io->p += len;
    }
}

static void real(struct io *io, double *v)
{
    bytes(io, v, sizeof *v);
}

static void digest(struct io *io, struct grid_digest *d)
{
    bool any = !grid_digest_is_none(d);

    boolean(io, &any);
    if (any)
        bytes(io, d->bytes, sizeof d->bytes);
}

static void text(struct io *io, char *t, size_t size)
{
    size_t len = upto(io, io->out ? strnlen(t, size - 1) : 0, size - 1);

    bytes(io, t, len);
    if (!io->out)
        memset(t + len, 0, size - len);
    io->bad |= memchr(t, 0, len) != NULL;
}
#define TEXT(io, t) text(io, t, sizeof(t))

static void *own(struct io *io, size_t count, size_t size)
{
    struct ring_reader *r = io->reader;

    if (r->count_owned == r->cap_owned) {
        r->cap_owned = r->cap_owned ? 2 * r->cap_owned : 16;
        r->owned = xreallocarray(r->owned, r->cap_owned, sizeof *r->owned);
    }
    return r->owned[r->count_owned++] = xcalloc(count, size);
}

/* NULL stays NULL. */
static void string(struct io *io, const char **s)
{
    size_t len = *s && io->out ? strlen(*s) + 1 : 0;
    char *copy;

    len = upto(io, len, RING_RECORD_MAX);
    if (io->out) {
        buf_put(io->out, *s, len ? len - 1 : 0);
        return;
    }
    *s = NULL;
    if (len && (size_t)(io->end - io->p) < len - 1)
        io->bad = true;
    if (!len || io->bad)
        return;
    copy = own(io, len, 1);
    bytes(io, copy, len - 1);
    *s = copy;
}

/* How many, of which each takes a byte at least. */
static size_t count_of(struct io *io, size_t count)
{
    count = upto(io, count, LIST_MAX);
    if (!io->out && count > (size_t)(io->end - io->p)) {
        io->bad = true;
        count = 0;
    }
    return count;
}

/* Elements of a list; when reading, new ones. */
#define LIST(io, list, count, walk)                                      \
    do {                                                                 \
        STORE(io, count, count_of(io, count));                           \
        if (!(io)->out)                                                  \
            (list) = (count) ? own(io, count, sizeof *(list)) : NULL;    \
        for (size_t i_ = 0; i_ < (count) && !(io)->bad; i_++)            \
            walk(io, (void *)&(list)[i_]); /* is only read in writing */ \
    } while (0)

/* Something that may be missing. */
#define MAYBE(io, pointer, walk)                                     \
    do {                                                             \
        bool has_ = (pointer) != NULL;                               \
        boolean(io, &has_);                                          \
        if (!(io)->out)                                              \
            (pointer) = has_ ? own(io, 1, sizeof *(pointer)) : NULL; \
        if (has_)                                                    \
            walk(io, (void *)(pointer));                             \
    } while (0)

/* ---- the structs ----------------------------------------------------------------------------- */

static void walk_config(struct io *io, struct grid_config *c)
{
    u64(io, &c->lease_ms);
    u64(io, &c->lease_margin_ms);
    CHOICE(io, c->requeue, GRID_REQUEUE_HEAD);
    u64(io, &c->retire_ms);
    real(io, &c->usage_half_life_s);
    u32(io, &c->failures_to_hold);
    u32(io, &c->failures_to_drain);
    u32(io, &c->brake_leases);
    real(io, &c->checkpoint_overhead);
    real(io, &c->checkpoint_link);
    u64(io, &c->checkpoint_min_ms);
    u64(io, &c->checkpoint_max_ms);
    u64(io, &c->checkpoint_guess_ms);
    u64(io, &c->mtbf_prior_ms);
    real(io, &c->death_half_life_s);
    u64(io, &c->leave_wait_ms);
    u64(io, &c->rebase_pause_ms);
    u64(io, &c->rebase_after_ms);
    u64(io, &c->starve_wait_ms);
    u32(io, &c->upload_slots);
    boolean(io, &c->by_habit);
    u32(io, &c->last_wave_max);
    u32(io, &c->chain_max);
    u64(io, &c->depot_quota_bytes);
    u64(io, &c->disk_quota_bytes);
}

static void walk_class(struct io *io, struct grid_class *c)
{
    TEXT(io, c->machine);
    TEXT(io, c->cpu);
    TEXT(io, c->accel);
    u32(io, &c->qemu_version);
}

static void walk_layer(struct io *io, struct grid_layer *l)
{
    digest(io, &l->digest);
    digest(io, &l->parent);
    digest(io, &l->stands_for);
    u64(io, &l->seq);
    u64(io, &l->epoch);
    u64(io, &l->size_bytes);
    u64(io, &l->output_offset);
    u64(io, &l->run_ms);
    u64(io, &l->disk_cut);
    u64(io, &l->mail_sent);
    u64(io, &l->mail_read);
    u64(io, &l->committed_ms);
    walk_class(io, &l->cls);
}

static void walk_meta(struct io *io, struct grid_meta *m)
{
    uint64_t *all[] = {&m->next_job,   &m->next_pc,        &m->next_golden,
                       &m->next_image, &m->next_queue_key, &m->next_epoch,
                       &m->log_seq,    &m->move_seq,       &m->step};

    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        u64(io, all[i]);
}

static void walk_user(struct io *io, struct grid_user *u)
{
    u64(io, &u->id);
    u32(io, &u->weight);
    real(io, &u->usage);
    u64(io, &u->usage_ms);
    u64(io, &u->max_queued);
}

static void walk_habit(struct io *io, struct grid_habit *h)
{
    for (size_t i = 0; i < GRID_HOURS; i++) {
        u16(io, &h->n.free_min[i]);
        u16(io, &h->n.ends[i]);
    }
    for (size_t i = 0; i < GRID_AGES; i++) {
        u32(io, &h->n.age_expected[i]);
        u32(io, &h->n.age_ends[i]);
    }
    u64(io, &h->since_ms);
    u64(io, &h->faded_ms);
    u64(io, &h->gone_ms);
    u64(io, &h->visits);
    u64(io, &h->visits_ms);
}

static void walk_pc(struct io *io, struct grid_pc *p)
{
    u64(io, &p->id);
    TEXT(io, p->name);
    boolean(io, &p->builder);
    boolean(io, &p->draining);
    boolean(io, &p->forgotten);
    boolean(io, &p->reported);
    boolean(io, &p->available);
    TEXT(io, p->reason);
    u64(io, &p->memory_bytes);
    u32(io, &p->cpus);
    u32(io, &p->speed);
    walk_class(io, &p->cls);
    u32(io, &p->recent_failures);
    u64(io, &p->last_failed_job);
    real(io, &p->deaths);
    real(io, &p->busy_ms);
    u64(io, &p->history_ms);
    u64(io, &p->busy_since_ms);
    walk_habit(io, &p->habit);
}

static void walk_image(struct io *io, struct grid_image *i)
{
    u64(io, &i->id);
    TEXT(io, i->name);
    boolean(io, &i->deleted);
}

static void walk_golden(struct io *io, struct grid_golden *x)
{
    u64(io, &x->id);
    u64(io, &x->image);
    u64(io, &x->memory_bytes);
    u32(io, &x->cpus);
    walk_class(io, &x->cls);
    CHOICE(io, x->state, GRID_GOLDEN_FAILED);
    u64(io, &x->pc);
    u64(io, &x->epoch);
    u32(io, &x->failures);
    walk_layer(io, &x->layer);
}

static void walk_job(struct io *io, struct grid_job *first)
{
    struct grid_job *j = first;

    for (int depth = 0; j && !io->bad; j = j->then) {
        bool more = j->then != NULL;

        u64(io, &j->id);
        u64(io, &j->user);
        string(io, (const char **)&j->name);
        string(io, (const char **)&j->spec);
        u32(io, &j->parts);
        u64(io, &j->memory_bytes);
        u64(io, &j->disk_bytes);
        u32(io, &j->cpus);
        u64(io, &j->image);
        i32(io, &j->priority);
        u32(io, &j->retries);
        u64(io, &j->time_limit_ms);
        boolean(io, &j->held);
        boolean(io, &j->cancelled);
        u64(io, &j->submitted_ms);
        u64(io, &j->finished_ms);
        u64(io, &j->then_of);
        u64(io, &j->then_job);
        u64(io, &j->checkpoint_ms);
        boolean(io, &j->fail_together);
        boolean(io, &more);
        io->bad |= more && ++depth > THEN_DEPTH_MAX;
        if (!io->out)
            j->then = more && !io->bad ? own(io, 1, sizeof *j->then) : NULL;
    }
}

static void walk_part(struct io *io, struct grid_part *p)
{
    uint64_t *before[] = {&p->epoch, &p->pc, &p->golden, &p->queue_key};
    uint64_t *after[] = {
        &p->peak_bytes,        &p->run_ms,         &p->started_ms,      &p->finished_ms,
        &p->result_bytes,      &p->output_bytes,   &p->move_started_ms, &p->move_from,
        &p->move_suspended_ms, &p->move_placed_ms, &p->checkpoint_ms,   &p->checkpoint_asked,
        &p->checkpoint_done,   &p->move_to,        &p->leave_after_ms,  &p->starves_since_ms};

    u64(io, &p->job);
    u32(io, &p->index);
    CHOICE(io, p->state, GRID_PART_STATES - 1);
    for (size_t i = 0; i < sizeof before / sizeof *before; i++)
        u64(io, before[i]);
    u32(io, &p->own_failures);
    u32(io, &p->grid_failures);
    for (int i = 0; i < 3; i++)
        u64(io, &p->failed_pcs[i]);
    u32(io, &p->moves);
    i32(io, &p->exit_status);
    for (size_t i = 0; i < sizeof after / sizeof *after; i++)
        u64(io, after[i]);
    digest(io, &p->result);
    TEXT(io, p->reason);
    TEXT(io, p->move_reason);
    u32(io, &p->move_stop_ms);
    u32(io, &p->move_save_ms);
    u32(io, &p->move_upload_ms);
    u32(io, &p->cost_ms);
    u32(io, &p->pause_ms);
    u32(io, &p->upload_ms);
    boolean(io, &p->move_for_load);
}

static void walk_row(struct io *io, struct grid_row *row)
{
    CHOICE(io, row->kind, GRID_ROW_PART);
    if (!io->out)
        row->put = true;
    switch (row->kind) {
    case GRID_ROW_META:
        walk_meta(io, &row->meta);
        break;
    case GRID_ROW_USER:
        walk_user(io, &row->user);
        break;
    case GRID_ROW_PC:
        walk_pc(io, &row->pc);
        break;
    case GRID_ROW_IMAGE:
        walk_image(io, &row->image);
        break;
    case GRID_ROW_GOLDEN:
        walk_golden(io, &row->golden);
        break;
    case GRID_ROW_JOB:
        walk_job(io, &row->job);
        break;
    case GRID_ROW_LAYER:
        u64(io, &row->layer.job);
        u32(io, &row->layer.part);
        walk_layer(io, &row->layer.layer);
        break;
    case GRID_ROW_PIN:
        u64(io, &row->pin.job);
        u32(io, &row->pin.part);
        u64(io, &row->pin.size_bytes);
        digest(io, &row->pin.digest);
        break;
    case GRID_ROW_PART:
        walk_part(io, &row->part);
        break;
    case GRID_ROW_LOG: /* neither is loaded */
    case GRID_ROW_MOVE:
        break;
    }
}

static void walk_submit(struct io *io, struct grid_submit *first)
{
    struct grid_submit *s = first;

    for (int depth = 0; s && !io->bad; s = (struct grid_submit *)s->then) {
        bool more = s->then != NULL;

        string(io, &s->name);
        string(io, &s->spec);
        u32(io, &s->parts);
        u64(io, &s->memory_bytes);
        u64(io, &s->disk_bytes);
        u32(io, &s->cpus);
        u64(io, &s->image);
        i32(io, &s->priority);
        u32(io, &s->retries);
        u64(io, &s->time_limit_ms);
        u64(io, &s->checkpoint_ms);
        boolean(io, &s->fail_together);
        string(io, &s->note);
        boolean(io, &more);
        /* One more than the core takes: it is the core that refuses. */
        io->bad |= more && ++depth > THEN_DEPTH_MAX + 1;
        if (!io->out)
            s->then = more && !io->bad ? own(io, 1, sizeof *s->then) : NULL;
    }
}

static void walk_vm(struct io *io, struct grid_vm_report *vm)
{
    uint32_t *numbers[] = {&vm->cost_ms, &vm->pause_ms, &vm->cpu_millis, &vm->cpu_due_millis,
                           &vm->stop_ms, &vm->save_ms,  &vm->upload_ms,  &vm->resume_ms};

    u64(io, &vm->job);
    u64(io, &vm->part);
    u64(io, &vm->epoch);
    CHOICE(io, vm->state, GRID_VM_STATES - 1);
    TEXT(io, vm->reason);
    LIST(io, vm->layers, vm->count_layers, walk_layer);
    u64(io, &vm->checkpoint);
    digest(io, &vm->damaged);
    i32(io, &vm->exit_status);
    boolean(io, &vm->oom);
    boolean(io, &vm->had_mail);
    TEXT(io, vm->note);
    digest(io, &vm->result);
    u64(io, &vm->result_bytes);
    u64(io, &vm->output_bytes);
    u64(io, &vm->run_ms);
    u64(io, &vm->peak_bytes);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        u32(io, numbers[i]);
}

static void walk_report(struct io *io, struct grid_report *r)
{
    u64(io, &r->seen_epoch);
    boolean(io, &r->available);
    TEXT(io, r->reason);
    boolean(io, &r->no_habits);
    boolean(io, &r->outdated);
    u64(io, &r->memory_bytes);
    u32(io, &r->cpus);
    u32(io, &r->speed);
    walk_class(io, &r->cls);
    LIST(io, r->vms, r->count_vms, walk_vm);
}

static void walk_merged(struct io *io, struct grid_merged *m)
{
    LIST(io, m->replaced, m->count, digest);
    digest(io, &m->digest);
    u64(io, &m->size_bytes);
}

/* What the core takes for granted. */
static bool event_is_whole(const struct grid_event *e)
{
    switch (e->kind) {
    case GRID_EV_SUBMIT:
    case GRID_EV_RESPLIT:
        return e->submit;
    case GRID_EV_REPORT:
        return e->report;
    case GRID_EV_MERGED:
        return e->merged;
    case GRID_EV_PC_ENROL:
    case GRID_EV_IMAGE:
    case GRID_EV_FAIL:
    case GRID_EV_NOTE:
        return e->name;
    default:
        return true;
    }
}

static void walk_event(struct io *io, struct grid_event *e)
{
    CHOICE(io, e->kind, GRID_EV_NOTE);
    u64(io, &e->now_ms);
    u64(io, &e->user);
    u64(io, &e->job);
    u64(io, &e->part);
    u64(io, &e->epoch);
    u64(io, &e->pc);
    string(io, &e->name);
    u64(io, &e->image);
    boolean(io, &e->builder);
    boolean(io, &e->draining);
    u32(io, &e->weight);
    u64(io, &e->max_queued);
    MAYBE(io, e->submit, walk_submit);
    MAYBE(io, e->report, walk_report);
    MAYBE(io, e->merged, walk_merged);
    digest(io, &e->digest);
    io->bad |= !event_is_whole(e);
}

static void walk_record(struct io *io, struct ring_record *r)
{
    switch (r->kind) {
    case RING_CONFIG:
        walk_config(io, &r->config);
        break;
    case RING_ROW:
        walk_row(io, &r->row);
        break;
    case RING_EVENT:
        walk_event(io, &r->event);
        break;
    case RING_RENEW:
        u64(io, &r->renew.pc);
        u64(io, &r->renew.now_ms);
        break;
    case RING_MARK:
        u64(io, &r->mark.step);
        bytes(io, &r->mark.digest, sizeof r->mark.digest);
        break;
    }
}

/* ---- writing --------------------------------------------------------------------------------- */

void ring_put_header(struct buf *to)
{
    buf_put(to, magic, sizeof magic);
    buf_put_u32(to, RING_VERSION);
}

static void write_u32(uint8_t *at, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(v >> (24 - 8 * i));
}

void ring_put(struct buf *to, const struct ring_record *record)
{
    struct ring_record r = *record; /* the walkers take what they may write */
    struct io io = {.out = to};
    size_t start = to->len, len;
    uint8_t *frame;

    (void)buf_extend(to, FRAME_BYTES);
    buf_put_u8(to, (uint8_t)r.kind);
    walk_record(&io, &r);
    MUST(!io.bad);
    len = to->len - start - FRAME_BYTES;
    frame = to->data + start;
    write_u32(frame, (uint32_t)len);
    write_u32(frame + 4, crc32c(0, frame + FRAME_BYTES, len));
}

static void put_row(void *arg, const struct grid_row *row)
{
    ring_put(arg, &(struct ring_record){.kind = RING_ROW, .row = *row});
}

void ring_put_grid(struct buf *to, const struct grid_config *config, const struct grid *g)
{
    struct ring_record mark = {.kind = RING_MARK, .mark = {grid_get_meta(g)->step, grid_digest(g)}};

    ring_put(to, &(struct ring_record){.kind = RING_CONFIG, .config = *config});
    grid_each_row(g, put_row, to);
    ring_put(to, &mark);
}

/* ---- reading --------------------------------------------------------------------------------- */

static uint32_t read_u32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

int ring_open(struct ring_reader *r, const void *data, size_t len, struct err *ret_err)
{
    *r = (struct ring_reader){.data = data, .len = len, .at = HEADER_BYTES};
    if (len < HEADER_BYTES || memcmp(data, magic, sizeof magic) != 0)
        return err_set(ret_err, -EBADMSG, "this is no ring of events");
    if (read_u32(r->data + sizeof magic) != RING_VERSION)
        return err_set(ret_err, -EPROTONOSUPPORT, "a ring of version %" PRIu32 "; this is for %d",
                       read_u32(r->data + sizeof magic), RING_VERSION);
    return 0;
}

static void release(struct ring_reader *r)
{
    for (size_t i = 0; i < r->count_owned; i++)
        free(r->owned[i]);
    r->count_owned = 0;
}

void ring_close(struct ring_reader *r)
{
    release(r);
    free(r->owned);
    *r = (struct ring_reader){0};
}

int ring_next(struct ring_reader *r, struct ring_record *ret_record, struct err *ret_err)
{
    const uint8_t *frame = r->data + r->at;
    size_t left = r->len - r->at, len;
    struct io io = {.reader = r};

    release(r);
    if (!left)
        return RING_END;
    if (left < FRAME_BYTES)
        return RING_CUT;
    len = read_u32(frame);
    if (len < 1 || len > RING_RECORD_MAX)
        return err_set(ret_err, -EBADMSG, "byte %zu: a record of %zu bytes", r->at, len);
    if (left - FRAME_BYTES < len)
        return RING_CUT;
    io.p = frame + FRAME_BYTES;
    io.end = io.p + len;
    if (crc32c(0, io.p, len) != read_u32(frame + 4))
        return err_set(ret_err, -EBADMSG, "byte %zu: a damaged record", r->at);
    memset(ret_record, 0, sizeof *ret_record);
    if (*io.p < RING_CONFIG || *io.p > RING_MARK)
        return err_set(ret_err, -EBADMSG, "byte %zu: a record of an unknown kind", r->at);
    ret_record->kind = (enum ring_kind) * io.p++;
    walk_record(&io, ret_record);
    if (io.bad || io.p != io.end)
        return err_set(ret_err, -EBADMSG, "byte %zu: a record that makes no sense", r->at);
    r->at += FRAME_BYTES + len;
    return RING_HAS;
}
