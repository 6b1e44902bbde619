/* Stands between a program and the files below one directory: fails what it is told to fail, and writes down what it saw.
 *
 * Preloaded into a collector or an agent by tests (LD_PRELOAD). Three variables of the environment say what to do:
 *
 *   GNOMON_FAULTS_DIR      the directory, as an absolute path without links; everything else is let through unseen
 *   GNOMON_FAULTS_CONTROL  a file of 32 u64, mapped and shared with the test: which calls fail (see `faults/mod.rs`)
 *   GNOMON_FAULTS_JOURNAL  a file that gets a record of each change of a file or a name, in the order in which they
 *                          happened (see `faults/journal.rs`); optional
 *
 * No sync reaches the disk: a process that is killed leaves the kernel's cache whole, so that the journal alone says what
 * would have outlived the power. One lock holds a call and its record together. Calls go to the kernel directly.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FDS 65536

/* What a call is made on, as the control file knows it: bits of `C_KINDS`. */
enum { SEGMENT = 1, LOG = 2, TABLE = 4, MANIFEST = 8, OTHER = 16 };

/* Places in the control file. */
enum {
	C_SEED, C_SYNC_FROM, C_SYNC_UNTIL, C_SYNC_PERMILLE, C_WRITE_FROM, C_WRITE_UNTIL, C_WRITE_PERMILLE, C_WRITE_MODE,
	C_KINDS, C_SYNC_US, C_WRITE_US,
	C_SYNCS = 16, C_WRITES, C_SYNCS_FAILED, C_WRITES_FAILED,
};

enum { MODE_EIO, MODE_ENOSPC, MODE_SHORT, MODE_EROFS };

/* Kinds of records. */
enum { R_OPEN = 1, R_CREATE, R_WRITE, R_TRUNCATE, R_SYNC, R_SYNC_FAILED, R_RENAME, R_LINK, R_UNLINK, R_MKDIR, R_RMDIR };

struct record {
	uint8_t kind;
	uint8_t directory;
	uint16_t path_len;
	uint32_t path2_len;
	uint64_t inode;
	uint64_t offset;
	uint64_t data_len;
};

struct watched {
	uint64_t inode;
	uint8_t kind;
	uint8_t directory;
};

