/* SPDX-License-Identifier: Apache-2.0
 *
 * See loopback.h. The programs are written as instructions: a compiler for them would be a
 * dependency, and they are short. Of struct bpf_sock_addr they read the address and the port, both
 * in network order.
 */
#include "host/loopback.h"

#include "base/cleanup.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>

/* R0 verdict, R1 the struct, R2 what is compared. Jumps are relative to the next instruction. */
#define LOAD(field)                                       \
    ((struct bpf_insn){.code = BPF_LDX | BPF_MEM | BPF_W, \
                       .dst_reg = BPF_REG_2,              \
                       .src_reg = BPF_REG_1,              \
                       .off = (int16_t)offsetof(struct bpf_sock_addr, field)})
#define MASK(bits) \
    ((struct bpf_insn){.code = BPF_ALU64 | BPF_AND | BPF_K, .dst_reg = BPF_REG_2, .imm = (bits)})
#define IF_EQUAL(value, skip)                               \
    ((struct bpf_insn){.code = BPF_JMP32 | BPF_JEQ | BPF_K, \
                       .dst_reg = BPF_REG_2,                \
                       .off = (skip),                       \
                       .imm = (int32_t)(value)})
#define UNLESS_EQUAL(value, skip)                           \
    ((struct bpf_insn){.code = BPF_JMP32 | BPF_JNE | BPF_K, \
                       .dst_reg = BPF_REG_2,                \
                       .off = (skip),                       \
                       .imm = (int32_t)(value)})
#define SET(verdict) \
    ((struct bpf_insn){.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = (verdict)})
#define EXIT ((struct bpf_insn){.code = BPF_JMP | BPF_EXIT})

enum { PROGRAM_MAX = 32 };

/* 127.0.0.0/8, and 0.0.0.0, which also means this host. */
static size_t program_v4(struct bpf_insn *p)
{
    const struct bpf_insn all[] = {
        SET(1),
        LOAD(user_port),
        IF_EQUAL(htons(53), 5),
        LOAD(user_ip4),
        IF_EQUAL(0, 2),
        MASK((int32_t)htonl(0xff000000)),
        UNLESS_EQUAL(htonl(0x7f000000), 1),
        SET(0),
        EXIT,
    };

    memcpy(p, all, sizeof all);
    return sizeof all / sizeof *all;
}

/* ::1 and ::, and the same of version 4 as ::ffff:127.0.0.0/104 and ::ffff:0.0.0.0. */
static size_t program_v6(struct bpf_insn *p)
{
    const struct bpf_insn all[] = {
        SET(1),
        LOAD(user_port),
        IF_EQUAL(htons(53), 16),
        LOAD(user_ip6[0]),
        UNLESS_EQUAL(0, 14),
        LOAD(user_ip6[1]),
        UNLESS_EQUAL(0, 12),
        LOAD(user_ip6[2]),
        IF_EQUAL(0, 6),
        UNLESS_EQUAL(htonl(0xffff), 9),
        /* version 4 in version 6 */
        LOAD(user_ip6[3]),
        IF_EQUAL(0, 6),
        MASK((int32_t)htonl(0xff000000)),
        IF_EQUAL(htonl(0x7f000000), 4),
        EXIT,
        /* version 6 */
        LOAD(user_ip6[3]),
        IF_EQUAL(0, 1),
        UNLESS_EQUAL(htonl(1), 1),
        SET(0),
        EXIT,
    };

    memcpy(p, all, sizeof all);
    return sizeof all / sizeof *all;
}

static int bpf(enum bpf_cmd cmd, union bpf_attr *attr)
{
    long r = syscall(SYS_bpf, cmd, attr, sizeof *attr);

    return r < 0 ? -errno : (int)r;
}

static int attach(int group, size_t (*write_program)(struct bpf_insn *p),
                  enum bpf_attach_type where)
{
    struct bpf_insn program[PROGRAM_MAX];
    size_t count = write_program(program);
    union bpf_attr load = {.prog_type = BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
                           .expected_attach_type = where,
                           .insns = (uint64_t)(uintptr_t)program,
                           .insn_cnt = (uint32_t)count,
                           .license = (uint64_t)(uintptr_t) "Apache-2.0"};
    AUTO_CLOSE int fd = bpf(BPF_PROG_LOAD, &load);

    if (fd < 0)
        return fd;
    union bpf_attr to = {.target_fd = (uint32_t)group,
                         .attach_bpf_fd = (uint32_t)fd,
                         .attach_type = where}; /* no flags: none below it may undo this */
    return bpf(BPF_PROG_ATTACH, &to);
}

int loopback_close(const char *group_dir)
{
    AUTO_CLOSE int group = open(group_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (group < 0)
        return -errno;
    int r = attach(group, program_v4, BPF_CGROUP_INET4_CONNECT);
    if (r == 0)
        r = attach(group, program_v4, BPF_CGROUP_UDP4_SENDMSG);
    if (r == 0)
        r = attach(group, program_v6, BPF_CGROUP_INET6_CONNECT);
    if (r == 0)
        r = attach(group, program_v6, BPF_CGROUP_UDP6_SENDMSG);
    return r;
}
