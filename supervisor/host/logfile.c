/* logfile.c: opening, lines, the tail in memory, and reading back from disk. */
#include "host/logfile_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "base/buffer.h"
#include "base/text.h"

enum {
        TAIL_MAX = LOGFILE_TAIL_BYTES - 1, /* NUL follows */
        READ_LAST_MAX = 1 << 20,
        READ_BACK = 64 << 10,
        ROTATE_MIN = 4096,
};

/* --- the tail ----------------------------------------------------------------------------------------------------- */

static void tail_drop_line(struct tail *t)
{
        size_t n = 0;

        while (n < t->len && t->ring[(t->start + n) % TAIL_MAX] != '\n')
                n++;
        n = MIN(n + 1, t->len);
        t->start = (t->start + n) % TAIL_MAX;
        t->len -= n;
}

static void tail_append(struct tail *t, const char *data, size_t len)
{
        size_t at = (t->start + t->len) % TAIL_MAX, first = MIN(len, TAIL_MAX - at);

        memcpy(t->ring + at, data, first);
        memcpy(t->ring, data + first, len - first);
        t->len += len;
        t->end += len;
}

static void tail_put(struct tail *t, const char *line, size_t len)
{
        if (!t->ring && !(t->ring = malloc(LOGFILE_TAIL_BYTES)))
                return; /* the line is on disk */
        if (t->len > 0) /* tail_text may have put NUL there */
                t->ring[(t->start + t->len - 1) % TAIL_MAX] = '\n';
        while (t->len + len + 1 > TAIL_MAX)
                tail_drop_line(t);
        tail_append(t, line, len);
        tail_append(t, "\n", 1);
}

/* The tail in one piece, without its last newline. */
static char *tail_text(struct tail *t)
{
        static char whole[LOGFILE_TAIL_BYTES], empty[1];
        size_t first;

        if (t->len == 0)
                return empty;
        if (t->start + t->len > TAIL_MAX) {
                first = TAIL_MAX - t->start;
                memcpy(whole, t->ring + t->start, first);
                memcpy(whole + first, t->ring, t->len - first);
                memcpy(t->ring, whole, t->len);
                t->start = 0;
        }
        t->ring[t->start + t->len - 1] = '\0';
        return t->ring + t->start;
}

/* --- lines -------------------------------------------------------------------------------------------------------- */

static void give_line(struct logfile *f, char *line, size_t len, usec_t now)
{
        while (len > 0 && line[len - 1] == '\r')
                len--;
        len = text_harmless_n(line, len);
        f->counts.lines++;
        tail_put(&f->tail, line, len);
        f->on_line(f->owner, line, len, now);
}

/* The beginning of a line that is too long; not in the middle of a character. */
static void give_cut_line(struct logfile *f, char *line, usec_t now)
{
        size_t len = LOGFILE_LINE_MAX;

        for (unsigned i = 0; i < 3 && ((unsigned char)line[len] & 0xc0) == 0x80; i++)
                len--;
        give_line(f, line, len, now);
}

/* Gives out the lines in buf[0..len), which stand at f->read_off, and moves that on. */
static void take_lines(struct logfile *f, char *buf, size_t len, bool final, usec_t now)
{
        size_t at = 0, line;
        char *nl;

        if (f->cutting) {
                nl = memchr(buf, '\n', len);
                at = nl ? (size_t)(nl + 1 - buf) : len;
                f->counts.skipped_bytes += at;
                f->cutting = !nl;
        }
        while (at < len) {
                nl = memchr(buf + at, '\n', len - at);
                line = nl ? (size_t)(nl - (buf + at)) : len - at;
                if (line > LOGFILE_LINE_MAX) {
                        give_cut_line(f, buf + at, now);
                        f->counts.skipped_bytes += line - LOGFILE_LINE_MAX;
                        f->cutting = !nl;
                } else if (nl || final) {
                        give_line(f, buf + at, line, now);
                } else {
                        break; /* read again when it is whole: no memory is kept for halves of lines */
                }
                at += line + (nl != NULL);
        }
        f->read_off += at;
}

