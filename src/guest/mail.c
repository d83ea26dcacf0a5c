/* SPDX-License-Identifier: Apache-2.0
 *
 * The part's mail in its guest; see mail.h.
 */
#include "guest/mail.h"

#include "guest/system.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

int mail_start(struct mail *m, const struct start *s)
{
    int r;

    if (!s->mail || m->on)
        return 0;
    (void)mkdir("/run", 0755); /* mostly there */
    (void)mkdir("/run/yado", 0755);
    desk_init(&m->desk, s->part, s->parts);
    r = desk_socket_open(&m->socket, &m->desk, YADO_SOCKET, SYSTEM_UID);
    m->on = r == 0;
    if (r)
        desk_deinit(&m->desk);
    return r;
}

int mail_poll_fd(const struct mail *m)
{
    return m->on ? m->socket.poll_fd : -1;
}

void mail_serve(struct mail *m)
{
    if (m->on)
        desk_socket_serve(&m->socket);
}

void mail_receive(struct mail *m, const struct guest_frame *f)
{
    struct guest_blob_reply reply;
    struct mail_in message;
    uint64_t seq;

    if (!m->on)
        return;
    if (f->type == GUEST_MAIL) {
        if (guest_mail_join(&m->in, f->type, f->payload, f->len, &message) == 1)
            desk_deliver(&m->desk, &message);
    } else if (f->type == GUEST_MAIL_ACK) {
        if (guest_mail_ack_get(f->payload, f->len, &seq) == 0)
            desk_ack(&m->desk, seq);
    } else if (f->type == GUEST_BLOB_REPLY) {
        if (guest_blob_reply_get(f->payload, f->len, &reply) == 0)
            desk_answer_blob(&m->desk, &reply);
    } else {
        return;
    }
    desk_socket_flush(&m->socket);
}

void mail_rewind(struct mail *m)
{
    if (m->on)
        desk_rewind(&m->desk);
}

bool mail_next_frame(struct mail *m, struct buf *out)
{
    const struct desk_message *sent;
    const struct guest_blob *blob;
    uint64_t next;
    uint32_t room;

    if (!m->on)
        return false;
    if (desk_window(&m->desk, m->tell, &next, &room))
        guest_mail_read_put(out, next, room);
    else if ((sent = desk_next(&m->desk)))
        guest_mail_send_put(
            out, &(struct mail_out){
                     .seq = sent->number, .to = sent->peer, .len = sent->len, .body = sent->body});
    else if ((blob = desk_next_blob(&m->desk)))
        guest_blob_put(out, blob);
    m->tell = false;
    return out->len > 0;
}

bool mail_is_sent(const struct mail *m)
{
    return !m->on || m->desk.acked == m->desk.last_seq;
}
