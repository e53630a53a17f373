/* fake_model.h: reads as much of a GGUF file as llama-server looks at before it says "failed to load model", and finds
 * the few members of a JSON body that matter. Included by fake_llama_server.c alone.
 * Source: GGUF version 3 (github.com/ggml-org/ggml, docs/gguf.md); the words are those of the real program. */
#ifndef FAKE_MODEL_H
#define FAKE_MODEL_H

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/macros.h"

struct model {
        uint64_t n_ctx_train, n_vocab, n_embd, n_params, size;
        char first_error[256];  /* of the reader; "" when it had nothing to say */
        char second_error[512]; /* of the loader; "" when the model is good */
};

struct reader {
        const uint8_t *p, *end;
        bool failed;
};

static uint64_t read_number(struct reader *r, size_t bytes)
{
        uint64_t v = 0;

        if ((size_t)(r->end - r->p) < bytes) {
                r->failed = true;
                r->p = r->end;
                return 0;
        }
        memcpy(&v, r->p, bytes);
        r->p += bytes;
        return v;
}

/* The text lies in the file: not NUL-ended. */
static const char *read_text(struct reader *r, uint64_t *ret_len)
{
        uint64_t n = read_number(r, 8);
        const char *s = (const char *)r->p;

        if (r->failed || n > (uint64_t)(r->end - r->p)) {
                r->failed = true;
                *ret_len = 0;
                return "";
        }
        r->p += n;
        *ret_len = n;
        return s;
}

enum { GGUF_STRING = 8, GGUF_ARRAY = 9 };

