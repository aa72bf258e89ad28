/* SPDX-License-Identifier: MIT */
/* Failing in one statement. Knows nothing of quantisation. */
#ifndef GQMM_BASE_STATUS_H
#define GQMM_BASE_STATUS_H

#include "gqmm.h"

#if defined(__GNUC__)
#    define GQMM_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#    define GQMM_PRINTF(fmt, args)
#endif

/* Fills *err (may be NULL) and returns `status`:  return gqmm_fail(err, GQMM_E_ARG, 0, "..."); */
gqmm_status gqmm_fail(gqmm_error *err, gqmm_status status, uint64_t offset, const char *format, ...)
    GQMM_PRINTF(4, 5);

#endif
