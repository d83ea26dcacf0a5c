/* SPDX-License-Identifier: Apache-2.0
 *
 * A guest's main memory in QEMU's address space. It is a private mapping of the memory file, so
 * a page that was written is a private copy: present and not the file's (bit 61 of its entry in
 * /proc/PID/pagemap clear), or swapped out (bit 62). The set never shrinks while QEMU lives.
 * QEMU is our child: reading it takes no more rights than that.
 */
#include "vm/vm.h"

#include "base/buf.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>

enum { PAGE = QEMU_PAGE_BYTES, ENTRIES_AT_ONCE = 4096 };

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

int vm_memory_open(const struct vm *vm, struct vm_memory *ret_memory, struct err *ret_err)
{
    AUTO_FREE char *maps_path = xasprintf("/proc/%d/maps", vm->pid);
    AUTO_FREE char *pagemap_path = xasprintf("/proc/%d/pagemap", vm->pid);
    AUTO_CLOSE int fd = open(pagemap_path, O_RDONLY | O_CLOEXEC);
    AUTO_FCLOSE FILE *maps = fopen(maps_path, "re");
    struct stat st;
    uint64_t address;

    if (fd < 0 || !maps || fstat(vm->memory_fd, &st) < 0)
        return err_set(ret_err, -errno, "cannot look into QEMU's memory: %s", strerror(errno));
    if (find_mapping(maps, st.st_ino, vm->memory_bytes, &address))
        return err_set(ret_err, -ENXIO, "QEMU has not mapped the guest's memory as expected");
    *ret_memory = (struct vm_memory){vm->pid, take_fd(&fd), address, vm->memory_bytes};
    return 0;
}

void vm_memory_close(struct vm_memory *m)
{
    cleanup_close(&m->pagemap_fd);
    m->pagemap_fd = -1;
}

int vm_memory_written(const struct vm_memory *m, uint64_t page, size_t count, bool *ret_written)
{
    uint64_t entries[ENTRIES_AT_ONCE];

    for (size_t done = 0; done < count;) {
        size_t n = count - done < ENTRIES_AT_ONCE ? count - done : ENTRIES_AT_ONCE;
        ssize_t got = pread(m->pagemap_fd, entries, n * sizeof *entries,
                            (off_t)((m->address / PAGE + page + done) * sizeof *entries));

        /* An address space that has gone reads as nothing. */
        if (got != (ssize_t)(n * sizeof *entries))
            return got < 0 ? -errno : -ESRCH;
        for (size_t i = 0; i < n; i++)
            ret_written[done + i] = entries[i] & PAGEMAP_SWAPPED ||
                                    (entries[i] & PAGEMAP_PRESENT && !(entries[i] & PAGEMAP_FILE));
        done += n;
    }
    return 0;
}

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
