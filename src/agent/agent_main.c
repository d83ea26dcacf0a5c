/* SPDX-License-Identifier: Apache-2.0
 *
 * yado agent: the command line.
 */
#include "agent/commands.h"
#include "agent/agent.h"
#include "agent/guest_link.h"

#include "base/log.h"
#include "base/num.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "yado agent [--state DIR] [OPTION]...\n"
    "\n"
    "Lends this PC to the grid it is enrolled in (see yado enroll) while its owner is away.\n"
    "\n"
    "  --state DIR              state folder (default " AGENT_STATE_DEFAULT ")\n"
    "  --idle-grace TIME        how long the owner must be away (default 15m)\n"
    "  --visit TIME             an owner who stays no longer stops the guests, but they stay\n"
    "                           (default 5m; 0: they move at his first touch)\n"
    "  --owner-sources LIST     how the owner is noticed: " OWNER_SOURCES_HELP "\n"
    "                           (default " OWNER_SOURCES_DEFAULT ")\n"
    "  --no-habits              the master is not to remember at which hours the owner comes back\n"
    "  --memory-share SIZE|P%   memory that guests may have together (default 50%)\n"
    "  --cpu-share N|P%         CPUs that guests may use together (default 50%)\n"
    "  --priority idle|normal   class of CPU and I/O that guests run in (default idle)\n"
    "  --return-deadline TIME   by when the guests' memory is the owner's again, and how long a\n"
    "                           shutdown may wait for them to be handed over (default 15s)\n"
    "  --keep-unsent SIZE       layers that cannot be sent by then stay on this PC's disk up to "
    "so\n"
    "                           many bytes; what is more is lost (default 4G)\n"
    "  --cache-size SIZE        what came from the master stays on this PC's disk for later "
    "guests,\n"
    "                           up to so many bytes (default 16G)\n"
    "  --guest-silence TIME     a guest that runs and does not answer for so long is given up\n"
    "                           (default 1m)\n"
    "  --qemu BINARY            default: qemu-system-x86_64 in PATH\n"
    "  --images DIR             the built-in image, to prove what this PC can (default: found\n"
    "                           beside the binary; $YADO_IMAGES)\n";

enum {
    STATE = 1,
    GRACE,
    VISIT,
    SOURCES,
    NO_HABITS,
    MEMORY,
    CPU,
    PRIORITY,
    DEADLINE,
    UNSENT,
    CACHE,
    SILENCE,
    QEMU,
    IMAGES
};

static int bad(const char *what, const char *value, const char *remedy)
{
    fprintf(stderr, "yado agent: %s \"%s\": %s\n", what, value, remedy);
    return 2;
}

int yado_agent_main(int argc, char **argv)
{
    static const struct option options[] = {
        {"state", required_argument, NULL, STATE},
        {"idle-grace", required_argument, NULL, GRACE},
        {"visit", required_argument, NULL, VISIT},
        {"owner-sources", required_argument, NULL, SOURCES},
        {"no-habits", no_argument, NULL, NO_HABITS},
        {"memory-share", required_argument, NULL, MEMORY},
        {"cpu-share", required_argument, NULL, CPU},
        {"priority", required_argument, NULL, PRIORITY},
        {"return-deadline", required_argument, NULL, DEADLINE},
        {"keep-unsent", required_argument, NULL, UNSENT},
        {"cache-size", required_argument, NULL, CACHE},
        {"guest-silence", required_argument, NULL, SILENCE},
        {"qemu", required_argument, NULL, QEMU},
        {"images", required_argument, NULL, IMAGES},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    struct agent_config c = {.state = AGENT_STATE_DEFAULT,
                             .owner_sources = OWNER_SOURCES_DEFAULT,
                             .memory_share = "50%",
                             .cpu_share = "50%",
                             .idle_priority = true,
                             .grace_ms = 15 * 60000,
                             .visit_ms = 5 * 60000,
                             .return_deadline_ms = 15000,
                             .keep_unsent_bytes = 4ull << 30,
                             .cache_bytes = 16ull << 30,
                             .guest_silence_ms = GUEST_LINK_SILENCE_MS};
    struct err err = {0};
    int o;

    while ((o = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (o) {
        case STATE:
            c.state = optarg;
            break;
        case GRACE:
            if (num_parse_duration(optarg, &c.grace_ms) < 0)
                return bad("--idle-grace", optarg, "a time such as 15m");
            break;
        case VISIT:
            if (num_parse_duration(optarg, &c.visit_ms) < 0)
                return bad("--visit", optarg, "a time such as 5m, or 0");
            break;
        case SOURCES:
            c.owner_sources = optarg;
            break;
        case NO_HABITS:
            c.no_habits = true;
            break;
        case MEMORY:
            c.memory_share = optarg;
            break;
        case CPU:
            c.cpu_share = optarg;
            break;
        case PRIORITY:
            c.idle_priority = strcmp(optarg, "idle") == 0;
            if (!c.idle_priority && strcmp(optarg, "normal") != 0)
                return bad("--priority", optarg, "idle or normal");
            break;
        case DEADLINE:
            if (num_parse_duration(optarg, &c.return_deadline_ms) < 0)
                return bad("--return-deadline", optarg, "a time such as 15s");
            break;
        case UNSENT:
            if (num_parse_size(optarg, &c.keep_unsent_bytes) < 0)
                return bad("--keep-unsent", optarg, "a size such as 4G, or 0");
            break;
        case CACHE:
            if (num_parse_size(optarg, &c.cache_bytes) < 0)
                return bad("--cache-size", optarg, "a size such as 16G, or 0");
            break;
        case SILENCE:
            if (num_parse_duration(optarg, &c.guest_silence_ms) < 0 || !c.guest_silence_ms)
                return bad("--guest-silence", optarg, "a time such as 1m");
            break;
        case QEMU:
            c.qemu = optarg;
            break;
        case IMAGES:
            c.images = optarg;
            break;
        default:
            fputs(help, o == 'h' ? stdout : stderr);
            return o == 'h' ? 0 : 2;
        }
    }
    if (optind != argc)
        return bad("agent", argv[optind], "no such argument; see yado agent --help");
    /* Workers wait for processes to die and for disks; the loop must find one free. */
    setenv("UV_THREADPOOL_SIZE", "16", 0);
    if (agent_run(&c, &err) < 0) {
        fprintf(stderr, "yado agent: %s\n", err.text);
        return 1;
    }
    fflush(NULL);
    _exit(0); /* see agent_run() */
}
