/* SPDX-License-Identifier: MIT */
/* What is a character: well-formed UTF-8 as Unicode defines it (no surrogates, no overlong forms,
 * nothing above U+10FFFF), which is also what PCRE2 takes on trust. */
#ifndef GQMM_MODEL_UTF8_H
#define GQMM_MODEL_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of the character at s[0, n), n >= 1: 1 to 4; 0 if no character starts so; -1 if the n
 * bytes are the beginning of a character and nothing else. */
int32_t gqmm_utf8_char(const uint8_t *s, size_t n);

/* Length of the well-formed text at the start of s[0, n). */
size_t gqmm_utf8_valid(const uint8_t *s, size_t n);

#endif
