/* SPDX-License-Identifier: MIT */
#include "bench_machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

static void cpu_name(char *out, size_t size)
{
    char line[256];
    struct utsname u;
    FILE *f = fopen("/proc/cpuinfo", "r");

    snprintf(out, size, "unknown CPU");
    if (uname(&u) == 0)
        snprintf(out, size, "%s CPU", u.machine);
    while (f && fgets(line, sizeof line, f)) {
        const char *at = strchr(line, ':');

        if (!at || strncmp(line, "model name", 10) != 0)
            continue;
        at += 1 + strspn(at + 1, " \t");
        snprintf(out, size, "%.*s", (int)strcspn(at, "\n"), at);
        break;
    }
    if (f)
        fclose(f);
}

/* A number with an optional unit K, M or G from a small file of the system; 0 if there is none. */
static int64_t number_in(const char *path)
{
    FILE *f = fopen(path, "r");
    long long v = 0;
    char unit = 0;

    if (!f)
        return 0;
    if (fscanf(f, "%lld%c", &v, &unit) < 1 || v < 0)
        v = 0;
    fclose(f);
    return unit == 'K' ? v << 10 : unit == 'M' ? v << 20 : unit == 'G' ? v << 30 : v;
}

static int64_t last_cache(void)
{
    char path[80];
    int64_t best = 0;

    for (int i = 0; i < 6; i++) {
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        const int64_t n = number_in(path);
        best = n > best ? n : best;
    }
    if (best <= 0)
        best = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return best > 0 ? best : 32 << 20;
}

static int64_t free_memory(void)
{
    char line[128];
    long long kib = 0;
    FILE *f = fopen("/proc/meminfo", "r");
    int64_t limit = number_in("/sys/fs/cgroup/memory.max");

    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %lld", &kib) == 1)
            break;
    if (f)
        fclose(f);
    int64_t bytes = kib > 0 ? kib << 10 : (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    limit -= number_in("/sys/fs/cgroup/memory.current");
    return limit > 0 && limit < bytes ? limit : bytes;
}

void bench_machine_read(bench_machine *m, bool hurry)
{
    cpu_name(m->cpu, sizeof m->cpu);
    m->cache_bytes = last_cache();
    m->cold_bytes = (hurry ? 1 : 4) * m->cache_bytes;
    m->memory_bytes = free_memory();
}

void *bench_pages(size_t bytes, bool huge)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        return NULL;
    /* Advice: where the system knows no huge pages, the small ones serve. */
    (void)madvise(p, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#ifdef MADV_POPULATE_WRITE
    (void)madvise(p, bytes, MADV_POPULATE_WRITE); /* all at once is faster than one by one */
#endif
    return p;
}

void bench_pages_free(void *memory, size_t bytes)
{
    if (memory)
        munmap(memory, bytes);
}
