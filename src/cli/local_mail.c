/* SPDX-License-Identifier: Apache-2.0
 *
 * The mail of `yado local`; see local_mail.h.
 */
#include "cli/local_mail.h"

#include "base/cleanup.h"
#include "base/must.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { UNREAD_MAX = 64 << 20 }; /* as the master's default */

int local_mail_init(struct local_mail *m, const char *dir, uint32_t ranks, struct err *ret_err)
{
    AUTO_FREE char *blobs = xasprintf("%s/blobs", dir);

    *m = (struct local_mail){.boxes = xcalloc(ranks, sizeof *m->boxes), .dir = xstrdup(dir)};
    if (mkdir(blobs, 0700))
        return err_set(ret_err, -errno, "%s: %s", blobs, strerror(errno));
    for (; m->ranks < ranks; m->ranks++) {
        struct local_mailbox *b = &m->boxes[m->ranks];
        AUTO_FREE char *path = xasprintf("%s/%u", dir, m->ranks);
        int r;

        desk_init(&b->desk, m->ranks, ranks);
        r = desk_socket_open(&b->socket, &b->desk, path, (uid_t)-1);
        if (r) {
            desk_deinit(&b->desk);
            return err_set(ret_err, r, "%s: %s", path, strerror(-r));
        }
        b->path = TAKE_PTR(path);
    }
    return 0;
}

void local_mail_deinit(struct local_mail *m)
{
    for (uint32_t i = 0; i < m->ranks; i++) {
        struct local_mailbox *b = &m->boxes[i];

        desk_socket_close(&b->socket);
        desk_deinit(&b->desk);
        buf_deinit(&b->waiting);
        free(b->path);
    }
    free(m->boxes);
    free(m->dir);
}

const char *local_mail_path(const struct local_mail *m, uint32_t rank)
{
    return m->boxes[rank].path;
}

/* ---- messages -------------------------------------------------------------------------------- */

static void post(struct local_mailbox *to, struct mail_in *m)
{
    m->pos = ++to->last_pos;
    mail_in_put(&to->waiting, m);
}

void local_mail_gone(struct local_mail *m, uint32_t rank)
{
    for (uint32_t i = 0; i < m->ranks; i++)
        if (i != rank)
            post(&m->boxes[i], &(struct mail_in){.from = rank, .kind = MAIL_GONE});
}

/* A receiver that does not read holds up those that send to it. True when there was something. */
static bool collect(struct local_mail *m, struct local_mailbox *from)
{
    const struct desk_message *sent;
    bool any = false;

    for (; (sent = from->desk.unsent); any = true) {
        struct local_mailbox *to = &m->boxes[sent->peer];

        if (to->waiting.len - to->waiting_at > UNREAD_MAX)
            break;
        MUST(desk_next(&from->desk) == sent);
        post(to, &(struct mail_in){.from = from->desk.rank, .body = sent->body, .len = sent->len});
        desk_ack(&from->desk, sent->number);
    }
    return any;
}

static void deliver(struct local_mailbox *b)
{
    struct mail_in m;
    uint32_t room;
    uint64_t next; /* not needed: what waits comes in order */

    for (;;) {
        struct cursor c = cursor_of(b->waiting.data, b->waiting.len);

        if (desk_window(&b->desk, false, &next, &room))
            b->room = room;
        (void)cursor_bytes(&c, b->waiting_at);
        if (!b->room || !cursor_left(&c))
            break;
        MUST(mail_in_get(&c, &m) == 0);
        desk_deliver(&b->desk, &m);
        b->room -= m.len + GUEST_MAIL_COST < b->room ? m.len + GUEST_MAIL_COST : b->room;
        b->waiting_at = cursor_pos(&c);
    }
    if (b->waiting_at > b->waiting.len / 2) {
        buf_consume(&b->waiting, b->waiting_at);
        b->waiting_at = 0;
    }
}

/* ---- blobs ----------------------------------------------------------------------------------- */

static uint8_t put_piece(const char *draft, const char *path, const struct guest_blob *b)
{
    AUTO_CLOSE int fd = open(draft, O_WRONLY | O_CREAT | O_CLOEXEC | (b->at ? 0 : O_TRUNC), 0600);

    if (access(path, F_OK) == 0)
        return BLOB_EXISTS;
    if (fd < 0 || pwrite(fd, b->data, b->len, (off_t)b->at) != (ssize_t)b->len)
        return BLOB_REFUSED;
    if (b->at + b->len < b->total)
        return BLOB_MORE;
    return rename(draft, path) ? BLOB_REFUSED : BLOB_DONE;
}

static uint8_t get_piece(const char *path, struct buf *data, struct guest_blob_reply *reply)
{
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    ssize_t n;

    if (fd < 0 || fstat(fd, &st))
        return BLOB_ABSENT;
    n = pread(fd, buf_reserve(data, GUEST_BLOB_PIECE_MAX), GUEST_BLOB_PIECE_MAX, (off_t)reply->at);
    if (n < 0)
        return BLOB_REFUSED;
    reply->total = (uint64_t)st.st_size;
    reply->data = data->data;
    reply->len = (uint32_t)n;
    return reply->at + reply->len < reply->total ? BLOB_MORE : BLOB_DONE;
}

static void answer_blobs(const struct local_mail *m, struct local_mailbox *b)
{
    const struct guest_blob *blob;

    while ((blob = desk_next_blob(&b->desk))) {
        struct guest_blob_reply reply = {.id = blob->id, .total = blob->total, .at = blob->at};
        AUTO_FREE char *path = xasprintf("%s/blobs/%s+", m->dir, blob->name);
        AUTO_FREE char *draft = xasprintf("%s/blobs/%u", m->dir, b->desk.rank);
        AUTO_BUF struct buf data = {0};

        reply.status = blob->put ? put_piece(draft, path, blob) : get_piece(path, &data, &reply);
        desk_answer_blob(&b->desk, &reply);
    }
}

/* ---- all ------------------------------------------------------------------------------------- */

void local_mail_serve(struct local_mail *m, uint32_t rank)
{
    desk_socket_serve(&m->boxes[rank].socket);
}

void local_mail_carry(struct local_mail *m)
{
    bool more;

    /* What was delivered makes room for what waits with its sender. */
    do {
        more = false;
        for (uint32_t i = 0; i < m->ranks; i++)
            deliver(&m->boxes[i]);
        for (uint32_t i = 0; i < m->ranks; i++)
            more |= collect(m, &m->boxes[i]);
    } while (more);
    for (uint32_t i = 0; i < m->ranks; i++) {
        answer_blobs(m, &m->boxes[i]);
        desk_socket_flush(&m->boxes[i].socket);
    }
}