static void skip_to(struct logfile *f, uint64_t off, usec_t now)
{
        uint64_t skipped = off - f->read_off;
        char size[16], line[96];
        int n;

        n = snprintf(line, sizeof line, "--- %s of output skipped: written faster than it is read",
                     text_size(skipped, size, sizeof size));
        f->counts.skipped_bytes += skipped;
        f->skipped_since = true;
        f->read_off = off;
        f->cutting = true; /* we are most likely in the middle of a line */
        give_line(f, line, (size_t)n, now);
}

size_t logfile_read(struct logfile *f, char *buffer, size_t max, bool final, usec_t now, bool *ret_more)
{
        uint64_t size, end, fresh;
        struct stat st;
        ssize_t n;

        *ret_more = false;
        if (fstat(f->file->fd, &st) < 0) {
                f->counts.errors++;
                return 0;
        }
        size = (uint64_t)st.st_size;
        if (size < f->scanned) { /* truncated by somebody else */
                f->data_start = f->read_off = f->scanned = 0;
                f->cutting = false;
        }
        if (size == f->scanned && !(final && f->read_off < size))
                return 0;
        if (size - f->read_off > (final ? CHUNK : BACKLOG_MAX))
                skip_to(f, size - CHUNK, now);
        n = pread(f->file->fd, buffer, max, (off_t)f->read_off);
        if (n < 0) {
                f->counts.errors += errno != EINTR;
                return 0;
        }
        end = f->read_off + (uint64_t)n;
        fresh = MAX(f->read_off, f->scanned); /* half a line was read before */
        f->counts.bytes += end > fresh ? end - fresh : 0;
        f->scanned = end;
        take_lines(f, buffer, (size_t)n, final && f->scanned >= size, now);
        *ret_more = f->scanned < size;
        return (size_t)n;
}

/* --- opening ------------------------------------------------------------------------------------------------------ */

struct shared_fd *shared_fd_unref(struct shared_fd *file)
{
        if (!file || --file->refs > 0)
                return NULL;
        (void)close(file->fd);
        free(file);
        return NULL;
}

static int open_file(const char *path, struct shared_fd **ret)
{
        struct shared_fd *file;
        struct stat st;

        /* Read too: we follow by the same descriptor. O_NONBLOCK is for a FIFO in our place, and means nothing to a file. */
        _cleanup_close_ int fd = open(
                path, O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0640);
        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
                return -EINVAL;
        file = malloc(sizeof *file);
        if (!file)
                return -ENOMEM;
        *file = (struct shared_fd){.fd = steal_fd(&fd), .refs = 1};
        *ret = file;
        return 0;
}

/* Where the data of a file begins that an earlier daemon may have punched: after the hole, and after the zeros in the block
 * that the hole only reached into. */
static uint64_t find_data(int fd, uint64_t size)
{
        off_t at = lseek(fd, 0, SEEK_DATA);
        _cleanup_free_ char *block = NULL;
        ssize_t n, i = 0;

        if (at < 0)
                return errno == ENXIO ? size : 0;
        if (at == 0)
                return 0;
        block = malloc(READ_BACK);
        n = block ? pread(fd, block, READ_BACK, at) : 0;
        while (i < n && block[i] == '\0')
                i++;
        return (uint64_t)(at + i);
}

static void start_at_end(struct logfile *f)
{
        struct stat st;

        if (fstat(f->file->fd, &st) < 0)
                st.st_size = 0;
        f->read_off = f->scanned = (uint64_t)st.st_size;
        f->data_start = MIN(find_data(f->file->fd, f->read_off), f->read_off);
        f->cutting = false;
}

/* What an earlier daemon's child said last is evidence, should it die now. */
static void load_tail(struct logfile *f)
{
        _cleanup_free_ char *text = NULL;
        char *line, *nl;
        size_t len;

        if (logfile_read_last(f, 200, TAIL_MAX, &text, &len) < 0)
                return;
        for (line = text; (nl = strchr(line, '\n')); line = nl + 1)
                tail_put(&f->tail, line, (size_t)(nl - line));
}

