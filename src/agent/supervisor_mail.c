/* SPDX-License-Identifier: Apache-2.0
 *
 * The part's mail in its supervisor's main thread: from the guest's frames to the threads that talk
 * with the master (mail_link.h, mail_blob.h), and back.
 *
 * What a layer says of mail is what came from the guest by the time it stood: that is in its memory
 * for certain, though more may be. Nothing here waits, so mail holds up no stop and no save.
 */
#include "agent/supervisor_state.h"
#include "base/log.h"

/* For bench/mail: when a message was here, by a clock that all processes of a PC share. */
static void note(const char *what, uint64_t number)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    log_debug("mail: %s %llu at %llu us", what, (unsigned long long)number,
              (unsigned long long)ts.tv_sec * 1000000 + (unsigned long long)ts.tv_nsec / 1000);
}

static int on_sent(void *arg, const struct mail_out *m)
{
    struct supervisor *s = arg;
    int r = mail_link_send(s->mail, m);

    note("sent", m->seq);
    if (r == 0)
        atomic_store(&s->work.mail_sent, m->seq);
    return r;
}

static void on_wanted(void *arg, uint64_t next, uint32_t room, bool anew)
{
    struct supervisor *s = arg;

    mail_link_want(s->mail, next, room, anew);
    atomic_store(&s->work.mail_read, next);
}

static void on_blob(void *arg, const struct guest_blob *b)
{
    struct supervisor *s = arg;

    mail_blob_ask(s->blobs, b);
}

void supervisor_begin_mail(struct supervisor *s, struct guest_link_events *events)
{
    const struct sync_layer *layer = supervisor_config_layer(&s->config);

    if (!s->config.desired.spec)
        return;
    /* As with results: more than the guest's memory it cannot have to give. */
    s->blobs =
        mail_blob_new(&s->work.source, s->dir, 2 * s->config.desired.memory_bytes, s->wake_fd);
    s->mail = mail_link_new(&s->work.source, s->wake_fd);
    if (layer && layer->mail_read)
        /* What it will ask for is fetched while it resumes; it takes none before its first word. */
        mail_link_want(s->mail, layer->mail_read, 0, true);
    atomic_store(&s->work.mail_sent, layer ? layer->mail_sent : 0);
    atomic_store(&s->work.mail_read, layer ? layer->mail_read : 0);
    events->mail_sent = on_sent;
    events->mail_wanted = on_wanted;
    events->blob = on_blob;
}

void supervisor_carry_mail(struct supervisor *s)
{
    struct guest_blob_reply reply;
    struct mail_in m;

    if (!s->mail)
        return;
    guest_link_ack_mail(&s->link, mail_link_have(s->mail));
    while (mail_link_next(s->mail, &m) && guest_link_mail(&s->link, &m)) {
        note("came", m.pos);
        mail_link_handed(s->mail);
    }
    if (mail_blob_answer(s->blobs, &reply) && guest_link_blob_reply(&s->link, &reply))
        mail_blob_answered(s->blobs);
}

void supervisor_end_mail(struct supervisor *s)
{
    if (!s->mail)
        return;
    mail_link_end(s->mail);
    mail_blob_end(s->blobs);
    /* Their threads may still be in a request, and the process ends soon: nobody waits for them. */
    s->mail = NULL;
    s->blobs = NULL;
}
