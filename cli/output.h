/* SPDX-License-Identifier: MIT */
/* Words to people: sentences and progress on standard error, tables and JSON on standard output. */
#ifndef GQMM_CLI_OUTPUT_H
#define GQMM_CLI_OUTPUT_H

#include <gqmm.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* "gqmm: sentence" on standard error. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The library's error about a file: "gqmm: PATH: sentence (byte 24)". */
void say_error(const char *path, const gqmm_error *err);

/* True if codes for bold text may go to this stream: a terminal, and NO_COLOR is not set. */
bool colours(FILE *stream);
const char *bold(FILE *stream);  /* code or "" */
const char *plain(FILE *stream); /* code or "" */

/* A line that replaces itself; silent unless standard error is a terminal. */
void progress(const char *format, ...) __attribute__((format(printf, 1, 2)));
void progress_clear(void);

/* "11.2 MB", "18.2 M"; each returns `to`. */
typedef struct text32 {
    char s[32];
} text32;
text32 size_text(double bytes);
text32 count_text(double count);

double seconds_now(void); /* monotonic */
int64_t peak_memory(void);

/* A copy with control characters, direction marks and bytes that are no UTF-8 written as escapes,
 * safe to show on a terminal. The caller frees it. */
char *escaped(const char *text, size_t length);

/* Memory or the end of the program: sizes here are small or checked by the caller. */
void *need(size_t count, size_t size);
void *need_more(void *memory, size_t count, size_t size);

/* A JSON string of any bytes; those that are no UTF-8 become U+FFFD. */
json_t *json_text(const char *text, size_t length);
json_t *json_seconds(double seconds); /* rounded to microseconds */
json_t *json_ratio(double value);     /* null unless finite */
/* Writes the object to standard output, releases it and returns the exit code. */
int json_finish(json_t *object);
/* Flushes standard output; CLI_FAILURE, with a sentence, if anything could not be written. */
int output_finish(void);

#endif
