/* SPDX-License-Identifier: Apache-2.0
 *
 * yado: one binary; the first argument names the command. Daemons (master, agent) and the
 * processes they start (supervisor, pager, owner-watch) are commands like the others.
 */
#include <stdio.h>
#include <string.h>

typedef int (*command_main)(int argc, char **argv);

/* argv[0] is the command's own name. */
int yado_agent_main(int argc, char **argv) __attribute__((weak));
int yado_doctor_main(int argc, char **argv) __attribute__((weak));
int yado_enroll_main(int argc, char **argv) __attribute__((weak));
int yado_master_main(int argc, char **argv) __attribute__((weak));
int yado_owner_main(int argc, char **argv) __attribute__((weak));
int yado_owner_watch_main(int argc, char **argv) __attribute__((weak));
int yado_pager_main(int argc, char **argv) __attribute__((weak));
int yado_supervisor_main(int argc, char **argv) __attribute__((weak));
/* Everything else: what a user types against a master. */
int yado_cli_main(int argc, char **argv) __attribute__((weak));

static const struct {
    const char *name;
    command_main run;
} commands[] = {
    {"agent", yado_agent_main},           {"doctor", yado_doctor_main},
    {"enroll", yado_enroll_main},         {"master", yado_master_main},
    {"owner", yado_owner_main},           {"owner-watch", yado_owner_watch_main},
    {"pager", yado_pager_main},           {"supervisor", yado_supervisor_main},
};

int main(int argc, char **argv)
{
    for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof *commands; i++)
        if (commands[i].run && strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    if (yado_cli_main)
        return yado_cli_main(argc - 1, argv + 1);
    fprintf(stderr, "yado: no such command\n");
    return 2;
}
