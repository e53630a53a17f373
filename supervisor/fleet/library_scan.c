/* library_scan.c: the walk through models_dir and the look at one model in it. All of it blocks and runs in the pool. */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>

#include "base/file.h"
#include "base/text.h"
#include "fleet/library_private.h"

enum { WINDOW = 65536, WARNINGS_MAX = 20, SUFFIX = 5 /* ".gguf" */ };

/* --- one header ------------------------------------------------------------------------------------------------------- */

static ssize_t read_file_at(void *owner, uint64_t offset, void *buf, size_t len)
{
        ssize_t n;

        do
                n = pread(*(int *)owner, buf, len, (off_t)offset);
        while (n < 0 && errno == EINTR);
        return n < 0 ? -errno : n;
}

int shelf_read_header(int fd, uint64_t size, struct gguf *ret, char *words, size_t words_size)
{
        const struct gguf_source source = {.read_at = read_file_at, .owner = &fd, .size = size};
        _cleanup_free_ void *window = malloc(WINDOW);
        struct gguf_error e = {0};
        int r = window ? gguf_read(&source, window, WINDOW, ret, &e) : -ENOMEM;

        if (r == -ENOMEM && !e.words[0])
                (void)snprintf(words, words_size, "not enough memory to read its header");
        else if (r < 0)
                (void)snprintf(words, words_size, "%s (at byte %llu)", e.words, (unsigned long long)e.offset);
        else if (gguf_is_cut_off(ret))
                (void)snprintf(words, words_size,
                               "is cut off: %llu of %llu bytes are there (an unfinished copy?)",
                               (unsigned long long)ret->file_size, (unsigned long long)ret->expected_size);
        return r == 0 && gguf_is_cut_off(ret) ? -EBADMSG : r;
}

/* A fifo would block, a device do worse: only a regular file is read, and that it is one is asked of the open file. */
int shelf_open_file(const char *path, struct stat *ret)
{
        _cleanup_close_ int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

        if (fd < 0)
                return -errno;
        if (fstat(fd, ret) < 0)
                return -errno;
        if (S_ISDIR(ret->st_mode))
                return -EISDIR;
        if (!S_ISREG(ret->st_mode))
                return -EINVAL;
        return steal_fd(&fd);
}

static bool lies_below(const char *dir, const char *path)
{
        size_t n = strlen(dir);

        return streq(dir, "/") || (strncmp(path, dir, n) == 0 && path[n] == '/');
}

bool shelf_split_name(const char *file, unsigned *ret_part, unsigned *ret_parts)
{
        size_t n = strlen(file), tail = strlen("-00001-of-00004.gguf");
        unsigned part, parts;
        int used = 0;

        if (n <= tail || sscanf(file + n - tail, "-%5u-of-%5u.gguf%n", &part, &parts, &used) != 2 ||
            (size_t)used != tail || part == 0 || parts == 0 || part > parts)
                return false;
        *ret_part = part;
        *ret_parts = parts;
        return true;
}

char *shelf_part_name(const char *file, unsigned part, unsigned parts)
{
        return text_format("%.*s-%05u-of-%05u.gguf", (int)(strlen(file) - strlen("-00001-of-00004.gguf")),
                           file, part, parts);
}

/* --- the walk ---------------------------------------------------------------------------------------------------------- */

struct walk {
        struct shelf *shelf;
        const struct shelf *old;
        char *real_dir;
        size_t entries;
        usec_t deadline;
        bool failed, full;
};

