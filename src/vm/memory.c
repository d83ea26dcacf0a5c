/* SPDX-License-Identifier: Apache-2.0
 *
 * A guest's main memory in QEMU's address space. It is a private mapping of the memory file, so
 * a page that was written is a private copy: present and not the file's (bit 61 of its entry in
 * /proc/PID/pagemap clear), or swapped out (bit 62). The set never shrinks while QEMU lives.
 * QEMU is our child: reading it takes no more rights than that.
 *
 * Where the kernel has the PAGEMAP_SCAN ioctl (6.7), it finds that set by itself; else every
 * entry is read. Soft-dirty bits are not used: they are cleared for the whole process through
 * /proc/PID/clear_refs, which write-protects it and makes the guest pay a fault for each page that
 * it writes; comparing prints costs no more than reading the private pages once.
 */
#include "vm/vm.h"

#include "base/buf.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>

enum { PAGE = QEMU_PAGE_BYTES, ENTRIES_AT_ONCE = 4096, REGIONS_AT_ONCE = 1024 };

#define PAGEMAP_PRESENT (1ull << 63)
#define PAGEMAP_SWAPPED (1ull << 62)
#define PAGEMAP_FILE (1ull << 61)

/* Mappings of one inode that lie in a row, as one region may be split by flags. Devices are not
 * compared: stacked file systems show another one in maps than stat(2) does. */
static int find_mapping(FILE *maps, ino_t inode, uint64_t bytes, uint64_t *ret_address)
{
    char line[512], perms[8];
    unsigned long long start, end, offset, ino;
    uint64_t address = 0, covered = 0;

    while (fgets(line, sizeof line, maps)) {
        if (sscanf(line, "%llx-%llx %7s %llx %*x:%*x %llu", &start, &end, perms, &offset, &ino) !=
                5 ||
            ino != inode || strncmp(perms, "rw-p", 4) != 0)
            continue;
        if (offset == 0) {
            address = start;
            covered = 0;
        }
        if (address + covered != start || offset != covered)
            continue;
        covered += end - start;
        if (covered == bytes) {
            *ret_address = address;
            return 0;
        }
    }
    return -ENXIO;
}

int vm_memory_find(struct vm *vm, struct err *ret_err)
{
    AUTO_FREE char *path = xasprintf("/proc/%d/maps", vm->pid);
    AUTO_FCLOSE FILE *maps = fopen(path, "re");
    struct stat st;

    if (!maps || fstat(vm->memory_fd, &st) < 0)
        return err_set(ret_err, -errno, "cannot look into QEMU's memory: %s", strerror(errno));
    if (find_mapping(maps, st.st_ino, vm->memory_bytes, &vm->memory_address))
        return err_set(ret_err, -ENXIO, "QEMU has not mapped the guest's memory as expected");
    return 0;
}

