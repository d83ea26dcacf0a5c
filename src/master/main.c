/* SPDX-License-Identifier: Apache-2.0
 *
 * yado master: options, start, signals, the sweep of the depot, end.
 *
 * Start: state folder and its lock, CA, secret; the port; the core (loads the grid, first user,
 * built-in image); only then requests are served and "ready at URL" is said.
 */
#include "master/master.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/num.h"
#include "depot/depot.h"
#include "master/ca.h"
#include "master/care.h"
#include "master/core.h"
#include "master/disk.h"
#include "master/drives.h"
#include "master/file.h"
#include "master/hold.h"
#include "master/mailroom.h"
#include "master/places.h"
#include "master/resplit.h"
#include "master/server.h"
#include "state/segment.h"
#include "state/state.h"

#include <errno.h>
#include <getopt.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_BAD_USE = 2, MASTER_NAMES_MAX = 32, SWEEP_EVERY_S = 3600 };

/* Between an upload and the row that refers to it, a PC may be away. */
#define SWEEP_GRACE_MS (24ull * 3600 * 1000)

static const char usage[] =
    "Usage: yado master --state DIR --listen HOST:PORT [OPTION...]\n"
    "The master of a grid: its queue, its VM management table and its store.\n"
    "\n"
    "  --state DIR         where everything durable is kept; made at the first start\n"
    "  --listen HOST:PORT  address of the one HTTPS port; port 0 takes any free one\n"
    "  --name NAME         a further name or address that clients use for this master\n"
    "  --images DIR        the built-in image's vmlinuz and initrd (default: $YADO_IMAGES, or\n"
    "                      images beside the program)\n"
    "  --lease TIME        how long a PC may be silent before its VMs go elsewhere (60s)\n"
    "  --requeue tail|head where a moved job waits in its queue (tail)\n"
    "  --retire TIME       how long a finished job stays in memory (60s)\n"
    "  --rebalance TIME    a guest that gets less than half of the CPU it could use moves when "
    "that\n"
    "                      lasts so long (2m; 0: never)\n"
    "  --rebase TIME       a guest that stands longer for a checkpoint is resumed afresh where it "
    "is\n"
    "                      (500ms; 0: never)\n"
    "  --replan TIME       a job with split: that waits is planned anew when the PCs have "
    "changed,\n"
    "                      at most so often (30s; 0: never)\n"
    "  --upload-slots N    how many suspended guests are uploaded at once (4)\n"
    "  --depot-quota SIZE  nothing new starts while layers of guests take nine tenths of it "
    "(none)\n"
    "  --disk-quota SIZE   jobs are refused when the disks of all unfinished jobs would be more "
    "(none)\n"
    "  --mailbox SIZE      unread mail that a part may have before who sends to it waits (64M)\n"
    "  --mail-kept SIZE    mail that a part has read and may read again before it is saved (256M)\n"
    "  --history TIME      how long finished jobs are kept (30d)\n"
    "  --cpu MODEL         the pool's CPU model (Nehalem)\n"
    "  --machine TYPE      the pool's machine type (pc-i440fx-7.2)\n"
    "  --help              this text\n"
    "\n"
    "The first start makes a certificate authority and user \"admin\", and prints how to log in.\n"
    "YADO_LOG=debug says more. SIGTERM ends it cleanly.\n";

/* ---- options -------------------------------------------------------------------------------- */

struct options {
    struct master_config config;
    char *host; /* owned */
    const char *names[MASTER_NAMES_MAX + 1];
    size_t count_names;
};

