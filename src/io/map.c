/* SPDX-License-Identifier: MIT */
#include "io/map.h"

#include "base/status.h"
#include "gqmm-model.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* A whole file by read(2); the kernel may hand it over in pieces. */
static gqmm_status read_all(gqmm_map *map, int fd, const char *path, const gqmm_allocator *alloc,
                            gqmm_error *err)
{
    char quoted[GQMM_QUOTE_SIZE];
    uint8_t *memory = gqmm_alloc_raw(alloc, map->size, 1);
    size_t n = 0;

    if (!memory)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory to read the %zu bytes of \"%s\"",
                         map->size, gqmm_quote_path(quoted, path));
    map->bytes = memory;
    map->how = GQMM_MAP_READ;
    while (n < map->size) {
        const size_t part = map->size - n < (1u << 30) ? map->size - n : 1u << 30;
        const ssize_t got = read(fd, memory + n, part);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return gqmm_fail(err, GQMM_E_IO, n, "cannot read \"%s\": %s",
                             gqmm_quote_path(quoted, path), strerror(errno));
        if (got == 0)
            return gqmm_fail(err, GQMM_E_IO, n,
                             "\"%s\" shrank from %zu to %zu bytes while it was read",
                             gqmm_quote_path(quoted, path), map->size, n);
        n += (size_t)got;
    }
    return GQMM_OK;
}

static gqmm_status map_fd(gqmm_map *map, int fd, const char *path, uint32_t flags,
                          const gqmm_allocator *alloc, gqmm_error *err)
{
    char quoted[GQMM_QUOTE_SIZE];
    struct stat st;
    void *memory;

    if (fstat(fd, &st) != 0)
        return gqmm_fail(err, GQMM_E_IO, 0, "cannot stat \"%s\": %s", gqmm_quote_path(quoted, path),
                         strerror(errno));
    if (!S_ISREG(st.st_mode))
        return gqmm_fail(err, GQMM_E_IO, 0, "\"%s\" is %s, not a regular file",
                         gqmm_quote_path(quoted, path),
                         S_ISDIR(st.st_mode) ? "a directory" : "a device or a pipe");
    if (st.st_size <= 0)
        return gqmm_fail(err, GQMM_E_FORMAT, 0, "\"%s\" is empty", gqmm_quote_path(quoted, path));
    if ((uint64_t)st.st_size > SIZE_MAX / 2)
        return gqmm_fail(err, GQMM_E_IO, 0, "\"%s\" has %" PRIu64 " bytes, too many to address",
                         gqmm_quote_path(quoted, path), (uint64_t)st.st_size);
    map->size = (size_t)st.st_size;
    if (flags & GQMM_FILE_NO_MMAP)
        return read_all(map, fd, path, alloc, err);
    memory = mmap(NULL, map->size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (memory == MAP_FAILED)
        return gqmm_fail(err, GQMM_E_IO, 0, "cannot map the %zu bytes of \"%s\": %s", map->size,
                         gqmm_quote_path(quoted, path), strerror(errno));
    map->bytes = memory;
    map->how = GQMM_MAP_MAPPED;
    return GQMM_OK;
}

gqmm_status gqmm_map_open(gqmm_map *map, const char *path, uint32_t flags,
                          const gqmm_allocator *alloc, gqmm_error *err)
{
    char quoted[GQMM_QUOTE_SIZE];
    gqmm_status status;
    int fd;

    /* O_NONBLOCK: opening a pipe must not wait for its writer before it is refused. */
    *map = (gqmm_map){0};
    do
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return gqmm_fail(err, GQMM_E_IO, 0, "cannot open \"%s\": %s", gqmm_quote_path(quoted, path),
                         strerror(errno));
    status = map_fd(map, fd, path, flags, alloc, err);
    close(fd);
    if (status != GQMM_OK)
        gqmm_map_close(map, alloc);
    return status;
}

gqmm_status gqmm_map_check(const gqmm_map *map, const char *path, gqmm_error *err)
{
    char quoted[GQMM_QUOTE_SIZE];
    struct stat st;

    if (map->how != GQMM_MAP_MAPPED)
        return GQMM_OK;
    if (stat(path, &st) != 0 || (uint64_t)st.st_size != map->size)
        return gqmm_fail(err, GQMM_E_IO, 0, "\"%s\" changed while it was opened",
                         gqmm_quote_path(quoted, path));
    return GQMM_OK;
}

void gqmm_map_close(gqmm_map *map, const gqmm_allocator *alloc)
{
    if (map->how == GQMM_MAP_MAPPED)
        munmap((void *)(uintptr_t)map->bytes, map->size);
    if (map->how == GQMM_MAP_READ)
        gqmm_release(alloc, (void *)(uintptr_t)map->bytes, map->size, 1);
    *map = (gqmm_map){0};
}

size_t gqmm_cursor_left(const gqmm_cursor *c)
{
    return c->short_read ? 0 : c->size - c->pos;
}

const uint8_t *gqmm_read_bytes(gqmm_cursor *c, uint64_t n)
{
    const uint8_t *p = c->bytes + c->pos;
    if (n > gqmm_cursor_left(c)) {
        c->short_read = true;
        return NULL;
    }
    c->pos += (size_t)n;
    return p;
}

uint32_t gqmm_read_u32(gqmm_cursor *c)
{
    const uint8_t *p = gqmm_read_bytes(c, 4);
    uint32_t v = 0;
    if (p)
        memcpy(&v, p, 4);
    return v;
}

uint64_t gqmm_read_u64(gqmm_cursor *c)
{
    const uint8_t *p = gqmm_read_bytes(c, 8);
    uint64_t v = 0;
    if (p)
        memcpy(&v, p, 8);
    return v;
}

const char *gqmm_quote(char out[GQMM_QUOTE_SIZE], const void *text, size_t length)
{
    const unsigned char *t = text;
    const size_t room = GQMM_QUOTE_SIZE - 1;
    const size_t n = length <= room ? length : room;

    for (size_t i = 0; i < n; i++)
        out[i] = (char)(t[i] < 32 || t[i] > 126 ? '?' : t[i]);
    if (length > room)
        memcpy(out + room - 3, "...", 3);
    out[n] = 0;
    return out;
}

const char *gqmm_quote_path(char out[GQMM_QUOTE_SIZE], const char *path)
{
    const size_t length = strlen(path), room = GQMM_QUOTE_SIZE - 1;

    if (length <= room)
        return gqmm_quote(out, path, length);
    gqmm_quote(out, path + (length - room), room);
    memcpy(out, "...", 3);
    return out;
}
