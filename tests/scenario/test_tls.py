# ctest: asan
"""TLS on a listener: what is spoken and what is refused, deadlines, WebSocket and Socket.IO over it, certificates that are replaced
while it runs, and files that are wrong."""
import asyncio
import json
import os
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import time
import warnings

import pytest
import websockets

import harness

PATIENCE = harness.PATIENCE
NOW = 60
ONE = {"instances": [{"name": "one", "model": "tiny.gguf"}]}


def certificate(folder, name="server", subject="localhost", days=30, more=(), key=True):
    """A self-signed certificate of an elliptic key: folder/NAME.pem, folder/NAME.key; returns both."""
    pem, private = os.path.join(folder, name + ".pem"), os.path.join(folder, name + ".key")
    if key:
        subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private], check=True, capture_output=True)
        os.chmod(private, 0o600)
    subprocess.run(["openssl", "req", "-x509", "-new", "-key", private, "-out", pem, "-days", str(days), "-subj", "/CN=" + subject,
                    "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", *more], check=True, capture_output=True)
    return pem, private


def past(folder, name="old"):
    """One that has expired."""
    pem, private = certificate(folder, name)
    request = os.path.join(folder, name + ".csr")
    subprocess.run(["openssl", "req", "-new", "-key", private, "-subj", "/CN=expired", "-addext", "subjectAltName=DNS:localhost", "-out",
                    request], check=True, capture_output=True)
    sign = ["openssl", "x509", "-req", "-in", request, "-signkey", private, "-out", pem, "-copy_extensions", "copy"]
    # OpenSSL 3.4 and newer take dates, and no negative number of days any more.
    for age in (["-not_before", "20200101000000Z", "-not_after", "20200201000000Z"], ["-days", "-1"]):
        if subprocess.run(sign + age, capture_output=True, check=False).returncode == 0:
            return pem, private
    raise AssertionError("openssl makes no certificate that has expired")


@pytest.fixture
def daemon(make_daemon):
    """Plain on its first address, TLS on its second."""
    made = make_daemon(ONE, start=False)
    made.pem, made.private = certificate(made.root)
    made.write_config(with_tls(made.pem, made.private))
    made.start()
    made.wait_state("one", "ready")
    return made


def with_tls(pem, private, **more):
    return {**ONE, "listen": [{"address": "127.0.0.1:0"}, {"address": "127.0.0.1:0", "tls": {"cert_file": pem, "key_file": private}}], **more}


def port_of(daemon):
    assert daemon.listen[1].startswith("https://127.0.0.1:")
    return int(daemon.listen[1].rsplit(":", 1)[1])


def context(daemon=None, alpn=("http/1.1",), low=None, high=None):
    c = ssl.create_default_context(cafile=daemon.pem if daemon else None)
    c.verify_flags &= ~ssl.VERIFY_X509_STRICT        # Python 3.13 asks more of a root than the RFC's readers do
    if not daemon:
        c.check_hostname, c.verify_mode = False, ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if low:
            c.minimum_version = low
        if high:
            c.maximum_version = high
    if alpn:
        c.set_alpn_protocols(list(alpn))
    return c


def connect(daemon, c=None):
    raw = socket.create_connection(("127.0.0.1", port_of(daemon)), timeout=PATIENCE)
    try:
        return (c or context(daemon)).wrap_socket(raw, server_hostname="localhost")
    except BaseException:
        raw.close()
        raise


def ask(daemon, path="/api/v1/status", c=None, head="", method="GET", body=b""):
    with connect(daemon, c) as s:
        s.sendall(("%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%s\r\n" % (method, path, head)).encode() + body)
        return read_all(s)


def read_all(s):
    got = b""
    while piece := s.recv(65536):
        got += piece
    return got


def metric(daemon, name):
    text = daemon.control_api("GET", "/metrics").text
    return float(re.search(r"^llama_supervisor_%s (\S+)$" % re.escape(name), text, re.M).group(1))


def common_name(daemon):
    with connect(daemon, context()) as s:
        der = s.getpeercert(binary_form=True)
    text = subprocess.run(["openssl", "x509", "-inform", "der", "-noout", "-subject"], input=der, capture_output=True, check=True)
    return re.search(r"CN ?= ?(.*)", text.stdout.decode())[1].strip()         # OpenSSL 3.5 puts no spaces


# ---- what is spoken -----------------------------------------------------------------------------------------------------------