__attribute__((format(printf, 1, 2))) static int bad_use(const char *fmt, ...)
{
    va_list ap;
    fputs("yado master: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputs("; see yado master --help\n", stderr);
    return EXIT_BAD_USE;
}

/* "HOST:PORT" or "[IPv6]:PORT". */
static int parse_listen(const char *text, struct options *o)
{
    const char *colon = strrchr(text, ':');
    uint64_t port;
    if (!colon || colon == text || num_parse_u64(colon + 1, UINT16_MAX, &port) < 0)
        return -EINVAL;
    free(o->host);
    if (text[0] == '[' && colon[-1] == ']')
        o->host = xstrndup(text + 1, (size_t)(colon - text) - 2);
    else
        o->host = xstrndup(text, (size_t)(colon - text));
    o->config.host = o->host;
    o->config.port = (uint16_t)port;
    return 0;
}

enum option_code {
    OPT_STATE = 1,
    OPT_LISTEN,
    OPT_NAME,
    OPT_IMAGES,
    OPT_LEASE,
    OPT_REQUEUE,
    OPT_RETIRE,
    OPT_REBALANCE,
    OPT_REBASE,
    OPT_REPLAN,
    OPT_UPLOAD_SLOTS,
    OPT_DEPOT_QUOTA,
    OPT_DISK_QUOTA,
    OPT_MAILBOX,
    OPT_MAIL_KEPT,
    OPT_HISTORY,
    OPT_CPU,
    OPT_MACHINE,
    OPT_HELP
};

static const struct option long_options[] = {
    {"state", required_argument, NULL, OPT_STATE},
    {"listen", required_argument, NULL, OPT_LISTEN},
    {"name", required_argument, NULL, OPT_NAME},
    {"images", required_argument, NULL, OPT_IMAGES},
    {"lease", required_argument, NULL, OPT_LEASE},
    {"requeue", required_argument, NULL, OPT_REQUEUE},
    {"retire", required_argument, NULL, OPT_RETIRE},
    {"rebalance", required_argument, NULL, OPT_REBALANCE},
    {"rebase", required_argument, NULL, OPT_REBASE},
    {"replan", required_argument, NULL, OPT_REPLAN},
    {"upload-slots", required_argument, NULL, OPT_UPLOAD_SLOTS},
    {"depot-quota", required_argument, NULL, OPT_DEPOT_QUOTA},
    {"disk-quota", required_argument, NULL, OPT_DISK_QUOTA},
    {"mailbox", required_argument, NULL, OPT_MAILBOX},
    {"mail-kept", required_argument, NULL, OPT_MAIL_KEPT},
    {"history", required_argument, NULL, OPT_HISTORY},
    {"cpu", required_argument, NULL, OPT_CPU},
    {"machine", required_argument, NULL, OPT_MACHINE},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static int take_lease(struct options *o, const char *text)
{
    uint64_t ms;
    if (num_parse_duration(text, &ms) < 0 || ms < 2000 || ms > 86400000)
        return bad_use("--lease: a time from 2s to 1d, not \"%s\"", text);
    /* The agent stops a quarter (15 s at most) before the master moves. */
    uint64_t quarter = ms / 4;
    o->config.grid.lease_ms = ms;
    if (quarter < o->config.grid.lease_margin_ms)
        o->config.grid.lease_margin_ms = quarter;
    return 0;
}

static int take_slots(struct options *o, const char *text)
{
    uint64_t n;
    if (num_parse_u64(text, 10000, &n) < 0 || n == 0)
        return bad_use("--upload-slots: a number from 1 to 10000, not \"%s\"", text);
    o->config.grid.upload_slots = (uint32_t)n;
    return 0;
}

static int take_time(const char *option, const char *text, uint64_t *ret_ms)
{
    return num_parse_duration(text, ret_ms) < 0
               ? bad_use("%s: a time such as \"2h\", not \"%s\"", option, text)
               : 0;
}

/* Afresh takes a moment, too: so it is done at most once in 1200 times as long, as by default. */
static int take_rebase(struct options *o, const char *text)
{
    uint64_t ms;
    if (num_parse_duration(text, &ms) < 0 || ms > 60000)
        return bad_use("--rebase: a time up to 1m, or 0, not \"%s\"", text);
    o->config.grid.rebase_pause_ms = ms ? ms : UINT64_MAX;
    o->config.grid.rebase_after_ms = 1200 * ms;
    return 0;
}

static int take_size(const char *option, const char *text, uint64_t *ret_bytes)
{
    return num_parse_size(text, ret_bytes) < 0
               ? bad_use("%s: a size such as \"200G\", not \"%s\"", option, text)
               : 0;
}

static int take_mail_size(const char *option, const char *text, uint64_t *ret_bytes)
{
    return num_parse_size(text, ret_bytes) < 0 || *ret_bytes < 2 << 20
               ? bad_use("%s: a size from 2M on, not \"%s\"", option, text)
               : 0;
}

/* 0, or the exit status. */
static int take_option(struct options *o, enum option_code code, const char *value)
{
    switch (code) {
    case OPT_STATE:
        o->config.state_dir = value;
        return 0;
    case OPT_LISTEN:
        return parse_listen(value, o) < 0 ? bad_use("--listen: HOST:PORT, not \"%s\"", value) : 0;
    case OPT_NAME:
        if (o->count_names == MASTER_NAMES_MAX - 6)
            return bad_use("--name: too many names");
        o->names[o->count_names++] = value;
        return 0;
    case OPT_IMAGES:
        o->config.images_dir = value;
        return 0;
    case OPT_LEASE:
        return take_lease(o, value);
    case OPT_REQUEUE:
        if (strcmp(value, "tail") != 0 && strcmp(value, "head") != 0)
            return bad_use("--requeue: tail or head, not \"%s\"", value);
        o->config.grid.requeue = value[0] == 't' ? GRID_REQUEUE_TAIL : GRID_REQUEUE_HEAD;
        return 0;
    case OPT_RETIRE:
        return take_time("--retire", value, &o->config.grid.retire_ms);
    case OPT_REBALANCE:
        return take_time("--rebalance", value, &o->config.grid.starve_wait_ms);
    case OPT_REBASE:
        return take_rebase(o, value);
    case OPT_REPLAN:
        return take_time("--replan", value, &o->config.replan_ms);
    case OPT_UPLOAD_SLOTS:
        return take_slots(o, value);
    case OPT_DEPOT_QUOTA:
        return take_size("--depot-quota", value, &o->config.grid.depot_quota_bytes);
    case OPT_DISK_QUOTA:
        return take_size("--disk-quota", value, &o->config.grid.disk_quota_bytes);
    case OPT_MAILBOX:
        return take_mail_size("--mailbox", value, &o->config.mailbox_bytes);
    case OPT_MAIL_KEPT:
        return take_mail_size("--mail-kept", value, &o->config.mail_kept_bytes);
    case OPT_HISTORY:
        return take_time("--history", value, &o->config.history_ms);
    case OPT_CPU:
    case OPT_MACHINE:
        if (strlen(value) == 0 || strlen(value) >= GRID_NAME_MAX)
            return bad_use("--cpu and --machine: names as QEMU knows them");
        *(code == OPT_CPU ? &o->config.cpu : &o->config.machine) = value;
        return 0;
    case OPT_HELP:
        break;
    }
    return EXIT_BAD_USE;
}

/* -1 to go on, else the exit status. */
static int parse(int argc, char **argv, struct options *o)
{
    int c;
    optind = 1;
    while ((c = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        if (c == OPT_HELP) {
            fputs(usage, stdout);
            return 0;
        }
        int status = c == '?' ? bad_use("that option is not known") : take_option(o, c, optarg);
        if (status)
            return status;
    }
    if (optind < argc)
        return bad_use("\"%s\" is too much", argv[optind]);
    if (!o->config.state_dir || !o->config.host)
        return bad_use("--state and --listen are needed");
    return -1;
}

/* ---- start ---------------------------------------------------------------------------------- */

static char *default_images(void)
{
    char self[PATH_MAX];
    const char *env = getenv("YADO_IMAGES");
    if (env && env[0])
        return xstrdup(env);
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0)
        return NULL;
    self[n] = '\0';
    char *slash = strrchr(self, '/');
    *slash = '\0';
    static const char *const places[] = {"images", "../images", "../share/yadokari/images"};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char *dir = xasprintf("%s/%s", self, places[i]);
        AUTO_FREE char *kernel = xasprintf("%s/vmlinuz", dir);
        if (access(kernel, R_OK) == 0)
            return dir;
        free(dir);
    }
    return NULL;
}

static bool is_wildcard(const char *host)
{
    return strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0;
}

static int open_ca(struct master *m, struct options *o, const char *hostname, struct err *e)
{
    AUTO_FREE char *dir = xasprintf("%s/tls", m->config.state_dir);
    const char *fixed[] = {"127.0.0.1", "::1", "localhost", hostname,
                           is_wildcard(m->config.host) ? NULL : m->config.host};
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) {
        bool known = !fixed[i] || !fixed[i][0];
        for (size_t k = 0; !known && k < o->count_names; k++)
            known = strcmp(o->names[k], fixed[i]) == 0;
        if (!known)
            o->names[o->count_names++] = fixed[i];
    }
    o->names[o->count_names] = NULL;
    return ca_open(dir, o->names, &m->ca, e);
}

