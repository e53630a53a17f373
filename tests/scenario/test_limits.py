"""The daemon's own limits: descriptors used up, and a clock that jumps."""
# ctest: real asan
import mmap
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import time

import pytest

import harness
from faults import alone_crashed, crashed, deaths, one, socket_of, stays

# ---- descriptors -----------------------------------------------------------------------------------------------------------

FILES = 96


class Crowd:
    """So many idle connections that the daemon has no descriptor left: it accepts no more of them."""

    def __init__(self, daemon, count=2 * FILES):
        host, port = daemon.address.removeprefix("http://").split(":")
        self.daemon, self.sockets = daemon, []
        for _ in range(count):
            s = socket.socket()
            s.settimeout(2)
            s.connect((host, int(port)))
            self.sockets.append(s)
        harness.wait_for(self.is_full, what=lambda: "the daemon uses all descriptors: %d" % self.used())

    def used(self):
        return len(os.listdir("/proc/%d/fd" % self.daemon.pid))

    def is_full(self):
        return self.used() >= FILES - 4

    def close(self):
        for s in self.sockets:
            s.close()
        self.sockets = []


@pytest.fixture
def crowded(make_daemon, server):
    """A daemon with few descriptors, none of them promised to idle connections: (daemon, pid of "a")."""
    daemon = make_daemon(one("", {"restart": {"backoff_initial": "200ms", "backoff_max": "200ms", "max_retries": "forever"}}),
                         server=server, start=False)
    daemon.start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES)))
    return daemon, daemon.wait_state("a", "ready")["pid"]


def test_out_of_descriptors(crowded):
    """That says nothing about the server. Nobody dies, and when some are free all goes on."""
    daemon, pid = crowded
    crowd = Crowd(daemon)
    try:
        time.sleep(3)
        assert harness.is_alive(pid)
    finally:
        crowd.close()
    harness.wait_for(daemon.is_healthy, what="the daemon answers again")
    stays(daemon, pid)
    os.kill(pid, signal.SIGKILL)
    daemon.wait("a", lambda now: now["status"] == "ready" and now["pid"] != pid, what="restarted")
    harness.assert_same_truth(daemon, "a", status="ready", retries=1)


def test_a_death_without_descriptors(crowded):
    """It dies while none is left: known and explained all the same, and started again as soon as there are some."""
    daemon, pid = crowded
    crowd = Crowd(daemon)
    try:
        os.kill(pid, signal.SIGKILL)
        time.sleep(2)
    finally:
        crowd.close()
    harness.wait_for(daemon.is_healthy, what="the daemon answers again")
    daemon.wait("a", lambda now: now["status"] == "ready" and now["pid"] != pid, what="restarted")
    assert deaths(daemon)[0]["cause"] == "killed", deaths(daemon)
    assert all(d["cause"] in ("killed", "spawn_failed", "unresponsive") for d in deaths(daemon)), deaths(daemon)
    harness.assert_same_truth(daemon, "a", status="ready")
    assert len(daemon.children()) == 1


# ---- the clock -------------------------------------------------------------------------------------------------------------

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile long long *offset; /* seconds, in a file that the test writes */

__attribute__((constructor)) static void begin(void)
{
        const char *path = getenv("CLOCK_OFFSET_FILE");
        int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        void *p = fd >= 0 ? mmap(NULL, 8, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;

        if (p == MAP_FAILED)
                abort();
        offset = p;
}

int clock_gettime(clockid_t clock, struct timespec *ts)
{
        static int (*real)(clockid_t, struct timespec *);
        int r;

        if (!real)
                *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
        r = real(clock, ts);
        if (r == 0 && offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
                ts->tv_sec += *offset;
        return r;
}

int gettimeofday(struct timeval *restrict tv, void *restrict tz)
{
        struct timespec ts;

        (void)tz;
        (void)clock_gettime(CLOCK_REALTIME, &ts);
        tv->tv_sec = ts.tv_sec;
        tv->tv_usec = ts.tv_nsec / 1000;
        return 0;
}

time_t time(time_t *t)
{
        struct timespec ts;

        (void)clock_gettime(CLOCK_REALTIME, &ts);
        if (t)
                *t = ts.tv_sec;
        return ts.tv_sec;
}
"""


class Clock:
    """The wall clock of a daemon that is started with self.env; jump(seconds) moves it for that process alone."""

    def __init__(self, folder):
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        assert compiler, "no C compiler"
        source, library, self.path = (os.path.join(folder, name) for name in ("clock.c", "clock.so", "offset"))
        with open(source, "w") as f:
            f.write(SHIM)
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        with open(self.path, "wb") as f:
            f.write(bytes(8))
        self.file = open(self.path, "r+b")
        self.map = mmap.mmap(self.file.fileno(), 8)
        self.env = {"LD_PRELOAD": library, "CLOCK_OFFSET_FILE": self.path,
                    "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"}

    def jump(self, seconds):
        self.map[:] = struct.pack("q", seconds)

    def close(self):
        self.map.close()
        self.file.close()


@pytest.fixture
def clock(folder):
    made = Clock(folder)
    yield made
    made.close()


HOURS = [3600 * 24, -3600 * 24]


@pytest.mark.parametrize("seconds", HOURS)
def test_the_clock_jumps(make_daemon, server, clock, seconds):
    """Nobody is dead, late or forgiven because of it, and the uptime is still the time that it has been up."""
    daemon = make_daemon(one("", {"restart": {"reset_after": "1h"}}), env=clock.env, server=server)
    pid = daemon.wait_state("a", "ready")["pid"]
    stamp = daemon.get("/api/v1/history").json["events"][-1]["time"]
    clock.jump(seconds)
    time.sleep(1.5)
    now = stays(daemon, pid)
    assert 1 <= now["uptime"] < 300, now
    os.kill(pid, signal.SIGKILL)
    crashed(daemon, "killed", "somebody killed it")
    event = deaths(daemon)[-1]
    assert event["evidence"]["livedMs"] < 300000, event
    assert (event["time"] > stamp) == (seconds > 0), "the shim moved no clock: %s, then %s" % (stamp, event["time"])


@pytest.mark.parametrize("seconds", HOURS)
def test_the_clock_jumps_before_the_next_try(make_daemon, fake_llama_server, clock, seconds):
    """The back-off is a span of time, not a moment on the wall."""
    daemon = make_daemon(one("", {"restart": {"backoff_initial": "2s", "backoff_max": "2s"}}), env=clock.env)
    os.kill(daemon.wait_state("a", "ready")["pid"], signal.SIGKILL)
    daemon.wait_state("a", "crashed")
    began = time.monotonic()
    clock.jump(seconds)
    daemon.wait_state("a", "ready")
    assert 1 < time.monotonic() - began < 20, time.monotonic() - began
    harness.assert_same_truth(daemon, "a", status="ready", retries=1)


@pytest.mark.parametrize("seconds", HOURS)
def test_the_clock_jumps_between_two_daemons(make_daemon, server, clock, seconds):
    """A machine without a battery for its clock: the server that lives through it is taken over, with its true uptime."""
    daemon = make_daemon(one(), env=clock.env, server=server)
    pid = daemon.wait_state("a", "ready")["pid"]
    daemon.kill9()
    clock.jump(seconds)
    daemon.start()
    now = stays(daemon, pid)
    assert now["adopted"] and now["uptime"] < 300, now
    os.kill(pid, signal.SIGKILL)
    daemon.wait_state("a", "crashed")
    assert deaths(daemon)[-1]["evidence"]["livedMs"] < 300000, deaths(daemon)[-1]
