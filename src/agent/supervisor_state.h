/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the supervisor's main thread share (see supervisor.h):
 *
 *   supervisor_main.c  start, loop, end        supervisor_link.c  the agent: reports, commands
 *   supervisor_mail.c  mail between parts
 *   supervisor.c       the stages: after each event supervisor_decide() compares what should be
 *                      with what is and moves one step; nothing else makes the guest run or
 *                      changes the stage
 */
#ifndef YADO_AGENT_SUPERVISOR_STATE_H
#define YADO_AGENT_SUPERVISOR_STATE_H

#include "agent/supervisor.h"
#include "host/cpu_use.h"

#include <time.h>

enum stage { PREPARING, LIVE, SAVING, FINISHING, UPLOADING, ENDED };

struct supervisor {
    const char *dir;
    struct supervisor_config config;
    struct work work;
    struct made made;
    char recorded[65]; /* name of the newest layer that the master has of it; "": golden */
    enum stage stage;
    struct sync_vm report; /* its layers are those of `made` */
    char final[16];        /* state that the upload leads to */
    bool begun;            /* the agent has said what it needs for that */
    bool drop, dropped, asked_finish;

    /* the agent */
    int listen_fd, signal_fd, wake_fd, lease_fd;
    struct json_line agent;
    uint64_t heard_ms;       /* when an agent last said something */
    uint64_t lease_until_ms; /* CLOCK_BOOTTIME */
    bool told_run;

    /* the guest */
    char *start_json;
    struct guest_link link;
    struct outbox *outbox;
    struct mail_link *mail; /* NULL for a golden build */
    struct mail_blob *blobs;
    int result_fd;
    bool running, ran, asked_hot;
    bool visited; /* the owner has a look at his PC, and the link is his */
    uint64_t start_ms, run_since_ms, run_ms; /* guest run time until run_since_ms */
    uint64_t guest_ms, tick_ms;              /* the link's clock: while the guest had a CPU */
    struct cpu_use cpu;                      /* as of tick_ms */
    double cpu_got, cpu_wanted;              /* thousandths of a CPU, lately */
    uint64_t io_retry_at_ms;
    uint32_t io_retry_ms;
    bool suspend, stores; /* the last layer is to be stored here, at store_at_ms */
    bool stores_at_once;  /* suspend came again: the PC shuts down, or goes to sleep */
    uint64_t store_at_ms;
    uint64_t suspend_until_ms; /* CLOCK_BOOTTIME; 0: as long as it takes */

    /* checkpoints, as the master wants them */
    uint64_t checkpoint;    /* serial: one at once when it is larger than the report's */
    uint64_t checkpoint_ms; /* one by itself after so much run time; 0: none */
    uint64_t checkpoint_serial, checkpoint_run_ms; /* of the last one that was begun */
    uint64_t checkpoint_at_ms;                     /* not before */
    bool checkpointing, learned;
    bool io_failed;  /* a disk request, while checkpointing */
    bool may_upload; /* an upload slot is ours */
};

static inline uint64_t mono_ms(void)
{
    return clock_ms(CLOCK_MONOTONIC);
}

/* ---- supervisor_link.c ---- */
void supervisor_tell(struct supervisor *s);
/* Tells when it is another one. */
void supervisor_set_state(struct supervisor *s, const char *state);
/* Names the layers that are durable at the master, which has not recorded them yet. */
void supervisor_report_layers(struct supervisor *s);
/* One that says nothing may hang, and then nobody watches for the owner. Its connection stays: it
 * may come to itself. */
bool supervisor_has_agent(const struct supervisor *s);
/* The last layer waits for an upload slot; checkpoints and results do not. */
void supervisor_allow_upload(struct supervisor *s);
void supervisor_accept_agent(struct supervisor *s);
void supervisor_serve_agent(struct supervisor *s);

/* ---- supervisor_main.c ---- */
/* The first lease is here, and with it the key. */
void supervisor_begin(struct supervisor *s);

/* ---- supervisor_mail.c ---- */
/* Before the guest's link: what of its mail is to be done. */
void supervisor_begin_mail(struct supervisor *s, struct guest_link_events *events);
/* Hands on what came from the master; the link is to be flushed. */
void supervisor_carry_mail(struct supervisor *s);
/* The guest is gone, or its memory is in its last layer: nothing more is carried. */
void supervisor_end_mail(struct supervisor *s);

/* ---- supervisor.c ---- */
/* Guest run time, that of the layer it came from included. */
uint64_t supervisor_run_ms(const struct supervisor *s);
/* The one way by which the vCPUs are stopped. Returns within some 25 ms, whatever QEMU does; later
 * where other programs occupy all cores (docs/decisions/0006). */
void supervisor_stop_vcpus(struct supervisor *s);
/* The guest stands still and stays: its owner may only be having a look. */
void supervisor_pause(struct supervisor *s, const char *reason, uint64_t event_us);
/* Stop, save, upload. until_ms: CLOCK_BOOTTIME by which the memory is given back; 0: none. */
void supervisor_suspend(struct supervisor *s, const char *reason, uint64_t event_us,
                        uint64_t until_ms);
/* The newest layer that the master has recorded. */
void supervisor_recorded(struct supervisor *s, const char *name);
/* The last layer, which only this PC has, is dropped: what the master has counts. */
void supervisor_give_up(struct supervisor *s);
/* The VM is lost, by the grid's fault. */
void supervisor_fail(struct supervisor *s, const char *reason, const char *note);
void supervisor_serve_guest(struct supervisor *s, short events);
void supervisor_serve_vm(struct supervisor *s);
/* The pager has ended: the VM is lost. */
void supervisor_serve_pager(struct supervisor *s);
/* The worker, the uploader or the output has news. */
void supervisor_serve_wake(struct supervisor *s);
void supervisor_tick(struct supervisor *s);
void supervisor_decide(struct supervisor *s);
/* What work.report and work.layer name is whole in DIR. stored: and durable; else that is done
 * meanwhile. */
void supervisor_upload_layer(struct supervisor *s, bool stored);
void supervisor_upload_result(struct supervisor *s);

#endif
