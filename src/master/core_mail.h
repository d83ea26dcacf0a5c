/* SPDX-License-Identifier: Apache-2.0
 *
 * Between the core and the rules of mail: what rows say of a part goes there, wishes come back and
 * become steps of the grid. All on the core thread.
 */
#ifndef YADO_MASTER_CORE_MAIL_H
#define YADO_MASTER_CORE_MAIL_H

#include "master/core.h"

/* A part of this job is about to exchange messages: tells of all of them when nothing of the job
 * is known, else of this part. */
void core_mail_begin(struct core *c, uint64_t job, uint64_t part);
/* Rows of this part have changed; nothing, when its job has no mail. */
void core_mail_publish(struct core *c, uint64_t job, uint64_t part);
/* Drops mail of jobs that are over. After a load. */
void core_mail_sweep(struct core *c);
/* Takes the steps that mail wishes, a few at a time; core.c commits them. True when there may be
 * more. */
bool core_mail_hear(struct core *c);

#endif
