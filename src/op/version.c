/* SPDX-License-Identifier: MIT */
#include "gqmm.h"

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

const char *gqmm_version(void)
{
    return TEXT(GQMM_VERSION_MAJOR) "." TEXT(GQMM_VERSION_MINOR) "." TEXT(GQMM_VERSION_PATCH);
}

const char *gqmm_status_name(gqmm_status status)
{
    static const char *const names[] = {"GQMM_OK",       "GQMM_E_ARG",   "GQMM_E_SHAPE",
                                        "GQMM_E_INDEX",  "GQMM_E_NOMEM", "GQMM_E_UNSUPPORTED",
                                        "GQMM_E_FORMAT", "GQMM_E_IO",    "GQMM_E_DEVICE"};
    if (status < 0 || (size_t)status >= sizeof names / sizeof *names)
        return "unknown status";
    return names[status];
}
