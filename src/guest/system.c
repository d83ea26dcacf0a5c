/* SPDX-License-Identifier: Apache-2.0
 *
 * Booting, mounts and memory figures; see system.h.
 *
 * With an image on /dev/vda the root is an overlay of it and a tmpfs, and init moves there (as
 * switch_root does); without one (`tiny`) everything stays in the initramfs. Paths are the same
 * afterwards. All writes of a job end in tmpfs, so its memory layers hold all of its state.
 */
#include "guest/system.h"

#include "base/cleanup.h"
#include "guest/net.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

enum { EROFS_AT = 1024, IMAGE_MIN = 4096, CLEAR_MAX = 512 << 20 };

void system_say(const char *fmt, ...)
{
    char line[200];
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(line, sizeof line - 1, fmt, ap);
    va_end(ap);
    n = n < (int)sizeof line - 1 ? n : (int)sizeof line - 2;
    line[n] = '\n';
    if (write(2, line, (size_t)n + 1) < 0)
        return; /* no console: nobody to tell */
}

void system_write(const char *path, const char *text)
{
    AUTO_CLOSE int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        system_say("yado-guest: %s: %s", path, strerror(errno));
}

uint64_t system_now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* The number behind a word at the beginning of a line; 0 when there is none. */
static uint64_t figure(const char *path, const char *word)
{
    AUTO_FCLOSE FILE *f = fopen(path, "re");
    char line[160];

    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, word, strlen(word)) == 0)
            return strtoull(line + strlen(word), NULL, 10);
    return 0;
}

uint64_t system_memory_available(void)
{
    uint64_t bytes = figure("/proc/meminfo", "MemAvailable:") * 1024;

    return bytes > SYSTEM_RESERVE_BYTES ? bytes - SYSTEM_RESERVE_BYTES : 0;
}

uint64_t system_memory_used(void)
{
    return (figure("/proc/meminfo", "MemTotal:") - figure("/proc/meminfo", "MemAvailable:")) * 1024;
}

uint64_t system_oom_kills(void)
{
    return figure("/proc/vmstat", "oom_kill ");
}

static void put(const char *type, const char *where, unsigned long flags, const char *options)
{
    (void)mkdir(where, 0755); /* mostly there */
    if (mount(type, where, type, flags, options) < 0 && errno != EBUSY)
        system_say("yado-guest: mounting %s: %s", where, strerror(errno));
}

static void load_modules(void)
{
    AUTO_FCLOSE FILE *order = fopen("/modules/order", "re");
    char name[64], path[96];

    while (order && fgets(name, sizeof name, order)) {
        AUTO_CLOSE int fd = -1;

        name[strcspn(name, "\n")] = 0;
        snprintf(path, sizeof path, "/modules/%s", name);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) < 0)
            system_say("yado-guest: %s: %s", path, strerror(errno));
    }
}

static bool has_image(const char *drive)
{
    static const uint8_t magic[4] = {0xe2, 0xe1, 0xf5, 0xe0};
    AUTO_CLOSE int fd = open(drive, O_RDONLY | O_CLOEXEC);
    uint8_t got[4];

    return fd >= 0 && lseek(fd, 0, SEEK_END) > IMAGE_MIN && pread(fd, got, 4, EROFS_AT) == 4 &&
           memcmp(got, magic, 4) == 0;
}

/* The initramfs stays in memory for ever: give back what only booting needed. */
static void empty_folder(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *d;

    while (dir && (d = readdir(dir)))
        (void)unlinkat(dirfd(dir), d->d_name, 0);
    if (dir)
        closedir(dir);
}

static void enter_image(void)
{
    static const char *const moved[] = {"/dev", "/proc", "/sys"};
    char to[32];

    (void)mkdir("/lower", 0755);
    if (mount("/dev/vda", "/lower", "erofs", MS_RDONLY, NULL) < 0)
        system_say("yado-guest: root image: %s", strerror(errno));
    put("tmpfs", "/upper", 0, "mode=755,size=75%");
    (void)mkdir("/upper/files", 0755);
    (void)mkdir("/upper/work", 0755);
    (void)mkdir("/root", 0755);
    if (mount("overlay", "/root", "overlay", 0,
              "lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work") < 0) {
        system_say("yado-guest: overlay: %s", strerror(errno));
        return;
    }
    for (size_t i = 0; i < sizeof moved / sizeof *moved; i++) {
        snprintf(to, sizeof to, "/root%s", moved[i]);
        (void)mkdir(to, 0755);
        if (mount(moved[i], to, NULL, MS_MOVE, NULL) < 0)
            system_say("yado-guest: moving %s: %s", moved[i], strerror(errno));
    }
    empty_folder("/bin");
    if (chdir("/root") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
        chdir("/") < 0)
        system_say("yado-guest: entering the image: %s", strerror(errno));
}

