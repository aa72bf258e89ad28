/* SPDX-License-Identifier: MIT */
/* libFuzzer: safetensors. Mutation alone would hardly ever keep the header's length true, so inputs
 * whose byte 7 is zero get it repaired: the header then ends behind the last brace. Built like
 * fuzz_gguf.c. */
#include "walk.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *bytes = malloc(size ? size : 1);

    if (!bytes)
        return 0;
    if (size)
        memcpy(bytes, data, size);
    if (size >= 9 && bytes[7] == 0) {
        uint64_t length = size - 8;
        while (length > 0 && bytes[8 + length - 1] != '}')
            length--;
        memcpy(bytes, &length, 8);
        bytes[8] = '{';
    }
    walk(bytes, size, NULL, NULL);
    free(bytes);
    return 0;
}
