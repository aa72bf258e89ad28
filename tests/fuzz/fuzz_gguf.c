/* SPDX-License-Identifier: MIT */
/* libFuzzer: arbitrary bytes behind the magic of GGUF.
 *     clang -g -O1 -fsanitize=fuzzer,address,undefined -Iinclude -Isrc tests/fuzz/fuzz_gguf.c \
 *         src/io/(all).c src/base/(all).c src/format/(all).c -ljansson -lm
 *     ./a.out tests/fuzz/corpus/gguf */
#include "walk.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *bytes = malloc(size ? size : 1); /* of exactly this size, so that a byte more faults */

    if (!bytes)
        return 0;
    if (size)
        memcpy(bytes, data, size);
    if (size >= 4)
        memcpy(bytes, "GGUF", 4);
    walk(bytes, size, NULL, NULL);
    free(bytes);
    return 0;
}
