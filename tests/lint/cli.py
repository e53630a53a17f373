#!/usr/bin/env python3
"""The command line says of itself what it does: each verb and option of the program's own table (help --json) is in its --help and
in the man page, the man page tells of none besides, mandoc has nothing to say about it, and the completion scripts parse."""
import json
import os
import re
import shutil
import subprocess
import sys

SKIPPED = 77
SOURCE = os.environ.get("LSV_SOURCE") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("LSV_BUILD") or os.path.join(SOURCE, "build/dev")
PROGRAM = os.path.join(BUILD, "llama-supervisor")
MAN = "docs/man/llama-supervisor.8"
# What mandoc says about the machine and not about the page.
NOT_OF_THE_PAGE = re.compile(r"referenced manual not found|outdated mandoc\.db")


def run(*args):
    return subprocess.run([PROGRAM, *args], capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL)


def man_sections(text):
    """verb: its lines in VERBS (several .It in a row share what follows); and the options that stand before it."""
    before, _, rest = text.partition("\n.Sh VERBS\n")
    section = rest.split("\n.Sh ", 1)[0]
    verbs, heads, open_head = {}, [], True
    for line in section.splitlines():
        match = re.match(r"\.It Cm (\S+)", line)
        if match:
            heads = heads + [match.group(1)] if open_head else [match.group(1)]
            open_head = True
            verbs.setdefault(match.group(1), "")
            verbs[match.group(1)] += line + "\n"
            continue
        open_head = False
        for head in heads:
            verbs[head] += line + "\n"
    return verbs, before


def man_options(text):
    """(letters, names) that the mdoc text gives as flags."""
    words = re.findall(r"\bFl (-?[A-Za-z][\w-]*)", text)
    return {w for w in words if not w.startswith("-")}, {w[1:] for w in words if w.startswith("-")}


def check_man(table):
    with open(os.path.join(SOURCE, MAN), encoding="utf-8") as file:
        verbs, before = man_sections(file.read())
    common = {option["name"] for option in table["options"]}
    letters, names = man_options(before)
    for option in table["options"]:
        if option["name"] not in names or (option["letter"] and option["letter"] not in letters):
            yield "%s: the option --%s of every verb is missing" % (MAN, option["name"])
    for verb in table["verbs"]:
        if verb["name"] not in verbs:
            yield "%s: the verb %s is missing" % (MAN, verb["name"])
            continue
        letters, names = man_options(verbs[verb["name"]])
        known = {option["name"] for option in verb["options"]}
        for option in verb["options"]:
            if verb["name"] == "run" and option["name"] == "help":
                continue
            if option["name"] not in names or (option["letter"] and option["letter"] not in letters):
                yield "%s: %s: its option --%s is missing" % (MAN, verb["name"], option["name"])
        for name in sorted(names - known - common):
            yield "%s: %s: there is no option --%s" % (MAN, verb["name"], name)
        for letter in sorted(letters - {option["letter"] for option in verb["options"]}):
            yield "%s: %s: there is no option -%s" % (MAN, verb["name"], letter)
    for name in sorted(set(verbs) - {verb["name"] for verb in table["verbs"]}):
        yield "%s: there is no verb %s" % (MAN, name)


def check_help(table):
    everything = run("help")
    for verb in table["verbs"]:
        if not re.search(r"^  %s\b.*\n? *%s$" % (re.escape(verb["name"]), re.escape(verb["doc"])), everything.stdout, re.M):
            yield "help: %s is missing" % verb["name"]
        for args in ([verb["name"], "--help"], ["help", verb["name"]]):
            answer = run(*args)
            if answer.returncode or answer.stderr:
                yield "%s: exit code %d: %s" % (" ".join(args), answer.returncode, answer.stderr)
            if not answer.stdout.startswith("usage: llama-supervisor %s" % verb["name"]):
                yield "%s: does not begin with its usage" % " ".join(args)
            for option in verb["options"]:
                # The daemon's own --help tells of its options in its usage line.
                if args[0] != "run" and not re.search(r"^  .*--%s\b.*\n? *%s$" % (option["name"], re.escape(option["doc"])),
                                                      answer.stdout, re.M):
                    yield "%s: --%s is missing" % (" ".join(args), option["name"])
    if everything.returncode or not table["verbs"]:
        yield "help: failed"


def check_completion():
    for shell in ("bash", "zsh", "fish"):
        script = run("completion", shell)
        if script.returncode or not script.stdout:
            yield "completion %s: %s" % (shell, script.stderr)
        elif shutil.which(shell):
            answer = subprocess.run([shell, "-n"], input=script.stdout, capture_output=True, text=True, check=False, timeout=60)
            if answer.returncode or answer.stderr:
                yield "completion %s: %s" % (shell, answer.stderr)


def check_mandoc():
    if not shutil.which("mandoc"):
        return
    answer = subprocess.run(["mandoc", "-Tlint", os.path.join(SOURCE, MAN)], capture_output=True, text=True, check=False, timeout=60)
    for line in (answer.stdout + answer.stderr).splitlines():
        if not NOT_OF_THE_PAGE.search(line):
            yield line


def main():
    if not os.access(PROGRAM, os.X_OK):
        print("cli: %s is not built" % PROGRAM)
        return SKIPPED
    table = json.loads(run("help", "--json").stdout)
    faults = [*check_man(table), *check_help(table), *check_completion(), *check_mandoc()]
    for fault in faults:
        print(fault)
    print("cli: %d verbs, %d faults" % (len(table["verbs"]), len(faults)))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
