/* SPDX-License-Identifier: Apache-2.0
 *
 * yado split probe: what a few small parts of a job really need, and the `split:` that follows.
 */
#ifndef YADO_CLI_SPLIT_PROBE_H
#define YADO_CLI_SPLIT_PROBE_H

#include "cli/cli.h"

/* `xs`: values of x such as "16,24,32", NULL: larger ones than the job file has. The exit
 * status. */
int split_probe(const struct command *cmd, const char *path, const char *xs, bool json);

#endif
