/* SPDX-License-Identifier: Apache-2.0
 *
 * yado sim job: one job of like parts on like PCs of a CPU each, with owners who come and go as a
 * trace says: for comparing with what real PCs did under the same owners (bench/split).
 */
#include "sim/sim.h"
#include "sim/world.h"
#include "base/buf.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define LINK_BYTES_PER_S 125e6
#define PC_BYTES (1ull << 30)
#define LONGEST_MS (30ull * 24 * 3600 * 1000)

static double move_s(const void *arg, uint64_t memory_bytes)
{
    return *(const double *)arg;
}

/* False: it does not come to an end. */
static bool run(const struct sim_options *o, const struct owners_config *owners, double *ret_s,
                uint64_t *ret_moves)
{
    struct world_pc *pcs = xcalloc(o->pcs, sizeof *pcs);
    struct world_config config = {.seed = o->seed,
                                  .grid = grid_config_default(),
                                  .pcs = pcs,
                                  .count_pcs = o->pcs,
                                  .link_bytes_per_s = LINK_BYTES_PER_S,
                                  .dispatch_ms = (uint64_t)(o->dispatch_s * 1000),
                                  .move_s = move_s,
                                  .move_arg = &o->move_s,
                                  .tick_ms = 60000};
    struct world_job job = {
        .parts = (uint32_t)o->parts, .memory_bytes = PC_BYTES / 2, .work_ms = o->work_s * 1000};
    struct world *w;
    bool ended;

    for (uint64_t i = 0; i < o->pcs; i++)
        pcs[i] = (struct world_pc){1, PC_BYTES, 1, *owners};
    config.grid.lease_ms = UINT64_MAX; /* nobody falls silent here */
    w = world_new(&config);
    world_submit(w, &job);
    ended = world_finish(w, LONGEST_MS);
    *ret_s = (double)world_now(w) / 1000;
    *ret_moves = world_stats(w)->moves;
    world_free(w);
    free(pcs);
    return ended;
}

int sim_job(const struct sim_options *o)
{
    struct owners_trace trace = {0};
    struct owners_config owners = {.kind = OWNERS_TRACE, .trace = &trace};
    struct err err;
    double s = 0;
    uint64_t moves = 0;
    bool ended = false;

    if (!o->trace || !o->pcs || !o->parts || o->work_s <= 0) {
        fputs("yado: sim: job needs --pcs, --parts, --work and --trace\n", stderr);
        return SIM_USAGE;
    }
    if (owners_trace_read(o->trace, &trace, &err) != 0)
        fprintf(stderr, "yado: sim: %s\n", err.text);
    else if (!(ended = run(o, &owners, &s, &moves)))
        fputs("yado: sim: the job does not come to its end\n", stderr);
    owners_trace_deinit(&trace);
    if (!ended)
        return SIM_FAILED;
    if (o->json)
        return sim_print_json(json_pack("{s:f, s:I}", "makespan_s", s, "moves", (json_int_t)moves));
    printf("%.1f s, %" PRIu64 " moves\n", s, moves);
    return SIM_OK;
}