def test_a_certificate_that_cannot_be_served_is_told_before_and_at_the_start(make_daemon):
    """`check` and `run` say the same: which key of the configuration, which file, and why."""
    daemon = make_daemon(ONE, start=False)
    pem, private = certificate(daemon.root)
    other, other_private = certificate(daemon.root, "other")
    junk = os.path.join(daemon.root, "junk.pem")
    with open(junk, "w", encoding="ascii") as f:
        f.write("no certificate\n")
    locked = os.path.join(daemon.root, "locked.key")
    subprocess.run(["openssl", "pkey", "-in", private, "-aes256", "-passout", "pass:secret", "-out", locked], check=True, capture_output=True)
    assert other and other_private
    for cert, key, which, words in (
            (pem, os.path.join(daemon.root, "none"), "key_file", "none cannot be read: No such file or directory"),
            (junk, private, "cert_file", "junk.pem: holds no certificate in PEM format"),
            (pem, junk, "key_file", "junk.pem: holds no private key in PEM format"),
            (pem, other_private, "key_file", "this key does not belong to the certificate in " + pem),
            (pem, locked, "key_file", "the key is encrypted with a passphrase")):
        daemon.write_config(with_tls(cert, key))
        told = daemon.cli("check", daemon.config_file)
        line = next(line for line in told.stderr.splitlines() if words in line)
        assert told.returncode == 1 and ": listen[1].tls.%s: " % which in line, told.stderr
        number, column = line[len(daemon.config_file) + 1:].split(":")[:2]
        text = open(daemon.config_file, encoding="utf-8").read().splitlines()[int(number) - 1][int(column) - 1:]
        assert text.startswith('"%s"' % (key if which == "key_file" else cert)), (line, text)
        started = subprocess.run([harness.PROGRAM, "run", "--config", daemon.config_file], capture_output=True, text=True, timeout=60, check=False)
        assert started.returncode == 1 and line in started.stderr.splitlines(), started.stderr
    daemon.write_config(with_tls(pem, private))
    assert daemon.cli("check", daemon.config_file).returncode == 0


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_requests_over_tls(daemon, version):
    answer = ask(daemon, c=context(daemon, low=version, high=version))
    assert answer.startswith(b"HTTP/1.1 200 ") and b'"sentence"' in answer
    answer = ask(daemon, "/metrics", context(daemon, low=version, high=version))
    assert answer.endswith(b"0\r\n\r\n"), "whole, with its last chunk"
    with connect(daemon, context(daemon, low=version, high=version)) as s:
        assert s.selected_alpn_protocol() == "http/1.1" and s.version() == version.name.replace("_", ".")
        for _ in range(3):                # kept alive, and pipelined
            s.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2)
            got = b""
            while got.count(b'{"status":"ok"}') < 2:
                got += s.recv(65536)
        assert s.getpeercert()["subject"][0][0] == ("commonName", "localhost")
    assert metric(daemon, 'tls_handshakes_total{result="ok"}') == 3
    assert metric(daemon, 'tls_handshakes_total{result="failed"}') == 0
    assert metric(daemon, 'tls_certificate_expiry_timestamp_seconds{listen="%s"}' % daemon.listen[1]) > time.time() + 20 * 86400


