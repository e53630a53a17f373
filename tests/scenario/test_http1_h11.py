"""Our HTTP/1.1 codec against h11, an independent strict one, over the fuzz corpus and mutations of it.

Whatever we accept, h11 must accept with the same method, target, headers, body and end of message. We may be stricter: what
only we refuse is counted, not judged. Known and wanted differences where we are laxer:
one CRLF before a request line is forgiven (RFC 9112 §2.2); h11 refuses it, so it is taken off before h11 sees the bytes.
"""
import json
import os
import random
import subprocess

import h11

BUILD = os.environ["LSV_BUILD"]
SOURCE = os.environ["LSV_SOURCE"]
DUMP = os.path.join(BUILD, "tests", "fakes", "http1_dump")
REQUESTS = 5000
RESPONSES = 3000
SEED = 20261120

# What attacks are made of, to be put in at random places.
PIECES = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b",", b"\x0b", b"\x1f", b"\x7f", b"\x85", b"\xa0", b"+", b"-", b"0",
    b"0x", b"_", b"5", b"/", b"*", b"?", b"#", b"\\", b"%00", b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0", b"Host: b\r\n",
    b"Content-Length: 5\r\n", b"Content-Length: 6\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n",
    b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"chunked", b" chunked", b"\r\n ", b"\r\n\t", b"0\r\n\r\n",
    b"5\r\nhello\r\n", b"X: y\r\n", b"ffffffffffffffff", b"00000000000000000",
]


def corpus(kind):
    folder = os.path.join(SOURCE, "tests", "fuzz", "corpus", "http1_" + kind)
    inputs = []
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), "rb") as f:
            inputs.append(f.read())
    assert len(inputs) >= 20, "the corpus went away: " + folder
    return inputs


def mutate(rng, inputs):
    data = bytearray(rng.choice(inputs))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(data) + 1)
        how = rng.randrange(7)
        if how == 0 and at < len(data):
            data[at] = rng.randrange(256)
        elif how == 1:
            data[at:at] = rng.choice(PIECES)
        elif how == 2:
            del data[at:at + rng.choice((1, 1, 2, 5, 20))]
        elif how == 3:
            piece = rng.choice(PIECES)
            data[at:at + len(piece)] = piece
        elif how == 4:
            other = rng.choice(inputs)
            data[at:] = other[rng.randrange(len(other) + 1):]
        elif how == 5:
            lines = bytes(data).split(b"\r\n")
            i = rng.randrange(len(lines))
            lines.insert(rng.randrange(len(lines) + 1), lines[i])
            data = bytearray(b"\r\n".join(lines))
        else:
            end = min(len(data), at + rng.randrange(1, 12))
            data[at:end] = data[at:end].swapcase()
    return bytes(data)


def ours(lines):
    done = subprocess.run([DUMP], input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=300, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(lines)
    return answers


def cases(kind, count, rng):
    """The corpus, then mutations of it: half of them of what is good, since what is bad mostly stays so."""
    inputs = corpus(kind)
    verdicts = ours(["%s %s" % ("request" if kind == "request" else "response GET", data.hex()) for data in inputs])
    good = [data for data, answer in zip(inputs, verdicts) if answer["verdict"] > 0]
    yield from inputs
    for i in range(count):
        yield mutate(rng, good if i % 2 else inputs)


def read_message(connection, head_type, data):
    """(head, body, end, rest) as h11 sees them; head is None when it refused or wants more."""
    connection.receive_data(data)
    head, body, end = None, b"", "short"
    closed = False
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            # A body without an end is an error of its own at EOF.
            return head, body, "short" if closed else "broken", None, str(error)
        if isinstance(event, head_type):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            end = "done"
            break
        elif event is h11.NEED_DATA and head is not None and not closed:
            closed = True
            connection.receive_data(b"")
        else:
            break  # more of the head is wanted, or the connection was paused or ended
    return head, body, end, len(connection.trailing_data[0]), None


def compare_headers(answer, head):
    mine = [(bytes.fromhex(n).lower(), bytes.fromhex(v)) for n, v in answer["headers"]]
    mine = [(n, v.lower() if n == b"transfer-encoding" else v) for n, v in mine]
    assert mine == [(bytes(n), bytes(v)) for n, v in head.headers]


def compare_body(answer, body, end, rest):
    assert answer["end"] == end
    if end == "done":
        assert bytes.fromhex(answer["body"]) == body
        assert answer["rest"] == rest


def judge(kind, inputs, answers, check):
    accepted = stricter = ended = 0
    for data, answer in zip(inputs, answers):
        try:
            if answer["verdict"] > 0:
                accepted += 1
                ended += answer["end"] == "done"
                check(data, answer)
            elif answer["verdict"] < 0:
                stricter += 1
        except Exception:
            print("input:", data)
            print("ours:", answer)
            raise
    print("%s: %d inputs, %d accepted by both, %d of them whole, %d refused by us" %
          (kind, len(inputs), accepted, ended, stricter))
    # Else the mutations are too wild to prove anything.
    assert accepted > len(inputs) / 10 and ended > len(inputs) / 20 and stricter > len(inputs) / 10


def test_requests():
    inputs = list(cases("request", REQUESTS, random.Random(SEED)))
    answers = ours(["request " + data.hex() for data in inputs])

    def check(data, answer):
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        data = data[2:] if data.startswith(b"\r\n") else data
        head, body, end, rest, error = read_message(connection, h11.Request, data)
        assert head is not None, "h11 refuses what we accept: %s" % error
        assert bytes.fromhex(answer["method"]) == bytes(head.method)
        assert bytes.fromhex(answer["target"]) == bytes(head.target)
        assert b"1.%d" % answer["minor"] == bytes(head.http_version)
        compare_headers(answer, head)
        if answer["end"] == "broken":
            return  # we may be stricter in bodies too
        compare_body(answer, body, end, rest)
        # h11 keeps no 1.0 connection; we do when it is asked for. With an upgrade it says nothing about keeping.
        if answer["minor"] == 1 and end == "done" and connection.their_state is not h11.MIGHT_SWITCH_PROTOCOL:
            assert answer["keep_alive"] == (connection.their_state is not h11.MUST_CLOSE)

    judge("requests", inputs, answers, check)


def test_responses():
    rng = random.Random(SEED)
    inputs = [(rng.choice((b"GET", b"GET", b"POST", b"HEAD")), data) for data in cases("response", RESPONSES, rng)]
    answers = ours(["response %s %s" % (method.decode(), data.hex()) for method, data in inputs])

    def check(pair, answer):
        method, data = pair
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        # h11 takes a 101 only when an upgrade was asked for.
        connection.send(h11.Request(method=method, target="/",
                                    headers=[("Host", "a"), ("Connection", "upgrade"), ("Upgrade", "x")]))
        connection.send(h11.EndOfMessage())
        if answer["status"] < 200:
            connection.receive_data(data)
            head = connection.next_event()
            assert isinstance(head, h11.InformationalResponse), head
            end = None
        else:
            head, body, end, rest, error = read_message(connection, h11.Response, data)
            assert head is not None, "h11 refuses what we accept: %s" % error
        assert answer["status"] == head.status_code
        assert b"1.%d" % answer["minor"] == bytes(head.http_version)
        compare_headers(answer, head)
        if answer["end"] == "broken" or end is None:
            return
        compare_body(answer, body, end, rest)

    judge("responses", inputs, answers, check)
