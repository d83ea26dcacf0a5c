/* SPDX-License-Identifier: Apache-2.0
 *
 * Job files: YAML as yado-job(5) describes it. What comes out is the job as JSON with the keys of
 * wire/jobspec.h, except that inputs are still paths on this PC: [{"path": P, "name": N}].
 */
#ifndef YADO_CLI_JOBFILE_H
#define YADO_CLI_JOBFILE_H

#include "base/str.h"

#include <jansson.h>
#include <stddef.h>

/* Reads a job file ("-": standard input). Relative input paths become relative to the file's
 * folder. -EINVAL and other errors with "FILE:LINE: what, and what to do". */
int jobfile_load(const char *path, json_t **ret_job, struct err *ret_err);

/* The same, but a way to split may lack memory and work, which are to be measured: 256M and 1
 * stand there. */
int jobfile_load_to_probe(const char *path, json_t **ret_job, struct err *ret_err);

/* As jobfile_load(), from memory; `name` stands in the texts, `folder` before relative paths (NULL:
 * none). */
int jobfile_parse(const char *name, const char *folder, const void *data, size_t len,
                  json_t **ret_job, struct err *ret_err);

#endif