def test_a_client_without_alpn_is_served(daemon):
    with connect(daemon, context(daemon, alpn=())) as s:
        assert s.selected_alpn_protocol() is None
        s.sendall(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in read_all(s), "and it is told that this is all (close_notify)"


def test_other_protocols_are_refused(daemon):
    with pytest.raises(ssl.SSLError, match="(?i)no.application.protocol"):
        connect(daemon, context(daemon, alpn=("h2", "spdy/3")))
    with connect(daemon, context(daemon, alpn=("h2", "http/1.1"))) as s:
        assert s.selected_alpn_protocol() == "http/1.1"
    assert metric(daemon, 'tls_handshakes_total{result="failed"}') == 1


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_old_versions_are_refused(daemon, version):
    answer = subprocess.run(["openssl", "s_client", "-connect", "127.0.0.1:%d" % port_of(daemon), version, "-cipher", "DEFAULT:@SECLEVEL=0"],
                            input=b"", capture_output=True, timeout=PATIENCE, check=False)
    assert answer.returncode != 0 and b"alert protocol version" in answer.stderr, answer


def test_weak_ciphers_are_refused(daemon):
    for cipher in ("AES128-SHA", "AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-SHA"):
        answer = subprocess.run(["openssl", "s_client", "-connect", "127.0.0.1:%d" % port_of(daemon), "-tls1_2", "-cipher",
                                 cipher + ":@SECLEVEL=0"], input=b"", capture_output=True, timeout=PATIENCE, check=False)
        assert answer.returncode != 0 and b"alert handshake failure" in answer.stderr, answer


def test_no_renegotiation(daemon):
    process = subprocess.Popen(["openssl", "s_client", "-connect", "127.0.0.1:%d" % port_of(daemon), "-tls1_2"], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        time.sleep(0.5)
        process.stdin.write(b"R\n")
        process.stdin.flush()
        out, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert b"no renegotiation" in out, out[-2000:]


def test_plain_http_is_told_where_it_is(daemon):
    with socket.create_connection(("127.0.0.1", port_of(daemon)), timeout=PATIENCE) as s:
        s.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        got = read_all(s)
    assert got.startswith(b"HTTP/1.1 400 ") and b"https://" in got
    assert metric(daemon, 'tls_handshakes_total{result="plain_text"}') == 1


def test_bodies_both_ways(daemon):
    body = json.dumps({"x": "y" * 3000}).encode()
    head = "Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    assert b" 400 " in ask(daemon, "/api/v1/reload", head=head, method="POST", body=body).split(b"\r\n")[0]
    answer = ask(daemon, "/openapi.json")
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["openapi"] == "3.1.0", "many records"


def test_resumption_by_ticket(daemon):
    c = context(daemon, high=ssl.TLSVersion.TLSv1_2)
    with connect(daemon, c) as s:
        session = s.session
    raw = socket.create_connection(("127.0.0.1", port_of(daemon)), timeout=PATIENCE)
    with c.wrap_socket(raw, server_hostname="localhost", session=session) as s:
        assert s.session_reused


# ---- attacks --------------------------------------------------------------------------------------------------------------------

def test_a_handshake_has_a_deadline(daemon):
    """One says nothing, one stops in the middle, one sends a byte a second: all are gone after ten seconds and a bit."""
    hello = client_hello(daemon)
    sockets = [socket.create_connection(("127.0.0.1", port_of(daemon)), timeout=PATIENCE) for _ in range(3)]
    began = time.monotonic()
    sockets[1].sendall(hello[:40])
    sent, open_ones = 0, list(sockets)
    while open_ones:
        assert time.monotonic() - began < NOW
        for s in select.select(open_ones, [], [], 1)[0]:
            try:
                assert s.recv(4096) == b""
            except ConnectionResetError:
                pass
            open_ones.remove(s)
            assert time.monotonic() - began > 8
        if sockets[2] in open_ones:
            try:
                sockets[2].send(hello[sent:sent + 1])
            except OSError:
                pass
            sent += 1
    for s in sockets:
        s.close()
    assert metric(daemon, 'tls_handshakes_total{result="failed"}') == 3
    assert b" 200 " in ask(daemon)


def client_hello(daemon):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context(daemon).wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def test_rubbish_harms_nobody(daemon):
    hello = client_hello(daemon)
    for rubbish in (b"\x00" * 100, b"\x16\x03\x01\xff\xff" + b"\x01" * 70000, hello[:-20] + b"\xff" * 20, b"\x16\x03\x01\x00\x00" * 50,
                    b"\x80\x2e\x01\x03\x01", b"\x15\x03\x01\x00\x02\x02\x28", hello + b"\x17\x03\x03\x00\x05hello"):
        with socket.create_connection(("127.0.0.1", port_of(daemon)), timeout=PATIENCE) as s:
            try:
                s.sendall(rubbish)
                s.shutdown(socket.SHUT_WR)
                read_all(s)
            except OSError:
                pass
    assert b" 200 " in ask(daemon)
    assert metric(daemon, 'tls_handshakes_total{result="failed"}') == 7
    assert daemon.process.poll() is None


def test_bytes_one_by_one(daemon):
    """Records cut anywhere are the same records."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context(daemon).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", port_of(daemon)), timeout=PATIENCE) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def pump(step):
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    data = outgoing.read()
                    for i in range(len(data)):
                        s.send(data[i:i + 1])
                    incoming.write(s.recv(3))
        pump(tls.do_handshake)
        tls.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        got = b""
        while b'{"status":"ok"}' not in got:
            got += pump(lambda: tls.read(4096))


def test_a_peer_that_goes_without_goodbye(daemon):
    for _ in range(5):
        with connect(daemon) as s:
            s.sendall(b"GET /api/v1/instances/one/logs?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b" 200 " in s.recv(4096)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    harness.wait_for(lambda: metric(daemon, "log_followers") == 0, NOW)


# ---- the feed over TLS ----------------------------------------------------------------------------------------------------------

def test_websocket_over_tls(daemon):
    feed = daemon.keep(harness.WebSocketFeed("wss://localhost:%d/ws" % port_of(daemon), ssl=context(daemon, alpn=()), subprotocols=["llama-status"]))
    assert feed.wait(lambda m: m["instance"] == "one")["data"]["status"] == "ready"
    start = len(feed.messages)
    assert daemon.api("POST", "/api/v1/instances/one/restart").status == 202
    feed.wait(lambda m: m["data"]["status"] != "ready", start=start)
    feed.wait(lambda m: m["data"]["status"] == "ready", start=start)
    start = len(feed.messages)
    feed.send("requestLlamaStatus")
    feed.wait(lambda m: m["instance"] == "one", start=start)
    daemon.stop()
    feed.thread.join(NOW)
    assert feed.socket.close_code == 1001


def test_websocket_over_tls_in_pieces_and_floods(daemon):
    async def run():
        async with websockets.connect("wss://localhost:%d/ws" % port_of(daemon), ssl=context(daemon, alpn=()), open_timeout=PATIENCE) as ws:
            await ws.recv()
            await ws.send(["request", "Llama", "Status"])
            assert json.loads(await asyncio.wait_for(ws.recv(), PATIENCE))["instance"] == "one"
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await ws.send("x" * 20000)
                while True:
                    await asyncio.wait_for(ws.recv(), PATIENCE)
            assert closed.value.rcvd.code == 1009
    asyncio.run(run())


def test_a_reader_that_does_not_read_costs_nobody(daemon):
    """A log that is followed over TLS by one that reads nothing: what waits for it is bounded, and others go on."""
    with connect(daemon) as stuck:
        stuck.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 300)
        for _ in range(20):
            assert b" 200 " in ask(daemon)
        with open("/proc/%d/status" % daemon.pid) as f:
            rss = int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))
        assert rss < 400 * 1024 or "asan" in harness.BUILD


def test_sse_and_socketio_over_tls(daemon):
    with connect(daemon) as s:
        s.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        got = b""
        while b"event: llama_status" not in got:
            got += s.recv(65536)
    assert b'0{"sid":' in ask(daemon, "/socket.io/?EIO=4&transport=polling")


# ---- certificates that are replaced -------------------------------------------------------------------------------------------------

def replace(daemon, pem, private):
    """As certbot does it, one file after the other."""
    for new, old in ((pem, daemon.pem), (private, daemon.private)):
        shutil.copyfile(new, old + ".tmp")
        os.chmod(old + ".tmp", 0o600)
        os.rename(old + ".tmp", old)


@pytest.mark.parametrize("how", ["watched", "SIGHUP"])
def test_a_new_certificate_is_taken_over(daemon, how):
    assert common_name(daemon) == "localhost"
    with connect(daemon) as kept:
        replace(daemon, *certificate(daemon.root, "new", "renewed"))
        if how == "SIGHUP":
            daemon.signal(signal.SIGHUP)
        harness.wait_for(lambda: common_name(daemon) == "renewed", NOW)
        kept.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in kept.recv(4096), "a connection of before goes on"
    assert metric(daemon, 'tls_certificate_reloads_total{result="ok"}') == 1
    events = [e for e in daemon.control_api("GET", "/api/v1/history").json["events"] if e["kind"] == "certificate"]
    assert len(events) == 1 and "renewed, valid until" in events[0]["text"]


@pytest.mark.parametrize("fault, words", [
    ("mismatch", "does not belong to the certificate"),
    ("rubbish", "no certificate in PEM format"),
    ("missing", "No such file"),
    ("expired", "has expired"),
])
def test_a_wrong_new_certificate_changes_nothing(daemon, fault, words):
    if fault == "mismatch":
        replace(daemon, certificate(daemon.root, "other")[0], daemon.private)
    elif fault == "rubbish":
        with open(daemon.pem, "w") as f:
            f.write("-----BEGIN NONSENSE-----\n")
    elif fault == "missing":
        os.rename(daemon.private, daemon.private + ".away")
    else:
        replace(daemon, *past(daemon.root))
    harness.wait_for(lambda: metric(daemon, 'tls_certificate_reloads_total{result="failed"}') >= 1, NOW)
    assert common_name(daemon) == "localhost"
    events = [e["text"] for e in daemon.control_api("GET", "/api/v1/history").json["events"] if e["kind"] == "certificate_failed"]
    assert events and words in events[0] and "stays in use" in events[0], events
    assert words in daemon.output()


# ---- start -----------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("fault, words", [
    ("mismatch", "server.key: this key does not belong to the certificate in"),
    ("no certificate", "holds no certificate in PEM format"),
    ("no key", "holds no private key in PEM format"),
    ("passphrase", "encrypted with a passphrase"),
    ("missing", "cannot be read: No such file"),
    ("half a key", "holds no private key"),
])
def test_wrong_files_are_told_at_start(make_daemon, fault, words):
    daemon = make_daemon(ONE, start=False)
    pem, private = certificate(daemon.root)
    if fault == "mismatch":
        pem = certificate(daemon.root, "other")[0]
    elif fault == "no certificate":
        shutil.copyfile(private, pem)
    elif fault == "no key":
        shutil.copyfile(pem, private)
    elif fault == "passphrase":
        subprocess.run(["openssl", "pkcs8", "-topk8", "-in", private, "-out", private + ".enc", "-passout", "pass:secret"], check=True,
                       capture_output=True)
        os.rename(private + ".enc", private)
    elif fault == "missing":
        os.unlink(private)
    elif fault == "half a key":
        with open(private) as f:
            text = f.read()
        with open(private, "w") as f:
            f.write(text[:len(text) // 2])
    daemon.write_config(with_tls(pem, private))
    daemon.launch()
    assert daemon.wait_exit() == 1 and words in daemon.output(), daemon.output()


def test_an_expired_certificate_is_told_and_served(make_daemon):
    daemon = make_daemon(ONE, start=False)
    daemon.pem, daemon.private = past(daemon.root)
    daemon.write_config(with_tls(daemon.pem, daemon.private))
    daemon.start()
    assert "has expired" in daemon.output()
    with pytest.raises(ssl.SSLError, match="(?i)expired"):
        connect(daemon)
    assert b" 200 " in ask(daemon, c=context())
    replace(daemon, *certificate(daemon.root, "new", "renewed"))
    harness.wait_for(lambda: common_name(daemon) == "renewed", NOW)


def test_a_chain_is_sent_whole(make_daemon):
    daemon = make_daemon(ONE, start=False)
    root, root_key = certificate(daemon.root, "root", "our root", more=["-addext", "basicConstraints=critical,CA:TRUE"])
    pem, private = certificate(daemon.root)
    request = daemon.path("s.csr")
    subprocess.run(["openssl", "req", "-new", "-key", private, "-subj", "/CN=leaf", "-addext", "subjectAltName=DNS:localhost", "-out",
                    request], check=True, capture_output=True)
    subprocess.run(["openssl", "x509", "-req", "-in", request, "-CA", root, "-CAkey", root_key, "-CAcreateserial", "-copy_extensions",
                    "copy", "-out", pem, "-days", "5"], check=True, capture_output=True)
    with open(root) as f:
        text = f.read()
    with open(pem, "a") as f:
        f.write(text)
    daemon.pem, daemon.private = root, private
    daemon.write_config(with_tls(pem, private))
    daemon.start()
    assert b" 200 " in ask(daemon)
    out = subprocess.run(["openssl", "s_client", "-connect", "127.0.0.1:%d" % port_of(daemon), "-showcerts"], input=b"",
                         capture_output=True, timeout=PATIENCE, check=False).stdout
    assert out.count(b"BEGIN CERTIFICATE") == 2


def test_keys_over_tls_where_others_can_reach_us(make_daemon):
    daemon = make_daemon(ONE, start=False)
    daemon.pem, daemon.private = certificate(daemon.root)
    daemon.write_config({**ONE, "auth": {"keys_file": "keys.json"}, "listen": [{"address": "127.0.0.1:0"}, {
        "address": "0.0.0.0:0", "tls": {"cert_file": daemon.pem, "key_file": daemon.private}}]})
    key = daemon.cli("key", "add", "web", "--config", daemon.config_file, socket_option=False).stdout.strip()
    daemon.start()
    daemon.listen[1] = daemon.listen[1].replace("0.0.0.0", "127.0.0.1")
    assert b" 401 " in ask(daemon)
    assert b" 200 " in ask(daemon, head="Authorization: Bearer %s\r\n" % key)
    assert "without TLS" not in daemon.output()
