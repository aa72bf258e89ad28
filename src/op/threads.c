/* SPDX-License-Identifier: MIT */
/* How many threads are sensible: CPUs of the affinity mask, cut to the cgroup's quota. */
#include "gqmm.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* CPUs' worth of time per period in a cgroup v2 cpu.max ("200000 100000", "max 100000"). */
static double quota_v2(const char *path)
{
    double quota, period;
    FILE *f = fopen(path, "r");
    if (!f)
        return 0;
    const int n = fscanf(f, "%lf %lf", &quota, &period);
    fclose(f);
    return n == 2 && period > 0 ? quota / period : 0;
}

static double number_in(const char *path)
{
    double v = 0;
    FILE *f = fopen(path, "r");
    if (f) {
        if (fscanf(f, "%lf", &v) != 1)
            v = 0;
        fclose(f);
    }
    return v;
}

/* The process's own group below the cgroup v2 mount, "0::/some/path". */
static double own_quota(void)
{
    char line[512], path[640];
    double quota = 0;
    FILE *f = fopen("/proc/self/cgroup", "r");
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "0::", 3) != 0)
            continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", line + 3);
        quota = quota_v2(path);
    }
    if (f)
        fclose(f);
    if (quota <= 0)
        quota = quota_v2("/sys/fs/cgroup/cpu.max");
    if (quota <= 0) { /* cgroup v1 */
        const double us = number_in("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
        const double period = number_in("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
        quota = us > 0 && period > 0 ? us / period : 0;
    }
    return quota;
}

int32_t gqmm_default_threads(void)
{
    cpu_set_t set;
    int32_t n = 0;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        n = CPU_COUNT(&set);
    if (n < 1) { /* more CPUs than cpu_set_t holds */
        const long online = sysconf(_SC_NPROCESSORS_ONLN);
        n = online > 0 && online < 4096 ? (int32_t)online : 1;
    }
    const double quota = own_quota();
    if (quota > 0 && quota < n)
        n = quota < 1 ? 1 : (int32_t)quota;
    return n;
}
