/* SPDX-License-Identifier: MIT */
#include "io/sink.h"

#include "base/status.h"
#include "io/map.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { GQMM_SINK_BUFFER = 1 << 18 };
enum { MAX_TRIES = 100 }; /* names of temporary files */

static gqmm_status fail_io(gqmm_sink *s, const char *what, const char *path, int number,
                           gqmm_error *err)
{
    char quoted[GQMM_QUOTE_SIZE];
    s->failed = true;
    return gqmm_fail(err, GQMM_E_IO, 0, "cannot %s \"%s\": %s", what, gqmm_quote_path(quoted, path),
                     strerror(number));
}

/* Only a regular file may be replaced, and only when asked to. */
static gqmm_status check_target(const gqmm_sink *s, gqmm_error *err)
{
    char quoted[GQMM_QUOTE_SIZE];
    struct stat st;

    if (lstat(s->path, &st) != 0)
        return GQMM_OK; /* what else is wrong with it, making the temporary file will tell */
    if (!s->overwrite)
        return gqmm_fail(err, GQMM_E_IO, 0, "\"%s\" exists and overwriting was not asked for",
                         gqmm_quote_path(quoted, s->path));
    if (!S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode))
        return gqmm_fail(err, GQMM_E_IO, 0, "\"%s\" is not a regular file and is not replaced",
                         gqmm_quote_path(quoted, s->path));
    return GQMM_OK;
}

/* PATH.tmp-PID-N: open(2) and not mkstemp, so that the umask decides who may read the model. */
static gqmm_status open_temp(gqmm_sink *s, gqmm_error *err)
{
    for (int i = 0; i < MAX_TRIES && s->fd < 0; i++) {
        snprintf(s->temp, s->temp_size, "%s.tmp-%ld-%d", s->path, (long)getpid(), i);
        s->fd = open(s->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (s->fd < 0 && errno != EEXIST && errno != EINTR)
            break;
    }
    return s->fd >= 0 ? GQMM_OK : fail_io(s, "create", s->temp, errno, err);
}

gqmm_status gqmm_sink_open(gqmm_sink *s, const char *path, bool overwrite,
                           const gqmm_allocator *alloc, gqmm_error *err)
{
    gqmm_status status;

    *s = (gqmm_sink){.alloc = *alloc, .fd = -1, .overwrite = overwrite};
    s->path_size = strlen(path) + 1;
    s->temp_size = s->path_size + 48; /* ".tmp-", two numbers */
    s->path = gqmm_alloc(alloc, s->path_size, 1);
    s->temp = gqmm_alloc(alloc, s->temp_size, 1);
    s->buffer = gqmm_alloc_raw(alloc, GQMM_SINK_BUFFER, 1);
    if (!s->path || !s->temp || !s->buffer)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for a write buffer of %d bytes",
                         GQMM_SINK_BUFFER);
    memcpy(s->path, path, s->path_size);
    if ((status = check_target(s, err)) != GQMM_OK)
        return status;
    return open_temp(s, err);
}

static gqmm_status write_all(gqmm_sink *s, const uint8_t *bytes, size_t size, gqmm_error *err)
{
    while (size > 0) {
        const ssize_t n = write(s->fd, bytes, size < (1u << 30) ? size : 1u << 30);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fail_io(s, "write", s->temp, n < 0 ? errno : ENOSPC, err);
        bytes += n;
        size -= (size_t)n;
    }
    return GQMM_OK;
}

static gqmm_status flush(gqmm_sink *s, gqmm_error *err)
{
    const size_t n = s->n_buffered;
    s->n_buffered = 0;
    return write_all(s, s->buffer, n, err);
}

gqmm_status gqmm_sink_write(gqmm_sink *s, const void *bytes, size_t size, gqmm_error *err)
{
    if (s->failed || s->fd < 0)
        return gqmm_fail(err, GQMM_E_IO, 0, "nothing can be written after %s",
                         s->failed ? "a failed write" : "the end");
    if (size > GQMM_SINK_BUFFER - s->n_buffered) {
        const gqmm_status status = flush(s, err);
        if (status != GQMM_OK)
            return status;
    }
    s->n_written += size;
    if (size > GQMM_SINK_BUFFER)
        return write_all(s, bytes, size, err);
    if (size)
        memcpy(s->buffer + s->n_buffered, bytes, size);
    s->n_buffered += size;
    return GQMM_OK;
}

/* The name is durable once its directory is; some file systems cannot sync one (EINVAL). */
static gqmm_status sync_directory(gqmm_sink *s, gqmm_error *err)
{
    char *slash = strrchr(s->temp, '/');
    const char *directory = ".";
    int fd, bad;

    if (slash) {
        slash[slash == s->temp] = 0; /* "/" stays */
        directory = s->temp;
    }
    fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return GQMM_OK; /* a directory may be writable without being readable */
    bad = fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP ? errno : 0;
    close(fd);
    return bad ? fail_io(s, "sync the directory of", s->path, bad, err) : GQMM_OK;
}

/* rename(2) would replace a file that appeared meanwhile; link(2) refuses to. */
static gqmm_status give_name(gqmm_sink *s, gqmm_error *err)
{
    gqmm_status status;

    if (!s->overwrite) {
        if (link(s->temp, s->path) == 0) {
            unlink(s->temp);
            return GQMM_OK;
        }
        if (errno != EPERM && errno != ENOTSUP && errno != ENOSYS && errno != EMLINK)
            return fail_io(s, "finish", s->path, errno, err);
        /* No links on this file system: as good as it gets is to look first. */
        if ((status = check_target(s, err)) != GQMM_OK)
            return status;
    }
    if (rename(s->temp, s->path) != 0)
        return fail_io(s, "finish", s->path, errno, err);
    return GQMM_OK;
}

gqmm_status gqmm_sink_commit(gqmm_sink *s, gqmm_error *err)
{
    gqmm_status status;
    int bad;

    if ((status = gqmm_sink_write(s, NULL, 0, err)) != GQMM_OK ||
        (status = flush(s, err)) != GQMM_OK)
        return status;
    if (fsync(s->fd) != 0 && errno != EINVAL && errno != ENOTSUP)
        return fail_io(s, "flush", s->temp, errno, err);
    bad = close(s->fd) != 0 ? errno : 0; /* network disks report a full one here */
    s->fd = -1;
    if (bad == 0)
        status = give_name(s, err);
    else
        status = fail_io(s, "close", s->temp, bad, err);
    if (status != GQMM_OK) {
        unlink(s->temp);
        return status;
    }
    return sync_directory(s, err);
}

void gqmm_sink_close(gqmm_sink *s)
{
    if (s->fd >= 0) {
        close(s->fd);
        unlink(s->temp);
        s->fd = -1;
    }
    gqmm_release(&s->alloc, s->path, s->path_size, 1);
    gqmm_release(&s->alloc, s->temp, s->temp_size, 1);
    gqmm_release(&s->alloc, s->buffer, GQMM_SINK_BUFFER, 1);
    s->path = s->temp = NULL;
    s->buffer = NULL;
}
