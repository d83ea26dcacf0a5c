/* SPDX-License-Identifier: Apache-2.0
 *
 * A job on its way to the master, with the inputs that the master does not have yet. Errors have
 * texts.
 */
#ifndef YADO_CLI_SEND_H
#define YADO_CLI_SEND_H

#include "cli/client.h"

/* The bounds of everything but the inputs, before these are read. */
int send_check(const json_t *job, struct err *ret_err);
/* A job as jobfile.h has it; its inputs are replaced by what was sent. The master takes it once,
 * also when its answer is lost: *ret_reply has its id. */
int send_job(struct client *c, json_t *job, json_t **ret_reply, struct err *ret_err);

#endif
