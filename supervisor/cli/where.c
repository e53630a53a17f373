/* where.c: from a configuration, good or broken, to a socket. */
#include "cli/where.h"

#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/text.h"
#include "cli/cli.h"
#include "core/config.h"

#define SOCKET_NAME   "control.sock"
#define SYSTEM_DIR    "/run/llama-supervisor"
#define SYSTEM_SOCKET SYSTEM_DIR "/" SOCKET_NAME
#define SYSTEM_CONFIG "/etc/llama-supervisor/llama-supervisor.json"

static const char *home(void)
{
        const char *dir = getenv("HOME");
        const struct passwd *user;

        if (dir && *dir == '/')
                return dir;
        user = getpwuid(geteuid());
        return user && user->pw_dir && *user->pw_dir == '/' ? user->pw_dir : "/";
}

char *cli_default_config(void)
{
        const char *dir = getenv("XDG_CONFIG_HOME");

        if (geteuid() == 0)
                return text_dup(SYSTEM_CONFIG);
        if (dir && *dir == '/')
                return text_format("%s/llama-supervisor/llama-supervisor.json", dir);
        return text_format("%s/.config/llama-supervisor/llama-supervisor.json", home());
}

/* --- the text of a file that need not be whole -------------------------------------------------------------------- */

/* Behind the white space and comments at p. */
static const char *skip_blank(const char *p)
{
        for (;;) {
                p += strspn(p, " \t\r\n");
                if (starts_with(p, "//")) {
                        p += strcspn(p, "\n");
                } else if (starts_with(p, "/*")) {
                        const char *end = strstr(p + 2, "*/");

                        p = end ? end + 2 : p + strlen(p);
                } else {
                        return p;
                }
        }
}

/* Behind the string that begins at p, or NULL if it does not end. */
static const char *skip_string(const char *p)
{
        for (p++; *p && *p != '\n'; p++) {
                if (*p == '"')
                        return p + 1;
                if (*p == '\\' && p[1])
                        p++;
        }
        return NULL;
}

bool where_find_runtime_dir(const char *text, const char **ret, int *ret_len)
{
        static const char key[] = "\"runtime_dir\"";
        const char *p = skip_blank(text), *end, *colon;
        unsigned depth = 0;

        for (; *p; p = skip_blank(p)) {
                if (*p != '"') {
                        depth += *p == '{' || *p == '[';
                        depth -= depth > 0 && (*p == '}' || *p == ']');
                        p++;
                        continue;
                }
                end = skip_string(p);
                if (!end) {
                        p += strcspn(p, "\n");
                        continue;
                }
                colon = skip_blank(end);
                if (depth == 1 && *colon == ':' && (size_t)(end - p) == strlen(key) &&
                    memcmp(p, key, strlen(key)) == 0) {
                        p = skip_blank(colon + 1);
                        end = *p == '"' ? skip_string(p) : NULL;
                        if (!end)
                                return false;
                        *ret = p;
                        *ret_len = (int)(end - p);
                        return true;
                }
                p = end;
        }
        return false;
}

/* --- reading -------------------------------------------------------------------------------------------------------- */

/* A configuration that is only its runtime_dir, under the name of the real one. */
static int read_stand_in(void *owner, const char *path, size_t max, char **ret, size_t *ret_len)
{
        char *copy = text_dup(owner);

        (void)path;
        (void)max;
        if (!copy)
                return -ENOMEM;
        *ret = copy;
        *ret_len = strlen(copy);
        return 0;
}

static const char *get_env(void *owner, const char *name)
{
        (void)owner;
        return getenv(name);
}

/* runtime_dir as the daemon understands it: relative to the file's folder, ${VAR} expanded, defaults filled in. NULL when
 * the file has errors. text: stands in for what is in the file; NULL: the file itself. */
static char *runtime_dir_of(const char *file, char *text)
{
        _cleanup_free_ char *cwd = getcwd(NULL, 0);
        struct file_ops files = file_ops_real;
        const struct config_env env = {
                .files = &files, .get = get_env, .cwd = cwd, .is_root = geteuid() == 0};
        struct config_problems problems = {0};
        struct config *c = NULL;
        char *dir = NULL;

        if (text) {
                files.read = read_stand_in;
                files.owner = text;
        }
        if (config_load(file, &env, &c, &problems) == 0)
                dir = text_dup(c->runtime_dir);
        config_problems_finish(&problems);
        config_free(c);
        return dir;
}

/* The file has errors, or asks for what only the daemon has (variables, secrets). */
static char *runtime_dir_of_broken(const char *file, const char *text, char **ret_note)
{
        _cleanup_free_ char *stand_in = NULL;
        const char *value;
        char *dir = NULL;
        int len;

        if (where_find_runtime_dir(text, &value, &len)) {
                stand_in = text_format("{\"runtime_dir\": %.*s}", len, value);
                dir = stand_in ? runtime_dir_of(file, stand_in) : NULL;
                if (!dir)
                        *ret_note = text_format("%s: its runtime_dir %.*s cannot be understood here; the "
                                                "default one is assumed",
                                                file, len, value);
        }
        return dir;
}

static bool exists(const char *path)
{
        struct stat st;

        return stat(path, &st) == 0 || errno == EACCES;
}

int where_is_socket(const char *config, char **ret_socket, char **ret_note)
{
        _cleanup_free_ char *fallback = config ? NULL : cli_default_config(), *text = NULL, *dir = NULL;
        _cleanup_free_ char *nothing = text_dup("{}");
        char *socket, *note = NULL;
        const char *file = config ? config : fallback;
        size_t len;
        int r;

        if (!file || !nothing)
                return -ENOMEM;
        r = file_read(file, CONFIG_FILE_MAX, &text, &len);
        if (r < 0 && !config && geteuid() != 0 && exists(SYSTEM_SOCKET)) {
                dir = text_dup(SYSTEM_DIR);
        } else if (r == -ENOENT && !config) {
                /* Nobody made one: that its defaults hold is no news. */
        } else if (r < 0) {
                note = text_format("%s: %s; the default runtime directory is assumed", file, strerror(-r));
        } else {
                dir = runtime_dir_of(file, NULL);
                if (!dir)
                        dir = runtime_dir_of_broken(file, text, &note);
        }
        if (!dir)
                dir = runtime_dir_of(file, nothing);
        socket = text_format("%s/" SOCKET_NAME, dir ? dir : SYSTEM_DIR);
        if (!socket) {
                free(note);
                return -ENOMEM;
        }
        *ret_socket = socket;
        *ret_note = note;
        return 0;
}
