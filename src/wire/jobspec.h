/* SPDX-License-Identifier: Apache-2.0
 *
 * A job as its user describes it, and its JSON form: the body of POST /v1/jobs, the `spec` that
 * the core stores unread, and what the agent gets. The CLI makes the same JSON from a YAML file.
 */
#ifndef YADO_WIRE_JOBSPEC_H
#define YADO_WIRE_JOBSPEC_H

#include "wire/jobsplit.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    JOBSPEC_ARGS_MAX = 4096,
    JOBSPEC_ARG_BYTES_MAX = 128 * 1024, /* all of argv and env together */
    JOBSPEC_INPUTS_MAX = 4096,
    JOBSPEC_PARTS_MAX = 100000,
    JOBSPEC_CPUS_MAX = 64,
};
#define JOBSPEC_MEMORY_MIN (96ull << 20) /* with 72 MiB Debian's kernel does not boot */
#define JOBSPEC_MEMORY_MAX (1ull << 40)
/* Sizes are rounded up to it: one golden layer a step. */
#define JOBSPEC_MEMORY_STEP (32ull << 20)
#define JOBSPEC_MEMORY_DEFAULT (256ull << 20)
/* Of a network drive; rounded up to its step. */
#define JOBSPEC_DISK_MIN (16ull << 20)
#define JOBSPEC_DISK_MAX (1ull << 40)
#define JOBSPEC_DISK_STEP (1ull << 20)
#define JOBSPEC_CHECKPOINT_NEVER UINT64_MAX
#define JOBSPEC_CHECKPOINT_MIN_MS 1000

struct jobspec_input {
    char *path;      /* where it appears in the guest, relative to /in: "a/b.npy" */
    char digest[65]; /* SHA-256 of the blob, hexadecimal */
    uint64_t size;   /* bytes of the blob */
    uint32_t mode;   /* permission bits of a file, e.g. 0755 */
    bool tar;        /* the blob is a tar, unpacked into directory `path` */
};

struct jobspec_env {
    char *name;
    char *value;
};

/* Zero means "not given" for optional numbers; jobspec_defaults() fills them in. */
struct jobspec {
    char *name;
    char *image;
    char **argv; /* NULL-terminated */
    size_t count_argv;
    struct jobspec_env *env;
    size_t count_env;
    struct jobspec_input *inputs;
    size_t count_inputs;
    uint32_t parts;
    uint64_t memory_bytes;
    uint64_t disk_bytes; /* of the network drive at /disk; 0: none */
    uint32_t cpus;
    bool network_nat;    /* "network": "nat"; the default is "none" */
    bool mail_committed; /* "mail": "committed"; the default is "immediate" */
    bool fail_together;  /* "on_part_failure": "fail"; the default is "continue" */
    uint32_t retries;
    uint64_t time_limit_ms; /* guest run time */
    uint64_t checkpoint_ms; /* guest run time between checkpoints; 0: as the grid finds best */
    int32_t priority;
    struct jobsplit
        *split;   /* ways to split it, of which the master chooses; NULL: it has `parts` */
    bool planned; /* `split` was planned: parts, memory and env say how; it may be planned again */
    struct jobspec *then; /* the combining job, without one of its own: its inputs gain part-0/ ...
                             part-N-1/ */
};

/* As planned: parts, memory of the guest and, in the environment of the job and of its combining
 * job, YADO_SPLIT (x) and YADO_SPLIT_NAME. May be done again. */
void jobspec_take_split(struct jobspec *spec, const struct plan_candidate *c);
/* It stays as it is planned. */
void jobspec_drop_split(struct jobspec *spec);
/* Of the guest: what the candidate says is for the program, its system comes on top. */
uint64_t jobspec_split_memory(const struct plan_candidate *c);
#define JOBSPEC_SYSTEM_BYTES (96ull << 20)

struct jobspec *jobspec_new(void);
void jobspec_free(struct jobspec *spec);
void jobspec_defaults(struct jobspec *spec);

/* Checks every bound; -EINVAL with a text that names the key and the remedy. */
int jobspec_check(const struct jobspec *spec, struct err *ret_err);

/* Strict: unknown keys and wrong types are -EINVAL with the key's path in the text
 * ("then.memory: a size such as \"512M\", not a list"). memory, disk and time_limit are numbers of
 * bytes and of ms, or texts ("512M", "2h"). Keys: name, image, command, env, inputs[] {path,
 * digest, size, mode, tar}, parts, memory, disk, cpus, network, mail, on_part_failure, retries,
 * time_limit, checkpoint ("auto", "never", or a duration), priority, split (instead of parts and
 * memory, unless planned), then. Runs jobspec_defaults() and jobspec_check(). */
int jobspec_from_json(const json_t *json, struct jobspec **ret_spec, struct err *ret_err);

/* "auto", "never" or milliseconds: a new reference. */
json_t *jobspec_checkpoint_json(uint64_t checkpoint_ms);
/* Whether a combining job can have a result of each part beside its own inputs. */
bool jobspec_inputs_fit(const struct jobspec *spec);
/* A new reference; jobspec_from_json() of it gives the same. */
json_t *jobspec_to_json(const struct jobspec *spec);

#endif
