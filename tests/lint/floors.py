#!/usr/bin/env python3
"""The floors of docs/ARCHITECTURE.md hold: an include goes down or stays, third-party headers stay on their floor, the
mind (core/) knows no clock and no system calls, and no file is longer than a person can hold in mind."""
import os
import re
import sys

SOURCE = os.environ.get("LSV_SOURCE") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LONGEST = 1000

# What a file on a floor may include. The doors use pipes and the conductor, never a hand; the client verbs only talk.
BELOW = {
    "base": {"base"},
    "core": {"core", "base"},
    "net": {"net", "core", "base"},
    "host": {"host", "net", "core", "base"},
    "fleet": {"fleet", "host", "net", "core", "base"},
    "hub": {"hub", "fleet", "net", "core", "base"},
    "http": {"http", "hub", "fleet", "net", "core", "base"},
    "cli": {"cli", "core", "base"},
}
# The program itself puts all floors together.
MAIN = re.compile(r"^supervisor/main[a-z_]*\.[ch]$")

# Third-party headers, and the files that may include them.
THIRD_PARTY = [
    (re.compile(r"^(uv\.h|uv/)"), "libuv", re.compile(r"^supervisor/net/")),
    (re.compile(r"^openssl/"), "OpenSSL", re.compile(r"^supervisor/(net/tls[a-z_]*\.[ch]|base/(secret|digest|nkey)\.c)$")),
    (re.compile(r"^curl/"), "libcurl", re.compile(r"^supervisor/net/fetch[a-z_]*\.[ch]$")),
    (re.compile(r"^systemd/"), "libsystemd", re.compile(r"^supervisor/host/")),
    (re.compile(r"^(nats/|nats\.h)"), "libnats", re.compile(r"^supervisor/hub/nats[a-z_]*\.[ch]$")),
    (re.compile(r"^nvml\.h"), "NVML", re.compile(r"^supervisor/host/")),
    (re.compile(r"^libwebsockets"), "libwebsockets", re.compile(r"^supervisor/net/wsclient[a-z_]*\.[ch]$")),
    (re.compile(r"^(json-c/|json\.h$|json_object)"), "json-c", re.compile(r"^supervisor/base/json[a-z_]*\.c$")),
]

# core/ is pure: tests set the time and hand it its input. (Reading a config file, with its includes, is the exception: an
# error must name file and line, so core/config opens what it parses. Addresses and signal names are values, not calls.)
IMPURE_HEADER = re.compile(r"^(sys/(epoll|wait|time|timerfd|inotify|eventfd|signalfd)|poll|pthread|spawn|sched)\.h$")
IMPURE_CALL = re.compile(r"\b(time_monotonic|time_realtime|clock_gettime|gettimeofday|getrandom|random|rand|usleep|nanosleep"
                         r"|fork|execve|kill|socket|connect|bind|listen|accept4?|send|recv|sendmsg|recvmsg)\s*\(")

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
COMMENT_OR_STRING = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)


def without_comments(text):
    """The same lines, with comments and strings blanked."""
    return COMMENT_OR_STRING.sub(lambda m: re.sub(r"[^\n]", " ", m.group(0)), text)


def files(top, endings):
    for folder, folders, names in os.walk(os.path.join(SOURCE, top)):
        folders[:] = sorted(f for f in folders if f not in ("node_modules", "corpus", "__pycache__"))
        for name in sorted(names):
            if name.endswith(endings):
                yield os.path.relpath(os.path.join(folder, name), SOURCE)


def floor_of(path):
    """The floor whose rules a file obeys: that of its folder, also for the unit tests of a floor."""
    parts = path.split("/")
    if parts[0] == "supervisor" and len(parts) > 2:
        return parts[1]
    if parts[:2] == ["tests", "unit"] and len(parts) > 3:
        return parts[2]
    return None


def check_include(path, kind, header, floor):
    if header.startswith("../") or "/../" in header:
        return "\"%s\" climbs out of its folder: write the path from supervisor/ on" % header
    target = header.split("/")[0]
    if kind == '"' and target in BELOW and floor and target not in BELOW[floor]:
        return "%s/ may not include \"%s\" (it may include %s)" % (floor, header, ", ".join(sorted(BELOW[floor])))
    for pattern, name, allowed in THIRD_PARTY:
        if path.startswith("supervisor/") and pattern.match(header) and not allowed.match(path):
            return "<%s>: %s stays in %s" % (header, name, allowed.pattern.strip("^$"))
    if path.startswith("supervisor/core/") and IMPURE_HEADER.match(header):
        return "core/ is pure and needs no <%s>" % header
    return None


def main():
    faults, seen, includes = [], 0, 0
    for path in list(files("supervisor", (".c", ".h"))) + list(files("tests", (".c", ".h"))):
        seen += 1
        with open(os.path.join(SOURCE, path), encoding="utf-8") as file:
            text = file.read()
        floor = floor_of(path)
        if path.startswith("supervisor/") and not MAIN.match(path) and floor not in BELOW:
            faults.append("%s:1: is on no floor (%s)" % (path, " ".join(BELOW)))
        for number, line in enumerate(text.splitlines(), 1):
            match = INCLUDE.match(line)
            if match:
                includes += 1
                fault = check_include(path, match.group(1), match.group(2), floor)
                if fault:
                    faults.append("%s:%d: %s" % (path, number, fault))
        if path.startswith("supervisor/core/"):
            for number, line in enumerate(without_comments(text).splitlines(), 1):
                match = IMPURE_CALL.search(line)
                if match:
                    faults.append("%s:%d: core/ is pure: no %s()" % (path, number, match.group(1)))
        if len(text.splitlines()) > LONGEST:
            faults.append("%s: %d lines, more than %d: look for the second noun" % (path, len(text.splitlines()), LONGEST))
    for top in ("scripts", "tests", "web"):
        for path in files(top, (".py", ".js", ".mjs", ".css", ".sh")):
            with open(os.path.join(SOURCE, path), encoding="utf-8") as file:
                lines = len(file.read().splitlines())
            if lines > LONGEST:
                faults.append("%s: %d lines, more than %d" % (path, lines, LONGEST))

    if not includes:
        faults.append("found no includes below %s: the lint is broken" % SOURCE)
    for fault in faults:
        print(fault)
    print("floors: %d files, %d includes, %d faults" % (seen, includes, len(faults)))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
