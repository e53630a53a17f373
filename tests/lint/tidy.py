#!/usr/bin/env python3
"""clang-tidy has nothing to say about supervisor/. Reads compile_commands.json of the build folder (LSV_BUILD, else
build/dev), runs two at a time, and remembers in the build folder which files were clean, so that only what changed (the
file, any header, the checks or the program itself) is looked at again.

The checks of .clang-tidy are meant for REFERENCE, which is Debian 12's version; another one knows other checks, so where
only another is installed nothing is checked and the lint counts as skipped (exit status 77)."""
import concurrent.futures
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time

REFERENCE = 14
SKIPPED = 77
SOURCE = os.environ.get("LSV_SOURCE") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("LSV_BUILD") or os.path.join(SOURCE, "build/dev")
ONE_FILE_S = 240


def find_program():
    for name in ("clang-tidy-%d" % REFERENCE, "clang-tidy"):
        if shutil.which(name):
            answer = subprocess.run([name, "--version"], capture_output=True, text=True, check=True).stdout
            return name, int(re.search(r"version (\d+)", answer).group(1))
    sys.exit("tidy: clang-tidy is not installed (Debian package clang-tidy)")


def digest(*paths, salt=""):
    result = hashlib.sha256(salt.encode())
    for path in paths:
        with open(path, "rb") as file:
            result.update(path.encode() + b"\0" + file.read())
    return result.hexdigest()


def headers():
    for folder, folders, names in os.walk(os.path.join(SOURCE, "supervisor")):
        folders.sort()
        yield from (os.path.join(folder, name) for name in sorted(names) if name.endswith(".h"))


def compiled():
    """The sources of supervisor/ with the flags they are compiled with."""
    try:
        with open(os.path.join(BUILD, "compile_commands.json"), encoding="utf-8") as file:
            commands = json.load(file)
    except OSError as error:
        sys.exit("tidy: %s: %s (configure the build first)" % (error.filename, error.strerror))
    top = os.path.join(SOURCE, "supervisor") + "/"
    return {c["file"]: c.get("command", "") for c in commands if c["file"].startswith(top) and os.path.exists(c["file"])}


def analyzer_mode():
    """Looking through calls costs ten times as much and mostly finds that `return -errno` might return 0; LSV_TIDY=deep
    does it, for a person to read."""
    if os.environ.get("LSV_TIDY") == "deep":
        return []
    return ["--extra-arg=-Xclang", "--extra-arg=-analyzer-config", "--extra-arg=-Xclang", "--extra-arg=mode=shallow"]


def tidy(program, path):
    try:
        # gcc's own warning flags are unknown to clang; its own warnings are the compiler's business, not this lint's.
        answer = subprocess.run([program, "-p", BUILD, "--quiet", "--warnings-as-errors=*",
                                 "--extra-arg=-Wno-everything", *analyzer_mode(), path],
                                capture_output=True, text=True, timeout=ONE_FILE_S, check=False)
    except subprocess.TimeoutExpired:
        return "%s: clang-tidy took longer than %d s" % (os.path.relpath(path, SOURCE), ONE_FILE_S)
    if answer.returncode == 0:
        return ""
    return (answer.stdout.replace(SOURCE + "/", "") + (answer.stderr if not answer.stdout else "")).strip()


def main():
    started = time.monotonic()
    program, version = find_program()
    sources = compiled()
    if not sources:
        sys.exit("tidy: no file of supervisor/ in %s/compile_commands.json: the lint is broken" % BUILD)
    if version != REFERENCE:
        print("tidy: %s is version %d, the checks are meant for %d: not checked" % (program, version, REFERENCE))
        return SKIPPED
    common = digest(os.path.join(SOURCE, ".clang-tidy"), *headers(), salt="%s %d %s" % (program, version, analyzer_mode()))
    memory = os.path.join(BUILD, "tidy-clean.json")
    try:
        with open(memory, encoding="utf-8") as file:
            clean = set(json.load(file))
    except (OSError, ValueError):
        clean = set()
    keys = {path: digest(path, salt=common + command) for path, command in sources.items()}
    # The big ones first, so that none is left alone at the end.
    todo = sorted((p for p in sources if keys[p] not in clean), key=lambda p: -os.path.getsize(p))

    faults = 0
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for path, said in zip(todo, pool.map(lambda p: tidy(program, p), todo)):
            if said:
                print(said)
                faults += 1
            else:
                clean.add(keys[path])
    with open(memory + ".new", "w", encoding="utf-8") as file:
        json.dump(sorted(clean & set(keys.values())), file)
    os.replace(memory + ".new", memory)
    print("tidy: %d files, %d looked at, %d with faults, %.0f s" % (len(sources), len(todo), faults,
                                                                    time.monotonic() - started))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