static void warn(struct walk *w, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void warn(struct walk *w, const char *fmt, ...)
{
        char *text = NULL;
        va_list ap;

        if (text_list_count(w->shelf->warnings) >= WARNINGS_MAX)
                return;
        va_start(ap, fmt);
        if (vasprintf(&text, fmt, ap) < 0)
                text = NULL;
        va_end(ap);
        if (!text || text_list_add(&w->shelf->warnings, text) < 0)
                w->failed = true;
        free(text);
}

static void set_error(struct walk *w, char **at, const char *fmt, ...) PRINTF_LIKE(3, 4);
static void set_error(struct walk *w, char **at, const char *fmt, ...)
{
        char *text = NULL;
        va_list ap;

        if (*at)
                return; /* the first is the cause */
        va_start(ap, fmt);
        if (vasprintf(&text, fmt, ap) < 0)
                text = NULL;
        va_end(ap);
        *at = text;
        if (!text)
                w->failed = true;
}

static int compare_files(const void *a, const void *b)
{
        return strcmp(((const struct shelf_file *)a)->file, ((const struct shelf_file *)b)->file);
}

static struct shelf_file *find_file(const struct shelf *s, const char *file)
{
        struct shelf_file key = {.file = (char *)(uintptr_t)file};

        return s && s->n ? bsearch(&key, s->files, s->n, sizeof key, compare_files) : NULL;
}

static void read_facts(struct walk *w, struct shelf_file *x)
{
        const struct shelf_file *old = find_file(w->old, x->file);
        _cleanup_close_ int fd = -1;
        char words[256];
        struct stat st = {0};

        fd = shelf_open_file(x->real, &st);
        if (fd < 0) {
                set_error(w, &x->header_error, "%s",
                          fd == -EISDIR   ? "is a folder"
                          : fd == -EINVAL ? "is no regular file"
                                          : strerror(-fd));
                return;
        }
        x->device = st.st_dev;
        x->inode = st.st_ino;
        x->size = (uint64_t)st.st_size;
        x->mtime = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
        if (old && old->read && old->device == x->device && old->inode == x->inode && old->size == x->size &&
            old->mtime == x->mtime) {
                x->facts = old->facts;
                x->read = true;
                if (old->header_error)
                        set_error(w, &x->header_error, "%s", old->header_error);
                return;
        }
        if (shelf_read_header(fd, x->size, &x->facts, words, sizeof words) < 0)
                set_error(w, &x->header_error, "%s", words);
        /* A file that is being written is read again: its time may be in the clock's last tick. */
        x->read = time_realtime() / USEC_PER_SEC > (usec_t)st.st_mtim.tv_sec + 2;
}

static void add_file(struct walk *w, const char *file, bool is_link)
{
        struct shelf *s = w->shelf;
        struct shelf_file *x;

        if (s->n == LIBRARY_FILES_MAX) {
                if (!w->full)
                        warn(w, "there are more than %d model files: only the first are shown",
                             LIBRARY_FILES_MAX);
                w->full = true;
                return;
        }
        if (s->n == s->cap) {
                size_t cap = s->cap ? s->cap * 2 : 32;
                struct shelf_file *grown = reallocarray(s->files, cap, sizeof *grown);

                if (!grown) {
                        w->failed = true;
                        return;
                }
                s->files = grown;
                s->cap = cap;
        }
        x = s->files + s->n++;
        *x = (struct shelf_file){
                .file = strdup(file), .path = text_format("%s/%s", s->dir, file), .parts = 1};
        if (!x->file || !x->path) {
                w->failed = true;
                return;
        }
        if (is_link) {
                x->real = realpath(x->path, NULL);
                if (!x->real)
                        set_error(w, &x->header_error, "is a symlink that leads nowhere: %s",
                                  strerror(errno));
                else if (!lies_below(w->real_dir, x->real))
                        set_error(w, &x->header_error,
                                  "is a symlink that leads out of models_dir: it is not followed");
        } else {
                x->real = text_format("%s/%s", w->real_dir, file);
                w->failed = w->failed || !x->real;
        }
        if (!x->header_error && x->real)
                read_facts(w, x);
}

static bool is_model_name(const char *name)
{
        size_t n = strlen(name);

        return n > SUFFIX && strcasecmp(name + n - SUFFIX, ".gguf") == 0;
}

/* rel: "" or "sub/"; takes fd over. */
static void walk_folder(struct walk *w, int fd, const char *rel, unsigned depth)
{
        DIR *d = fdopendir(fd);
        const struct dirent *e;

        if (!d) {
                close_fd(&fd);
                w->failed = true;
                return;
        }
        while (!w->failed && !w->full && (e = readdir(d))) {
                _cleanup_free_ char *file = NULL;
                struct stat st = {0};
                int sub;

                if (e->d_name[0] == '.')
                        continue;
                if (++w->entries > LIBRARY_ENTRIES_MAX || time_monotonic() > w->deadline) {
                        warn(w, "the folder is too large to be walked through: not all of it was seen");
                        w->full = true;
                        break;
                }
                if (fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                        continue; /* gone meanwhile */
                file = text_format("%s%s", rel, e->d_name);
                if (!file) {
                        w->failed = true;
                        break;
                }
                if (!S_ISDIR(st.st_mode)) {
                        if (is_model_name(e->d_name))
                                add_file(w, file, S_ISLNK(st.st_mode));
                        else if (S_ISLNK(st.st_mode) && fstatat(fd, e->d_name, &st, 0) == 0 &&
                                 S_ISDIR(st.st_mode))
                                warn(w, "%s is a symlink to a folder: it is not looked into", file);
                        continue;
                }
                if (depth == LIBRARY_DEPTH_MAX) {
                        warn(w, "%s lies too deep: it was not looked into", file);
                        continue;
                }
                sub = openat(fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                if (sub < 0) {
                        warn(w, "%s: %s", file, strerror(errno));
                } else {
                        _cleanup_free_ char *deeper = text_format("%s/", file);

                        if (deeper)
                                walk_folder(w, sub, deeper, depth + 1);
                        else
                                close_fd(&sub);
                }
        }
        (void)closedir(d);
}

/* --- what follows from other files ---------------------------------------------------------------------------------------- */

/* Part k of a split model: counted for its first part. */
static void join_part(struct walk *w, struct shelf_file *x, unsigned part, unsigned parts)
{
        _cleanup_free_ char *name = shelf_part_name(x->file, 1, parts);
        struct shelf_file *first = name ? find_file(w->shelf, name) : NULL;

        if (!name) {
                w->failed = true;
                return;
        }
        if (!first) {
                set_error(w, &x->error, "is part %u of a split model, whose first part %s is not there", part,
                          name);
                return;
        }
        x->hidden = true;
        first->parts++;
        first->all_size += x->size;
        first->all_parameters += x->facts.parameters;
        if (x->header_error)
                set_error(w, &first->error, "part %u: %s", part, x->header_error);
        else if (x->facts.split_count != parts || x->facts.split_no != part - 1)
                set_error(w, &first->error, "part %u: its header says that it is part %u of %u", part,
                          x->facts.split_no + 1, x->facts.split_count);
}

static void judge(struct walk *w, struct shelf_file *x)
{
        unsigned part, parts;

        if (x->header_error) {
                set_error(w, &x->error, "%s", x->header_error);
        } else if (shelf_split_name(x->file, &part, &parts) && part == 1) {
                if (x->parts != parts)
                        set_error(w, &x->error, "%u of its %u parts are there", x->parts, parts);
                if (x->facts.split_count != parts && (parts > 1 || x->facts.split_count))
                        set_error(w, &x->error, "its header says that it has %u parts, its name %u",
                                  x->facts.split_count, parts);
        } else if (x->facts.split_count > 1 && !x->hidden) {
                set_error(w, &x->error,
                          "is part %u of a split model of %u: its name must end in -%05u-of-%05u.gguf",
                          x->facts.split_no + 1, x->facts.split_count, x->facts.split_no + 1,
                          x->facts.split_count);
        } else if (x->facts.kind == GGUF_OTHER) {
                set_error(w, &x->error, "is no model that can be served%s%s",
                          x->facts.type[0] ? ": it calls itself " : "", x->facts.type);
        }
}

static bool is_companion(const struct shelf_file *x)
{
        return !x->header_error && (x->facts.kind == GGUF_MMPROJ || x->facts.kind == GGUF_ADAPTER);
}

static size_t folder_length(const char *file)
{
        const char *slash = strrchr(file, '/');

        return slash ? (size_t)(slash - file) + 1 : 0;
}

/* What is left of a projector's name without "mmproj" and its own quantisation: "mmproj-Qwen2.5-VL-7B-f16.gguf" is of
 * "Qwen2.5-VL-7B". buf of size. */
static void stem_of(const char *name, char *buf, size_t size)
{
        static const char *const tails[] = {"-f16", "-f32",  "-bf16", "-q8_0",
                                            "_f16", "_bf16", ".f16",  "-model"};
        const char *at = strcasestr(name, "mmproj");
        size_t n;

        if (at == name)
                name += strlen("mmproj") + strspn(name + strlen("mmproj"), "-_.");
        (void)snprintf(buf, size, "%s", name);
        at = strcasestr(buf, "mmproj");
        n = at ? (size_t)(at - buf) : strlen(buf) - (is_model_name(buf) ? SUFFIX : 0);
        buf[n] = '\0';
        for (size_t i = 0; i < ARRAY_SIZE(tails); i++)
                if (n > strlen(tails[i]) && strcasecmp(buf + n - strlen(tails[i]), tails[i]) == 0) {
                        n -= strlen(tails[i]);
                        buf[n] = '\0';
                }
        while (n && strchr("-_.", buf[n - 1]))
                buf[--n] = '\0';
}

/* A companion belongs to the only model of its folder, or to those whose name begins like its own. */
static void give_companion(struct walk *w, const struct shelf_file *c)
{
        size_t folder = folder_length(c->file), models = 0;
        char stem[NAME_MAX + 1];

        stem_of(c->file + folder, stem, sizeof stem);
        for (int pass = 0; pass < 2; pass++)
                for (size_t i = 0; i < w->shelf->n; i++) {
                        struct shelf_file *x = w->shelf->files + i;

                        if (x->hidden || x->error || is_companion(x) || folder_length(x->file) != folder ||
                            strncmp(x->file, c->file, folder) != 0)
                                continue;
                        if (pass == 0)
                                models++;
                        else if ((models == 1 ||
                                  (stem[0] && strncasecmp(x->file + folder, stem, strlen(stem)) == 0)) &&
                                 text_list_add(&x->companions, c->file) < 0)
                                w->failed = true;
                }
}

static void conclude(struct walk *w)
{
        struct shelf *s = w->shelf;
        unsigned part, parts;

        if (s->n)
                qsort(s->files, s->n, sizeof *s->files, compare_files);
        for (size_t i = 0; i < s->n; i++) {
                s->files[i].all_size += s->files[i].size;
                s->files[i].all_parameters += s->files[i].facts.parameters;
        }
        for (size_t i = 0; i < s->n && !w->failed; i++)
                if (shelf_split_name(s->files[i].file, &part, &parts) && part > 1)
                        join_part(w, s->files + i, part, parts);
        for (size_t i = 0; i < s->n && !w->failed; i++)
                judge(w, s->files + i);
        for (size_t i = 0; i < s->n && !w->failed; i++)
                if (is_companion(s->files + i))
                        give_companion(w, s->files + i);
}

struct shelf *shelf_free(struct shelf *s)
{
        if (!s)
                return NULL;
        for (size_t i = 0; i < s->n; i++) {
                free(s->files[i].file);
                free(s->files[i].path);
                free(s->files[i].real);
                free(s->files[i].header_error);
                free(s->files[i].error);
                text_list_free(s->files[i].companions);
        }
        free(s->files);
        free(s->dir);
        free(s->error);
        text_list_free(s->warnings);
        free(s);
        return NULL;
}

struct shelf *shelf_scan(const char *dir, const struct shelf *old)
{
        usec_t began = time_monotonic();
        struct walk w = {
                .shelf = calloc(1, sizeof *w.shelf), .old = old, .deadline = began + LIBRARY_SCAN_MAX};
        int fd;

        if (!w.shelf)
                return NULL;
        w.shelf->dir = strdup(dir);
        if (!w.shelf->dir)
                return shelf_free(w.shelf);
        w.real_dir = realpath(dir, NULL);
        fd = w.real_dir ? open(w.real_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
        if (fd < 0)
                set_error(&w, &w.shelf->error, "%s: %s", dir, strerror(errno));
        else
                walk_folder(&w, fd, "", 0);
        conclude(&w);
        free(w.real_dir);
        if (w.failed)
                return shelf_free(w.shelf);
        w.shelf->at = time_monotonic();
        w.shelf->realtime = time_realtime();
        w.shelf->took = usec_sub(w.shelf->at, began);
        return w.shelf;
}

/* --- one model by its name -------------------------------------------------------------------------------------------------- */

static int refuse(struct library_model *m, int r, const char *fmt, ...) PRINTF_LIKE(3, 4);
static int refuse(struct library_model *m, int r, const char *fmt, ...)
{
        va_list ap;

        va_start(ap, fmt);
        (void)vsnprintf(m->words, sizeof m->words, fmt, ap);
        va_end(ap);
        (void)text_harmless(m->words);
        return r < 0 ? r : -EIO;
}

static bool has_dots(const char *path)
{
        for (const char *p = path; p; p = strchr(p, '/')) {
                p += *p == '/';
                if (starts_with(p, "..") && (p[2] == '/' || p[2] == '\0'))
                        return true;
        }
        return false;
}

static int not_there(struct library_model *m, const char *dir, const char *name)
{
        const char *near = NULL;
        char **names = NULL;
        int r;

        if (!strchr(name, '/') && file_list(dir, ".gguf", LIBRARY_FILES_MAX, &names) == 0 && names)
                near = text_nearest(name, (const char *const *)names);
        r = refuse(m, -ENOENT, "there is no %s in %s%s%s%s", name, dir, near ? ": did you mean " : "",
                   near ? near : "", near ? "?" : "");
        text_list_free(names);
        return r;
}

static int check_parts(struct library_model *m, const char *path, const char *name)
{
        unsigned part, parts;

        m->parts = 1;
        if (!shelf_split_name(path, &part, &parts))
                return m->facts.split_count > 1
                               ? refuse(m, -EINVAL,
                                        "%s is part %u of a split model of %u: its name must end in "
                                        "-%05u-of-%05u.gguf",
                                        name, m->facts.split_no + 1, m->facts.split_count,
                                        m->facts.split_no + 1, m->facts.split_count)
                               : 0;
        if (part > 1)
                return refuse(m, -EINVAL, "%s is part %u of a split model: name its first part", name, part);
        for (part = 2; part <= parts; part++) {
                _cleanup_free_ char *other = shelf_part_name(path, part, parts);

                if (!other)
                        return refuse(m, -ENOMEM, "not enough memory");
                if (access(other, R_OK) < 0)
                        return refuse(m, -EBADMSG, "part %u of %u of %s: %s", part, parts, name,
                                      strerror(errno));
        }
        m->parts = parts;
        return 0;
}

static int check_kind(struct library_model *m, const char *name)
{
        switch (m->facts.kind) {
        case GGUF_COMPLETION:
        case GGUF_EMBEDDING:
                return 0;
        case GGUF_PART:
                return refuse(m, -EINVAL, "%s is part %u of a split model: name its first part", name,
                              m->facts.split_no + 1);
        case GGUF_MMPROJ:
                return refuse(m, -EINVAL, "%s is the projector (mmproj) of another model", name);
        case GGUF_ADAPTER:
                return refuse(m, -EINVAL, "%s is an adapter (LoRA) for another model", name);
        case GGUF_OTHER:
                break;
        }
        return refuse(m, -EINVAL, "%s is no model that can be served", name);
}

/* Opens the file that name means: 0 with *ret_fd, *ret_path (as named) and *ret_real. */
static int find_below(const char *dir, const char *name, struct library_model *m, int *ret_fd,
                      struct stat *ret_st, char **ret_path, char **ret_real)
{
        _cleanup_free_ char *real_dir = realpath(dir, NULL), *path = NULL, *real = NULL;
        bool outside;
        int fd;

        if (!real_dir)
                return refuse(m, -errno, "models_dir %s: %s", dir, strerror(errno));
        if (!*name || has_dots(name))
                return refuse(m, -EPERM, "\"%s\" does not name a file in models_dir (%s)", name, dir);
        path = name[0] == '/' ? strdup(name) : text_format("%s/%s", real_dir, name);
        if (!path)
                return refuse(m, -ENOMEM, "not enough memory");
        real = realpath(path, NULL);
        outside = real ? !lies_below(real_dir, real)
                       : name[0] == '/' && !lies_below(dir, name) && !lies_below(real_dir, name);
        /* Of what lies outside nothing is told, not even whether it is there. */
        if (outside)
                return refuse(m, -EPERM,
                              "%s lies outside of models_dir (%s): only what is in there can be used so",
                              name, dir);
        if (!real)
                return errno == ENOENT ? not_there(m, dir, name)
                                       : refuse(m, -errno, "%s: %s", name, strerror(errno));
        fd = shelf_open_file(real, ret_st);
        if (fd < 0)
                return refuse(m, fd == -EISDIR ? -EINVAL : fd, "%s %s", name,
                              fd == -EISDIR   ? "is a folder: name a file in it"
                              : fd == -EINVAL ? "is no regular file"
                                              : strerror(-fd));
        *ret_fd = fd;
        *ret_path = steal_ptr(path);
        *ret_real = steal_ptr(real);
        return 0;
}

int library_find_file(const char *dir, const char *name, struct library_model *ret)
{
        _cleanup_free_ char *real = NULL;
        _cleanup_close_ int fd = -1;
        struct stat st = {0};

        *ret = (struct library_model){.parts = 1};
        return find_below(dir, name, ret, &fd, &st, &ret->path, &real);
}

int library_open_model(const char *dir, const char *name, struct library_model *ret)
{
        _cleanup_free_ char *path = NULL, *real = NULL;
        _cleanup_close_ int fd = -1;
        char words[256];
        struct stat st = {0};
        int r;

        *ret = (struct library_model){0};
        r = find_below(dir, name, ret, &fd, &st, &path, &real);
        if (r < 0)
                return r;
        assert(path && real);
        r = shelf_read_header(fd, (uint64_t)st.st_size, &ret->facts, words, sizeof words);
        if (r < 0)
                return refuse(ret, r, "%s %s", name, words);
        r = check_kind(ret, name);
        /* The parts of a split model are found by their names, which the target of a symlink may not have. */
        if (r == 0)
                r = check_parts(ret, is_model_name(real) ? real : path, name);
        if (r == 0)
                ret->path = is_model_name(real) ? steal_ptr(real) : steal_ptr(path);
        return r;
}
