/* SPDX-License-Identifier: Apache-2.0
 *
 * yado: one binary; the first argument names the command. Daemons (master, agent) and the
 * processes they start (supervisor, pager, owner-watch) are commands like the others; whatever is
 * none of these is for a user's command line.
 */
#include "agent/commands.h"
#include "cli/cli.h"
#include "master/master.h"
#include "sim/commands.h"

#include <stddef.h>
#include <string.h>

/* argv[0] is the command's own name. */
static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"agent", yado_agent_main},           {"doctor", yado_doctor_main},
    {"enroll", yado_enroll_main},         {"master", yado_master_main},
    {"owner", yado_owner_main},           {"owner-watch", yado_owner_watch_main},
    {"pager", yado_pager_main},           {"sim", yado_sim_main},
    {"supervisor", yado_supervisor_main},
};

int main(int argc, char **argv)
{
    for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof *commands; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    return yado_cli_main(argc - 1, argv + 1);
}
