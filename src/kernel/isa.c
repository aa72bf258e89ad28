/* SPDX-License-Identifier: MIT */
/* What this CPU can run. A room is one enumerator, one name and one test here. */
#include "gqmm.h"
#include "kernel/kernel.h"

#include <string.h>

#if defined(__x86_64__)
#    include <cpuid.h>
#    include <pthread.h>
#elif defined(__aarch64__)
#    include <asm/hwcap.h>
#    include <pthread.h>
#    include <sys/auxv.h>
#endif

static const char *const names[GQMM_ISA_COUNT] = {"scalar",    "avx2",  "avx512vnni", "neon",
                                                  "neon_i8mm", "sm_80", "sm_90"};

const char *gqmm_isa_name(int32_t isa)
{
    return isa >= 0 && isa < GQMM_ISA_COUNT ? names[isa] : NULL;
}

int32_t gqmm_isa_by_name(const char *name)
{
    for (int32_t i = 0; i < GQMM_ISA_COUNT; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return -1;
}

#if defined(__x86_64__)
/* What the system keeps when it switches threads: the compiler's runtime asks XGETBV for it, once,
 * before main, and counts these features only then. */
static bool keeps_256_bits(void)
{
    return __builtin_cpu_supports("avx2");
}

static bool keeps_512_bits(void)
{
    return __builtin_cpu_supports("avx512f");
}

/* The other features as bits of CPUID, as compilers differ in the names that they know. */
typedef struct feature {
    const char *word;
    unsigned leaf, subleaf;
    enum { EAX, EBX, ECX, EDX } reg;
    int bit;
    bool (*kept)(void);
} feature;

static const feature features[] = {
    {"avx2", 7, 0, EBX, 5, keeps_256_bits},       {"fma", 1, 0, ECX, 12, keeps_256_bits},
    {"f16c", 1, 0, ECX, 29, keeps_256_bits},      {"avxvnni", 7, 1, EAX, 4, keeps_256_bits},
    {"gfni", 7, 0, ECX, 8, keeps_256_bits},       {"avx512f", 7, 0, EBX, 16, keeps_512_bits},
    {"avx512dq", 7, 0, EBX, 17, keeps_512_bits},  {"avx512bw", 7, 0, EBX, 30, keeps_512_bits},
    {"avx512vl", 7, 0, EBX, 31, keeps_512_bits},  {"avx512vnni", 7, 0, ECX, 11, keeps_512_bits},
    {"avx512vbmi", 7, 0, ECX, 1, keeps_512_bits}, {"avx512bf16", 7, 1, EAX, 5, keeps_512_bits}};
#    define ALWAYS "sse2"

static bool has(const feature *f)
{
    unsigned r[4];
    return f->kept() &&
           __get_cpuid_count(f->leaf, f->subleaf, &r[EAX], &r[EBX], &r[ECX], &r[EDX]) &&
           r[f->reg] >> f->bit & 1;
}
#elif defined(__aarch64__)
/* What the kernel says that all CPUs of the machine have. */
typedef struct feature {
    const char *word;
    unsigned long type, bit; /* of the auxiliary vector */
} feature;

static const feature features[] = {
    {"fp16", AT_HWCAP, HWCAP_ASIMDHP}, {"dotprod", AT_HWCAP, HWCAP_ASIMDDP},
    {"i8mm", AT_HWCAP2, HWCAP2_I8MM},  {"bf16", AT_HWCAP2, HWCAP2_BF16},
    {"sve", AT_HWCAP, HWCAP_SVE},      {"sve2", AT_HWCAP2, HWCAP2_SVE2}};
#    define ALWAYS "neon"

static bool has(const feature *f)
{
    return (getauxval(f->type) & f->bit) != 0;
}
#endif

#if defined(ALWAYS)
/* Bit i stands for features[i]. Built once, because CPUID leaves a virtual machine for its host,
 * which takes tens of microseconds. The text starts with what every CPU has. */
enum { N_FEATURES = sizeof features / sizeof *features };
static unsigned found;
static char text[N_FEATURES * 12 + 8] = ALWAYS;

static void look(void)
{
    char *end = text + strlen(text);
    for (int i = 0; i < N_FEATURES; i++)
        if (has(&features[i])) {
            found |= 1u << i;
            *end++ = ' ';
            end = stpcpy(end, features[i].word);
        }
}

static void look_once(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, look);
}

/* All of the words, which are separated by spaces. */
static bool has_all(const char *words)
{
    look_once();
    for (const char *end; *words; words = end + (*end == ' ')) {
        bool here = false;
        end = words + strcspn(words, " ");
        for (int i = 0; i < N_FEATURES; i++)
            here = here || ((found >> i & 1) && strlen(features[i].word) == (size_t)(end - words) &&
                            strncmp(features[i].word, words, (size_t)(end - words)) == 0);
        if (!here)
            return false;
    }
    return true;
}
#endif

bool gqmm_isa_runs(int32_t isa)
{
    switch (isa) {
    case GQMM_ISA_SCALAR:
        return true;
#if defined(__x86_64__)
    case GQMM_ISA_AVX2:
        return has_all("avx2 fma f16c");
    case GQMM_ISA_AVX512VNNI:
        return has_all("avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512vnni");
#elif defined(__aarch64__)
    case GQMM_ISA_NEON:
        return has_all("dotprod");
    case GQMM_ISA_NEON_I8MM:
        return has_all("dotprod i8mm");
#endif
    default:
        return false;
    }
}

int32_t gqmm_isa_best(void)
{
    int32_t best = GQMM_ISA_SCALAR;
    for (int32_t i = 0; i < GQMM_ISA_COUNT; i++)
        best = gqmm_isa_runs(i) ? i : best;
    return best;
}

const char *gqmm_isa_at(int32_t i)
{
    return gqmm_isa_name(i);
}

const char *gqmm_cpu_features(void)
{
#if defined(ALWAYS)
    look_once();
    return text;
#else
    return "";
#endif
}
