/* SPDX-License-Identifier: Apache-2.0
 *
 * yado sim and its subcommands. argv[0] is the command's own name; they return an exit status.
 */
#ifndef YADO_SIM_COMMANDS_H
#define YADO_SIM_COMMANDS_H

int yado_sim_main(int argc, char **argv);

#endif
