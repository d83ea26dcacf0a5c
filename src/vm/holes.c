/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory that a guest has never written need not come through the memory file: as a page of a file
 * it would be read, cached and copied before it could be written. So the zeros of the composed
 * memory are mapped anonymous, over the file's mapping and before the guest's first instruction.
 * To the kernel, to the guest and to a save (which looks for private pages) it is the same memory.
 *
 * QEMU has no command for that. Its main thread is stopped with ptrace(2), as a debugger does that
 * calls a function, and made to execute mmap(2) and madvise(2) instead of the wait that it stands
 * in; the kernel begins that wait anew. We are its parent, which may trace it wherever it may read
 * its memory. Where it cannot be (another kind of machine, a thread that is not in a system call),
 * all stays as it is, and fresh memory only costs more. A tracer that dies takes QEMU with it.
 */
#include "vm/vm.h"

#include "base/log.h"
#include "layer/chain.h"
#include "vm/clock.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

/* Mappings are few: a process may have 65530, and each save walks them. */
enum { HOLES_MAX = 512, HUGE_PAGES = 512, HUGE_BYTES = HUGE_PAGES * QEMU_PAGE_BYTES };

struct holes {
    struct hole {
        uint64_t offset, bytes;
    } all[HOLES_MAX];
    size_t count;
};

/* The whole huge pages between two pages. */
static void add_hole(struct holes *h, uint64_t first_page, uint64_t end_page)
{
    uint64_t first = (first_page + HUGE_PAGES - 1) / HUGE_PAGES, end = end_page / HUGE_PAGES;

    if (first < end && h->count < HOLES_MAX)
        h->all[h->count++] = (struct hole){first * HUGE_BYTES, (end - first) * HUGE_BYTES};
}

static void find_holes(const struct layer_chain *chain, struct holes *h)
{
    uint64_t pages = layer_chain_memory_bytes(chain) / QEMU_PAGE_BYTES, first = 0;
    struct layer_place p;

    for (uint64_t page = 0; page < pages; page += p.count_pages) {
        p = layer_chain_find(chain, 0, page, pages - page);
        if (layer_place_is_zeros(&p))
            continue;
        add_hole(h, first, page);
        first = page + p.count_pages;
    }
    add_hole(h, first, pages);
}

#ifdef __x86_64__

enum { STOP_US = 1000000, POLL_US = 200 };

struct traced {
    pid_t pid;
    struct user_regs_struct was; /* in the system call that it waits in */
    int signal;                  /* that came meanwhile, for when it goes on; 0 none */
};

/* 0 when it has stopped, with the signal that it was to get (SIGTRAP: none). */
static int wait_stop(struct traced *t, int *ret_signal)
{
    uint64_t until = vm_now_us() + STOP_US;
    int status;

    for (;;) {
        pid_t got = waitpid(t->pid, &status, WNOHANG | __WALL);

        if (got < 0 && errno != EINTR)
            return -errno;
        if (got == t->pid)
            break;
        if (vm_now_us() > until)
            return -ETIMEDOUT;
        usleep(POLL_US);
    }
    if (!WIFSTOPPED(status))
        return -ESRCH;
    *ret_signal = WSTOPSIG(status);
    return 0;
}

/* Whether it waits in the kernel, behind a `syscall` instruction that can be used again. */
static int check_place(const struct traced *t)
{
    uint8_t code[2] = {0};
    struct iovec local = {code, sizeof code}, remote = {.iov_len = sizeof code};

    remote.iov_base = (void *)(t->was.rip - sizeof code); /* NOLINT: in QEMU's address space */
    if (process_vm_readv(t->pid, &local, 1, &remote, 1, 0) != sizeof code)
        return -errno;
    return code[0] == 0x0f && code[1] == 0x05 && (long long)t->was.orig_rax >= 0 ? 0 : -EAGAIN;
}

static int attach(struct traced *t)
{
    int signal = 0, r;

    if (ptrace(PTRACE_SEIZE, t->pid, NULL, PTRACE_O_EXITKILL))
        return -errno;
    if (ptrace(PTRACE_INTERRUPT, t->pid, NULL, NULL))
        return -errno;
    r = wait_stop(t, &signal);
    if (r == 0 && signal != SIGTRAP)
        t->signal = signal;
    if (r == 0 && ptrace(PTRACE_GETREGS, t->pid, NULL, &t->was))
        r = -errno;
    return r ? r : check_place(t);
}

/* Its result in the kernel's way: -errno in the last page of numbers. */
static int call(struct traced *t, long number, const unsigned long long args[6], long long *ret)
{
    struct user_regs_struct regs = t->was;
    int signal = 0, r;

    regs.rip -= 2;                          /* the instruction itself */
    regs.orig_rax = (unsigned long long)-1; /* no system call that would begin anew */
    regs.rax = (unsigned long long)number;
    regs.rdi = args[0];
    regs.rsi = args[1];
    regs.rdx = args[2];
    regs.r10 = args[3];
    regs.r8 = args[4];
    regs.r9 = args[5];
    if (ptrace(PTRACE_SETREGS, t->pid, NULL, &regs))
        return -errno;
    do {
        if (ptrace(PTRACE_SINGLESTEP, t->pid, NULL, NULL))
            return -errno;
        r = wait_stop(t, &signal);
        if (r == 0 && signal != SIGTRAP)
            t->signal = signal;
    } while (r == 0 && signal != SIGTRAP);
    if (r == 0 && ptrace(PTRACE_GETREGS, t->pid, NULL, &regs))
        r = -errno;
    *ret = (long long)regs.rax;
    return r;
}

static int map_hole(struct traced *t, uint64_t address, uint64_t bytes)
{
    const unsigned long long map[] = {address,
                                      bytes,
                                      PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                                      (unsigned long long)-1,
                                      0};
    const unsigned long long advice[] = {address, bytes, MADV_HUGEPAGE, VM_ADVICE_MARK, 0, 0};
    long long got = 0;
    int r = call(t, SYS_mmap, map, &got);

    if (r == 0 && got != (long long)address)
        r = got < 0 && got > -4096 ? (int)got : -EPROTO;
    return r ? r : call(t, SYS_madvise, advice, &got); /* as QEMU does; refused is fine */
}

static int map_all(const struct vm *vm, const struct holes *h)
{
    struct traced t = {.pid = vm->pid};
    int r = attach(&t);

    for (size_t i = 0; r == 0 && i < h->count; i++)
        r = map_hole(&t, vm->memory_address + h->all[i].offset, h->all[i].bytes);
    if (t.was.rip && ptrace(PTRACE_SETREGS, t.pid, NULL, &t.was))
        r = -errno;
    /* NOLINTNEXTLINE: the signal is a number in a pointer's place */
    if (ptrace(PTRACE_DETACH, t.pid, NULL, (void *)(intptr_t)t.signal) && r == 0)
        r = -errno;
    return r;
}

#else

static int map_all(const struct vm *vm, const struct holes *h)
{
    return -ENOSYS;
}

#endif

void vm_open_holes(const struct vm *vm, const struct layer_chain *chain)
{
    struct holes h = {.count = 0};
    int r = 0;

    find_holes(chain, &h);
    if (h.count)
        r = map_all(vm, &h);
    if (r)
        log_info("fresh memory of the guest comes from its file: %s", strerror(-r));
}