/* Skips a value; a number is returned, an array's length too. */
static uint64_t read_value(struct reader *r, uint32_t type)
{
        static const uint8_t SIZE[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
        uint64_t n, i, unused;

        if (type == GGUF_STRING) {
                (void)read_text(r, &unused);
                return 0;
        }
        if (type == GGUF_ARRAY) {
                uint32_t of = (uint32_t)read_number(r, 4);

                n = read_number(r, 8);
                for (i = 0; i < n && !r->failed; i++)
                        (void)read_value(r, of);
                return n;
        }
        if (type >= ARRAY_SIZE(SIZE)) {
                r->failed = true;
                return 0;
        }
        return read_number(r, SIZE[type]);
}

static bool key_ends(const char *key, uint64_t len, const char *suffix)
{
        size_t n = strlen(suffix);

        return len >= n && memcmp(key + len - n, suffix, n) == 0;
}

/* Bytes of a tensor with so many elements; 0 for a type we do not know. */
static uint64_t tensor_bytes(uint32_t type, uint64_t elements)
{
        static const struct {
                uint16_t block, bytes;
        } TYPES[] = {
                [0] = {1, 4},      [1] = {1, 2},      [2] = {32, 18},   [3] = {32, 20},    [6] = {32, 22},
                [7] = {32, 24},    [8] = {32, 34},    [10] = {256, 84}, [11] = {256, 110}, [12] = {256, 144},
                [13] = {256, 176}, [14] = {256, 210}, [30] = {1, 2},
        };

        if (type >= ARRAY_SIZE(TYPES) || TYPES[type].block == 0)
                return 0;
        return elements / TYPES[type].block * TYPES[type].bytes;
}

static void read_gguf(struct model *m, struct reader *r, const char *path)
{
        const uint8_t *start = r->p;
        uint64_t n_tensors, n_kv, i, align = 32, len, base;
        const uint8_t *infos;
        uint32_t version;

        (void)snprintf(m->second_error, sizeof(m->second_error),
                       "llama_model_loader: failed to load model from %s", path);
#define FAIL(...)                                                                                            \
        do {                                                                                                 \
                (void)snprintf(m->first_error, sizeof(m->first_error), __VA_ARGS__);                         \
                return;                                                                                      \
        } while (0)
        if (r->end - r->p < 4)
                FAIL("gguf_init_from_reader: failed to read magic");
        if (memcmp(r->p, "GGUF", 4) != 0)
                FAIL("gguf_init_from_reader: invalid magic characters: '%.4s', expected 'GGUF'",
                     (const char *)r->p);
        r->p += 4;
        version = (uint32_t)read_number(r, 4);
        n_tensors = read_number(r, 8);
        n_kv = read_number(r, 8);
        if (r->failed || version > 3)
                FAIL("gguf_init_from_reader: failed to read header");
        for (i = 0; i < n_kv && !r->failed; i++) {
                const char *key = read_text(r, &len);
                uint64_t v = read_value(r, (uint32_t)read_number(r, 4));

                if (key_ends(key, len, ".context_length"))
                        m->n_ctx_train = v;
                else if (key_ends(key, len, ".embedding_length"))
                        m->n_embd = v;
                else if (key_ends(key, len, "tokenizer.ggml.tokens"))
                        m->n_vocab = v;
                else if (key_ends(key, len, "general.alignment") && v)
                        align = v;
        }
        if (r->failed)
                FAIL("gguf_init_from_reader: failed to read key-value pairs");
        infos = r->p;
        for (i = 0; i < n_tensors && !r->failed; i++) {
                uint64_t dims;

                (void)read_text(r, &len);
                for (dims = read_number(r, 4); dims > 0 && !r->failed; dims--)
                        (void)read_number(r, 8);
                (void)read_number(r, 4);
                (void)read_number(r, 8);
        }
        if (r->failed)
                FAIL("gguf_init_from_reader: failed to read tensor info");
#undef FAIL
        base = ((uint64_t)(r->p - start) + align - 1) / align * align;
        r->p = infos;
        for (i = 0; i < n_tensors; i++) {
                const char *name = read_text(r, &len);
                uint64_t dims = read_number(r, 4), elements = 1, offset, bytes;
                uint32_t type;

                while (dims--)
                        elements *= read_number(r, 8);
                type = (uint32_t)read_number(r, 4);
                offset = read_number(r, 8);
                bytes = tensor_bytes(type, elements);
                m->n_params += elements;
                m->size += bytes;
                if (offset + bytes > (uint64_t)(r->end - start) - MIN(base, (uint64_t)(r->end - start))) {
                        (void)snprintf(m->second_error, sizeof(m->second_error),
                                       "tensor '%.*s' data is not within the file bounds, model is corrupted "
                                       "or incomplete",
                                       (int)MIN(len, 100U), name);
                        return;
                }
        }
        m->second_error[0] = '\0';
}

/* The file is mapped only while it is read, so that a thousand fakes share its pages and own none. */
static void model_read(const char *path, struct model *m)
{
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        struct reader r = {0};
        struct stat st;
        void *map = NULL;

        memset(m, 0, sizeof(*m));
        if (fd < 0 || fstat(fd, &st) < 0) {
                (void)snprintf(m->first_error, sizeof(m->first_error),
                               "gguf_init_from_file: failed to open GGUF file '%s' (%s)", path,
                               strerror(errno));
                (void)snprintf(m->second_error, sizeof(m->second_error),
                               "llama_model_loader: failed to load model from %s", path);
                return;
        }
        if (S_ISREG(st.st_mode) && st.st_size > 0) {
                map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
                if (map == MAP_FAILED)
                        map = NULL;
        }
        r.p = map;
        r.end = map ? r.p + st.st_size : NULL;
        read_gguf(m, &r, path);
        if (map)
                (void)munmap(map, (size_t)st.st_size);
}

/* --- JSON bodies ----------------------------------------------------------------------------------------------- */

static const char *json_space(const char *p)
{
        return p + strspn(p, " \t\r\n");
}

static const char *json_skip(const char *p, int depth);

/* p is at the opening quote; returns what follows the closing one, NULL if there is none. */
static const char *json_skip_string(const char *p)
{
        for (p++; *p && *p != '"'; p++)
                if (*p == '\\' && !*++p)
                        return NULL;
        return *p ? p + 1 : NULL;
}

static const char *json_skip_members(const char *p, char close, int depth)
{
        p = json_space(p + 1);
        if (*p == close)
                return p + 1;
        for (;;) {
                if (close == '}') {
                        if (*p != '"')
                                return NULL;
                        p = json_skip_string(p);
                        if (!p)
                                return NULL;
                        p = json_space(p);
                        if (*p++ != ':')
                                return NULL;
                }
                p = json_skip(json_space(p), depth + 1);
                if (!p)
                        return NULL;
                p = json_space(p);
                if (*p == close)
                        return p + 1;
                if (*p != ',')
                        return NULL;
                p = json_space(p + 1);
        }
}

/* What follows the value at p; NULL if there is no value. */
static const char *json_skip(const char *p, int depth)
{
        size_t n;

        if (depth > 100)
                return NULL;
        if (*p == '"')
                return json_skip_string(p);
        if (*p == '{' || *p == '[')
                return json_skip_members(p, *p == '{' ? '}' : ']', depth);
        n = strspn(p, "-+.0123456789eEtrufalsn");
        return n ? p + n : NULL;
}

/* The value of a member of the object at p, or NULL. */
static const char *json_find(const char *p, const char *key)
{
        size_t n = strlen(key);

        if (!p)
                return NULL;
        p = json_space(p);
        if (*p != '{')
                return NULL;
        for (p = json_space(p + 1); *p == '"'; p = json_space(p + 1)) {
                bool hit = strncmp(p + 1, key, n) == 0 && p[1 + n] == '"';

                p = json_skip_string(p);
                if (!p)
                        return NULL;
                p = json_space(p);
                if (*p != ':')
                        return NULL;
                p = json_space(p + 1);
                if (hit)
                        return p;
                p = json_skip(p, 0);
                if (!p)
                        return NULL;
                p = json_space(p);
                if (*p != ',')
                        return NULL;
        }
        return NULL;
}

static bool json_true(const char *object, const char *key)
{
        const char *v = json_find(object, key);

        return v && starts_with(v, "true");
}

static long json_number(const char *object, const char *key, long fallback)
{
        const char *v = json_find(object, key);

        return v && (*v == '-' || (*v >= '0' && *v <= '9')) ? atol(v) : fallback;
}

#endif
