/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads QEMU's command line as the engine makes it: what must be there, and what must never be.
 */
#include "base/buf.h"
#include "vm/args.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct vm_config example(void)
{
    return (struct vm_config){.dir = "/nowhere",
                              .cls = {"pc-i440fx-7.2", "Nehalem", "tcg", 70222},
                              .memory_bytes = 256ull << 20,
                              .cpus = 2,
                              .uid = 65534,
                              .gid = 65534};
}

static const struct vm_fds fds = {10, 11, 12, 13, 14, 15, 16, 17, 18};

static char *line_of(const struct vm_config *c, uint32_t version, const struct vm_fds *f)
{
    struct vm_args a;
    struct buf b = {0};

    vm_args_make(c, "qemu", version, f, &a);
    assert_null(a.argv[a.count]);
    for (size_t i = 0; i < a.count; i++)
        buf_printf(&b, "%s ", a.argv[i]);
    vm_args_deinit(&a);
    return buf_take_str(&b);
}

static void has(const char *line, const char *part)
{
    if (!strstr(line, part))
        fail_msg("\"%s\" is missing in: %s", part, line);
}

static void has_not(const char *line, const char *part)
{
    if (strstr(line, part))
        fail_msg("\"%s\" stands in: %s", part, line);
}

/* For every kind of guest: guest memory is a private mapping that nobody may punch holes into or
 * hold pages of; the guest cannot tick before we say so; it has no network that was not asked
 * for. */
static void test_always(void **state)
{
    static const char *const never[] = {"balloon",   "discard=unmap", "detect-zeroes=unmap",
                                        "free-page", "vhost",         "vfio",
                                        "share=on",  "prealloc=on",   "-enable-kvm",
                                        "hugetlb",   "host,",         "-daemonize",
                                        "tap",       "-vnc",          "-spice",
                                        "-gdb",      "-monitor"};
    static const char *const always[] = {
        " -S ",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display none",
        "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "memory-backend=pc.ram",
        "share=off",
        "-cpu Nehalem,enforce=on",
        "name=yado.0",
        "virtio-blk-pci,drive=root,serial=root,addr=03,rerror=stop,werror=stop",
        "virtio-blk-pci,drive=input,serial=input,addr=04,rerror=stop,werror=stop",
        "virtio-rng-pci",
        "rdinit=/init",
    };

    for (int kind = 0; kind < 64; kind++) {
        struct vm_config c = example();
        struct vm_fds f = fds;

        c.memory_file = kind & 1 ? "memory" : NULL;
        c.network_nat = kind & 2;
        f.root = kind & 4 ? 16 : -1;
        f.input = kind & 8 ? 17 : -1;
        f.drive = kind & 32 ? 18 : -1;
        char *line = line_of(&c, kind & 16 ? 100002 : 70222, &f);
        for (size_t i = 0; i < sizeof never / sizeof *never; i++)
            has_not(line, never[i]);
        for (size_t i = 0; i < sizeof always / sizeof *always; i++)
            has(line, always[i]);
        has(line, c.network_nat ? "restrict=off" : "restrict=on");
        has(line, "read-only=on");
        free(line);
    }
}

static void test_resume_and_boot(void **state)
{
    struct vm_config c = example();
    char *boot = line_of(&c, 70222, &fds);

    has_not(boot, "-incoming");
    c.memory_file = "memory";
    char *resume = line_of(&c, 70222, &fds);
    has(resume, "-incoming defer");
    has_not(resume, "readonly=on");
    free(resume);
    resume = line_of(&c, 80200, &fds);
    has(resume, "readonly=on,rom=off");
    free(resume);
    free(boot);
}

/* The devices do not depend on what a guest runs: golden is resumed with other drives. */
static void test_same_machine(void **state)
{
    struct vm_config c = example();
    struct vm_fds none = fds;
    const char *p, *q;
    char device[200];

    none.root = none.input = -1;
    char *with = line_of(&c, 70222, &fds), *without = line_of(&c, 70222, &none);
    for (p = with; (p = strstr(p, "-device ")); p += 8) {
        q = strchr(p + 8, ' ');
        memcpy(device, p, (size_t)(q - p));
        device[q - p] = 0;
        has(without, device);
    }
    has(without, "null-co,node-name=input,size=1099511627776");
    free(with);
    free(without);
}

/* The one device that golden has not: its writes are done when they are acknowledged, and when its
 * server is away nothing waits and nothing fails in the guest. */
static void test_network_drive(void **state)
{
    struct vm_config c = example();
    struct vm_fds none = fds;

    none.drive = -1;
    char *with = line_of(&c, 70222, &fds), *without = line_of(&c, 70222, &none);
    has(with, "server.path=/proc/self/fd/18,export=drive,reconnect-delay=0");
    has(with, "drive=drive,serial=drive,addr=08,rerror=stop,werror=stop,write-cache=off");
    has_not(without, "nbd");
    has_not(without, "addr=08");
    free(with);
    free(without);
}

/* QEMU is handed descriptors; no path of ours appears. */
static void test_no_paths(void **state)
{
    struct vm_config c = example();

    c.dir = "/now,here";
    c.kernel = "/secret/kernel";
    c.initrd = "/secret/initrd";
    c.root = "/secret/root";
    c.input = "/secret/input";
    c.drive = "/secret/drive";
    c.memory_file = "/secret/memory";
    char *line = line_of(&c, 70222, &fds);
    has_not(line, "/secret");
    /* The folder is there as a name, for those who clean up; nothing is opened in it. */
    has(line, "-name guest=/now,,here ");
    has_not(strstr(line, "/now,,here") + 1, "/now");
    has(line, "-kernel /proc/self/fd/14");
    free(line);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_always),       cmocka_unit_test(test_resume_and_boot),
        cmocka_unit_test(test_same_machine), cmocka_unit_test(test_network_drive),
        cmocka_unit_test(test_no_paths),
    };

    return cmocka_run_group_tests_name("vm_args", tests, NULL, NULL);
}
