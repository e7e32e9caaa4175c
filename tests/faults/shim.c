/* Stands between a node and the system, and lies as it is told.
 *
 * Loaded with LD_PRELOAD. What to lie about stands in the file that
 * KINFOLD_SHIM names, which the test writes and every call here reads:
 *
 *   int64  how far the wall clock is off, in microseconds
 *   int64  not 0: syncing a database file fails with EIO
 *   int64  not 0: writing to a database file fails with ENOSPC
 *
 * Monotonic time is left alone: no system lets that step.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct lies {
    int64_t clock_offset_us;
    int64_t fail_sync;
    int64_t no_space;
};

static volatile struct lies *lies;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("KINFOLD_SHIM");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *at = mmap(NULL, sizeof(struct lies), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (at != MAP_FAILED) lies = at;
}

/* Databases, their logs, and nothing else: the log of the node must go on. */
static int is_database(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    const char *name = strrchr(path, '/');
    return name && strncmp(name, "/items-", 7) == 0;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static int no_space(int fd) {
    if (!lies || !lies->no_space || !is_database(fd)) return 0;
    errno = ENOSPC;
    return 1;
}

static int fails_sync(int fd) {
    if (!lies || !lies->fail_sync || !is_database(fd)) return 0;
    errno = EIO;
    return 1;
}

int fsync(int fd) {
    REAL(fsync);
    return fails_sync(fd) ? -1 : real(fd);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    return fails_sync(fd) ? -1 : real(fd);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    REAL(write);
    return no_space(fd) ? -1 : real(fd, bytes, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    REAL(pwrite);
    return no_space(fd) ? -1 : real(fd, bytes, count, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    REAL(pwrite64);
    return no_space(fd) ? -1 : real(fd, bytes, count, at);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    REAL(clock_gettime);
    int result = real(clock, time);
    if (result == 0 && lies && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t nanoseconds = time->tv_nsec + lies->clock_offset_us % 1000000 * 1000;
        time->tv_sec += lies->clock_offset_us / 1000000;
        if (nanoseconds < 0) {
            nanoseconds += 1000000000;
            time->tv_sec -= 1;
        } else if (nanoseconds >= 1000000000) {
            nanoseconds -= 1000000000;
            time->tv_sec += 1;
        }
        time->tv_nsec = nanoseconds;
    }
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    if (result == 0) {
        time->tv_sec = now.tv_sec;
        time->tv_usec = now.tv_nsec / 1000;
    }
    return result;
}
