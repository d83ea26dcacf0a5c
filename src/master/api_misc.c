/* SPDX-License-Identifier: Apache-2.0
 * What everyone may ask: the CA, status, who am I, events, moves; and figures for Prometheus. */
#include "master/api.h"

#include "base/log.h"
#include "master/ca.h"
#include "master/hold.h"

#include <inttypes.h>
#include <string.h>

enum req_next api_ca(struct req *r)
{
    buf_put_str(&r->raw, ca_cert_pem(r->m->ca));
    return req_reply_raw(r, 200, "application/x-pem-file");
}

enum req_next api_whoami(struct req *r)
{
    return req_reply_json(r, 200,
                          json_pack("{s:s, s:b}", "name", r->user_name, "admin", (int)r->admin));
}

enum { ROWS_OF_USERS = 100000 }; /* all that are kept */

/* ---- status and figures --------------------------------------------------------------------- */

struct figures {
    struct core *c;
    uint64_t jobs, pcs, available;
    uint64_t parts[GRID_PART_STATES];
};

static bool count_job(void *arg, const struct grid_job *j)
{
    struct figures *f = arg;
    f->jobs++;
    for (unsigned s = 0; s < GRID_PART_STATES; s++)
        f->parts[s] += j->count[s];
    return true;
}

static bool count_pc(void *arg, const struct grid_pc *pc)
{
    struct figures *f = arg;
    f->pcs += !pc->forgotten;
    f->available += !pc->forgotten && pc->available && !pc->draining;
    return true;
}

static struct figures count_all(struct core *c)
{
    struct figures f = {.c = c};
    grid_each_job(core_grid(c), count_job, &f);
    grid_each_pc(core_grid(c), count_pc, &f);
    return f;
}

static enum core_next status_core(struct core *c, struct req *r)
{
    struct figures f = count_all(c);
    json_t *parts = json_object();
    for (unsigned s = 0; s < GRID_PART_STATES; s++)
        if (f.parts[s])
            json_object_set_new(parts, grid_part_state_name(s), api_u64(f.parts[s]));
    const struct master *m = r->m;
    (void)req_reply_json(
        r, 200,
        json_pack("{s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "version",
                  YADO_VERSION, "url", m->url, "term", api_u64(state_term(m->state)), "step",
                  api_u64(grid_get_meta(core_grid(c))->step), "uptime_ms",
                  api_u64(core_now(c) > m->started_ms ? core_now(c) - m->started_ms : 0), "jobs",
                  api_u64(f.jobs), "pcs", api_u64(f.pcs), "pcs_available", api_u64(f.available),
                  "parts", parts, "layer_bytes", api_u64(grid_layer_bytes(core_grid(c))),
                  "depot_quota_bytes", api_u64(m->config.grid.depot_quota_bytes), "disk_bytes",
                  api_u64(grid_disk_bytes(core_grid(c))), "disk_quota_bytes",
                  api_u64(m->config.grid.disk_quota_bytes)));
    return CORE_REPLIED;
}

enum req_next api_status(struct req *r)
{
    return core_post(r, status_core);
}

static enum core_next metrics_core(struct core *c, struct req *r)
{
    struct figures f = count_all(c);
    const struct grid_meta *meta = grid_get_meta(core_grid(c));
    struct buf *b = &r->raw;
    buf_printf(b,
               "# HELP yado_parts Parts of jobs in memory, by state.\n# TYPE yado_parts gauge\n");
    for (unsigned s = 0; s < GRID_PART_STATES; s++)
        buf_printf(b, "yado_parts{state=\"%s\"} %" PRIu64 "\n", grid_part_state_name(s),
                   f.parts[s]);
    buf_printf(b, "# HELP yado_pcs Enrolled PCs.\n# TYPE yado_pcs gauge\nyado_pcs %" PRIu64 "\n",
               f.pcs);
    buf_printf(b,
               "# HELP yado_pcs_available PCs that take parts now.\n"
               "# TYPE yado_pcs_available gauge\nyado_pcs_available %" PRIu64 "\n",
               f.available);
    buf_printf(b,
               "# HELP yado_layer_bytes Saved memory of guests, as the depot's quota counts it.\n"
               "# TYPE yado_layer_bytes gauge\nyado_layer_bytes %" PRIu64 "\n",
               grid_layer_bytes(core_grid(c)));
    buf_printf(b,
               "# HELP yado_disk_bytes Disks of unfinished jobs, as their quota counts them.\n"
               "# TYPE yado_disk_bytes gauge\nyado_disk_bytes %" PRIu64 "\n",
               grid_disk_bytes(core_grid(c)));
    buf_printf(b,
               "# HELP yado_steps_total Steps of the core.\n# TYPE yado_steps_total counter\n"
               "yado_steps_total %" PRIu64 "\n",
               meta->step);
    buf_printf(b,
               "# HELP yado_moves_total Moves of parts between PCs.\n"
               "# TYPE yado_moves_total counter\nyado_moves_total %" PRIu64 "\n",
               meta->move_seq);
    buf_printf(b,
               "# HELP yado_jobs_submitted_total Jobs ever submitted.\n"
               "# TYPE yado_jobs_submitted_total counter\nyado_jobs_submitted_total %" PRIu64 "\n",
               meta->next_job ? meta->next_job - 1 : 0);
    buf_printf(b,
               "# HELP yado_term Starts of the master.\n# TYPE yado_term counter\n"
               "yado_term %" PRIu64 "\n",
               state_term(r->m->state));
    (void)req_reply_raw(r, 200, "text/plain; version=0.0.4");
    return CORE_REPLIED;
}