int logfile_open(struct loop *loop, const char *dir, const char *name, const struct logfile_limits *limits,
                 logfile_line_fn *on_line, void *owner, struct logfile **ret)
{
        struct logfile *f;
        int r;

        if (!text_is_name(name))
                return -EINVAL;
        f = calloc(1, sizeof *f);
        if (!f)
                return -ENOMEM;
        f->loop = loop;
        f->on_line = on_line;
        f->owner = owner;
        f->wd = -1;
        f->limits = limits ? *limits : (struct logfile_limits){.rotate_at = 10 << 20, .keep = 3};
        f->limits.rotate_at = MAX(f->limits.rotate_at, (uint64_t)ROTATE_MIN);
        f->limits.keep = MIN(f->limits.keep, 1000u);
        f->dir = strdup(dir);
        f->name = strdup(name);
        f->path = text_format("%s/%s.log", dir, name);
        r = f->dir && f->name && f->path ? 0 : -ENOMEM;
        if (r == 0 && hub_has_path(loop, f->path))
                r = -EBUSY;
        if (r == 0)
                r = open_file(f->path, &f->file);
        if (f->file) {
                start_at_end(f);
                r = hub_join(f);
        }
        if (r < 0) {
                (void)logfile_close(f);
                return r;
        }
        rotation_attach(f);
        load_tail(f);
        *ret = f;
        return 0;
}

struct logfile *logfile_close(struct logfile *f)
{
        if (!f)
                return NULL;
        hub_leave(f);
        rotation_forget(f);
        (void)shared_fd_unref(f->file);
        free(f->tail.ring);
        free(f->dir);
        free(f->name);
        free(f->path);
        free(f);
        return NULL;
}

/* --- use ---------------------------------------------------------------------------------------------------------- */

int logfile_fd(const struct logfile *f)
{
        return f->file->fd;
}

const char *logfile_path(const struct logfile *f)
{
        return f->path;
}

void logfile_catch_up(struct logfile *f, usec_t now)
{
        bool more = true;

        /* A grandchild may go on writing; what was there when we came is two rounds at most. */
        for (unsigned round = 0; round < 3 && more; round++)
                (void)logfile_read(f, hub_buffer(f->hub), CHUNK, true, now, &more);
        rotation_check(f, now);
}

/* Somebody deleted the file, or moved it away: the next child writes to a new one. */
static void replace_if_gone(struct logfile *f)
{
        struct shared_fd *fresh = NULL;
        struct stat ours, there;

        if (fstat(f->file->fd, &ours) == 0 && lstat(f->path, &there) == 0 && ours.st_ino == there.st_ino &&
            ours.st_dev == there.st_dev)
                return;
        (void)open_file(f->path, &fresh);
        if (!fresh) {
                f->counts.errors++;
                return;
        }
        rotation_forget(f);
        (void)shared_fd_unref(f->file);
        f->file = fresh;
        start_at_end(f);
        hub_file_replaced(f);
}

void logfile_child_is_down(struct logfile *f)
{
        f->down = true;
        replace_if_gone(f);
        rotation_check(f, loop_now(f->loop));
}

void logfile_note(struct logfile *f, const char *fmt, ...)
{
        char text[1024], last = '\n';
        struct iovec parts[3];
        struct stat st;
        va_list ap;
        size_t n;
        int r;

        va_start(ap, fmt);
        r = vsnprintf(text, sizeof text, fmt, ap);
        va_end(ap);
        if (r < 0)
                return;
        n = text_harmless(text);
        /* The child may have died in the middle of a line. */
        if (fstat(f->file->fd, &st) == 0 && st.st_size > 0)
                (void)!pread(f->file->fd, &last, 1, st.st_size - 1);
        parts[0] = (struct iovec){.iov_base = (char *)"\n", .iov_len = last != '\n'};
        parts[1] = (struct iovec){.iov_base = text, .iov_len = n};
        parts[2] = (struct iovec){.iov_base = (char *)"\n", .iov_len = 1};
        if (writev(f->file->fd, parts, 3) != (ssize_t)(n + 1 + parts[0].iov_len))
                f->counts.errors++;
}

const char *logfile_tail(const struct logfile *f)
{
        return tail_text((struct tail *)&f->tail); /* only its place in memory changes */
}

void logfile_mark(struct logfile *f)
{
        f->tail.mark = f->tail.end;
        f->down = false;
}

const char *logfile_tail_since_mark(const struct logfile *f)
{
        const char *text = logfile_tail(f);
        uint64_t begin = f->tail.end - f->tail.len;

        if (f->tail.mark >= f->tail.end)
                return "";
        return f->tail.mark > begin ? text + (f->tail.mark - begin) : text;
}

const struct logfile_counts *logfile_counts(const struct logfile *f)
{
        return &f->counts;
}

/* --- reading back ------------------------------------------------------------------------------------------------- */

