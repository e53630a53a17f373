# ctest: asan
"""A disk that does not answer, as a network file system does: it holds up whoever asks for it, and nobody else."""
import os
import shutil
import signal
import subprocess

import pytest

import harness

# open(2) and stat(2) of names that hold "/hang" wait as long as the file that HANG_WHILE names is there.
SHIM = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void hang(const char *path)
{
        const struct timespec pause = {.tv_nsec = 10000000};
        const char *file = getenv("HANG_WHILE");

        while (path && file && strstr(path, "/hang") && access(file, F_OK) == 0)
                (void)nanosleep(&pause, NULL);
}

int open(const char *path, int flags, ...)
{
        mode_t mode = 0;
        va_list ap;

        va_start(ap, flags);
        if (flags & O_CREAT)
                mode = va_arg(ap, mode_t);
        va_end(ap);
        hang(path);
        return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int stat(const char *restrict path, struct stat *restrict st)
{
        hang(path);
        return fstatat(AT_FDCWD, path, st, 0);
}
"""


@pytest.fixture
def disk(nothing_left, tools):
    """A daemon's environment, and the switch: disk.hang(True) and nothing below a folder "hang" answers."""
    class Disk:
        folder = os.path.join(tools, "disk")
        switch = os.path.join(folder, "switch")
        env = {"LD_PRELOAD": os.path.join(folder, "disk.so"), "HANG_WHILE": switch,
               "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"}

        def hang(self, does):
            if does:
                open(self.switch, "w", encoding="ascii").close()
            elif os.path.exists(self.switch):
                os.unlink(self.switch)

    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    assert compiler, "no C compiler"
    made = Disk()
    os.makedirs(made.folder, exist_ok=True)
    source = os.path.join(made.folder, "disk.c")
    with open(source, "w", encoding="ascii") as f:
        f.write(SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made.env["LD_PRELOAD"], source], check=True)
    yield made
    made.hang(False)
    shutil.rmtree(made.folder)


def test_a_reload_and_a_stop_while_a_disk_hangs(make_daemon, tiny_model, disk):
    daemon = make_daemon({"instances": [{"name": "far", "model": "hang/far.gguf"}, {"name": "near", "model": "tiny.gguf"}]}, start=False)
    os.mkdir(os.path.join(daemon.models, "hang"))
    shutil.copy(tiny_model, os.path.join(daemon.models, "hang", "far.gguf"))
    daemon.env = disk.env
    daemon.start()
    for name in ("far", "near"):
        daemon.wait_state(name, "ready")
    disk.hang(True)
    answer = daemon.api("POST", "/api/v1/reload")
    assert answer.status == 504 and "does not answer" in answer.json["error"]["message"], answer
    # All else goes on meanwhile: the disk is still being asked.
    assert daemon.get("/health").status == 200
    assert daemon.api("POST", "/v1/chat/completions", {"model": "near", "messages": [{"role": "user", "content": "hi"}]}).status == 200
    before = daemon.instance("near")["pid"]
    assert daemon.api("POST", "/api/v1/instances/near/restart").status == 202
    daemon.wait("near", lambda now: now["status"] == "ready" and now["pid"] != before)
    assert "nothing has answered" in daemon.get("/api/v1/status").json["reloadError"]
    disk.hang(False)
    harness.wait_for(lambda: daemon.api("POST", "/api/v1/reload").status == 200)
    assert daemon.get("/api/v1/status").json["reloadError"] is None
    # A stop does not wait for it either, but for the ten seconds that a write may need.
    disk.hang(True)
    daemon.process.send_signal(signal.SIGHUP)
    assert daemon.get("/health").status == 200
    daemon.stop()
