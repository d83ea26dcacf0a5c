/* SPDX-License-Identifier: Apache-2.0
 *
 * yado doctor: what this PC can do for the grid, what it lacks, and what to do about it. Each check
 * is by itself; one that would hang is bounded. The last one proves the class: a tiny guest is
 * booted, saved and resumed (class_proof.h).
 */
#include "agent/commands.h"
#include "agent/agent.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "host/http_client.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <systemd/sd-bus.h>
#include <time.h>

static const char help[] =
    "yado doctor [--json] [--state DIR] [--qemu BINARY] [--images DIR] [--fresh]\n"
    "\n"
    "Looks at what this PC can do for the grid; says what is wrong and what to do.\n"
    "\n"
    "  --json         as JSON\n"
    "  --state DIR    the agent's state folder (default " AGENT_STATE_DEFAULT ")\n"
    "  --qemu BINARY  default: qemu-system-x86_64 in PATH\n"
    "  --images DIR   the built-in image (default: found beside the binary; $YADO_IMAGES)\n"
    "  --fresh        prove again what was proven before\n";

enum status { OK, WARN, FAIL };
enum { BUS_MS = 5000, MASTER_MS = 10000, CLOCK_WARN_S = 60 };

struct doctor {
    const char *state, *qemu, *images;
    bool fresh;
    json_t *checks;
    bool failed;
};

static const char *const status_names[] = {"ok", "warn", "fail"};

