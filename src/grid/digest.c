/* SPDX-License-Identifier: Apache-2.0
 *
 * The digest of the durable state: FNV-1a over every field of every record, in order. For tests
 * and for comparing a reload; its cost is one pass over everything.
 */
#include "grid/internal.h"

struct hash {
    uint64_t value;
};

static void add_bytes(struct hash *h, const void *data, size_t len)
{
    const uint8_t *p = data;

    for (size_t i = 0; i < len; i++)
        h->value = (h->value ^ p[i]) * 0x100000001b3u;
}

static void add(struct hash *h, uint64_t v)
{
    for (int i = 0; i < 8; i++, v >>= 8)
        h->value = (h->value ^ (v & 0xff)) * 0x100000001b3u;
}

static void add_text(struct hash *h, const char *s)
{
    add_bytes(h, s, strlen(s) + 1);
}

static void add_class(struct hash *h, const struct grid_class *c)
{
    add_text(h, c->machine);
    add_text(h, c->cpu);
    add_text(h, c->accel);
    add(h, c->qemu_version);
}

static void add_layer(struct hash *h, const struct grid_layer *l)
{
    const uint64_t all[] = {l->seq,           l->epoch,     l->size_bytes,
                            l->output_offset, l->run_ms,    l->disk_cut,
                            l->committed_ms,  l->mail_sent, l->mail_read};

    add_bytes(h, l->digest.bytes, sizeof l->digest.bytes);
    add_bytes(h, l->parent.bytes, sizeof l->parent.bytes);
    add_bytes(h, l->stands_for.bytes, sizeof l->stands_for.bytes);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        add(h, all[i]);
    add_class(h, &l->cls);
}

static void add_meta(struct hash *h, const struct grid_meta *m)
{
    const uint64_t all[] = {m->next_job,   m->next_pc,        m->next_golden,
                            m->next_image, m->next_queue_key, m->next_epoch,
                            m->log_seq,    m->move_seq,       m->step};

    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        add(h, all[i]);
}

static void add_user(struct hash *h, const struct grid_user *u)
{
    add(h, u->id);
    add(h, u->weight);
    add_bytes(h, &u->usage, sizeof u->usage);
    add(h, u->usage_ms);
    add(h, u->max_queued);
}

static void add_pc(struct hash *h, const struct grid_pc *p)
{
    add(h, p->id);
    add_text(h, p->name);
    add(h,
        p->builder | p->draining << 1 | p->forgotten << 2 | p->reported << 3 | p->available << 4);
    add_text(h, p->reason);
    add(h, p->memory_bytes);
    add(h, p->cpus);
    add(h, p->speed);
    add_class(h, &p->cls);
    add(h, p->recent_failures);
    add(h, p->last_failed_job);
    add_bytes(h, &p->deaths, sizeof p->deaths);
    add_bytes(h, &p->busy_ms, sizeof p->busy_ms);
    add(h, p->history_ms);
    add(h, p->busy_since_ms);
    add_bytes(h, &p->habit, sizeof p->habit);
}

static void add_golden(struct hash *h, const struct grid_golden *x)
{
    add(h, x->id);
    add(h, x->image);
    add(h, x->memory_bytes);
    add(h, x->cpus);
    add_class(h, &x->cls);
    add(h, x->state);
    add(h, x->pc);
    add(h, x->epoch);
    add(h, x->failures);
    add_layer(h, &x->layer);
}

static void add_job(struct hash *h, const struct grid_job *j)
{
    for (; j; j = j->then) {
        const uint64_t all[] = {j->id,
                                j->user,
                                j->parts,
                                j->memory_bytes,
                                j->disk_bytes,
                                j->cpus,
                                j->image,
                                (uint64_t)(int64_t)j->priority,
                                j->retries,
                                j->time_limit_ms,
                                j->held,
                                j->cancelled,
                                j->submitted_ms,
                                j->finished_ms,
                                j->then_of,
                                j->then_job,
                                j->checkpoint_ms,
                                j->fail_together};

        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            add(h, all[i]);
        add_text(h, j->name);
        add_text(h, j->spec);
    }
    add(h, 0);
}

/* Pins have no order of their own: they are summed. */
static void add_chain(struct hash *h, const struct grid_chain *c)
{
    uint64_t pins = 0;

    for (size_t i = 0; i < c->count; i++)
        add_layer(h, &c->layers[i]);
    for (size_t i = 0; i < c->count_pins; i++) {
        struct hash one = {0xcbf29ce484222325u};

        add_bytes(&one, c->pins[i].digest.bytes, sizeof c->pins[i].digest.bytes);
        add(&one, c->pins[i].size_bytes);
        pins += one.value;
    }
    add(h, pins);
}

static void add_part(struct hash *h, const struct grid_part *p)
{
    const uint64_t all[] = {p->job,
                            p->index,
                            p->state,
                            p->epoch,
                            p->pc,
                            p->golden,
                            p->queue_key,
                            p->own_failures,
                            p->grid_failures,
                            p->failed_pcs[0],
                            p->failed_pcs[1],
                            p->failed_pcs[2],
                            p->moves,
                            (uint64_t)(int64_t)p->exit_status,
                            p->peak_bytes,
                            p->run_ms,
                            p->started_ms,
                            p->finished_ms,
                            p->result_bytes,
                            p->output_bytes,
                            p->move_started_ms,
                            p->move_from,
                            p->move_suspended_ms,
                            p->move_placed_ms,
                            p->move_stop_ms,
                            p->move_save_ms,
                            p->move_upload_ms,
                            p->checkpoint_ms,
                            p->checkpoint_asked,
                            p->checkpoint_done,
                            p->cost_ms,
                            p->pause_ms,
                            p->upload_ms,
                            p->move_to,
                            p->leave_after_ms,
                            p->move_for_load,
                            p->starves_since_ms};

    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        add(h, all[i]);
    add_bytes(h, p->result.bytes, sizeof p->result.bytes);
    add_text(h, p->reason);
    add_text(h, p->move_reason);
}

uint64_t grid_digest(const struct grid *g)
{
    struct hash h = {0xcbf29ce484222325u};

    add_meta(&h, &g->meta);
    for (const struct user *u = g->first_user; u; u = u->next)
        add_user(&h, &u->r);
    for (const struct pc *p = g->first_pc; p; p = p->next)
        add_pc(&h, &p->r);
    for (const struct image *i = g->first_image; i; i = i->next) {
        add(&h, i->r.id);
        add_text(&h, i->r.name);
        add(&h, i->r.deleted);
    }
    for (const struct golden *x = g->first_golden; x; x = x->next)
        add_golden(&h, &x->r);
    for (const struct job *j = g->first_job; j; j = j->next) {
        add_job(&h, &j->r);
        for (uint32_t i = 0; i < j->r.parts; i++) {
            add_part(&h, &j->parts[i].r);
            if (j->parts[i].chain)
                add_chain(&h, &j->parts[i].chain->r);
        }
    }
    return h.value;
}
