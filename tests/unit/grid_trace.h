/* SPDX-License-Identifier: Apache-2.0
 *
 * Traces of the core that a person can read: one command a line, `#` begins a comment.
 *
 *   pc NAME [builder] [mem=SIZE] [cpus=N] [speed=N] [qemu=N]   enrol it; it reports itself free
 *   image NAME | delete-image NAME | user ID [weight=N] [quota=N]
 *   submit [user=ID] [parts=N] [mem=SIZE] [cpus=N] [image=NAME] [prio=N] [retries=N] [then]
 *          [never | every=MS] [together] [disk=SIZE] [then-disk=SIZE]
 *   resplit JOB [as submit]   other parts, before any was placed
 *   cancel JOB | hold JOB | release JOB | drain PC | undrain PC | forget PC
 *   PC says J.P[@EPOCH] STATE [KEY=VALUE ...]   its report now has that VM in that state; keys:
 *                        reason layer offset exit oom note peak run stop save upload output
 *                        over (the layer's parent; golden) damaged checkpoint cost pause
 *                        cpu due (thousandths of a CPU) mail
 *   PC free | PC busy REASON | PC loses J.P | PC reports
 *   PC silent | PC back   no syncs at all | again
 *   PC private            its owner's habits are not to be known
 *   PC outdated | PC updated   its agent is older than the master | no more
 *   PC deaf | PC hears    its syncs arrive, answers do not
 *   checkpoint J[.P] | move J.P PC | merge J.P LAYER... into LAYER | damage J.P LAYER
 *   save J.P | fail J.P[@EPOCH] WHY   what the rules of mail ask for
 *   output J.P           its first output comes before any report
 *   +TIME                time passes ("+60s"); PCs that are not silent sync every 5 s
 *                        (30 s while it is days)
 *   reload               crash and load from the rows, then RESTART
 *   ! COMMAND : TEXT     it is refused, and the text has TEXT in it
 *
 * Expectations, about now or about the commands since the last one of their kind:
 *   J.P is STATE [on PC] | J.P says TEXT | J.P chain [LAYER...] | J.P pins [LAYER...]
 *   PC wants J.P WANT [REASON] [checkpoint=N] [every=MS] [upload=0|1] | PC wants nothing
 *   truncated J.P OFFSET | moved J.P REASON FROM TO | logged TEXT | no job JOB | idle
 *
 * A golden build is J.P = 0.ID. Agents are honest: they begin what they are told, drop what they
 * are no longer told, and report it. After every step the rows are loaded into a second grid,
 * whose digest must be equal, and a report that was just taken must be news no more.
 */
#ifndef YADO_TESTS_GRID_TRACE_H
#define YADO_TESTS_GRID_TRACE_H

#include "grid/grid.h"

/* Runs the trace; fails the cmocka test with the line that does not hold. */
void trace(const char *text);
void trace_with(const struct grid_config *config, const char *text);

#endif