__attribute__((format(printf, 5, 6))) static void say(struct doctor *d, enum status status,
                                                      const char *name, const char *remedy,
                                                      const char *fmt, ...)
{
    char text[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    d->failed |= status == FAIL;
    json_array_append_new(d->checks, json_pack("{s:s, s:s, s:s, s:s}", "name", name, "status",
                                               status_names[status], "text", text, "remedy",
                                               status == OK ? "" : remedy));
}

/* ---- this PC ----------------------------------------------------------------------------------
 */

static void check_qemu(struct doctor *d)
{
    struct err err = {0};
    uint32_t version;

    if (vm_probe_version(d->qemu, &version, &err) < 0)
        say(d, FAIL, "qemu", "apt install qemu-system-x86, or name a binary with --qemu", "%s",
            err.text);
    else
        say(d, OK, "qemu", "", "QEMU %u.%u.%u", version / 10000, version / 100 % 100,
            version % 100);
}

static void check_fuse(struct doctor *d)
{
    bool root = geteuid() == 0;
    bool helper = access("/usr/bin/fusermount3", X_OK) == 0;

    if (access("/dev/fuse", R_OK | W_OK) < 0)
        say(d, WARN, "fuse", "modprobe fuse; without it images are fetched whole", "/dev/fuse: %s",
            strerror(errno));
    else if (!root && !helper)
        say(d, WARN, "fuse", "apt install fuse3; without it images are fetched whole",
            "fusermount3 is not installed");
    else
        say(d, OK, "fuse", "", "/dev/fuse is there");
}

static void check_limits(struct doctor *d)
{
    static const char *const kinds[] = {"none", "version 1", "version 2"};
    struct limits l;
    struct err err = {0};
    char name[32];

    snprintf(name, sizeof name, "yado-doctor-%d", (int)getpid());
    limits_init(&l, "/sys/fs/cgroup", "/proc/self/cgroup", name, limits_total_memory() / 2, 1000,
                true, &err);
    if (l.kind == LIMITS_NONE)
        say(d, WARN, "limits", "run the agent as root, or as a service with Delegate=yes", "%s",
            err.text);
    else
        say(d, OK, "limits", "", "control groups, %s%s", kinds[l.kind],
            l.kind == LIMITS_V1 && (!l.dirs[0][0] || !l.dirs[1][0]) ? ", only one of CPU and memory"
                                                                    : "");
    if (l.loopback)
        say(d, WARN, "loopback", "run the agent as root, with control groups of version 2 mounted",
            "jobs with network: nat reach services on this PC's loopback addresses: %s",
            strerror(-l.loopback));
    else
        say(d, OK, "loopback", "", "closed to jobs with network: nat");
    limits_deinit(&l);
}

static void check_users(struct doctor *d)
{
    const char *missing = !getpwnam("yado-qemu")    ? "yado-qemu"
                          : !getpwnam("yado-pager") ? "yado-pager"
                                                    : NULL;

    if (geteuid() != 0)
        say(d, WARN, "users", "run the agent as root: it then gives guests users of their own",
            "guests run as the agent's own user");
    else if (missing)
        say(d, WARN, "users", "systemd-sysusers with packaging/systemd/yadokari.sysusers",
            "no user %s: guests share a user with others (nobody, daemon)", missing);
    else
        say(d, OK, "users", "", "yado-qemu and yado-pager");
}

static void check_disk(struct doctor *d)
{
    struct statvfs fs;
    char text[NUM_TEXT_MAX];

    if (statvfs(d->state, &fs) < 0 && statvfs("/var/lib", &fs) < 0) {
        say(d, FAIL, "disk", "name a folder that exists with --state", "%s: %s", d->state,
            strerror(errno));
        return;
    }
    uint64_t bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    num_format_size(bytes, text);
    say(d,
        bytes < (512ull << 20) ? FAIL
        : bytes < (4ull << 30) ? WARN
                               : OK,
        "disk", "make room, or give the agent another --state: images and layers are kept there",
        "%s free for %s", text, d->state);
}

/* ---- the owner's sources ----------------------------------------------------------------------
 */

static void check_input(struct doctor *d)
{
    DIR *dir = opendir("/dev/input");
    struct dirent *e;
    int there = 0, readable = 0;

    while (dir && (e = readdir(dir)))
        if (str_starts(e->d_name, "event")) {
            there++;
            readable += faccessat(dirfd(dir), e->d_name, R_OK, 0) == 0;
        }
    if (dir)
        closedir(dir);
    if (readable)
        say(d, OK, "input", "", "%d of %d input devices can be watched", readable, there);
    else if (there)
        say(d, WARN, "input", "run the agent as root or in the group input",
            "none of %d input devices can be read", there);
    else
        say(d, WARN, "input",
            "on a PC with an owner: use other --owner-sources, such as logind,tty",
            "no input devices here");
}

/* In a child: a bus that does not answer would hold us up for minutes. */
_Noreturn static void ask_logind(int fd)
{
    sd_bus *bus = NULL;
    uint64_t us = 0;
    int r = sd_bus_open_system(&bus);

    if (r >= 0)
        r = sd_bus_get_property_trivial(bus, "org.freedesktop.login1", "/org/freedesktop/login1",
                                        "org.freedesktop.login1.Manager", "InhibitDelayMaxUSec",
                                        NULL, 't', &us);
    int64_t answer = r < 0 ? r : (int64_t)us;
    _exit(write(fd, &answer, sizeof answer) != sizeof answer);
}

static void check_logind(struct doctor *d)
{
    int ends[2];
    int64_t answer = -ETIMEDOUT;

    if (pipe2(ends, O_CLOEXEC) < 0)
        return;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        ask_logind(ends[1]);
    close(ends[1]);
    struct pollfd p = {.fd = ends[0], .events = POLLIN};
    if (pid > 0 && poll(&p, 1, BUS_MS) > 0 && read(ends[0], &answer, sizeof answer) <= 0)
        answer = -EPIPE;
    close(ends[0]);
    if (pid > 0) {
        (void)kill(pid, SIGKILL); /* may have ended */
        (void)waitpid(pid, NULL, 0);
    }
    if (answer < 0)
        say(d, WARN, "logind",
            "without logind a shutdown does not wait for the guests to be handed over",
            "logind does not answer: %s", strerror((int)-answer));
    else if (answer < 15000000)
        say(d, WARN, "logind",
            "set InhibitDelayMaxSec=30 in /etc/systemd/logind.conf.d/yadokari.conf",
            "a shutdown waits only %lld s for guests to be handed over",
            (long long)answer / 1000000);
    else
        say(d, OK, "logind", "", "a shutdown waits up to %lld s", (long long)answer / 1000000);
}

/* ---- the master -------------------------------------------------------------------------------
 */

static void check_clock(struct doctor *d, int64_t date_s)
{
    int64_t off = date_s ? (int64_t)time(NULL) - date_s : 0;

    if (off > CLOCK_WARN_S || off < -CLOCK_WARN_S)
        say(d, WARN, "clock", "switch on time synchronisation (timedatectl set-ntp true)",
            "this PC's clock is %lld s %s the master's: certificates may be refused",
            (long long)(off < 0 ? -off : off), off < 0 ? "behind" : "ahead of");
    else if (date_s)
        say(d, OK, "clock", "", "within %d s of the master's", CLOCK_WARN_S);
}

static void check_master(struct doctor *d)
{
    struct identity id;
    struct err err = {0};

    if (identity_load(d->state, &id, &err) < 0) {
        say(d, FAIL, "master", "see above", "%s", err.text);
        return;
    }
    struct http *h = http_new(&(struct http_config){
        .ca_file = id.ca_file, .cert_file = id.cert_file, .key_file = id.key_file});
    AUTO_FREE char *url = xasprintf("%s/v1/ca", id.url);
    AUTO_HTTP_RESPONSE struct http_response answer = {0};
    struct http_request request = {.method = "GET", .url = url, .timeout_ms = MASTER_MS};
    int r = http_do(h, &request, &answer, &err);

    if (r < 0)
        say(d, FAIL, "master",
            r == -EACCES ? "check this PC's clock; if it is right, enrol this PC again"
                         : "check the network, a firewall, https_proxy; is the master running?",
            "%s", err.text);
    else if (answer.status != 200)
        say(d, FAIL, "master", "is this URL a master's?", "%s: HTTP status %d", url, answer.status);
    else
        say(d, OK, "master", "", "%s answers; this PC is %s", id.url, id.name);
    if (r == 0)
        check_clock(d, answer.date_s);
    http_free(h);
    identity_deinit(&id);
}

/* ---- the class --------------------------------------------------------------------------------
 */

static void check_class(struct doctor *d)
{
    char images[512];
    AUTO_FREE char *fetched = xasprintf("%s/images", d->state); /* by the agent */
    bool found = class_find_images(d->images, images, sizeof images) ||
                 class_find_images(fetched, images, sizeof images);
    bool state = access(d->state, W_OK) == 0;
    struct users users;

    users_find(&users);
    struct class_request q = {.state = state ? d->state : NULL,
                              .qemu = d->qemu,
                              .images = found ? images : NULL,
                              .uid = users.qemu_uid,
                              .gid = users.qemu_gid,
                              .fresh = d->fresh};
    struct class_verdict v;

    class_prove(&q, &v);
    if (v.ok && !v.kvm[0])
        say(d, OK, "kvm", "", "guests run under KVM");
    else if (v.kvm[0])
        say(d, WARN, "kvm",
            "switch on VT-x or AMD-V in the firmware, modprobe kvm_intel or kvm_amd, and let the "
            "group kvm use /dev/kvm; guests run many times slower without",
            "%s", v.kvm);
    if (v.ok)
        say(d, OK, "class", "",
            "%s, %s, %s: proven%s (boot %u ms, save %u ms, resume and check %u ms)", v.cls.machine,
            v.cls.cpu, v.cls.accel, v.cached ? " earlier" : "", v.boot_ms, v.save_ms, v.resume_ms);
    else
        say(d, FAIL, "class", "this PC offers nothing until this passes; try another QEMU (--qemu)",
            "%s", v.text);
}

static void print(const struct doctor *d)
{
    json_t *c;
    size_t i;

    json_array_foreach(d->checks, i, c)
    {
        const char *status = json_string_value(json_object_get(c, "status"));
        const char *remedy = json_string_value(json_object_get(c, "remedy"));
        printf("%-5s %-7s %s\n", status, json_string_value(json_object_get(c, "name")),
               json_string_value(json_object_get(c, "text")));
        if (remedy[0])
            printf("              -> %s\n", remedy);
    }
}

int yado_doctor_main(int argc, char **argv)
{
    static const struct option options[] = {{"json", no_argument, NULL, 'j'},
                                            {"state", required_argument, NULL, 's'},
                                            {"qemu", required_argument, NULL, 'q'},
                                            {"images", required_argument, NULL, 'i'},
                                            {"fresh", no_argument, NULL, 'f'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    struct doctor d = {.state = AGENT_STATE_DEFAULT, .checks = json_array()};
    bool json = false;
    int c;

    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (c) {
        case 'j':
            json = true;
            break;
        case 's':
            d.state = optarg;
            break;
        case 'q':
            d.qemu = optarg;
            break;
        case 'i':
            d.images = optarg;
            break;
        case 'f':
            d.fresh = true;
            break;
        default:
            fputs(help, c == 'h' ? stdout : stderr);
            return c == 'h' ? 0 : 2;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "yado doctor: %s: no such argument; see yado doctor --help\n",
                argv[optind]);
        json_decref(d.checks);
        return 2;
    }
    static void (*const checks[])(struct doctor *) = {
        check_qemu,  check_fuse,   check_limits, check_users, check_disk,
        check_input, check_logind, check_master, check_class,
    };
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++)
        checks[i](&d);
    if (json) {
        json_t *all = json_pack("{s:b, s:O}", "ok", !d.failed, "checks", d.checks);
        json_dumpf(all, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(all);
    } else {
        print(&d);
    }
    json_decref(d.checks);
    return d.failed;
}
