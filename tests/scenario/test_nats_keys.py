# ctest: asan
"""Every way of a worker into a NATS hub, with the real server: password, nkey, credentials file (JWT), TLS with a name to prove and a certificate of
our own; and what is said when it is not let in. No secret is in the log or the API."""
import base64
import hashlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import threading

import pytest

import harness
from harness import wait_for
from natswire import PKCS8, Wire, hub, seed_of, sign
from pipes import certificate

pytestmark = pytest.mark.skipif(not shutil.which("nats-server"), reason="there is no nats-server")


@pytest.fixture
def serve(folder):
    """A server with these lines in its configuration; its port."""
    running = []

    def start(lines):
        port = harness.free_port()
        path = os.path.join(folder, "nats-%d.conf" % port)
        with open(path, "w", encoding="utf-8") as file:
            file.write('listen: "127.0.0.1:%d"\n%s\n' % (port, lines))
        log = os.path.join(folder, "log")
        with open(log, "ab") as out:
            running.append(harness.spawn(["nats-server", "-c", path], stdout=out, stderr=out))
        wait_for(lambda: answers(port), what=lambda: open(log, encoding="utf-8").read())
        return port
    yield start
    for process in running:
        process.kill()
        process.wait(harness.PATIENCE)


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            return True
    except OSError:
        return False


def secret(folder, name, text):
    path = os.path.join(folder, name)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    return path


def says(make_daemon, words, secrets=(), **members):
    """A daemon with such a hub says so."""
    daemon = make_daemon({"hubs": [{"driver": "nats", "name": "lab", "worker": "one", **members}]})
    wait_for(lambda: words in daemon.output(), what=daemon.output)
    for text in secrets:
        assert text not in daemon.output()
    daemon.stop()


UP = "lab: hub is up"


def test_password(serve, make_daemon, folder):
    port = serve("authorization { users: [ {user: one, password: hunter22} ] }")
    good, bad = secret(folder, "good", "hunter22\n"), secret(folder, "bad", "hunter23\n")
    url = "nats://127.0.0.1:%d" % port
    says(make_daemon, UP, ["hunter22"], url=url, user="one", credentials_file=good)
    says(make_daemon, "refuses our key", ["hunter23"], url=url, user="one", credentials_file=bad)
    says(make_daemon, "refuses our key", url=url)
    says(make_daemon, "holds neither an nkey's seed", ["hunter22"], url=url, credentials_file=good)


def test_nothing_listens(make_daemon):
    says(make_daemon, "lab: hub is down", url="nats://127.0.0.1:%d" % harness.free_port())


def test_the_first_of_several_that_answers(serve, make_daemon):
    port = serve("")
    dead = ["nats://127.0.0.1:%d" % harness.free_port() for _ in range(3)]
    says(make_daemon, UP, url=dead[0], more_urls=dead[1:] + ["nats://127.0.0.1:%d" % port])


def test_tls(serve, make_daemon, folder):
    pem, key = certificate(folder, "server")
    other, _ = certificate(folder, "other")
    stranger, stranger_key = certificate(folder, "stranger", subject="elsewhere.example", alt="DNS:elsewhere.example")
    port = serve('tls { cert_file: "%s", key_file: "%s" }' % (pem, key))
    url = "tls://localhost:%d" % port
    says(make_daemon, UP, url=url, ca_file=pem)
    says(make_daemon, UP, url="tls://127.0.0.1:%d" % port, ca_file=pem)
    says(make_daemon, "lab: hub is down", url=url, ca_file=other)        # signed by somebody else
    says(make_daemon, "lab: hub is down", url=url)                       # the system's authorities do not know it
    says(make_daemon, "lab: hub is down", url=url, ca_file=os.path.join(folder, "server.none"))
    port = serve('tls { cert_file: "%s", key_file: "%s" }' % (stranger, stranger_key))
    says(make_daemon, "lab: hub is down", url="tls://localhost:%d" % port, ca_file=stranger)     # another's name


def test_a_certificate_of_our_own(serve, make_daemon, folder):
    pem, key = certificate(folder, "server")
    ours, our_key = certificate(folder, "ours")
    port = serve('tls { cert_file: "%s", key_file: "%s", ca_file: "%s", verify: true }' % (pem, key, ours))
    url = "tls://localhost:%d" % port
    says(make_daemon, UP, url=url, ca_file=pem, cert_file=ours, key_file=our_key)
    says(make_daemon, "lab: hub is down", url=url, ca_file=pem)


# ---- JWT: an operator, an account and a user, written as nsc writes them -------------------------------------------------


def crc16(data):
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xffff
    return crc


def base32(data):
    return base64.b32encode(data + crc16(data).to_bytes(2, "little")).decode().rstrip("=")