enum req_next api_metrics(struct req *r)
{
    return core_post(r, metrics_core);
}

/* ---- moves and events ----------------------------------------------------------------------- */

/* Rows of the state's tables, of one user's jobs unless he is an administrator. */
struct row_list {
    size_t limit;
    bool newest;
    struct core *c;
    struct req *r;
    json_t *rows;
    uint64_t last_job; /* the answer for the job asked last */
    bool last_visible;
};

/* Others' rows are left out here, so for users the state is asked for more than they want. */
static size_t window(const struct row_list *l)
{
    return l->r->admin ? l->limit : ROWS_OF_USERS;
}

/* Adds a row (taken over); false when that is enough. */
static bool add_row(struct row_list *l, json_t *row)
{
    json_array_append_new(l->rows, row);
    if (l->newest && json_array_size(l->rows) > l->limit)
        json_array_remove(l->rows, 0);
    return l->newest || json_array_size(l->rows) < l->limit;
}

static bool visible(struct row_list *l, uint64_t job)
{
    if (l->r->admin || job == 0)
        return l->r->admin;
    if (job == l->last_job)
        return l->last_visible;
    const struct grid_job *j = grid_get_job(core_grid(l->c), job);
    struct grid_job *old = NULL;
    l->last_job = job;
    if (!j && state_history_job(l->r->m->state, job, &old) == STATE_OK)
        j = old;
    l->last_visible = j && j->user == l->r->user;
    state_job_free(old);
    return l->last_visible;
}

static const char *log_kind_name(enum grid_log_kind kind)
{
    static const char *const names[] = {[GRID_LOG_JOB] = "job",
                                        [GRID_LOG_PART] = "part",
                                        [GRID_LOG_PC] = "pc",
                                        [GRID_LOG_IMAGE] = "image",
                                        [GRID_LOG_GRID] = "grid"};
    return names[kind];
}

static bool add_event(void *arg, const struct grid_log *e)
{
    struct row_list *l = arg;
    if (!visible(l, e->job))
        return true;
    return add_row(l, json_pack("{s:o, s:o, s:s, s:o, s:o, s:s, s:o}", "seq", api_u64(e->seq),
                                "at_ms", api_u64(e->at_ms), "kind", log_kind_name(e->kind), "job",
                                e->job ? api_u64(e->job) : json_null(), "part",
                                e->part >= 0 ? json_integer(e->part) : json_null(), "pc",
                                api_pc_name(l->c, e->pc), "text", req_text(e->text)));
}

static bool add_move(void *arg, const struct grid_move *m)
{
    struct row_list *l = arg;
    if (!visible(l, m->job))
        return true;
    return add_row(l, json_pack("{s:o, s:o, s:o, s:i, s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:o}",
                                "seq", api_u64(m->seq), "at_ms", api_u64(m->at_ms), "job",
                                api_u64(m->job), "part", (int)m->part, "reason", m->reason, "from",
                                api_pc_name(l->c, m->from_pc), "to", api_pc_name(l->c, m->to_pc),
                                "stop_ms", (int)m->stop_ms, "save_ms", (int)m->save_ms, "search_ms",
                                (int)m->search_ms, "resume_ms", (int)m->resume_ms, "total_ms",
                                (int)m->total_ms, "bytes", api_u64(m->bytes)));
}

/* ?after=&limit=&job=: without `after` the newest, in the order they happened. */
struct row_query {
    uint64_t after, job;
};

static bool read_query(struct req *r, struct row_query *ret, struct row_list *l)
{
    l->newest = !req_query(r, "after");
    return req_query_u64(r, "after", 0, &ret->after) && req_query_u64(r, "job", 0, &ret->job) &&
           api_limit(r, &l->limit);
}

static enum core_next moves_core(struct core *c, struct req *r)
{
    struct row_list l = {.c = c, .r = r, .rows = json_array()};
    struct row_query q;
    if (!read_query(r, &q, &l)) {
        json_decref(l.rows);
        return CORE_REPLIED;
    }
    int bad = state_moves(r->m->state, q.job, q.after, l.newest, window(&l), add_move, &l);
    if (bad < 0) {
        json_decref(l.rows);
        return api_reply_state_error(c, r, bad);
    }
    return api_reply_list(r, "moves", l.rows);
}

enum req_next api_moves(struct req *r)
{
    return core_post(r, moves_core);
}

static enum core_next events_core(struct core *c, struct req *r)
{
    struct row_list l = {.c = c, .r = r, .rows = json_array()};
    struct row_query q;
    if (!read_query(r, &q, &l)) {
        json_decref(l.rows);
        return CORE_REPLIED;
    }
    int bad = state_events(r->m->state, q.job, q.after, l.newest, window(&l), add_event, &l);
    if (bad < 0) {
        json_decref(l.rows);
        return api_reply_state_error(c, r, bad);
    }
    if (json_array_size(l.rows) == 0 && api_may_hold(r, (struct hold_key){HOLD_EVENTS, 0, 0})) {
        json_decref(l.rows);
        r->next = api_events;
        return CORE_HOLD;
    }
    return api_reply_list(r, "events", l.rows);
}

enum req_next api_events(struct req *r)
{
    return core_post(r, events_core);
}
