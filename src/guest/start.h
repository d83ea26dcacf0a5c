/* SPDX-License-Identifier: Apache-2.0
 *
 * START: what a part is, read from the host's JSON (docs/formats/guest.md) and checked.
 */
#ifndef YADO_GUEST_START_H
#define YADO_GUEST_START_H

#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { START_PATH_MAX = 4096, START_INPUT_ALIGN = 4096, START_PARTS_MAX = 1 << 20 };

struct start_input {
    char *path; /* clean, see path_clean() */
    uint64_t offset;
    uint64_t size;
    uint32_t mode;
    bool tar;
};

/* All zero is an empty one. Lists of texts end with NULL. */
struct start {
    char **argv;
    char **env; /* "NAME=value" */
    char *hostname;
    uint64_t time_limit_ms;   /* 0: none */
    uint64_t out_limit_bytes; /* 0: what the memory allows */
    bool network_nat;
    bool disk; /* the network drive goes to /disk */
    bool mail;
    uint32_t part, parts; /* with mail: this one, of so many */
    uint64_t group;       /* the job; 0: the host is an older one */
    struct start_input *inputs;
    size_t count_inputs;
};

/* 0, or -EINVAL with a text; *ret is to be released by start_deinit() in both cases.
 * Unknown keys are ignored: a newer host may say more. */
int start_parse(const char *json, size_t len, struct start *ret, struct err *ret_err);
void start_deinit(struct start *s);

/* Copies a relative path without "." and empty components; "./" becomes "". -EINVAL when it is
 * absolute, contains "..", or does not fit. */
int path_clean(const char *path, char out[START_PATH_MAX]);

#endif