int vm_memory_open(const struct vm *vm, struct vm_memory *ret_memory, struct err *ret_err)
{
    AUTO_FREE char *path = xasprintf("/proc/%d/pagemap", vm->pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return err_set(ret_err, -errno, "cannot look into QEMU's memory: %s", strerror(errno));
    *ret_memory = (struct vm_memory){vm->pid, fd, vm->memory_address, vm->memory_bytes};
    return 0;
}

void vm_memory_close(struct vm_memory *m)
{
    cleanup_close(&m->pagemap_fd);
    m->pagemap_fd = -1;
}

/* ---- which pages are private ------------------------------------------------------------------
 */

/* <linux/fs.h> has these from 6.7 on. */
struct scan_region {
    uint64_t start, end, categories;
};

struct scan_arg {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define SCAN_IOCTL _IOWR('f', 16, struct scan_arg)
#define SCAN_IS_FILE (1ull << 2)
#define SCAN_IS_PRESENT (1ull << 3)
#define SCAN_IS_SWAPPED (1ull << 4)

static void add_run(struct vm_runs *runs, uint64_t first, uint64_t count)
{
    struct vm_run *last = runs->count ? &runs->all[runs->count - 1] : NULL;

    runs->count_pages += count;
    if (last && last->first_page + last->count_pages == first) {
        last->count_pages += count;
        return;
    }
    if (runs->count == runs->cap) {
        runs->cap = runs->cap ? 2 * runs->cap : 256;
        runs->all = xreallocarray(runs->all, runs->cap, sizeof *runs->all);
    }
    runs->all[runs->count++] = (struct vm_run){first, count};
}

void vm_runs_deinit(struct vm_runs *runs)
{
    free(runs->all);
    *runs = (struct vm_runs){0};
}

int vm_memory_private_scan(const struct vm_memory *m, struct vm_runs *ret_runs)
{
    struct scan_region regions[REGIONS_AT_ONCE];
    struct vm_runs runs = {0};
    struct scan_arg arg = {.size = sizeof arg,
                           .start = m->address,
                           .end = m->address + m->bytes,
                           .vec = (uint64_t)(uintptr_t)regions,
                           .vec_len = REGIONS_AT_ONCE,
                           .category_inverted = SCAN_IS_FILE,
                           .category_mask = SCAN_IS_FILE,
                           .category_anyof_mask = SCAN_IS_PRESENT | SCAN_IS_SWAPPED,
                           .return_mask = SCAN_IS_PRESENT};

    while (arg.start < arg.end) {
        int n = ioctl(m->pagemap_fd, SCAN_IOCTL, &arg);

        if (n < 0) {
            int error = -errno;

            vm_runs_deinit(&runs);
            return error;
        }
        for (int i = 0; i < n; i++)
            add_run(&runs, (regions[i].start - m->address) / PAGE,
                    (regions[i].end - regions[i].start) / PAGE);
        arg.start = arg.walk_end;
    }
    *ret_runs = runs;
    return 0;
}

int vm_memory_private_read(const struct vm_memory *m, struct vm_runs *ret_runs)
{
    uint64_t entries[ENTRIES_AT_ONCE], pages = m->bytes / PAGE;
    struct vm_runs runs = {0};

    for (uint64_t page = 0, n; page < pages; page += n) {
        n = pages - page < ENTRIES_AT_ONCE ? pages - page : ENTRIES_AT_ONCE;
        ssize_t got = pread(m->pagemap_fd, entries, n * sizeof *entries,
                            (off_t)((m->address / PAGE + page) * sizeof *entries));

        /* An address space that has gone reads as nothing. */
        if (got != (ssize_t)(n * sizeof *entries)) {
            int error = got < 0 ? -errno : -ESRCH;

            vm_runs_deinit(&runs);
            return error;
        }
        for (size_t i = 0; i < n; i++)
            if (entries[i] & PAGEMAP_SWAPPED ||
                (entries[i] & PAGEMAP_PRESENT && !(entries[i] & PAGEMAP_FILE)))
                add_run(&runs, page + i, 1);
    }
    *ret_runs = runs;
    return 0;
}

int vm_memory_private(const struct vm_memory *m, struct vm_runs *ret_runs)
{
    int r = vm_memory_private_scan(m, ret_runs);

    /* An older kernel says ENOTTY; whatever the reason, the plain way tells. */
    return r ? vm_memory_private_read(m, ret_runs) : 0;
}

int vm_memory_all(const struct vm_memory *m, struct vm_runs *ret_runs)
{
    struct vm_runs runs = {0};

    add_run(&runs, 0, m->bytes / PAGE);
    *ret_runs = runs;
    return 0;
}

/* ---- reading ----------------------------------------------------------------------------------
 */

int vm_memory_read(const struct vm_memory *m, uint64_t offset, void *data, size_t len)
{
    while (len) {
        struct iovec local = {data, len}, remote = {.iov_len = len};

        remote.iov_base = (void *)(m->address + offset); /* NOLINT: in QEMU's address space */
        ssize_t n = process_vm_readv(m->pid, &local, 1, &remote, 1, 0);

        if (n <= 0)
            return n < 0 ? -errno : -EFAULT;
        data = (uint8_t *)data + n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}
