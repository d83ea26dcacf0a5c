/* SPDX-License-Identifier: Apache-2.0
 *
 * The commands of this folder. argv[0] is the command's own name; they return an exit status.
 */
#ifndef YADO_AGENT_COMMANDS_H
#define YADO_AGENT_COMMANDS_H

int yado_agent_main(int argc, char **argv);
int yado_doctor_main(int argc, char **argv);
int yado_enroll_main(int argc, char **argv);
int yado_owner_main(int argc, char **argv);
/* Processes that an agent starts: */
int yado_owner_watch_main(int argc, char **argv);
int yado_pager_main(int argc, char **argv);
int yado_supervisor_main(int argc, char **argv);

#endif
