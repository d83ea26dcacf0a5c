/* SPDX-License-Identifier: Apache-2.0
 *
 * A job's inputs on their way to the master: files as they are, folders as tar, each a blob named
 * by its SHA-256. Preparing touches nothing but this PC, so that every mistake shows before
 * anything is sent; sending sends only what the master does not have.
 */
#ifndef YADO_CLI_INPUTS_H
#define YADO_CLI_INPUTS_H

#include "cli/client.h"

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

struct input_blob {
    char *source; /* path on this PC */
    int fd;       /* the file, or an unnamed temporary file with the tar */
    char digest[65];
    uint64_t size;
    bool tar;
    unsigned mode;
};

/* All zero is empty. */
struct inputs {
    struct input_blob *blobs;
    size_t count;
};

void inputs_deinit(struct inputs *in);

/* Replaces the "inputs" of the job and of its "then" (see jobfile.h) by those of wire/jobspec.h. */
int inputs_prepare(struct inputs *in, json_t *job, struct err *ret_err);

/* Sends what is missing, with a progress bar when stderr is a terminal. */
int inputs_send(struct inputs *in, struct client *c, struct err *ret_err);

/* One blob, of any origin, if the master does not have it. */
int inputs_send_blob(struct client *c, const char *label, int fd, const char *digest, uint64_t size,
                     struct err *ret_err);

#endif
