/* SPDX-License-Identifier: Apache-2.0
 *
 * What the pager serves: its configuration (docs/protocol.md "Pager") and the map from a file's
 * bytes to blocks of blobs. Image files are made of extents; what no extent covers reads as zeros.
 * At most one file is a guest's memory, composed from a chain of layers (pager_memory.h).
 */
#ifndef YADO_AGENT_PAGER_FILES_H
#define YADO_AGENT_PAGER_FILES_H

#include "base/str.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PAGER_FILES_MAX = 16,
    PAGER_NAME_MAX = 64,
    PAGER_CHAIN_MAX = 256,
    PAGER_EXIT_DAMAGED = 3, /* after the line "damaged DIGEST" */
    PAGER_EXIT_FULL = 4,    /* after the line "disk full" */
};

struct pager_extent {
    uint64_t offset; /* in the file */
    uint64_t length; /* of the blob, whole */
    size_t blob;     /* index into pager_config.blobs */
};

struct pager_file {
    char name[PAGER_NAME_MAX];
    uint64_t size;
    struct pager_extent *extents; /* by offset, not overlapping */
    size_t count_extents;
    struct pager_layer *chain; /* of a guest's memory, golden first; else NULL */
    size_t count_chain;
};

struct pager_layer {
    size_t blob;      /* index into pager_config.blobs */
    const char *name; /* the digest by which the layer above knows it */
};

struct pager_blob_name {
    char digest[65];
    uint64_t size;
    bool layer;  /* part of a chain */
    bool is_own; /* a layer of this guest, not golden: sealed on the disk */
};

struct pager_config {
    json_t *json; /* owns the strings */
    const char *mount, *url, *ca_file, *grant, *cache_dir;
    const char *key;      /* of what is sealed, "" for none */
    const char *log;      /* where it writes its log, or NULL: its standard error */
    const char *hot_file; /* where the list of what was read first goes, or NULL */
    bool allow_other;
    int64_t uid, gid; /* -1: stay */
    struct pager_file files[PAGER_FILES_MAX];
    size_t count_files;
    struct pager_blob_name *blobs; /* each digest once */
    size_t count_blobs;
};

/* Takes its own reference to json. -EINVAL with the key in the text; ret may be deinitialised
 * after an error as well. */
int pager_config_parse(json_t *json, struct pager_config *ret, struct err *ret_err);
void pager_config_deinit(struct pager_config *c);

/* A stretch of a file that lies in one block of one blob, or is zeros. */
struct pager_piece {
    uint64_t length;
    bool zeros;
    size_t blob;
    uint64_t blob_offset;
};

/* The piece at offset, of at most max bytes; offset < f->size, max > 0. */
struct pager_piece pager_piece_at(const struct pager_file *f, uint64_t offset, uint64_t max);

#endif