/* A group of its own for the job: what it takes too much of is refused or killed there, and init
 * gets its turn however many processes the job has. */
static void make_group(void)
{
    char tasks[16];

    snprintf(tasks, sizeof tasks, "%d", SYSTEM_TASKS_MAX);
    put("cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    system_write("/sys/fs/cgroup/cgroup.subtree_control", "+memory +pids +cpu");
    (void)mkdir(SYSTEM_CGROUP, 0755);
    system_write(SYSTEM_CGROUP "/pids.max", tasks);
    system_write("/proc/self/oom_score_adj", "-1000");
}

int system_share_memory(uint64_t out_limit)
{
    uint64_t bytes = system_memory_available(), out = bytes / 4 * 3;
    char text[96];

    snprintf(text, sizeof text, "%llu", (unsigned long long)bytes);
    system_write(SYSTEM_CGROUP "/memory.max", text);
    if (out_limit && out_limit < out)
        out = out_limit;
    snprintf(text, sizeof text, "size=%llu", (unsigned long long)out);
    return mount(NULL, "/out", NULL, MS_REMOUNT | MS_NOSUID | MS_NODEV, text) < 0 ? -errno : 0;
}

/* What booting left in free memory (the packed kernel, the initrd) would go into every golden
 * layer. Memory that a process gets is zeroed first, and stays so when it is given back. Free
 * memory, not available: the root image's first blocks are to stay cached. By a child, which the
 * kernel may kill should it be too much after all. */
static void clear_free_memory(void)
{
    uint64_t bytes = figure("/proc/meminfo", "MemFree:") * 1024;
    pid_t child;

    bytes -= bytes / 32; /* the kernel's own reserve and the page tables grow with it */
    if (bytes > CLEAR_MAX)
        bytes = CLEAR_MAX;
    if (bytes <= SYSTEM_RESERVE_BYTES)
        return;
    bytes -= SYSTEM_RESERVE_BYTES;
    child = fork();
    if (child == 0)
        _exit(mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0) == MAP_FAILED);
    if (child > 0)
        (void)waitpid(child, NULL, 0); /* only a larger golden layer depends on it */
}

void system_boot(void)
{
    char out[80];
    int console;

    umask(022);
    put("devtmpfs", "/dev", MS_NOSUID, "mode=755");
    console = open("/dev/console", O_RDWR | O_NOCTTY);
    for (int fd = 0; console >= 0 && fd < 3; fd++)
        dup2(console, fd);
    if (console > 2)
        close(console);
    put("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    put("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    load_modules();
    empty_folder("/modules");
    if (has_image("/dev/vda"))
        enter_image();
    put("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=620,ptmxmode=666");
    put("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777,size=75%");
    put("tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777,size=75%");
    put("tmpfs", "/work", MS_NOSUID | MS_NODEV, "mode=755,uid=1000,gid=1000,size=75%");
    put("tmpfs", "/in", MS_NOSUID | MS_NODEV, "mode=755,size=100%");
    snprintf(out, sizeof out, "mode=755,uid=%d,gid=%d,nr_inodes=%d", SYSTEM_UID, SYSTEM_UID,
             SYSTEM_OUT_ENTRIES_MAX);
    put("tmpfs", "/out", MS_NOSUID | MS_NODEV, out);
    (void)symlink("/proc/self/fd", "/dev/fd");
    (void)symlink("/proc/self/fd/0", "/dev/stdin");
    (void)symlink("/proc/self/fd/1", "/dev/stdout");
    (void)symlink("/proc/self/fd/2", "/dev/stderr");
    /* A kernel that went wrong must end the guest, not go on with it. */
    system_write("/proc/sys/kernel/panic_on_oops", "1");
    system_write("/proc/sys/vm/oom_dump_tasks", "0");
    clear_free_memory();
    make_group();
    if (system_share_memory(0) < 0)
        system_say("yado-guest: /out: %s", strerror(errno));
    net_up_loopback();
}
