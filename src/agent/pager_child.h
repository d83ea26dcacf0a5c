/* SPDX-License-Identifier: Apache-2.0
 *
 * The pager as its parent sees it: started, waited for, told to fail or serve, ended, and its
 * mount cleaned whatever became of it.
 */
#ifndef YADO_AGENT_PAGER_CHILD_H
#define YADO_AGENT_PAGER_CHILD_H

#include "base/str.h"

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

struct pager_child {
    pid_t pid;   /* 0: none */
    int input;   /* -1 without one; our end of its standard input */
    int output;  /* of its standard output: its end tells that the pager ended */
    char *mount; /* DIR/mnt; NULL: it waits for its configuration */
    /* Because of what it ended, see pager_child_ask_why(). */
    char damaged[65]; /* a layer's digest, or "" */
    bool disk_full;
};

#define PAGER_CHILD_NONE          \
    {                             \
        .input = -1, .output = -1 \
    }

/* Starts `yado pager TITLE`, which waits for its configuration. TITLE: what its command line shows
 * until then, and no shorter than what it will show. */
int pager_child_spawn(const char *title, struct pager_child *ret, struct err *ret_err);
/* Gives one that waits, or else (pid 0) a new one, its mount DIR/mnt and its log DIR/pager.log.
 * config is its JSON but for these two, which are added here. When it fails, there is none. */
int pager_child_start(const char *dir, json_t *config, struct pager_child *p, struct err *ret_err);
/* Waits until the mount is there. */
int pager_child_wait_ready(struct pager_child *p, int timeout_ms, struct err *ret_err);
/* Whether it is there no more. Any thread, and QEMU's death may be heard of first. */
bool pager_child_ended(const struct pager_child *p);
/* When it has ended: reads its last words. */
void pager_child_ask_why(struct pager_child *p);
/* "fail", "serve", "ahead" or "hot"; never blocks. */
void pager_child_say(struct pager_child *p, const char *word);
/* Kills, waits, unmounts. Takes one that was never started. */
void pager_child_end(struct pager_child *p);

#endif