static struct watched watched[FDS];
static char root[PATH_MAX];
static size_t root_len;
static volatile uint64_t *control;
static int journal = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void)
{
	const char *dir = getenv("GNOMON_FAULTS_DIR"), *told = getenv("GNOMON_FAULTS_CONTROL");
	const char *journal_path = getenv("GNOMON_FAULTS_JOURNAL");
	if (!dir || !told || strlen(dir) >= sizeof root)
		return;
	long fd = syscall(SYS_openat, AT_FDCWD, told, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		abort();
	void *map = mmap(NULL, 32 * sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED, (int)fd, 0);
	if (map == MAP_FAILED)
		abort();
	syscall(SYS_close, fd);
	if (journal_path) {
		journal = (int)syscall(SYS_openat, AT_FDCWD, journal_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
		if (journal < 0)
			abort();
	}
	strcpy(root, dir);
	root_len = strlen(root);
	control = map;
}

/* The path below the directory, or NULL when it is none of ours. The collector and RocksDB name files by absolute paths;
 * names relative to an open directory are used to remove directories alone, see unlinkat. */
static const char *ours(const char *path)
{
	if (!control || !path || strncmp(path, root, root_len) != 0)
		return NULL;
	path += root_len;
	if (*path != '/' && *path != '\0')
		return NULL;
	while (*path == '/')
		path++;
	return path;
}

static int ends(const char *path, const char *with)
{
	size_t len = strlen(path), end = strlen(with);
	return len >= end && strcmp(path + len - end, with) == 0;
}

static uint8_t kind_of(const char *path)
{
	if (ends(path, ".seg") || ends(path, ".idx") || ends(path, ".idx.new") || strcmp(path, "segments") == 0)
		return SEGMENT;
	if (ends(path, ".log"))
		return LOG;
	if (ends(path, ".sst"))
		return TABLE;
	if (strstr(path, "MANIFEST-") || strstr(path, "CURRENT") || strcmp(path, "db") == 0 || strcmp(path, "db/") == 0)
		return MANIFEST;
	return OTHER;
}

/* Whether the file behind `fd` is watched; the number may have been given to another one meanwhile. */
static struct watched *of(int fd)
{
	struct stat stat;
	if (!control || fd < 0 || fd >= FDS || watched[fd].inode == 0)
		return NULL;
	if (fstat(fd, &stat) != 0 || stat.st_ino != watched[fd].inode)
		return NULL;
	return &watched[fd];
}

static void put(struct record record, const char *path, const char *path2, const struct iovec *data, int count)
{
	static const struct iovec nothing;
	struct iovec parts[3 + 16];
	int parts_len = 3;
	if (journal < 0)
		return;
	record.path_len = path ? (uint16_t)strlen(path) : 0;
	record.path2_len = path2 ? (uint32_t)strlen(path2) : 0;
	parts[0] = (struct iovec){ &record, sizeof record };
	parts[1] = path ? (struct iovec){ (void *)path, record.path_len } : nothing;
	parts[2] = path2 ? (struct iovec){ (void *)path2, record.path2_len } : nothing;
	uint64_t left = record.data_len;
	for (int i = 0; i < count && left > 0 && parts_len < 19; i++) {
		size_t len = data[i].iov_len < left ? data[i].iov_len : left;
		parts[parts_len++] = (struct iovec){ data[i].iov_base, len };
		left -= len;
	}
	size_t wanted = 0;
	for (int i = 0; i < parts_len; i++)
		wanted += parts[i].iov_len;
	/* A journal with a hole is worth nothing. */
	if (left > 0 || syscall(SYS_writev, journal, parts, parts_len) != (long)wanted)
		abort();
}

static uint64_t chance(void)
{
	static uint64_t state;
	if (state == 0)
		state = control[C_SEED] * 2 + 1;
	state = state * 6364136223846793005u + 1442695040888963407u;
	return (state >> 33) % 1000;
}

/* Both with the lock held. */
static int sync_fails(uint8_t kind)
{
	if (!(control[C_KINDS] & kind))
		return 0;
	uint64_t n = control[C_SYNCS]++;
	int fails = (n >= control[C_SYNC_FROM] && n < control[C_SYNC_UNTIL]) || chance() < control[C_SYNC_PERMILLE];
	control[C_SYNCS_FAILED] += (uint64_t)fails;
	return fails;
}

/* 0, or the error; *len is shortened where that is wanted. */
static int write_fails(uint8_t kind, size_t *len)
{
	if (!(control[C_KINDS] & kind))
		return 0;
	uint64_t n = control[C_WRITES]++;
	if (!(n >= control[C_WRITE_FROM] && n < control[C_WRITE_UNTIL]) && chance() >= control[C_WRITE_PERMILLE])
		return 0;
	uint64_t mode = control[C_WRITE_MODE];
	if (mode == MODE_SHORT) {
		if (!len || *len < 2)
			return 0;
		*len /= 2;
		control[C_WRITES_FAILED]++;
		return 0;
	}
	control[C_WRITES_FAILED]++;
	return mode == MODE_ENOSPC ? ENOSPC : mode == MODE_EROFS ? EROFS : EIO;
}

/* Where nothing at all can be changed: neither shrunk nor named otherwise. */
static int takes_nothing(void)
{
	return control[C_WRITE_MODE] == MODE_EIO || control[C_WRITE_MODE] == MODE_EROFS;
}

/* How long a call takes that stalls. Not with the lock held: other files go on. */
static void stall(uint64_t us)
{
	if (us > 0) {
		struct timespec pause = { .tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000 };
		nanosleep(&pause, NULL);
	}
}

static long fail(int error)
{
	pthread_mutex_unlock(&lock);
	errno = error;
	return -1;
}

static int open_at(int at, const char *path, int flags, mode_t mode)
{
	const char *name = ours(path);
	if (!name)
		return (int)syscall(SYS_openat, at, path, flags, mode);
	pthread_mutex_lock(&lock);
	struct stat before, after;
	int was_there = stat(path, &before) == 0;
	uint8_t kind = kind_of(name);
	int error = (flags & O_CREAT) && !was_there ? write_fails(kind, NULL) : 0;
	if (error)
		return (int)fail(error);
	int fd = (int)syscall(SYS_openat, at, path, flags, mode);
	int said = errno;
	if (fd >= 0 && fd < FDS && fstat(fd, &after) == 0) {
		int directory = S_ISDIR(after.st_mode);
		watched[fd] = (struct watched){ after.st_ino, kind, (uint8_t)directory };
		struct record record = { .kind = was_there ? R_OPEN : R_CREATE, .directory = (uint8_t)directory, .inode = after.st_ino };
		put(record, name, NULL, NULL, 0);
		if (was_there && (flags & O_TRUNC) && before.st_size > 0)
			put((struct record){ .kind = R_TRUNCATE, .inode = after.st_ino }, NULL, NULL, NULL, 0);
	}
	pthread_mutex_unlock(&lock);
	errno = said;
	return fd;
}

static mode_t mode_of(int flags, va_list list)
{
	return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(list, mode_t) : 0;
}

#define OPEN(name, ...)                                         \
	int name(__VA_ARGS__ const char *path, int flags, ...)  \
	{                                                       \
		va_list list;                                   \
		va_start(list, flags);                          \
		mode_t mode = mode_of(flags, list);             \
		va_end(list);                                   \
		return open_at(AT, path, flags, mode);          \
	}
#define AT AT_FDCWD
OPEN(open)
OPEN(open64)
#undef AT
#define AT at
OPEN(openat, int at,)
OPEN(openat64, int at,)
#undef AT

int close(int fd)
{
	if (control && fd >= 0 && fd < FDS)
		watched[fd].inode = 0;
	return (int)syscall(SYS_close, fd);
}

/* `offset` < 0: where the file stands. */
static ssize_t write_at(int fd, const struct iovec *data, int count, off_t offset)
{
	struct watched *file = of(fd);
	if (!file)
		return offset < 0 ? syscall(SYS_writev, fd, data, count) : syscall(SYS_pwritev, fd, data, count, offset, 0);
	if (control[C_KINDS] & file->kind)
		stall(control[C_WRITE_US]);
	pthread_mutex_lock(&lock);
	struct iovec one;
	size_t len = 0;
	for (int i = 0; i < count; i++)
		len += data[i].iov_len;
	size_t wanted = len;
	int error = write_fails(file->kind, &len);
	if (error)
		return fail(error);
	if (len < wanted && count > 0) {
		one = data[0];
		one.iov_len = len < one.iov_len ? len : one.iov_len;
		data = &one;
		count = 1;
	}
	off_t at = offset;
	if (at < 0) {
		struct stat stat;
		int appends = fcntl(fd, F_GETFL) & O_APPEND;
		at = appends && fstat(fd, &stat) == 0 ? stat.st_size : lseek(fd, 0, SEEK_CUR);
	}
	ssize_t written = offset < 0 ? syscall(SYS_writev, fd, data, count) : syscall(SYS_pwritev, fd, data, count, offset, 0);
	int said = errno;
	if (written > 0) {
		struct record record = { .kind = R_WRITE, .inode = file->inode, .offset = (uint64_t)at, .data_len = (uint64_t)written };
		put(record, NULL, NULL, data, count);
	}
	pthread_mutex_unlock(&lock);
	errno = said;
	return written;
}

ssize_t write(int fd, const void *data, size_t len)
{
	if (!of(fd))
		return syscall(SYS_write, fd, data, len);
	struct iovec one = { (void *)data, len };
	return write_at(fd, &one, 1, -1);
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t offset)
{
	struct iovec one = { (void *)data, len };
	return write_at(fd, &one, 1, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t len, off64_t offset)
{
	return pwrite(fd, data, len, offset);
}

ssize_t writev(int fd, const struct iovec *data, int count)
{
	return of(fd) ? write_at(fd, data, count, -1) : syscall(SYS_writev, fd, data, count);
}

ssize_t pwritev(int fd, const struct iovec *data, int count, off_t offset)
{
	return write_at(fd, data, count, offset);
}

ssize_t pwritev64(int fd, const struct iovec *data, int count, off64_t offset)
{
	return write_at(fd, data, count, offset);
}

static int sync_one(int fd, long call)
{
	struct watched *file = of(fd);
	if (!file)
		return (int)syscall(call, fd);
	stall(control[C_SYNC_US]);
	pthread_mutex_lock(&lock);
	int fails = sync_fails(file->kind);
	struct record record = { .kind = fails ? R_SYNC_FAILED : R_SYNC, .directory = file->directory, .inode = file->inode };
	put(record, NULL, NULL, NULL, 0);
	pthread_mutex_unlock(&lock);
	errno = EIO;
	return fails ? -1 : 0;
}

int fsync(int fd)
{
	return sync_one(fd, SYS_fsync);
}

int fdatasync(int fd)
{
	return sync_one(fd, SYS_fdatasync);
}

/* Promises nothing of what outlives the power: not written down. */
int sync_file_range(int fd, off64_t offset, off64_t len, unsigned int flags)
{
	struct watched *file = of(fd);
	/* Without flags it asks whether there is such a call, which touches no disk. */
	if (!file || flags == 0)
		return (int)syscall(SYS_sync_file_range, fd, offset, len, flags);
	pthread_mutex_lock(&lock);
	int fails = sync_fails(file->kind);
	pthread_mutex_unlock(&lock);
	errno = EIO;
	return fails ? -1 : 0;
}

int ftruncate(int fd, off_t len)
{
	struct watched *file = of(fd);
	if (!file)
		return (int)syscall(SYS_ftruncate, fd, len);
	pthread_mutex_lock(&lock);
	/* Shrinking takes no room. */
	int error = takes_nothing() ? write_fails(file->kind, NULL) : 0;
	if (error)
		return (int)fail(error);
	long done = syscall(SYS_ftruncate, fd, len);
	int said = errno;
	if (done == 0)
		put((struct record){ .kind = R_TRUNCATE, .inode = file->inode, .offset = (uint64_t)len }, NULL, NULL, NULL, 0);
	pthread_mutex_unlock(&lock);
	errno = said;
	return (int)done;
}

int ftruncate64(int fd, off64_t len)
{
	return ftruncate(fd, len);
}

int fallocate(int fd, int mode, off_t offset, off_t len)
{
	struct watched *file = of(fd);
	if (!file)
		return (int)syscall(SYS_fallocate, fd, mode, offset, len);
	pthread_mutex_lock(&lock);
	int error = control[C_WRITE_MODE] == MODE_SHORT ? 0 : write_fails(file->kind, NULL);
	if (error)
		return (int)fail(error);
	struct stat stat;
	long done = syscall(SYS_fallocate, fd, mode, offset, len);
	int said = errno;
	/* Room alone is no content; a longer file is. */
	if (done == 0 && mode == 0 && fstat(fd, &stat) == 0 && offset + len == stat.st_size)
		put((struct record){ .kind = R_TRUNCATE, .inode = file->inode, .offset = (uint64_t)stat.st_size }, NULL, NULL, NULL, 0);
	pthread_mutex_unlock(&lock);
	errno = said;
	return (int)done;
}

int fallocate64(int fd, int mode, off64_t offset, off64_t len)
{
	return fallocate(fd, mode, offset, len);
}

/* A change of names. Where room is short they work still. */
static int rename_one(uint8_t what, const char *from, const char *to, long (*call)(const char *, const char *))
{
	const char *name = ours(from), *name2 = to ? ours(to) : NULL;
	if (!name || (to && !name2))
		return (int)call(from, to);
	pthread_mutex_lock(&lock);
	int error = takes_nothing() ? write_fails(kind_of(name2 ? name2 : name), NULL) : 0;
	if (error)
		return (int)fail(error);
	long done = call(from, to);
	int said = errno;
	if (done == 0)
		put((struct record){ .kind = what, .directory = what == R_MKDIR }, name, name2, NULL, 0);
	pthread_mutex_unlock(&lock);
	errno = said;
	return (int)done;
}

static long do_rename(const char *from, const char *to)
{
	return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

static long do_link(const char *from, const char *to)
{
	return syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
}

static long do_unlink(const char *path, const char *none)
{
	(void)none;
	return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

static long do_rmdir(const char *path, const char *none)
{
	(void)none;
	return syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
}

static __thread mode_t mkdir_mode;

static long do_mkdir(const char *path, const char *none)
{
	(void)none;
	return syscall(SYS_mkdirat, AT_FDCWD, path, mkdir_mode);
}

int rename(const char *from, const char *to)
{
	return rename_one(R_RENAME, from, to, do_rename);
}

int renameat(int from_at, const char *from, int to_at, const char *to)
{
	if (ours(from) && ours(to))
		return rename(from, to);
	return (int)syscall(SYS_renameat2, from_at, from, to_at, to, 0);
}

int link(const char *from, const char *to)
{
	return rename_one(R_LINK, from, to, do_link);
}

int linkat(int from_at, const char *from, int to_at, const char *to, int flags)
{
	if (ours(from) && ours(to))
		return link(from, to);
	return (int)syscall(SYS_linkat, from_at, from, to_at, to, flags);
}

int unlink(const char *path)
{
	return rename_one(R_UNLINK, path, NULL, do_unlink);
}

int unlinkat(int at, const char *path, int flags)
{
	if (flags == 0 && ours(path))
		return unlink(path);
	return (int)syscall(SYS_unlinkat, at, path, flags);
}

int rmdir(const char *path)
{
	return rename_one(R_RMDIR, path, NULL, do_rmdir);
}

int mkdir(const char *path, mode_t mode)
{
	mkdir_mode = mode;
	return rename_one(R_MKDIR, path, NULL, do_mkdir);
}
