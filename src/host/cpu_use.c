/* SPDX-License-Identifier: Apache-2.0
 *
 * The first two numbers of /proc/PID/task/TID/schedstat: ns on a CPU, and ns spent runnable on a
 * queue; see cpu_use.h.
 */
#include "host/cpu_use.h"
#include "base/cleanup.h"

#include <dirent.h>
#include <stdio.h>

struct cpu_use cpu_use_of(pid_t pid)
{
    struct cpu_use use = {0};
    struct dirent *e;
    char path[320];
    DIR *d;

    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    d = opendir(path);
    while (d && (e = readdir(d))) {
        unsigned long long ran, waited;

        snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", (int)pid, e->d_name);
        AUTO_FCLOSE FILE *f = fopen(path, "re");
        if (!f || fscanf(f, "%llu %llu", &ran, &waited) != 2)
            continue;
        use.ran_us += ran / 1000;
        use.waited_us += waited / 1000;
        if (waited / 1000 > use.longest_wait_us)
            use.longest_wait_us = waited / 1000;
    }
    if (d)
        closedir(d);
    return use;
}