/* Behind the grants; made once. */
static int open_secret(struct master *m, struct err *e)
{
    AUTO_FREE char *path = xasprintf("%s/tls/secret", m->config.state_dir);
    AUTO_BUF struct buf have = {0};
    int r = file_read(path, sizeof m->secret, &have);
    if (r == 0 && have.len == sizeof m->secret) {
        memcpy(m->secret, have.data, sizeof m->secret);
        return 0;
    }
    if (r != -ENOENT)
        return err_set(e, r ? r : -EBADMSG, "%s cannot be read or is damaged: %s", path,
                       r ? strerror(-r) : "wrong length");
    r = gnutls_rnd(GNUTLS_RND_KEY, m->secret, sizeof m->secret);
    if (r == 0)
        r = file_write(path, m->secret, sizeof m->secret, 0600);
    return r < 0 ? err_set(e, r, "cannot write %s: %s", path, strerror(-r)) : 0;
}

static int open_stores(struct master *m, struct err *e)
{
    AUTO_FREE char *depot = xasprintf("%s/depot", m->config.state_dir);
    AUTO_FREE char *output = xasprintf("%s/output", m->config.state_dir);
    AUTO_FREE char *drives = xasprintf("%s/drives", m->config.state_dir);
    int r = state_open(m->config.state_dir, &m->state, e);
    if (r == 0)
        r = depot_open(depot, &m->depot, e);
    if (r == 0)
        r = segments_open(output, &m->segments, e);
    if (r == 0)
        r = drives_open(drives, &m->drives, e);
    return r;
}

