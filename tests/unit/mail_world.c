/* SPDX-License-Identifier: Apache-2.0
 *
 * Histories of mail; see mail_world.h. Everything that a real grid has is here as little as can
 * be: a guest is a struct that a layer copies, a request is a list of messages that may arrive
 * late, twice or never, the log is bytes of which a kill leaves a piece.
 *
 * With mail: immediate a guest's program depends on what it has read and on nothing else; with
 * mail: committed it throws dice. At the end nothing fails any more, and every guest reads what is
 * left. Then, for every pair of ranks: what the one has read from the other is what the other has
 * sent to it, in order, each once, none missing, and none of another job.
 */
#include "mail_world.h"

#include "base/rng.h"
#include "mail/mail.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    JOBS = 2,
    RANKS = 4,
    BODY = 24,
    WINDOW = 6,  /* messages that a guest keeps */
    BUFFER = 4,  /* ... and takes ahead */
    STEPS = 60,  /* of a program */
    NOTES = 400, /* messages that a guest remembers */
    SNAPS = 4,   /* reports of layers that are under way */
    POSITIONS = RANKS * NOTES + RANKS,
    REQUESTS = 24,
    EVENTS = 500,
    FILE_BYTES = 3000,
    FILES = 4096,
};

struct message {
    uint64_t seq;
    uint32_t to;
    uint8_t body[BODY];
};

struct note {
    uint32_t peer, kind;
    uint64_t hash;
};

/* All that is in a guest's memory, and so in its layers. */
struct guest {
    uint64_t seq, acked, want, sum;
    uint32_t step, count_window, count_buffer, count_sent, count_read;
    struct message window[WINDOW];
    struct note buffer[BUFFER];
    struct note sent[NOTES], read[NOTES];
};

struct layer {
    struct guest guest;
    struct mail_layer mail;
};

/* A part: its row, its guest, its host. */
struct part {
    uint64_t epoch;
    bool is_placed, is_final, has_failed;
    struct layer layers[2]; /* the newest is the last */
    unsigned count_layers;
    struct guest guest, longest;
    uint64_t host_sent, host_read; /* that the host has heard of */
    /* Reports of layers, which may come late, twice, after younger ones, or never. */
    struct layer snaps[SNAPS];
    unsigned count_snaps;
    uint64_t seen[POSITIONS]; /* of its mailbox: what was there when it was first read */
};

struct request {
    uint32_t job, rank, count;
    uint64_t epoch;
    struct message messages[WINDOW];
};

struct answer {
    uint32_t job, rank;
    uint64_t epoch, have;
};

struct world {
    struct rng rng;
    enum mail_world_kind kind;
    struct mail_world_sum *sum;
    struct mail *mail;
    struct mail_config config;
    struct mail_sink sink;
    bool committed;
    uint32_t ranks;
    struct part parts[JOBS][RANKS];
    bool is_over[JOBS];
    struct request requests[REQUESTS];
    uint32_t count_requests;
    struct answer answers[REQUESTS * 8]; /* that wait for the disk */
    uint32_t count_answers;
    struct buf files[FILES];
    uint32_t first_file, last_file;
    size_t durable; /* bytes of the last file */
    size_t clean_at;
    uint64_t now_ms, next_epoch, next_layer;
    char why[200];
};

