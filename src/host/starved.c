/* SPDX-License-Identifier: Apache-2.0
 *
 * The second number of /proc/PID/task/TID/schedstat: ns spent runnable on a queue; see starved.h.
 */
#include "host/starved.h"
#include "base/cleanup.h"

#include <dirent.h>
#include <stdio.h>

uint64_t starved_ms(pid_t pid)
{
    uint64_t most = 0;
    struct dirent *e;
    char path[320];
    DIR *d;

    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    d = opendir(path);
    while (d && (e = readdir(d))) {
        unsigned long long ran, waited;

        snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", (int)pid, e->d_name);
        AUTO_FCLOSE FILE *f = fopen(path, "re");
        if (f && fscanf(f, "%llu %llu", &ran, &waited) == 2 && waited / 1000000 > most)
            most = waited / 1000000;
    }
    if (d)
        closedir(d);
    return most;
}
