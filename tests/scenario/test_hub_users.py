# ctest: asan
"""`hub worker` with a real server: passwords beside keys, each renewed and withdrawn; whoever was added is let in when the command has ended, and who was
not is not; what a server does not take over is said; secrets stay out of command lines and out of files that others read."""
import json
import os
import shutil
import signal
import stat
import subprocess
import time

import pytest

import harness
import natswire
from harness import wait_for
from natswire import Denied, Server, Wire, hub
from pipes import certificate

pytestmark = pytest.mark.skipif(not shutil.which("nats-server"), reason="there is no nats-server")

NOW = 60


@pytest.fixture
def server(folder):
    s = Server(folder).start()
    yield s
    s.stop()


def done(*args, code=0):
    answer = hub(*args)
    assert answer.returncode == code, (args, answer.stdout, answer.stderr)
    return answer


def worker(server, *args, code=0):
    return done("worker", *args, "--dir", server.dir, code=code)


def text_of(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def as_user(server, name, file):
    """Whether this password is let in, by another client than ours, too."""
    answer = hub("check", "--url", server.url, "--user", name, "--password-file", file, "--json")
    try:
        Wire(server.port, user=name, password=text_of(file).split("\n", 1)[0]).close()
        is_in = True
    except Denied:
        is_in = False
    if is_in:
        assert answer.returncode == 0, (answer.stdout, answer.stderr)
    else:
        assert answer.returncode == 1 and "refuses these credentials" in answer.stderr, answer
    return is_in


def may_connect(server, name, file):
    try:
        server.wire(name, file).close()
        return True
    except Denied:
        return False


# ---- passwords -----------------------------------------------------------------------------------------------------------


def test_a_worker_with_a_password(server, make_daemon, folder):
    done("init", *server.as_admin(), "--models", "q")
    file, users = os.path.join(folder, "one.pass"), os.path.join(server.dir, "users.conf")
    answer = worker(server, "add", "one", "--password", "--out", file)
    password = text_of(file).split("\n", 1)[0]
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600 and len(password) == 43
    assert password not in answer.stdout + answer.stderr and password not in text_of(users)
    assert '"user": "one"' in answer.stderr                             # what its configuration needs is said
    assert '{"user":"one","password":"$2a$' in text_of(users)
    listed = server.users()["one"]
    assert listed["key"] is None and listed["password"] is True
    # It is a worker, with a worker's rights and no others; the file says as whom.
    told = json.loads(done("check", "--url", server.url, "--user", "one", "--password-file", file, "--json", "--models", "q").stdout)
    assert told["wrong"] == 0 and told["warnings"] == 0 and any("of a worker are as they should be" in f["message"] for f in told["findings"]), told
    daemon = make_daemon({"hubs": [{"driver": "nats", "name": "lab", "worker": "one", "url": server.url, "user": "one", "credentials_file": file}]})
    wait_for(lambda: "lab: hub is up" in daemon.output(), what=daemon.output)
    assert password not in daemon.output()
    daemon.stop()
    # A new one: the old one is out when the command has ended.
    old, new = file, os.path.join(folder, "new.pass")
    worker(server, "refresh", "one", "--out", new)
    assert text_of(new).split("\n", 1)[0] != password
    assert as_user(server, "one", new) and not as_user(server, "one", old)
    answer = worker(server, "refresh", "one", "--keep-old", code=1)
    assert "one at a time" in answer.stderr and as_user(server, "one", new)
    worker(server, "revoke", "one")
    assert not as_user(server, "one", new)


def test_from_a_key_to_a_password_without_a_gap(server, folder):
    key, password = os.path.join(folder, "key"), os.path.join(folder, "password")
    worker(server, "add", "one", "--out", key)
    public = server.users()["one"]["key"]
    worker(server, "refresh", "one", "--password", "--keep-old", "--out", password)
    assert server.users()["one"]["oldKey"] == public
    assert as_user(server, "one", password)
    Wire(server.port, public, key, user="one").close()
    worker(server, "revoke", "one", "--old")
    with pytest.raises(Denied):
        Wire(server.port, public, key, user="one")
    assert as_user(server, "one", password)
    # Shown, when no file is named, as a password stands in a file: alone in its line.
    told = worker(server, "refresh", "one")
    with open(os.path.join(folder, "shown"), "w", encoding="ascii") as file:
        file.write(told.stdout)
    assert as_user(server, "one", os.path.join(folder, "shown")) and not as_user(server, "one", password)
    told = json.loads(worker(server, "refresh", "one", "--json").stdout)
    assert len(told["password"]) == 43 and "seed" not in told and told["key"] is None


# ---- what holds when the command has ended ---------------------------------------------------------------------------------


def test_a_key_works_when_the_command_has_ended(server):
    os.kill(server.process.pid, signal.SIGSTOP)
    file = os.path.join(server.folder, "one.nk")
    command = harness.spawn([harness.PROGRAM, "hub", "worker", "add", "one", "--dir", server.dir, "--out", file, "--timeout", "60s"],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: '"name":"one"' in text_of(os.path.join(server.dir, "users.conf")))
        with pytest.raises(subprocess.TimeoutExpired):      # the server was told, and has not read it
            command.wait(1)
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
        out, err = command.communicate(timeout=NOW)
    assert command.returncode == 0 and "has read it: the change holds" in err, (out, err)
    for i in range(5):
        assert may_connect(server, "one", file), i
        old, file = file, os.path.join(server.folder, "%d.nk" % i)
        key = server.users()["one"]["key"]
        worker(server, "refresh", "one", "--out", file)
        with pytest.raises(Denied):
            Wire(server.port, key, old, user="one")
    # The probes that show it are nobody: they may do nothing, and there are not ever more of them.
    for i in range(40):
        worker(server, "refresh", "one", "--json", "--timeout", "60s")
    assert text_of(os.path.join(server.dir, "users.conf")).count("#? ") == 32
    assert [u for u in server.users()] == ["admin", "one"]


def test_a_server_that_does_not_take_the_file_is_named(server):
    conf = os.path.join(server.dir, "nats.conf")
    good = text_of(conf)
    with open(conf, "a", encoding="utf-8") as file:
        file.write("nonsense: {\n")
    answer = worker(server, "add", "one", "--timeout", "2s", code=1)
    assert "still goes on with an older file" in answer.stderr and "nats-server -t" in answer.stderr
    told = json.loads(worker(server, "add", "two", "--timeout", "2s", "--json", code=1).stdout)
    assert told["servers"] == [{"server": "nats://127.0.0.1:%d" % server.port, "holds": False, "error": told["servers"][0]["error"]}]
    with open(conf, "w", encoding="utf-8") as file:
        file.write(good)
    told = json.loads(worker(server, "add", "three", "--json").stdout)
    assert told["servers"] == [{"server": "nats://127.0.0.1:%d" % server.port, "holds": True, "error": None}]
    # What cannot be asked is no failure, and is said.
    with open(conf, "w", encoding="utf-8") as file:
        file.write(good.replace("listen: ", "listening: "))
    answer = worker(server, "add", "four")
    assert "it is not verified that the change holds" in answer.stderr and "--url" in answer.stderr
    nobody = "nats://127.0.0.1:%d" % harness.free_port()
    answer = worker(server, "add", "five", "--url", nobody, "--timeout", "1s")
    assert "not verified that the change holds at " + nobody in answer.stderr and "nobody answers there" in answer.stderr
    with open(conf, "w", encoding="utf-8") as file:
        file.write(good)
    answer = worker(server, "revoke", "five", "--url", server.url)
    assert server.url + " has read it" in answer.stderr


def test_who_proves_itself_slowly_is_let_in(server, monkeypatch):
    """The server's own patience is 2 s, which a loaded machine needs for less than a signature."""
    def slow(*args, sign=natswire.sign):
        time.sleep(3)
        return sign(*args)
    monkeypatch.setattr(natswire, "sign", slow)
    server.wire().close()


# ---- secrets ---------------------------------------------------------------------------------------------------------------


def test_secrets_in_a_command_line_are_refused(server):
    for url in ("nats://joe:hunter22@localhost:4222", "tls://hunter22@localhost", server.url + ",nats://joe:hunter22@b"):
        for args in (("check",), ("init", "--models", "q"), ("janitor",), ("farm",), ("worker", "add", "one", "--dir", server.dir)):
            answer = hub(*args, "--url", url)
            assert answer.returncode == 2 and "--password-file" in answer.stderr and "hunter22" not in answer.stderr, (args, answer)
    assert list(server.users()) == ["admin"]
    answer = hub("check", "--url", "localhost:4222")
    assert answer.returncode == 2 and "nats://HOST:4222" in answer.stderr


@pytest.mark.parametrize("mask", (0o077, 0o000))
def test_files_are_as_open_as_they_must_be_whatever_the_umask(folder, mask):
    before = os.umask(mask)
    try:
        server = Server(folder)
        server.start()
    finally:
        os.umask(before)
    try:
        worker(server, "add", "one", "--out", os.path.join(server.dir, "one.nk"))
        worker(server, "add", "two", "--password", "--out", os.path.join(server.dir, "two.pass"))
        modes = {name: stat.S_IMODE(os.stat(os.path.join(server.dir, name)).st_mode) for name in os.listdir(server.dir)}
        assert modes == {"nats.conf": 0o644, "users.conf": 0o644, "admin.nk": 0o600, "one.nk": 0o600, "two.pass": 0o600}
        assert stat.S_IMODE(os.stat(server.dir).st_mode) == 0o755
    finally:
        server.stop()


def test_with_tls(folder):
    pem, key = certificate(folder, "server")
    server = Server(folder, tls=(pem, key)).start()
    try:
        # The server's certificate is for its name, not for the address at which its own machine asks.
        answer = worker(server, "add", "one", "--out", os.path.join(folder, "one.nk"))
        assert "has read it: the change holds" in answer.stderr
        done("init", *server.as_admin(), "--models", "q")
        # The first that answers, of several; and a command that has done its work has ended well.
        urls = "tls://localhost:%d,%s" % (harness.free_port(), server.url)
        for _ in range(10):
            done("check", "--url", urls, "--tls-ca", pem, "--nkey", server.admin_file)
    finally:
        server.stop()
    # Another's name, by the address that is not in it: refused before anything is said.
    pem, key = certificate(folder, "stranger", subject="elsewhere.example", alt="DNS:elsewhere.example")
    server = Server(folder, "other", tls=(pem, key)).start()
    try:
        for host in ("localhost", "127.0.0.1"):
            for scheme in ("tls", "nats"):
                answer = hub("check", "--url", "%s://%s:%d" % (scheme, host, server.port), "--tls-ca", pem, "--nkey", server.admin_file)
                assert answer.returncode == 1 and "host name" in answer.stderr, answer
    finally:
        server.stop()