static void set_url(struct master *m, const char *hostname, uint16_t port)
{
    const char *host = is_wildcard(m->config.host) ? hostname : m->config.host;
    m->url = strchr(host, ':') ? xasprintf("https://[%s]:%u", host, port)
                               : xasprintf("https://%s:%u", host, port);
}

static int write_url(struct master *m, struct err *e)
{
    AUTO_FREE char *path = xasprintf("%s/url", m->config.state_dir);
    AUTO_FREE char *text = xasprintf("%s\n", m->url);
    int r = file_write(path, text, strlen(text), 0644);
    return r < 0 ? err_set(e, r, "cannot write %s: %s", path, strerror(-r)) : 0;
}

static int start(struct master *m, struct options *o, struct err *e)
{
    char hostname[HOST_NAME_MAX + 1] = "localhost";
    uint16_t port = 0;
    int fd = -1;
    (void)gethostname(hostname, sizeof hostname - 1); /* else: localhost */
    int r = open_stores(m, e);
    if (r == 0)
        r = open_ca(m, o, hostname, e);
    if (r == 0)
        r = open_secret(m, e);
    if (r == 0)
        r = server_bind(m->config.host, m->config.port, &fd, &port, e);
    if (r < 0)
        return r;
    set_url(m, hostname, port);
    meter_init(&m->link);
    m->places = places_new();
    m->holds = holds_new();
    m->disk = disk_new();
    AUTO_FREE char *mail = xasprintf("%s/mail", m->config.state_dir);
    r = mailroom_open(m, mail, &m->mailroom, e);
    if (r == 0)
        r = core_open(m, &m->core, e);
    if (r == 0)
        r = write_url(m, e);
    if (r == 0) {
        m->care = care_new(m);
        drives_start(m->drives);
        core_start(m->core);
        mailroom_start(m->mailroom);
        r = server_start(m, fd, &m->server, e);
    }
    if (r < 0)
        close(fd);
    return r;
}