def pair(prefix):
    """A public key and a seed of this kind (operator 14 << 3, account 0, user 20 << 3)."""
    raw = os.urandom(32)
    done = subprocess.run(["openssl", "pkey", "-inform", "DER", "-pubout", "-outform", "DER"], input=PKCS8 + raw, capture_output=True,
                          check=True)
    head = bytes([18 << 3 | prefix >> 5, (prefix & 31) << 3])
    return base32(bytes([prefix]) + done.stdout[-32:]), base32(head + raw)


def jwt(seed, issuer, subject, name, nats):
    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
    claims = {"jti": base64.b32encode(hashlib.sha256(subject.encode()).digest()).decode().rstrip("="), "iat": 1700000000,
              "iss": issuer, "name": name, "sub": subject, "nats": {"version": 2, **nats}}
    text = part({"typ": "JWT", "alg": "ed25519-nkey"}) + "." + part(claims)
    return text + "." + sign(seed, text)


def test_credentials_file(serve, make_daemon, folder):
    operator, operator_seed = pair(14 << 3)
    account, account_seed = pair(0)
    user, user_seed = pair(20 << 3)
    unlimited = {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}
    port = serve("operator: %s\nresolver: MEMORY\nresolver_preload: { %s: %s }" % (
        jwt(operator_seed, operator, operator, "farm", {"type": "operator"}), account,
        jwt(operator_seed, operator, account, "lab", {"type": "account", "limits": unlimited})))
    token = jwt(account_seed, account, user, "one", {"type": "user", "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}})
    text = ("-----BEGIN NATS USER JWT-----\n%s\n------END NATS USER JWT------\n\n"
            "-----BEGIN USER NKEY SEED-----\n%s\n------END USER NKEY SEED------\n")
    url = "nats://127.0.0.1:%d" % port
    says(make_daemon, UP, [token, user_seed], url=url, credentials_file=secret(folder, "one.creds", text % (token, user_seed)))
    _, another = pair(20 << 3)
    says(make_daemon, "refuses our key", [another], url=url, credentials_file=secret(folder, "bad.creds", text % (token, another)))


def test_nkey(serve, make_daemon, folder):
    user, seed = pair(20 << 3)
    port = serve("authorization { users: [ {nkey: %s} ] }" % user)
    url = "nats://127.0.0.1:%d" % port
    file = secret(folder, "one.nk", seed + "\n")
    with Wire(port, user, file):
        pass
    says(make_daemon, UP, [seed], url=url, credentials_file=file)
    _, other = pair(20 << 3)
    says(make_daemon, "refuses our key", [other], url=url, credentials_file=secret(folder, "other.nk", other))


class Doorman:
    """A server of which only the door is there: it says the nonces that it is given, one a connection, and keeps what it is answered."""

    def __init__(self, nonces):
        self.nonces, self.answers = list(nonces), []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.socket.settimeout(harness.PATIENCE)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        for nonce in self.nonces:
            connection, _ = self.socket.accept()
            with connection:
                connection.settimeout(harness.PATIENCE)
                connection.sendall(b'INFO {"server_id":"X","version":"2.9.10","proto":1,"headers":true,"max_payload":1048576,'
                                   b'"auth_required":true,"nonce":"%s","client_id":5}\r\n' % nonce.encode())
                said = b""
                while b"PING" not in said:
                    more = connection.recv(65536)
                    if not more:
                        break
                    said += more
                self.answers.append(json.loads(said.split(b"\r\n")[0].split(b" ", 1)[1]))
                connection.sendall(b"-ERR 'Authorization Violation'\r\n")
        self.socket.close()


@pytest.mark.parametrize("who", ["verb", "daemon"])
def test_a_signature_that_libnats_loses(make_daemon, folder, who):
    """One of 256 begins with a zero byte; libnats takes that for no signature, and a good key is refused. Then another one is sent at once."""
    key = os.path.join(folder, "worker.nk")
    done = hub("init", "--write-config", "--dir", os.path.join(folder, "conf"))
    assert done.returncode == 0, done.stderr
    os.rename(os.path.join(folder, "conf", "admin.nk"), key)
    seed = seed_of(key)
    words = ("n%011d" % i for i in itertools.count())
    lost = next(word for word in words if base64.urlsafe_b64decode(sign(seed, word) + "==")[0] == 0)
    good = next(word for word in words if base64.urlsafe_b64decode(sign(seed, word) + "==")[0] != 0)
    door = Doorman([lost, good])
    url = "nats://127.0.0.1:%d" % door.port
    if who == "verb":
        assert hub("farm", "--url", url, "--nkey", key).returncode == 1
    else:
        says(make_daemon, "refuses our key", [seed], url=url, credentials_file=key)
    door.thread.join(harness.PATIENCE)
    assert len(door.answers) == 2, door.answers
    assert door.answers[1]["sig"] == sign(seed, good), door.answers