/* Bytes gathered from the end towards the front: data + max - len is where they begin. */
struct backlog {
        char *data;
        size_t max, len, lines, lines_wanted;
        bool cut; /* the first line is only its end */
        bool full;
};

/* Keeps what comes after the newline that ends the last unwanted line. */
static void trim_front(struct backlog *b, size_t fresh)
{
        char *begin = b->data + b->max - b->len;

        for (size_t i = fresh; i-- > 0;) {
                if (begin[i] != '\n' || (b->len - i == 1)) /* the newline that ends it all is no boundary */
                        continue;
                if (++b->lines == b->lines_wanted) {
                        b->len -= i + 1;
                        b->cut = false;
                        b->full = true;
                        return;
                }
        }
}

static int gather(struct backlog *b, int fd, uint64_t start, uint64_t end)
{
        size_t want;
        ssize_t n;

        while (end > start && !b->full) {
                want = (size_t)MIN((uint64_t)MIN((size_t)READ_BACK, b->max - b->len), end - start);
                if (want == 0) {
                        b->full = b->cut = true;
                        break;
                }
                n = pread(fd, b->data + b->max - b->len - want, want, (off_t)(end - want));
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if ((size_t)n < want) { /* truncated under our hands: what is gone is gone */
                        end = end - want + (uint64_t)n;
                        if (n == 0)
                                break;
                        continue;
                }
                b->len += want;
                end -= want;
                trim_front(b, want);
        }
        return 0;
}

static int put_harmless(struct backlog *b, struct buffer *out)
{
        char *at = b->data + b->max - b->len, *end = b->data + b->max, *nl;
        size_t len;

        if (b->cut && (nl = memchr(at, '\n', (size_t)(end - at))) && nl + 1 < end)
                at = nl + 1;
        for (; at < end; at = nl + 1) {
                nl = memchr(at, '\n', (size_t)(end - at));
                if (!nl)
                        nl = end;
                len = MIN((size_t)(nl - at), (size_t)LOGFILE_LINE_MAX);
                while (len > 0 && at[len - 1] == '\r')
                        len--;
                len = text_harmless_n(at, len);
                if (buffer_append(out, at, len) < 0 || buffer_putc(out, '\n') < 0)
                        return -ENOMEM;
        }
        return 0;
}

static int gather_all(struct logfile *f, bool told, struct backlog *b)
{
        uint64_t start, end;
        struct stat st;
        int r, fd;

        start = rotation_hold(f);
        end = fstat(f->file->fd, &st) < 0 ? 0 : (uint64_t)st.st_size;
        if (told)
                end = MIN(end, f->read_off);
        r = gather(b, f->file->fd, MIN(start, end), end);
        for (unsigned i = 1; r == 0 && !b->full && i <= f->limits.keep; i++) {
                fd = rotation_open(f, i);
                if (fd < 0)
                        break;
                if (fstat(fd, &st) == 0)
                        r = gather(b, fd, 0, (uint64_t)st.st_size);
                (void)close(fd);
        }
        rotation_release(f);
        return r;
}

static int read_last(const struct logfile *f, bool told, unsigned lines, size_t max, char **ret,
                     size_t *ret_len)
{
        struct backlog b = {.max = MIN(max, (size_t)READ_LAST_MAX), .lines_wanted = lines};
        _cleanup_buffer_ struct buffer out;
        int r = 0;

        buffer_init(&out, 0);
        b.full = lines == 0 || b.max == 0;
        b.data = malloc(b.max + 1);
        if (!b.data)
                return -ENOMEM;
        if (!b.full)
                r = gather_all((struct logfile *)f, told, &b);
        if (r == 0)
                r = put_harmless(&b, &out);
        free(b.data);
        if (r < 0)
                return r;
        if (buffer_reserve(&out, 1) < 0) /* "" is a string, too */
                return -ENOMEM;
        *ret_len = out.len;
        *ret = buffer_steal(&out);
        return 0;
}

int logfile_read_last(const struct logfile *f, unsigned lines, size_t max, char **ret, size_t *ret_len)
{
        return read_last(f, false, lines, max, ret, ret_len);
}

int logfile_read_told(const struct logfile *f, unsigned lines, size_t max, char **ret, size_t *ret_len)
{
        return read_last(f, true, lines, max, ret, ret_len);
}