/* Order: no new requests, then every waiting one is released, then the threads end. */
static void stop(struct master *m)
{
    if (m->server)
        server_quiesce(m->server);
    if (m->holds)
        holds_close(m->holds);
    core_stop(m->core);
    care_stop(m->care);
    mailroom_stop(m->mailroom);
    disk_stop(m->disk);
    drives_stop(m->drives);
    server_free(m->server);
    core_free(m->core);
    mailroom_free(m->mailroom);
    care_free(m->care);
    disk_free(m->disk);
    drives_free(m->drives);
    holds_free(m->holds);
    places_free(m->places);
    segments_close(m->segments);
    depot_close(m->depot);
    state_close(m->state);
    ca_free(m->ca);
    free(m->url);
}

static int is_referenced(void *arg, const uint8_t digest[DEPOT_DIGEST_BYTES])
{
    struct master *m = arg;
    struct grid_digest d;
    bool referenced;
    memcpy(d.bytes, digest, sizeof d.bytes);
    int r = state_blob_is_referenced(m->state, &d, &referenced);
    return r < 0 ? r : referenced || mailroom_refers_to(m->mailroom, digest);
}

static void sweep(struct master *m)
{
    struct depot_swept swept;
    char size[NUM_TEXT_MAX];
    int r = depot_sweep(m->depot, SWEEP_GRACE_MS, is_referenced, m, &swept);
    if (r < 0)
        log_warn("the depot could not be swept: %s", strerror(-r));
    else if (swept.removed)
        log_info("%llu blobs (%s) that nothing needs were removed",
                 (unsigned long long)swept.removed, num_format_size(swept.removed_bytes, size));
}

static void wait_for_end(struct master *m, const sigset_t *signals)
{
    struct timespec pause = {.tv_sec = SWEEP_EVERY_S};
    int sig;
    do {
        sweep(m);
        sig = sigtimedwait(signals, NULL, &pause);
    } while (sig <= 0);
    log_info("%s: ending", strsignal(sig));
}

int yado_master_main(int argc, char **argv)
{
    struct options o = {.config = {.cpu = "Nehalem",
                                   .machine = "pc-i440fx-7.2",
                                   .grid = grid_config_default(),
                                   .history_ms = STATE_AGE_MS_DEFAULT,
                                   .replan_ms = RESPLIT_MS_DEFAULT}};
    int status = parse(argc, argv, &o);
    if (status >= 0) {
        free(o.host);
        return status;
    }
    AUTO_FREE char *images = o.config.images_dir ? NULL : default_images();
    if (!o.config.images_dir)
        o.config.images_dir = images;
    struct rlimit files = {65536, 65536};
    (void)setrlimit(RLIMIT_NOFILE, &files); /* else: what we were given */
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    umask(077);
    log_set_name("master");
    struct master m = {.config = o.config, .started_ms = core_wall_ms()};
    struct err e;
    int r = start(&m, &o, &e);
    if (r == 0) {
        log_info("ready at %s", m.url);
        (void)sd_notifyf(0, "READY=1\nSTATUS=at %s", m.url); /* nobody may be listening */
        wait_for_end(&m, &signals);
        (void)sd_notify(0, "STOPPING=1");
    } else {
        log_error("%s", e.text);
    }
    stop(&m);
    free(o.host);
    return r == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
