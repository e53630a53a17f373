"""What a child writes: a flood, a line without end, control bytes, and a disk that is full of it."""
# ctest: real asan serial
import ctypes
import errno
import os
import signal
import time

import pytest

import harness
from faults import alone_crashed, one, socket_of, start_again, stays

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18
libc = ctypes.CDLL(None, use_errno=True)


def disk_use(folder):
    return sum(os.stat(os.path.join(path, name)).st_blocks * 512 for path, _, names in os.walk(folder) for name in names)


def rss_kb(pid):
    with open("/proc/%d/status" % pid) as f:
        return int([line for line in f if line.startswith("VmRSS")][0].split()[1])


def metric(daemon, name):
    lines = [line for line in daemon.get("/metrics").text.splitlines() if line.startswith(name) and 'instance="a"' in line]
    assert lines, name
    return float(lines[0].rsplit(" ", 1)[1])


def is_harmless(text):
    return not any(byte in text for byte in (b"\x1b", b"\0", b"\r", b"\b", b"\x07", b"\x9b"))


@pytest.mark.parametrize("fault", ["--log-flood 100000000", "--log-flood 20000000 --log-endless-line"])
def test_a_flood(make_daemon, fake_llama_server, fault):
    """100 MB/s: bounded disk and memory, what was skipped is counted, and no probe is late because of it."""
    daemon = make_daemon(one(fault, {"logs": {"rotate_at": "1M", "keep": 2}}))
    pid = daemon.wait_state("a", "ready")["pid"]
    before, most, slowest, end = rss_kb(daemon.pid), 0, 0.0, time.monotonic() + 5
    while time.monotonic() < end:
        time.sleep(0.1)
        began = time.monotonic()
        assert daemon.status("a") in ("ready", "unhealthy")
        slowest, most = max(slowest, time.monotonic() - began), max(most, disk_use(daemon.log))
    stays(daemon, pid)
    written, skipped = metric(daemon, "llama_supervisor_log_bytes_total"), metric(daemon, "llama_supervisor_log_skipped_bytes_total")
    size, grown = os.stat(os.path.join(daemon.log, "a.log")).st_size, rss_kb(daemon.pid) - before
    print("%d MB written, %d MB of them read, %d MB skipped; at most %d MB on disk; RSS grew by %d kB; slowest answer %d ms" % (
        size >> 20, written / 1e6, skipped / 1e6, most >> 20, grown, slowest * 1000))
    assert skipped > 0, (written, skipped)
    assert most < 300 << 20                     # a flood may outrun a rotation by one turn of the disk
    assert grown < 64 * 1024
    assert slowest < 3
    probes = [line for line in daemon.get("/metrics").text.splitlines() if line.startswith("llama_supervisor_probe_failures_total")]
    assert probes and all(float(line.rsplit(" ", 1)[1]) <= 2 for line in probes), probes
    log = daemon.get("/api/v1/instances/a/logs?lines=50")
    assert log.status == 200 and len(log.body) < 1 << 20 and is_harmless(log.body)


def test_control_bytes_are_harmless_on_every_door(make_daemon, fake_llama_server):
    daemon = make_daemon(one("--log-ansi --log-nul --crash-after 1 --exit-code 1"))
    daemon.wait_state("a", "ready")
    time.sleep(0.5)
    assert is_harmless(daemon.get("/api/v1/instances/a/logs?lines=50").body)
    assert is_harmless(daemon.cli("logs", "a", "-n", "50").stdout.encode())
    alone_crashed(daemon, "exited", "exit code 1")
    assert is_harmless(daemon.cli("why", "a").stdout.encode()) and is_harmless(daemon.output().encode())
    assert not any(piece in daemon.get("/api/v1/history").text for piece in ("\\u001b", "\\u0000", "\\u009b"))


# ---- disk full -------------------------------------------------------------------------------------------------------------

def small_disk(folder, size):
    """For preexec_fn: a mount name space of its own, in which the folder is a tmpfs of that size. Nothing is to be unmounted
    afterwards. Not root: by a user name space."""
    uid, gid = os.geteuid(), os.getegid()

    def enter():
        if libc.unshare(CLONE_NEWNS | (0 if uid == 0 else CLONE_NEWUSER)) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        if uid != 0:
            for name, text in (("setgroups", "deny"), ("uid_map", "%d %d 1" % (uid, uid)), ("gid_map", "%d %d 1" % (gid, gid))):
                with open("/proc/self/" + name, "w") as f:
                    f.write(text)
        if libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) != 0 or \
                libc.mount(b"none", folder.encode(), b"tmpfs", 0, b"size=" + size.encode()) != 0:
            raise OSError(ctypes.get_errno(), "mount")
    return enter


def disk_is_full(daemon, folder):
    """As the daemon sees it."""
    return os.statvfs("/proc/%d/root%s" % (daemon.pid, folder)).f_bavail == 0


def test_disk_full_for_the_log(make_daemon, server):
    """It goes on without its log; its death is explained by what there is; a start does not need room."""
    daemon = make_daemon(one("--log-flood 1000000", {"logs": {"rotate_at": "10M"}}, args=["-lv", "5"]), start=False, server=server)
    daemon.start(preexec_fn=small_disk(daemon.log, "256k"))
    pid = daemon.wait_state("a", "ready")["pid"]
    end = time.monotonic() + harness.PATIENCE
    while not disk_is_full(daemon, daemon.log):
        assert time.monotonic() < end, "the disk does not fill up"
        answer = harness.request("unix:" + socket_of(daemon), "POST", "/completion", {"prompt": "hello", "n_predict": 8})
        assert answer.status == 200, answer
    time.sleep(1)
    assert harness.request("unix:" + socket_of(daemon), "POST", "/completion", {"prompt": "hello", "n_predict": 8}).status == 200
    stays(daemon, pid)
    assert daemon.get("/api/v1/instances/a/logs?lines=5").status == 200
    os.kill(pid, signal.SIGKILL)
    alone_crashed(daemon, "killed", "somebody killed it")
    start_again(daemon)


def test_disk_full_for_the_state(make_daemon, server):
    """No room for history, counts and records: said in the log, and nothing else changes."""
    daemon = make_daemon(one(), start=False, server=server)
    daemon.start(preexec_fn=small_disk(daemon.state, "64k"))
    pid = daemon.wait_state("a", "ready")["pid"]
    ballast = os.open("/proc/%d/root%s/ballast" % (daemon.pid, daemon.state), os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(ballast, bytes(4096))
    except OSError as error:
        assert error.errno == errno.ENOSPC
    finally:
        os.close(ballast)
    for _ in range(3):
        os.kill(pid, signal.SIGKILL)
        alone_crashed(daemon, "killed", "somebody killed it")
        pid = start_again(daemon)["pid"]
    stays(daemon, pid, deaths_before=3)
    assert "No space left on device" in daemon.output(), daemon.output()
