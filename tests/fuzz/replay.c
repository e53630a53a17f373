/* replay.c: runs a fuzz target over files instead of under libFuzzer: replay_NAME DIR|FILE... Every regular file below each
 * directory is one input. A directory that is missing or holds no file is an error: a corpus that went away must be seen. */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path)
{
        FILE *f = fopen(path, "rbe");
        uint8_t *data = NULL;
        size_t size = 0, got;

        if (!f) {
                fprintf(stderr, "%s: %s\n", path, strerror(errno));
                return -1;
        }
        do {
                uint8_t *more = realloc(data, size + 65536);

                if (!more)
                        abort();
                data = more;
                got = fread(data + size, 1, 65536, f);
                size += got;
        } while (got > 0);
        fclose(f);
        /* Exactly as many bytes as the input has, so that one read too far is seen by the address sanitizer. */
        data = realloc(data, size ? size : 1);
        if (!data)
                abort();
        (void)LLVMFuzzerTestOneInput(data, size);
        free(data);
        return 1;
}

/* Number of inputs run, or -1. */
static int replay(const char *path)
{
        struct dirent *e;
        struct stat st;
        int n = 0;
        DIR *d;

        if (stat(path, &st) == 0 && S_ISREG(st.st_mode))
                return replay_file(path);
        d = opendir(path);
        if (!d) {
                fprintf(stderr, "%s: %s\n", path, strerror(errno));
                return -1;
        }
        while (n >= 0 && (e = readdir(d))) {
                char *inner = NULL;
                int r;

                if (e->d_name[0] == '.')
                        continue;
                if (asprintf(&inner, "%s/%s", path, e->d_name) < 0)
                        abort();
                r = replay(inner);
                n = r < 0 ? r : n + r;
                free(inner);
        }
        closedir(d);
        if (n == 0)
                fprintf(stderr, "%s: no inputs\n", path);
        return n > 0 ? n : -1;
}

int main(int argc, char **argv)
{
        int sum = 0;

        if (argc < 2) {
                fprintf(stderr, "usage: %s DIR|FILE...\n", argv[0]);
                return 2;
        }
        for (int i = 1; i < argc; i++) {
                int n = replay(argv[i]);

                if (n < 0)
                        return 1;
                sum += n;
        }
        printf("%d inputs\n", sum);
        return 0;
}
