"""The daemon's own limits: descriptors used up, and a clock that jumps."""
# ctest: real asan
import datetime
import json
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
from faults import crashed, deaths, one, stays

# ---- descriptors -----------------------------------------------------------------------------------------------------------

FILES = 96
QUICK_BACK = {"restart": {"backoff_initial": "200ms", "backoff_max": "200ms", "max_retries": "forever"},
              "health": {"interval": "20ms"}}


def test_a_crowd_of_idle_connections(make_daemon, server):
    """They do not get the descriptors that the fleet needs: what dies is started again, and the control socket answers."""
    daemon = make_daemon(one("", QUICK_BACK), server=server, start=False)
    daemon.start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES)))
    pid = daemon.wait_state("a", "ready")["pid"]
    host, port = daemon.address.removeprefix("http://").split(":")
    crowd = []
    try:
        for _ in range(2 * FILES):
            s = socket.socket()
            crowd.append(s)
            s.settimeout(2)
            s.connect((host, int(port)))
        time.sleep(1)
        os.kill(pid, signal.SIGKILL)

        def row():
            told = daemon.cli("status", "--json")
            assert told.returncode == 0, told
            return [row for row in json.loads(told.stdout)["instances"] if row["name"] == "a"][0]
        harness.wait_for(lambda: row()["status"] == "ready" and row()["pid"] != pid, what="restarted under the crowd", step=0.2)
    finally:
        for s in crowd:
            s.close()
    harness.wait_for(daemon.is_healthy, what="the daemon answers again")
    harness.assert_same_truth(daemon, "a", status="ready", retries=1)


class Squeeze:
    """For a while a running daemon may not open anything more: what it has it keeps."""

    def __init__(self, daemon):
        self.daemon, self.before = daemon, resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)

    def __enter__(self):
        resource.prlimit(self.daemon.pid, resource.RLIMIT_NOFILE, (3, self.before[1]))
        return self

    def __exit__(self, *error):
        resource.prlimit(self.daemon.pid, resource.RLIMIT_NOFILE, self.before)
        harness.wait_for(self.daemon.is_healthy, what="the daemon answers again")


def test_out_of_descriptors(make_daemon, server):
    """That says nothing about the server, although no probe gets through: nobody dies, and when there are some all goes on."""
    daemon = make_daemon(one("", QUICK_BACK), server=server)
    pid = daemon.wait_state("a", "ready")["pid"]
    with Squeeze(daemon):
        end = time.monotonic() + 4              # longer than its kept-alive connection lasts: 100 questions
        while time.monotonic() < end:
            time.sleep(0.5)
            assert harness.is_alive(pid)
        assert not daemon.is_healthy(), "it has a descriptor for us"
    stays(daemon, pid)
    os.kill(pid, signal.SIGKILL)
    daemon.wait("a", lambda now: now["status"] == "ready" and now["pid"] != pid, what="restarted")
    harness.assert_same_truth(daemon, "a", status="ready", retries=1)


def test_a_death_without_descriptors(make_daemon, server):
    """It dies while none is left: known and explained all the same, and started again as soon as there are some."""
    daemon = make_daemon(one("", QUICK_BACK), server=server)
    pid = daemon.wait_state("a", "ready")["pid"]
    with Squeeze(daemon):
        os.kill(pid, signal.SIGKILL)
        time.sleep(1.5)
    daemon.wait("a", lambda now: now["status"] == "ready" and now["pid"] != pid, what="restarted")
    assert deaths(daemon)[0]["cause"] == "killed", deaths(daemon)
    assert all(d["cause"] in ("killed", "spawn_failed") for d in deaths(daemon)), deaths(daemon)
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
def test_the_moment_of_the_next_try_follows_the_clock(make_daemon, fake_llama_server, clock, seconds):
    """What people count down to is told by the clock that they have now, on every door."""
    daemon = make_daemon(one("", {"restart": {"backoff_initial": "10m", "backoff_max": "10m", "jitter": 0}}), env=clock.env)
    os.kill(daemon.wait_state("a", "ready")["pid"], signal.SIGKILL)

    def wait_left():
        told = daemon.instance("a")["nextRetryAt"]
        return datetime.datetime.fromisoformat(told.replace("Z", "+00:00")).timestamp() - time.time()
    daemon.wait_state("a", "crashed")
    assert 500 < wait_left() <= 601
    clock.jump(seconds)
    assert 500 < wait_left() - seconds <= 601
    harness.assert_same_truth(daemon, "a", status="crashed")


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
