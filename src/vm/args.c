/* SPDX-License-Identifier: Apache-2.0
 *
 * QEMU's command line; see args.h. PCI slots are fixed, since they are part of a saved state.
 */
#include "vm/args.h"

#include "base/buf.h"

#include <stdlib.h>
#include <string.h>

enum { FDSET_CONSOLE = 1, FDSET_ROOT = 2, FDSET_INPUT = 3, EMPTY_ROOT_BYTES = 4096 };

static void add_text(struct vm_args *a, char *text)
{
    a->argv = xreallocarray(a->argv, a->count + 2, sizeof *a->argv);
    a->argv[a->count++] = text;
    a->argv[a->count] = NULL;
}

/* An option and its value (NULL: none). */
static void add(struct vm_args *a, const char *option, const char *value)
{
    add_text(a, xstrdup(option));
    if (value)
        add_text(a, xstrdup(value));
}

__attribute__((format(printf, 3, 4))) static void addf(struct vm_args *a, const char *option,
                                                       const char *fmt, ...)
{
    struct buf b = {0};
    va_list ap;

    va_start(ap, fmt);
    buf_vprintf(&b, fmt, ap);
    va_end(ap);
    add_text(a, xstrdup(option));
    add_text(a, buf_take_str(&b));
}

static void add_machine(struct vm_args *a, const struct vm_config *c)
{
    uint64_t code_mib = c->memory_bytes >> 22; /* translated code: a quarter of the memory */

    addf(a, "-machine", "%s,memory-backend=pc.ram", c->cls.machine);
    if (strcmp(c->cls.accel, "tcg") == 0)
        addf(a, "-accel", "tcg,thread=multi,tb-size=%d",
             code_mib < 64    ? 64
             : code_mib > 512 ? 512
                              : (int)code_mib);
    else
        addf(a, "-accel", "%s", c->cls.accel);
    addf(a, "-cpu", "%s,enforce=on", c->cls.cpu);
    addf(a, "-smp", "%u", c->cpus);
    addf(a, "-m", "%llu", (unsigned long long)(c->memory_bytes >> 20));
}

static void add_memory(struct vm_args *a, const struct vm_config *c, uint32_t version, int fd)
{
    /* 8.2 and newer can map a file privately without the right to write it. */
    addf(a, "-object",
         "memory-backend-file,id=pc.ram,size=%llu,mem-path=/proc/self/fd/%d,share=off,merge=off,"
         "dump=off%s",
         (unsigned long long)c->memory_bytes, fd, version >= 80200 ? ",readonly=on,rom=off" : "");
}

/* A read-only drive. Without a file it is zeros: the device is there all the same. */
static void add_drive(struct vm_args *a, const char *name, int fd, int fdset, uint64_t empty_bytes,
                      const char *slot)
{
    if (fd >= 0) {
        addf(a, "-add-fd", "fd=%d,set=%d", fd, fdset);
        addf(a, "-blockdev",
             "driver=file,node-name=%s-file,filename=/dev/fdset/%d,read-only=on,"
             "auto-read-only=off,locking=off",
             name, fdset);
        addf(a, "-blockdev", "driver=raw,node-name=%s,file=%s-file,read-only=on", name, name);
    } else {
        addf(a, "-blockdev", "driver=null-co,node-name=%s,size=%llu,read-zeroes=on,read-only=on",
             name, (unsigned long long)empty_bytes);
    }
    addf(a, "-device", "virtio-blk-pci,drive=%s,serial=%s,addr=%s,rerror=stop,werror=stop", name,
         name, slot);
}

/* NBD. Every write is done when it is acknowledged, so the guest need not flush. Requests do not
 * wait for a new connection: they would hold up a stop. */
static void add_network_drive(struct vm_args *a, int fd)
{
    addf(a, "-blockdev",
         "driver=nbd,node-name=drive,server.type=unix,server.path=/proc/self/fd/%d,export=drive,"
         "reconnect-delay=0,open-timeout=10",
         fd);
    add(a, "-device",
        "virtio-blk-pci,drive=drive,serial=drive,addr=08,rerror=stop,werror=stop,write-cache=off,"
        "discard=off,write-zeroes=off");
}

/* The folder stands on the command line so that people, and an agent that cleans up after a
 * supervisor, see whose process it is. A comma in a value is written twice. */
static void add_name(struct vm_args *a, const char *dir)
{
    struct buf b = {0};

    buf_put_str(&b, "guest=");
    for (const char *p = dir; *p; p++)
        buf_put(&b, *p == ',' ? ",," : p, *p == ',' ? 2 : 1);
    add_text(a, xstrdup("-name"));
    add_text(a, buf_take_str(&b));
}

void vm_args_make(const struct vm_config *c, const char *qemu, uint32_t version,
                  const struct vm_fds *fds, struct vm_args *ret_args)
{
    struct vm_args *a = ret_args;

    *a = (struct vm_args){0};
    add(a, qemu, "-S");
    add(a, "-nodefaults", "-no-user-config");
    add(a, "-no-reboot", NULL);
    add_name(a, c->dir);
    add(a, "-display", "none");
    add(a, "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    add_machine(a, c);
    add_memory(a, c, version, fds->memory);
    if (c->memory_file)
        add(a, "-incoming", "defer");
    addf(a, "-kernel", "/proc/self/fd/%d", fds->kernel);
    if (fds->initrd >= 0) {
        addf(a, "-initrd", "/proc/self/fd/%d", fds->initrd);
        add(a, "-append", "console=ttyS0 quiet panic=-1 rdinit=/init");
    }

    addf(a, "-chardev", "socket,id=qmp,fd=%d", fds->qmp);
    add(a, "-mon", "chardev=qmp,mode=control");
    addf(a, "-add-fd", "fd=%d,set=%d", fds->console, FDSET_CONSOLE);
    addf(a, "-chardev", "file,id=console,path=/dev/fdset/%d,append=on", FDSET_CONSOLE);
    add(a, "-serial", "chardev:console");

    add_drive(a, "root", fds->root, FDSET_ROOT, EMPTY_ROOT_BYTES, "03");
    add_drive(a, "input", fds->input, FDSET_INPUT, VM_INPUT_BYTES, "04");
    addf(a, "-chardev", "socket,id=guest,fd=%d", fds->guest);
    add(a, "-device", "virtio-serial-pci,id=serial,max_ports=2,addr=05");
    add(a, "-device", "virtserialport,bus=serial.0,nr=1,chardev=guest,name=yado.0");
    add(a, "-device", "virtio-rng-pci,addr=06");
    addf(a, "-netdev", "user,id=net,ipv6=off,restrict=%s", c->network_nat ? "off" : "on");
    add(a, "-device", "virtio-net-pci,netdev=net,addr=07,romfile=");
    if (fds->drive >= 0)
        add_network_drive(a, fds->drive);
}

void vm_args_deinit(struct vm_args *a)
{
    for (size_t i = 0; i < a->count; i++)
        free(a->argv[i]);
    free(a->argv);
    *a = (struct vm_args){0};
}
