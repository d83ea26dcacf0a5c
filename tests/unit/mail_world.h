/* SPDX-License-Identifier: Apache-2.0
 *
 * A world of mail in memory, by seed: jobs whose guests send and read, hosts that repeat and
 * reorder, layers, going back, a master that dies at any step of its log's writing. What a history
 * has to keep is said in mail_world.c.
 */
#ifndef YADO_TESTS_MAIL_WORLD_H
#define YADO_TESTS_MAIL_WORLD_H

#include <stdint.h>

enum mail_world_kind {
    MAIL_WORLD_PLAIN,
    MAIL_WORLD_NEVER_READS,   /* one rank; its senders wait */
    MAIL_WORLD_FLOOD,         /* one rank sends all the time, the others read */
    MAIL_WORLD_NO_CHECKPOINT, /* but those that the master asks for */
    MAIL_WORLD_DEATH,         /* ranks fail for good, one at least; the others go on */
    MAIL_WORLD_DEATH_OF_ALL,  /* the others end as well */
    MAIL_WORLD_HOSTILE,       /* messages that cannot be */
    MAIL_WORLD_KINDS
};

struct mail_world_sum {
    uint64_t sent, read, again, kills, backs, cleaned, asked, full, deaths, large;
};

/* Runs one history; what it did is added to sum. NULL, or what was broken (static). */
const char *mail_world_run(uint64_t seed, enum mail_world_kind kind, struct mail_world_sum *sum);

#endif
