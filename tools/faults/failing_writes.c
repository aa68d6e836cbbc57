/* Fails the n-th change that a process makes to the files under a folder, for LD_PRELOAD.
 *
 * FAULT_ROOT   the folder
 * FAULT_AT     which change fails, counted from 1; 0: none
 * FAULT_ERROR  the error's number; 0: the process is killed in its place
 * FAULT_HOW    once: only that change fails; on: every later one too; half: half of a write is done first, then as `on`
 * FAULT_LOG    a file outside the folder that gets a line for each change: what, and which file
 *
 * Changes are: opening a file to write, writing, flushing to disk, renaming, making a folder. Deleting is none, since
 * what makes room has to work.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long count;
static const char *root, *how = "once";
static long at;
static int error, record = -1;

__attribute__((constructor)) static void begin(void) {
  const char *value;
  root = getenv("FAULT_ROOT");
  if ((value = getenv("FAULT_AT"))) at = atol(value);
  if ((value = getenv("FAULT_ERROR"))) error = atoi(value);
  if ((value = getenv("FAULT_HOW"))) how = value;
  if ((value = getenv("FAULT_LOG")))
    record = syscall(SYS_openat, AT_FDCWD, value, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

static int is_under(const char *path) {
  return root && path && !strncmp(path, root, strlen(root)) && path[strlen(root)] == '/';
}

/* 0: let it happen; 1: fail; 2: do half of it, then fail. */
static int decide(const char *what, const char *path) {
  if (!is_under(path)) return 0;
  long number = ++count;
  if (record >= 0) {
    char line[PATH_MAX + 32];
    int length = snprintf(line, sizeof line, "%s %s\n", what, path);
    syscall(SYS_write, record, line, length);
  }
  if (!at || number < at || (number > at && !strcmp(how, "once"))) return 0;
  if (!error) kill(getpid(), SIGKILL);
  errno = error;
  return number == at && !strcmp(how, "half") && strstr(what, "write") ? 2 : 1;
}

static int decide_of(const char *what, int file) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return decide(what, path);
}

static int writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || flags & O_CREAT; }

#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(real))dlsym(RTLD_NEXT, #name)
#define MODE(flags) mode_t mode = 0; if ((flags) & O_CREAT) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *path, int flags, ...) {
  REAL(open);
  MODE(flags)
  return writes(flags) && decide("open", path) ? -1 : real(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
  REAL(open64);
  MODE(flags)
  return writes(flags) && decide("open", path) ? -1 : real(path, flags, mode);
}

int openat(int folder, const char *path, int flags, ...) {
  REAL(openat);
  MODE(flags)
  return writes(flags) && decide("open", path) ? -1 : real(folder, path, flags, mode);
}

int openat64(int folder, const char *path, int flags, ...) {
  REAL(openat64);
  MODE(flags)
  return writes(flags) && decide("open", path) ? -1 : real(folder, path, flags, mode);
}

FILE *fopen(const char *path, const char *mode) {
  REAL(fopen);
  return mode[0] != 'r' && decide("open", path) ? NULL : real(path, mode);
}

FILE *fopen64(const char *path, const char *mode) {
  REAL(fopen64);
  return mode[0] != 'r' && decide("open", path) ? NULL : real(path, mode);
}

ssize_t write(int file, const void *data, size_t size) {
  REAL(write);
  int fails = decide_of("write", file);
  return fails == 1 ? -1 : real(file, data, fails ? (size + 1) / 2 : size);
}

ssize_t writev(int file, const struct iovec *parts, int parts_count) {
  REAL(writev);
  return decide_of("write", file) ? -1 : real(file, parts, parts_count);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t place) {
  REAL(pwrite);
  int fails = decide_of("write", file);
  return fails == 1 ? -1 : real(file, data, fails ? (size + 1) / 2 : size, place);
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t place) {
  REAL(pwrite64);
  int fails = decide_of("write", file);
  return fails == 1 ? -1 : real(file, data, fails ? (size + 1) / 2 : size, place);
}

int fsync(int file) {
  REAL(fsync);
  return decide_of("flush", file) ? -1 : real(file);
}

int fdatasync(int file) {
  REAL(fdatasync);
  return decide_of("flush", file) ? -1 : real(file);
}

int rename(const char *from, const char *to) {
  REAL(rename);
  return decide("rename", to) ? -1 : real(from, to);
}

int renameat(int old_folder, const char *from, int new_folder, const char *to) {
  REAL(renameat);
  return decide("rename", to) ? -1 : real(old_folder, from, new_folder, to);
}

int mkdir(const char *path, mode_t mode) {
  REAL(mkdir);
  struct stat found;  /* one that is there already is no change */
  return stat(path, &found) && decide("mkdir", path) ? -1 : real(path, mode);
}
