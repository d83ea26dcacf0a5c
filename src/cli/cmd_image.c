/* SPDX-License-Identifier: Apache-2.0
 *
 * yado image: root file systems that jobs run on. Building is the script images/build-debian;
 * what it makes is sent as a blob and named.
 */
#include "cli/inputs.h"
#include "cli/view.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "host/digest.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

static const struct listing_column image_columns[] = {
    {"IMAGE", LISTING_SHRINK}, {"ROOT", LISTING_RIGHT}, {"DIGEST", 0}};

static void image_row(struct listing *l, const json_t *image)
{
    const json_t *root = json_object_get(image, "root");
    const char *digest = cli_text(root, "digest");
    char size[NUM_TEXT_MAX];

    listing_add(l, "%s", cli_text(image, "name"));
    listing_add(l, "%s",
                *digest ? num_format_size((uint64_t)cli_int(root, "size"), size) : "built in");
    listing_add(l, "%.12s", *digest ? digest : "-");
}

static const struct view images_view = {
    "images", image_columns, sizeof image_columns / sizeof *image_columns, image_row, "No images."};

/* ---- importing ------------------------------------------------------------------------------- */

/* The magic number of erofs stands 1024 bytes into the file. */
static bool is_erofs(int fd)
{
    static const uint8_t magic[4] = {0xe2, 0xe1, 0xf5, 0xe0};
    uint8_t have[4];

    return pread(fd, have, sizeof have, 1024) == sizeof have && memcmp(have, magic, 4) == 0;
}

static int import(const struct command *cmd, const char *name, const char *file)
{
    AUTO_CLIENT struct client *c = NULL;
    AUTO_CLOSE int fd = open(file, O_RDONLY | O_CLOEXEC);
    AUTO_JSON json_t *body = NULL;
    char digest[DIGEST_HEX_BYTES];
    uint64_t size;
    struct err e;
    int r;

    if (fd < 0) {
        err_format(&e, "%s: %s", file, strerror(errno));
        return cli_fail(cmd, &e);
    }
    if (!is_erofs(fd)) {
        err_format(&e, "%s: not an erofs file system (mkfs.erofs makes one)", file);
        return cli_fail(cmd, &e);
    }
    r = digest_of_fd(fd, digest, &size);
    if (r) {
        err_format(&e, "%s: %s", file, strerror(-r));
        return cli_fail(cmd, &e);
    }
    body = json_pack("{s:s, s:{s:s, s:I}}", "name", name, "root", "digest", digest, "size",
                     (json_int_t)size);
    if (client_open(&c, &e) || inputs_send_blob(c, name, fd, digest, size, &e) ||
        client_call(c, "POST", body, NULL, &e, "/v1/images"))
        return cli_fail(cmd, &e);
    return CLI_OK;
}

/* ---- building -------------------------------------------------------------------------------- */

/* The script beside the binary's share folder, or in the source tree. */
static char *find_script(void)
{
    static const char *const places[] = {"../share/yadokari/images/build-debian",
                                         "../images/build-debian", "images/build-debian"};
    char exe[4096];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    char *slash;

    if (n < 0)
        return NULL;
    exe[n] = 0;
    slash = strrchr(exe, '/');
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char *path = xasprintf("%.*s/%s", (int)(slash - exe), exe, places[i]);

        if (access(path, X_OK) == 0)
            return path;
        free(path);
    }
    return NULL;
}

/* Its messages go to standard error, as they come. */
static int run_script(const char *script, const char *name, const char *include, const char *out)
{
    pid_t pid = fork();
    int status;

    if (pid < 0)
        return -errno;
    if (pid == 0) {
        dup2(STDERR_FILENO, STDOUT_FILENO);
        execl(script, script, name, include, out, (char *)NULL);
        fprintf(stderr, "yado: image: %s: %s\n", script, strerror(errno));
        _exit(127);
    }
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return status ? -EIO : 0;
}