static void fail(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void fail(struct world *w, const char *fmt, ...)
{
    va_list ap;

    if (w->why[0])
        return;
    va_start(ap, fmt);
    vsnprintf(w->why, sizeof w->why, fmt, ap);
    va_end(ap);
}

static bool chance(struct world *w, unsigned percent)
{
    return rng_below(&w->rng, 100) < percent;
}

static uint64_t mix(uint64_t a, uint64_t b)
{
    struct rng r = rng_seed(a * 0x9e3779b97f4a7c15u ^ b);

    return rng_u64(&r);
}

/* ---- the log --------------------------------------------------------------------------------- */

static uint64_t append(void *arg, const struct mail_record *r, uint64_t copy_of)
{
    struct world *w = arg;
    struct buf *file = &w->files[w->last_file];
    uint64_t where = (uint64_t)(w->last_file + 1) << 32 | file->len;
    struct mail_record record = *r;
    struct buf old = {0};

    if (copy_of) {
        const struct buf *from = &w->files[(copy_of >> 32) - 1];

        buf_put(&old, from->data + (uint32_t)copy_of + MAIL_RECORD_HEADER_BYTES, r->len);
        record.body = old.data;
    }
    mail_record_put(file, &record);
    buf_deinit(&old);
    return where;
}

static void answer(struct world *w, const struct answer *a)
{
    struct part *p = &w->parts[a->job][a->rank];
    struct guest *g = &p->guest;

    if (!p->is_placed || p->epoch != a->epoch || a->have <= g->acked)
        return;
    uint64_t count = a->have - g->acked;
    if (count > g->count_window) {
        fail(w, "job %u rank %u: %llu acknowledged, never sent", a->job, a->rank,
             (unsigned long long)a->have);
        return;
    }
    memmove(g->window, g->window + count, (g->count_window - count) * sizeof *g->window);
    g->count_window -= (uint32_t)count;
    g->acked = a->have;
}

/* All that was appended is on the disk; who waited for that gets his answer, or not. */
static void sync_log(struct world *w)
{
    w->durable = w->files[w->last_file].len;
    mail_durable(w->mail);
    for (uint32_t i = 0; i < w->count_answers; i++)
        if (!chance(w, 10))
            answer(w, &w->answers[i]);
    w->count_answers = 0;
    if (w->durable > FILE_BYTES && w->last_file + 1 < FILES) {
        w->last_file++;
        w->durable = 0;
    }
}

static void clean_some(struct world *w)
{
    struct buf *file = &w->files[w->first_file];

    if (w->first_file == w->last_file)
        return;
    for (uint64_t n = rng_below(&w->rng, 30); n && w->clean_at < file->len; n--) {
        struct mail_record r;

        if (mail_record_get(file->data + w->clean_at, file->len - w->clean_at, &r) < 0) {
            fail(w, "the log has a bad record");
            return;
        }
        mail_clean(w->mail, &r, (uint64_t)(w->first_file + 1) << 32 | w->clean_at, &w->sink);
        w->clean_at += MAIL_RECORD_HEADER_BYTES + r.len;
    }
    if (w->clean_at < file->len)
        return;
    mail_clean_done(w->mail, &w->sink);
    if (chance(w, 20))
        return; /* the master may die here */
    sync_log(w);
    buf_deinit(file);
    w->first_file++;
    w->clean_at = 0;
    w->sum->cleaned++;
}

/* ---- the master ------------------------------------------------------------------------------ */

static void tell(struct world *w, uint32_t job, uint32_t rank)
{
    const struct part *p = &w->parts[job][rank];
    struct mail_told t = {.job = job + 1,
                          .parts = w->ranks,
                          .committed = w->committed,
                          .rank = rank,
                          .epoch = p->epoch,
                          .is_final = p->is_final,
                          .has_failed = p->has_failed};

    if (w->is_over[job]) {
        mail_forget(w->mail, t.job);
        return;
    }
    if (p->count_layers)
        t.top = p->layers[p->count_layers - 1].mail;
    if (p->count_layers > 1)
        t.below = p->layers[0].mail;
    mail_tell(w->mail, &t, w->now_ms, &w->sink);
}

static void tell_all(struct world *w)
{
    for (uint32_t j = 0; j < JOBS; j++)
        for (uint32_t i = 0; i < w->ranks; i++)
            tell(w, j, i);
}

static void load(struct world *w)
{
    w->mail = mail_new(&w->config);
    for (uint32_t f = w->first_file; f <= w->last_file; f++) {
        struct buf *file = &w->files[f];
        size_t at = 0;
        struct mail_record r;

        while (at < file->len && mail_record_get(file->data + at, file->len - at, &r) == 0) {
            if (mail_load(w->mail, &r, (uint64_t)(f + 1) << 32 | at) < 0)
                fail(w, "the log has a record that cannot be");
            at += MAIL_RECORD_HEADER_BYTES + r.len;
        }
        if (at < file->len && (f < w->last_file || at < w->durable))
            fail(w, "the log is broken where it was durable");
        file->len = at;
    }
    w->durable = w->files[w->last_file].len;
    mail_load_done(w->mail);
    tell_all(w);
}

/* What was not durable survives up to some byte, which may be in the midst of a record. */
static void kill_master(struct world *w)
{
    struct buf *file = &w->files[w->last_file];

    file->len = w->durable + rng_below(&w->rng, file->len - w->durable + 1);
    if (file->len > w->durable && chance(w, 30))
        file->data[w->durable + rng_below(&w->rng, file->len - w->durable)] ^= 0x40;
    mail_free(w->mail);
    w->count_answers = 0;
    w->clean_at = 0;
    w->sum->kills++;
    load(w);
}

static void deliver(struct world *w, const struct request *q)
{
    struct mail_rank *r = mail_find(w->mail, q->job + 1, q->rank, q->epoch);
    bool ends = !r;
    uint64_t have = q->messages[0].seq - 1;

    for (uint32_t i = 0; i < q->count && !ends; i++) {
        const struct message *msg = &q->messages[i];
        struct mail_out out = {msg->seq, msg->to, BODY, msg->body};

        switch (mail_send(w->mail, r, &out, w->now_ms, &w->sink)) {
        case MAIL_TAKEN:
            have = msg->seq;
            break;
        case MAIL_FULL:
            w->sum->full++;
            ends = true;
            break;
        case MAIL_GAP:
            ends = true;
            break;
        case MAIL_DIFFERS:
            fail(w, "job %u rank %u: message %llu differs", q->job, q->rank,
                 (unsigned long long)msg->seq);
            ends = true;
            break;
        default:
            fail(w, "job %u rank %u: message %llu is refused", q->job, q->rank,
                 (unsigned long long)msg->seq);
            ends = true;
        }
    }
    if (r && w->count_answers < sizeof w->answers / sizeof *w->answers)
        w->answers[w->count_answers++] = (struct answer){q->job, q->rank, q->epoch, have};
}

/* ---- guests ---------------------------------------------------------------------------------- */

static bool never_reads(const struct world *w, uint32_t rank)
{
    return w->kind == MAIL_WORLD_NEVER_READS && rank == 0;
}

static void send_one(struct world *w, uint32_t job, uint32_t rank, uint64_t dice)
{
    struct guest *g = &w->parts[job][rank].guest;

    if (g->count_window == WINDOW || g->count_sent == NOTES)
        return;
    struct message *msg = &g->window[g->count_window++];
    *msg = (struct message){.seq = ++g->seq, .to = (uint32_t)(dice % w->ranks)};
    if (w->kind == MAIL_WORLD_FLOOD)
        msg->to = 1;
    uint64_t words[3] = {job << 8 | rank, mix(g->sum, dice), dice};
    memcpy(msg->body, words, BODY);
    g->sent[g->count_sent++] = (struct note){msg->to, MAIL_MESSAGE, words[1]};
    g->step++;
    w->sum->sent++;
}

static bool read_one(struct world *w, uint32_t job, uint32_t rank)
{
    struct guest *g = &w->parts[job][rank].guest;

    if (!g->count_buffer || g->count_read == NOTES || never_reads(w, rank))
        return false;
    struct note n = g->buffer[0];
    memmove(g->buffer, g->buffer + 1, --g->count_buffer * sizeof n);
    g->read[g->count_read++] = n;
    g->sum = mix(g->sum, n.hash ^ n.peer ^ n.kind << 16);
    w->sum->read++;
    return true;
}

/* One step of its program; reading waits until there is something. Who floods sends to rank 1. */
static void act(struct world *w, uint32_t job, uint32_t rank)
{
    struct part *p = &w->parts[job][rank];
    struct guest *g = &p->guest;
    bool floods = w->kind == MAIL_WORLD_FLOOD;

    if (!p->is_placed || g->step >= STEPS)
        return;
    uint64_t dice =
        w->committed ? rng_u64(&w->rng) : mix(mix(job * 64 + rank + 1, g->step), g->sum);
    if (floods ? rank == 0 : never_reads(w, rank) || (dice >> 32) % 100 < 45)
        send_one(w, job, rank, dice);
    else if (read_one(w, job, rank))
        g->step++;
}

static void post(struct world *w, uint32_t job, uint32_t rank)
{
    struct part *p = &w->parts[job][rank];
    struct guest *g = &p->guest;

    if (!p->is_placed || !g->count_window || w->count_requests == REQUESTS)
        return;
    struct request *q = &w->requests[w->count_requests++];
    *q = (struct request){
        job, rank, 1 + (uint32_t)rng_below(&w->rng, g->count_window), p->epoch, {{0}}};
    memcpy(q->messages, g->window, q->count * sizeof *g->window);
    uint64_t last = q->messages[q->count - 1].seq;
    if (last > p->host_sent)
        p->host_sent = last;
}

static void get(struct world *w, uint32_t job, uint32_t rank)
{
    struct part *p = &w->parts[job][rank];
    struct guest *g = &p->guest;
    struct mail_rank *r = p->is_placed ? mail_find(w->mail, job + 1, rank, p->epoch) : NULL;
    struct mail_found found[BUFFER];
    size_t count = 0;

    if (!r)
        return;
    p->host_read = g->want;
    if (mail_read(w->mail, r, g->want, 1 + rng_below(&w->rng, 300), found, BUFFER, &count) ==
        MAIL_LOST) {
        fail(w, "job %u rank %u: position %llu cannot be read", job, rank,
             (unsigned long long)g->want);
        return;
    }
    if (chance(w, 10))
        return; /* the answer is lost */
    for (size_t i = 0; i < count && g->count_buffer < BUFFER; i++) {
        struct note n = {found[i].from, found[i].kind, 0};
        const struct buf *file = &w->files[(found[i].where >> 32) - 1];
        struct mail_record record;

        if (found[i].pos != g->want)
            fail(w, "job %u rank %u: a gap in the mailbox", job, rank);
        if (mail_record_get(file->data + (uint32_t)found[i].where,
                            file->len - (uint32_t)found[i].where, &record) < 0) {
            fail(w, "a message is not where the index says");
            return;
        }
        if (record.job != job + 1 || record.to != rank || record.from != n.peer)
            fail(w, "job %u rank %u reads what is not for it", job, rank);
        if (n.kind == MAIL_MESSAGE) {
            uint64_t words[3];

            memcpy(words, record.body, BODY);
            n.hash = words[1];
            if (words[0] != (job << 8 | n.peer))
                fail(w, "job %u rank %u reads what somebody else wrote", job, rank);
        }
        uint64_t *seen = &p->seen[g->want % POSITIONS];
        uint64_t now = mix(n.hash, (uint64_t)n.kind << 32 | n.peer) | 1;
        if (g->want >= POSITIONS || (*seen && *seen != now))
            fail(w, "job %u rank %u: position %llu is another message than before", job, rank,
                 (unsigned long long)g->want);
        *seen = now;
        g->buffer[g->count_buffer++] = n;
        g->want++;
    }
}

/* ---- layers and placements ------------------------------------------------------------------- */

static struct layer make_layer(struct world *w, const struct part *p)
{
    return (struct layer){p->guest, {w->next_layer++, p->epoch, p->host_sent, p->host_read}};
}

static void snap(struct world *w, struct part *p)
{
    if (p->count_snaps == SNAPS)
        memmove(p->snaps, p->snaps + 1, --p->count_snaps * sizeof *p->snaps);
    p->snaps[p->count_snaps++] = make_layer(w, p);
}

/* A layer of an older placement, or one that is there or below what is there, is ignored. */
static void record(struct world *w, uint32_t job, uint32_t rank, const struct layer *layer)
{
    struct part *p = &w->parts[job][rank];

    if (layer->mail.epoch != p->epoch ||
        (p->count_layers && layer->mail.id <= p->layers[p->count_layers - 1].mail.id))
        return;
    if (p->count_layers == 2)
        p->layers[0] = p->layers[1];
    else
        p->count_layers++;
    p->layers[p->count_layers - 1] = *layer;
    tell(w, job, rank);
}

/* Some report comes, and perhaps once more later. */
static void report(struct world *w, uint32_t job, uint32_t rank)
{
    struct part *p = &w->parts[job][rank];

    if (!p->count_snaps)
        return;
    uint32_t i = (uint32_t)rng_below(&w->rng, p->count_snaps);
    record(w, job, rank, &p->snaps[i]);
    if (!chance(w, 30))
        p->snaps[i] = p->snaps[--p->count_snaps];
}

static void begin(struct guest *g)
{
    memset(g, 0, sizeof *g);
    g->want = 1;
}

static void place(struct world *w, uint32_t job, uint32_t rank)
{
    struct part *p = &w->parts[job][rank];

    p->epoch = w->next_epoch++;
    p->is_placed = true;
    p->host_sent = p->host_read = 0;
    if (p->count_layers) {
        const struct layer *top = &p->layers[p->count_layers - 1];

        p->guest = top->guest;
        p->host_sent = top->mail.sent;
        p->host_read = top->mail.read;
    } else {
        begin(&p->guest);
    }
    tell(w, job, rank);
}

static void leave(struct world *w, uint32_t job, uint32_t rank, bool dies)
{
    struct part *p = &w->parts[job][rank];

    if (!p->is_placed)
        return;
    if (!dies) {
        struct layer last = make_layer(w, p);

        record(w, job, rank, &last);
    }
    w->sum->backs += dies;
    if (p->guest.count_sent > p->longest.count_sent)
        p->longest = p->guest;
    p->is_placed = false;
}

/* The newest layer cannot be used. What a program with dice sent since the one before is released,
 * and may not come again: that is outside the promise. */
static void damage(struct world *w, uint32_t job, uint32_t rank)
{
    struct part *p = &w->parts[job][rank];

    if (w->committed || p->is_placed || p->is_final || p->count_layers < 2)
        return;
    p->count_layers = 1;
    tell(w, job, rank);
}

static void stop_for_good(struct world *w, uint32_t job, uint32_t rank, bool fails)
{
    struct part *p = &w->parts[job][rank];

    if (p->is_final)
        return;
    p->is_placed = false;
    p->is_final = true;
    p->has_failed = fails;
    /* It may have been further before it went back, and behaved the same. */
    if (!w->committed && p->longest.count_sent > p->guest.count_sent)
        p->guest = p->longest;
    tell(w, job, rank);
}

static bool deaths(const struct world *w)
{
    return w->kind == MAIL_WORLD_DEATH || w->kind == MAIL_WORLD_DEATH_OF_ALL;
}

static void end_for_good(struct world *w, uint32_t job, uint32_t rank)
{
    if (!w->parts[job][rank].is_placed || !deaths(w) || rank == 0)
        return;
    stop_for_good(w, job, rank, true);
    w->sum->deaths++;
    if (w->kind != MAIL_WORLD_DEATH_OF_ALL)
        return;
    for (uint32_t i = 0; i < w->ranks; i++)
        stop_for_good(w, job, i, false);
    w->is_over[job] = true;
    tell(w, job, rank);
}

/* It ends well, as soon as all that it sent is taken. */
static void finish(struct world *w, uint32_t job, uint32_t rank)
{
    struct part *p = &w->parts[job][rank];

    if (!p->is_placed || !deaths(w) || p->guest.count_window || p->guest.step < STEPS / 2)
        return;
    p->is_placed = false;
    p->is_final = true;
    tell(w, job, rank);
}

static void hear_wishes(struct world *w)
{
    struct mail_wish wish;
    struct mail_news news;

    if (w->now_ms >= mail_due_ms(w->mail))
        (void)mail_work(w->mail, w->now_ms, &w->sink);
    while (mail_take_wish(w->mail, &wish)) {
        struct part *p = &w->parts[wish.job - 1][wish.rank];

        if (wish.kind == MAIL_WISH_FAIL)
            fail(w, "job %llu rank %u is to fail: %s", (unsigned long long)wish.job - 1, wish.rank,
                 wish.text);
        if (wish.kind != MAIL_WISH_CHECKPOINT || !p->is_placed || wish.epoch != p->epoch)
            continue;
        w->sum->asked++;
        snap(w, p);
        if (chance(w, 80))
            record(w, (uint32_t)wish.job - 1, wish.rank, &p->snaps[p->count_snaps - 1]);
    }
    while (mail_take_news(w->mail, &news))
        ;
}

/* A batch with one more byte than a message may have, all of which are there. */
static void lie_large(struct world *w, uint64_t seq)
{
    enum { BYTES = MAIL_BODY_MAX + 1 };
    AUTO_BUF struct buf batch = {0};
    struct mail_out out;

    buf_put_u64(&batch, seq);
    buf_put_u32(&batch, 0);
    buf_put_u32(&batch, BYTES);
    memset(buf_reserve(&batch, BYTES), 0, BYTES);
    batch.len += BYTES;
    struct cursor c = cursor_of(batch.data, batch.len);
    if (mail_out_get(&c, &out) == 0)
        fail(w, "a body that is too large was taken");
    w->sum->large++;
}

/* What a hostile guest may say is refused, and changes nothing. */
static void lie(struct world *w, uint32_t job, uint32_t rank)
{
    struct part *p = &w->parts[job][rank];
    struct mail_rank *r = p->is_placed ? mail_find(w->mail, job + 1, rank, p->epoch) : NULL;
    struct mail_found found[2];
    uint8_t body[BODY] = {0};
    size_t count;

    if (!r || w->kind != MAIL_WORLD_HOSTILE)
        return;
    uint64_t have = mail_have(r);
    struct mail_out out = {have + 2 + rng_below(&w->rng, 1000), 0, BODY, body};
    if (mail_send(w->mail, r, &out, w->now_ms, &w->sink) != MAIL_GAP)
        fail(w, "a gap was taken");
    out = (struct mail_out){have + 1, w->ranks + (uint32_t)rng_below(&w->rng, 5000), BODY, body};
    if (mail_send(w->mail, r, &out, w->now_ms, &w->sink) != MAIL_NO_RANK)
        fail(w, "a message to nobody was taken");
    if (chance(w, 5))
        lie_large(w, have + 1);
    if (mail_read(w->mail, r, INT64_MAX, 100, found, 2, &count) != MAIL_LOST)
        fail(w, "the future was read");
    if (mail_find(w->mail, job + 1, rank, p->epoch + 1000) ||
        mail_find(w->mail, 77, rank, p->epoch) || mail_find(w->mail, job + 1, 1000, p->epoch))
        fail(w, "a placement that does not exist was found");
    if (mail_have(r) != have)
        fail(w, "a lie changed something");
}

/* ---- a history ------------------------------------------------------------------------------- */

static void happen(struct world *w, uint32_t job, uint32_t rank)
{
    struct part *p = &w->parts[job][rank];
    uint32_t i;

    switch (rng_below(&w->rng, 100)) {
    case 0 ... 34:
        act(w, job, rank);
        break;
    case 35 ... 49:
        post(w, job, rank);
        break;
    case 50 ... 64:
        if (!w->count_requests)
            break;
        i = (uint32_t)rng_below(&w->rng, w->count_requests);
        deliver(w, &w->requests[i]);
        w->sum->again++;
        if (!chance(w, 20))
            w->requests[i] = w->requests[--w->count_requests];
        break;
    case 65 ... 74:
        get(w, job, rank);
        break;
    case 75 ... 84:
        sync_log(w);
        break;
    case 85:
        leave(w, job, rank, true);
        break;
    case 86:
        leave(w, job, rank, w->kind == MAIL_WORLD_NO_CHECKPOINT);
        break;
    case 87 ... 88:
        if (!p->is_placed && !p->is_final)
            place(w, job, rank);
        break;
    case 89 ... 90:
        if (p->is_placed && w->kind != MAIL_WORLD_NO_CHECKPOINT)
            snap(w, p);
        break;
    case 91 ... 92:
        report(w, job, rank);
        break;
    case 93:
        if (chance(w, 40))
            kill_master(w);
        break;
    case 94:
        if (chance(w, 30))
            damage(w, job, rank);
        clean_some(w);
        break;
    case 95:
        if (chance(w, 10))
            end_for_good(w, job, rank);
        finish(w, job, rank);
        lie(w, job, rank);
        break;
    case 96:
        tell(w, job, rank); /* once more what its rows say */
        break;
    default:
        w->now_ms += 50;
        hear_wishes(w);
    }
}

static uint64_t progress(const struct world *w)
{
    uint64_t sum = 0;

    for (uint32_t j = 0; j < JOBS; j++)
        for (uint32_t i = 0; i < w->ranks; i++) {
            const struct guest *g = &w->parts[j][i].guest;

            sum += g->step + g->acked + g->count_read + g->want;
        }
    return sum;
}

/* What a history of its kind must have, in the midst of it. */
static void force(struct world *w)
{
    if (w->kind == MAIL_WORLD_HOSTILE)
        lie_large(w, 1);
    if (!deaths(w) || w->parts[0][1].is_final)
        return;
    if (!w->parts[0][1].is_placed)
        place(w, 0, 1);
    end_for_good(w, 0, 1);
}

/* Nothing fails any more; what is left is read. */
static void settle(struct world *w)
{
    uint64_t before = 0;

    for (unsigned idle = 0; idle < 200 && !w->why[0]; idle++) {
        for (uint32_t j = 0; j < JOBS; j++)
            for (uint32_t i = 0; i < w->ranks; i++) {
                struct part *p = &w->parts[j][i];

                if (!p->is_placed && !p->is_final)
                    place(w, j, i);
                act(w, j, i);
                if (p->guest.step >= STEPS && p->is_placed)
                    (void)read_one(w, j, i);
                post(w, j, i);
                get(w, j, i);
                report(w, j, i);
            }
        for (uint32_t i = 0; i < w->count_requests; i++)
            deliver(w, &w->requests[i]);
        w->count_requests = 0;
        w->now_ms += 100;
        hear_wishes(w);
        sync_log(w);
        if (progress(w) != before)
            idle = 0;
        before = progress(w);
    }
}

/* What b has read from a is what a has sent to b. */
static void compare(struct world *w, uint32_t job, uint32_t from, uint32_t to)
{
    const struct part *a = &w->parts[job][from], *b = &w->parts[job][to];
    uint32_t at = 0, gone = 0;

    for (uint32_t i = 0; i < b->guest.count_read; i++) {
        const struct note *n = &b->guest.read[i];

        if (n->peer != from)
            continue;
        if (n->kind == MAIL_GONE) {
            gone++;
            continue;
        }
        while (at < a->guest.count_sent && a->guest.sent[at].peer != to)
            at++;
        if (gone || at == a->guest.count_sent || a->guest.sent[at].hash != n->hash) {
            fail(w, "job %u: rank %u read from %u what was not sent, or not now", job, to, from);
            return;
        }
        at++;
    }
    while (at < a->guest.count_sent && a->guest.sent[at].peer != to)
        at++;
    if (b->is_final || w->kind == MAIL_WORLD_NEVER_READS)
        return;
    if (gone != a->has_failed)
        fail(w, "job %u: rank %u was told %u times that %u is gone", job, to, gone, from);
    if (!a->has_failed && at < a->guest.count_sent)
        fail(w, "job %u: a message of rank %u to %u is lost", job, from, to);
}

static void world_free(struct world *w)
{
    mail_free(w->mail);
    for (uint32_t f = 0; f <= w->last_file; f++)
        buf_deinit(&w->files[f]);
    free(w);
}

const char *mail_world_run(uint64_t seed, enum mail_world_kind kind, struct mail_world_sum *sum)
{
    static char why[200];
    /* Elsewhere programs may wait for each other for ever, each with its window full. */
    bool waits = kind == MAIL_WORLD_FLOOD || kind == MAIL_WORLD_NEVER_READS;
    /* So little may be kept that readers must be saved. */
    bool saves = kind == MAIL_WORLD_NO_CHECKPOINT;
    struct world *w = xcalloc(1, sizeof *w);

    w->rng = rng_seed(seed);
    w->kind = kind;
    w->sum = sum;
    w->config = (struct mail_config){.unread_max = waits ? 1500 : 1 << 20,
                                     .kept_max = saves ? 400 : 2500,
                                     .digests_max = saves ? 6 : 40,
                                     .ask_ms = 200,
                                     .repeat_ms = 2000};
    w->sink = (struct mail_sink){append, w};
    w->committed = rng_below(&w->rng, 2);
    w->ranks = 2 + (uint32_t)rng_below(&w->rng, RANKS - 1);
    w->next_epoch = w->next_layer = 1;
    w->now_ms = 1000;
    w->mail = mail_new(&w->config);
    for (uint32_t j = 0; j < JOBS; j++)
        for (uint32_t i = 0; i < w->ranks; i++) {
            tell(w, j, i);
            if (chance(w, 70)) /* the others are sent to before they have started */
                place(w, j, i);
        }
    for (int i = 0; i < EVENTS * (int)w->ranks && !w->why[0]; i++) {
        if (i == EVENTS)
            force(w);
        happen(w, (uint32_t)rng_below(&w->rng, JOBS), (uint32_t)rng_below(&w->rng, w->ranks));
    }
    settle(w);
    for (uint32_t j = 0; j < JOBS; j++)
        for (uint32_t a = 0; a < w->ranks * w->ranks && !w->why[0]; a++)
            compare(w, j, a / w->ranks, a % w->ranks);
    memcpy(why, w->why, sizeof why);
    world_free(w);
    return why[0] ? why : NULL;
}
