/* SPDX-License-Identifier: Apache-2.0
 *
 * Following a job: its output as it is written, and its states until it has ended. A master that
 * is away is waited for, once the first answer has come.
 */
#ifndef YADO_CLI_FOLLOW_H
#define YADO_CLI_FOLLOW_H

#include "cli/client.h"

#include <stdint.h>

enum { FOLLOW_OUT = 1, FOLLOW_ERR = 2 };

/* Writes the log of a part: its standard output to standard output, its standard error to
 * standard error, made harmless where that is a terminal, raw elsewhere. `streams`: those wanted.
 * With `follow` until the part has ended. When the part went back to an earlier state, so that
 * output was taken back, a line on standard error says so; what is written anew follows. 0 or an
 * error with text. */
int follow_log(struct client *c, uint64_t job, uint64_t part, unsigned streams, bool follow,
               struct err *ret_err);

/* Waits until the job, and the combining job that it may have, has ended; tells the states on
 * standard error. *ret_status is 0 when it is done, else the program's exit status, or 1. */
int follow_job(struct client *c, uint64_t job, int *ret_status, struct err *ret_err);

#endif
