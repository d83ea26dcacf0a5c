/* SPDX-License-Identifier: Apache-2.0
 *
 * The QEMU Machine Protocol over a connected socket. A thread of its own reads; any thread may
 * send and wait for replies. QEMU works off commands in the order in which they were sent.
 */
#ifndef YADO_VM_QMP_H
#define YADO_VM_QMP_H

#include "base/str.h"

#include <jansson.h>
#include <stdint.h>

struct qmp;

/* Called on the reading thread for every event; name is NULL once, at the end of the connection. */
typedef void (*qmp_event_fn)(void *arg, const char *name, const json_t *data);

/* Takes fd over; the thread starts at once. */
int qmp_open(int fd, qmp_event_fn on_event, void *arg, struct qmp **ret_qmp);
/* Ends the thread and closes the socket. */
void qmp_close(struct qmp *q);

/* Waits for the greeting, negotiates, and gives QEMU's version. -EPIPE when QEMU is gone. */
int qmp_greet(struct qmp *q, uint64_t timeout_ms, uint32_t *ret_version, struct err *ret_err);

/* Sends a command and returns its id without waiting, or a negative errno. args is stolen (may be
 * NULL); fd goes along as SCM_RIGHTS unless -1. Every id must be waited for once, or forgotten. */
int64_t qmp_send(struct qmp *q, const char *command, json_t *args, int fd);
/* Waits for a reply: 0, -ETIMEDOUT (may be waited for again), -EPIPE, or -EIO with QEMU's words
 * when it refused. ret_value (may be NULL) gets a new reference. */
int qmp_wait(struct qmp *q, int64_t id, uint64_t timeout_ms, json_t **ret_value,
             struct err *ret_err);
void qmp_forget(struct qmp *q, int64_t id);

/* Send and wait. A reply that comes too late is dropped. */
int qmp_command(struct qmp *q, const char *command, json_t *args, int fd, uint64_t timeout_ms,
                json_t **ret_value, struct err *ret_err);

#endif
