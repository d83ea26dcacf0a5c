/* SPDX-License-Identifier: Apache-2.0
 *
 * The mail of `yado local`: a desk a part, and in the place of the master mailboxes in memory and
 * blobs in a folder. One thread.
 */
#ifndef YADO_CLI_LOCAL_MAIL_H
#define YADO_CLI_LOCAL_MAIL_H

#include "base/str.h"
#include "libyado/desk_socket.h"

struct local_mailbox {
    struct desk desk;
    struct desk_socket socket;
    struct buf waiting; /* mail_in records that the desk has no room for yet */
    size_t waiting_at;  /* of them, those that were delivered */
    uint64_t last_pos;
    uint64_t room; /* that is left of what the desk told last */
    char *path;    /* of the socket */
};

struct local_mail {
    struct local_mailbox *boxes;
    uint32_t ranks;
    char *dir; /* for sockets and blobs; the caller's to remove with all that is in it */
};

int local_mail_init(struct local_mail *m, const char *dir, uint32_t ranks, struct err *ret_err);
void local_mail_deinit(struct local_mail *m);
/* The value of YADO_MAIL for a part. */
const char *local_mail_path(const struct local_mail *m, uint32_t rank);
/* Serves that part's programs, when its socket's poll_fd is readable. */
void local_mail_serve(struct local_mail *m, uint32_t rank);
/* Carries on what was sent; after any number of serve calls. */
void local_mail_carry(struct local_mail *m);
/* The others are told that it sends no more. */
void local_mail_gone(struct local_mail *m, uint32_t rank);

#endif
