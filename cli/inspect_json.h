/* SPDX-License-Identifier: MIT */
/* The JSON form of gqmm inspect. */
#ifndef GQMM_CLI_INSPECT_JSON_H
#define GQMM_CLI_INSPECT_JSON_H

#include <gqmm-model.h>
#include <jansson.h>
#include <stdbool.h>

json_t *inspect_json(const gqmm_file *file, const char *path, bool tensors);

#endif
