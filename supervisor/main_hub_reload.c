/* main_hub_reload.c: SIGHUP to a nats-server of this machine, or a command for one elsewhere. */
#include "main_hub_reload.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/file.h"
#include "base/text.h"

static const int COMMAND_PATIENCE_MS = 30 * 1000;

/* A pid file may be older than what has that number now: only a nats-server is given a SIGHUP, which ends most others. */
static bool is_nats_server(pid_t pid)
{
        _cleanup_free_ char *path = text_format("/proc/%d/comm", (int)pid), *comm = NULL;
        size_t len = 0;

        return path && file_read(path, 64, &comm, &len) == 0 && starts_with(comm, "nats-server");
}

static char *reload_by_pid(const char *file)
{
        _cleanup_free_ char *text = NULL;
        _cleanup_close_ int fd = -1;
        size_t len = 0;
        char *end;
        long pid;
        int r = file_read(file, 64, &text, &len);

        if (r < 0)
                return text_format("%s: %s (is the server up, and does its nats.conf name this pid_file?)",
                                   file, strerror(-r));
        errno = 0;
        pid = strtol(text, &end, 10);
        if (errno || end == text || pid <= 1 || pid > INT32_MAX)
                return text_format("%s holds no process id", file);
        fd = pidfd_open((pid_t)pid, 0);
        if (fd < 0 || !is_nats_server((pid_t)pid))
                return text_format("%s names process %ld, which is no nats-server (is the server up?)", file,
                                   pid);
        if (pidfd_send_signal(fd, SIGHUP, NULL, 0) < 0)
                return text_format("process %ld of %s cannot be told: %s", pid, file, strerror(errno));
        return NULL;
}

/* NULL: it ended with 0. */
static char *wait_for(pid_t pid, const char *command)
{
        _cleanup_close_ int fd = pidfd_open(pid, 0);
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        int status = 0, r;

        do
                r = poll(&poll_fd, 1, COMMAND_PATIENCE_MS);
        while (r < 0 && errno == EINTR);
        if (r == 0)
                (void)kill(-pid, SIGKILL);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;
        if (r == 0)
                return text_format("\"%s\" did not end within 30 s and was killed", command);
        if (WIFSIGNALED(status))
                return text_format("\"%s\" was ended by SIG%s", command, sigabbrev_np(WTERMSIG(status)));
        return WEXITSTATUS(status) ? text_format("\"%s\" failed with %d", command, WEXITSTATUS(status))
                                   : NULL;
}

/* By the shell, with LSV_USERS_FILE in its environment; what it says goes to stderr. */
static char *reload_by_command(const char *command, const char *path)
{
        char *const args[] = {(char[]){"sh"}, (char[]){"-c"}, text_dup(command), NULL};
        posix_spawn_file_actions_t actions;
        posix_spawnattr_t attributes;
        pid_t pid = 0;
        int r = ENOMEM;

        if (posix_spawn_file_actions_init(&actions) != 0)
                return text_dup("not enough memory");
        if (posix_spawnattr_init(&attributes) == 0) {
                (void)setenv("LSV_USERS_FILE", path, 1);
                (void)posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
                (void)posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
                (void)posix_spawnattr_setpgroup(&attributes, 0);
                (void)posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
                r = args[2] ? posix_spawn(&pid, "/bin/sh", &actions, &attributes, args, environ) : ENOMEM;
                (void)posix_spawnattr_destroy(&attributes);
        }
        (void)posix_spawn_file_actions_destroy(&actions);
        free(args[2]);
        return r ? text_format("\"%s\" cannot be run: %s", command, strerror(r)) : wait_for(pid, command);
}

/* Commands of the file are run with our rights. */
static bool is_file_ours(const char *path)
{
        struct stat st;

        return stat(path, &st) == 0 && (st.st_uid == geteuid() || st.st_uid == 0) && !(st.st_mode & 022);
}

static char *reload_one(const struct nats_reload *r, const char *path)
{
        if (!r->is_command)
                return reload_by_pid(r->what);
        if (!is_file_ours(path))
                return text_format("\"%s\" is not run, since others may write %s", r->what, path);
        return reload_by_command(r->what, path);
}

int hub_reload_servers(struct hub_call *c, const char *path, const struct nats_users *u, bool *ret_told)
{
        int r = CLI_DONE;

        if (c->json) {
                json_key(&c->w, "reloads");
                json_open_array(&c->w);
        }
        for (size_t i = 0; i < u->n_reloads; i++) {
                _cleanup_free_ char *why = reload_one(u->reloads + i, path);

                if (c->json) {
                        json_open_object(&c->w);
                        json_string(&c->w, "server", u->reloads[i].what);
                        json_bool(&c->w, "told", !why);
                        json_string(&c->w, "error", why);
                        json_close_object(&c->w);
                }
                *ret_told |= !why && !u->reloads[i].is_command;
                if (why)
                        r = hub_fail(
                                "%s is written, but not every server was told: %s. Until a server reads the "
                                "file "
                                "(nats-server --signal reload), the change does not hold there; one that is "
                                "not up reads it when it starts",
                                path, why);
                else if (!c->json)
                        hub_note("told: %s", u->reloads[i].what);
        }
        if (c->json)
                json_close_array(&c->w);
        if (u->n_reloads == 0)
                hub_note("no server is told, since none is named (--reload-pid, --reload-command): the "
                         "change holds when the "
                         "server has read %s again",
                         path);
        return r;
}