static int build(const struct command *cmd, const char *name, const char *include)
{
    AUTO_FREE char *script = find_script();
    const char *tmp = getenv("TMPDIR");
    AUTO_FREE char *dir = xasprintf("%s/yado-image-XXXXXX", tmp && *tmp ? tmp : "/var/tmp");
    AUTO_FREE char *out = NULL;
    struct err e;
    int status = CLI_FAILED, r;

    if (!script) {
        err_format(&e, "the script build-debian is not installed beside this binary");
        return cli_fail(cmd, &e);
    }
    if (!mkdtemp(dir)) {
        err_format(&e, "no folder in %s: %s", tmp ? tmp : "/var/tmp", strerror(errno));
        return cli_fail(cmd, &e);
    }
    out = xasprintf("%s/root.erofs", dir);
    fprintf(stderr, "yado: image: building %s; this takes a minute or more\n", name);
    r = run_script(script, name, include, out);
    if (r == 0) {
        status = import(cmd, name, out);
    } else {
        err_format(&e, "the image could not be built; the messages above say why");
        (void)cli_fail(cmd, &e);
    }
    (void)unlink(out); /* may not be there */
    (void)rmdir(dir);
    return status;
}

/* ---- the command ----------------------------------------------------------------------------- */

static int remove_image(const struct command *cmd, const char *name)
{
    AUTO_CLIENT struct client *c = NULL;
    AUTO_FREE char *escaped = client_escape(name);
    struct err e;

    if (client_open(&c, &e) || client_call(c, "DELETE", NULL, NULL, &e, "/v1/images/%s", escaped))
        return cli_fail(cmd, &e);
    return CLI_OK;
}

static int run_image(const struct command *cmd, int argc, char **argv)
{
    const char *include = NULL, *verb, *name;
    bool json = false;
    int c, words;

    while ((c = cli_option(cmd, argc, argv)) > 0) {
        if (c == 'j')
            json = true;
        else
            include = optarg;
    }
    if (c != CLI_END)
        return cli_option_status(c);
    words = argc - optind;
    verb = words ? argv[optind] : "";
    name = words > 1 ? argv[optind + 1] : "";
    if (!words || (strcmp(verb, "list") == 0 && words == 1))
        return view_show(cmd, &images_view, json, "/v1/images");
    if (words > 1 && !str_is_name(name))
        return cli_usage(cmd, "\"%s\" is no name of an image: 1 to 63 of a-z 0-9 . _ -", name);
    if (strcmp(verb, "build") == 0 && words == 2 && include)
        return build(cmd, name, include);
    if (strcmp(verb, "build") == 0 && words == 2)
        return cli_usage(cmd, "say which Debian packages it has: --include python3,xz-utils");
    if (strcmp(verb, "import") == 0 && words == 3)
        return import(cmd, name, argv[optind + 2]);
    if (strcmp(verb, "rm") == 0 && words == 2)
        return remove_image(cmd, name);
    return cli_usage(cmd, "after image comes list, build NAME, import NAME FILE or rm NAME");
}

static const struct option image_options[] = {{"include", required_argument, NULL, 'i'},
                                              {"json", no_argument, NULL, 'j'},
                                              {NULL, 0, NULL, 0}};
const struct command cmd_image = {
    "image",
    "list, build, import and remove images",
    "[list] [--json]\nbuild NAME --include PKG,PKG...\nimport NAME FILE\nrm NAME",
    "An image is the root file system of a job's guest, read over the network as it is\n"
    "needed. \"tiny\" is built in: a kernel and busybox, for static programs.\n"
    "\n"
    "  list               the images there are; also without a word\n"
    "  build NAME         makes a Debian system here (mmdebstrap) and gives it to the master\n"
    "  import NAME FILE   gives the master an erofs file system that was made elsewhere\n"
    "  rm NAME            removes an image; jobs that run on it go on\n"
    "\n"
    "  --include PKG,PKG  Debian packages that the image has beside the smallest system\n"
    "  --json             the master's whole answer",
    NULL,
    image_options,
    run_image};
