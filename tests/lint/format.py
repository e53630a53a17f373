#!/usr/bin/env python3
"""Every C file looks as .clang-format says. `format.py --fix [FILE...]` makes it so.

clang-format's versions disagree about details. The tree is formatted with REFERENCE, which is Debian 12's; where only
another version is installed the lint checks nothing, says so and counts as skipped (exit status 77)."""
import os
import re
import shutil
import subprocess
import sys

REFERENCE = 14
SKIPPED = 77
SOURCE = os.environ.get("LSV_SOURCE") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def version_of(program):
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return int(re.search(r"version (\d+)", answer).group(1))


def find_program():
    """The reference version by its own name first; else whatever is called clang-format."""
    for name in ("clang-format-%d" % REFERENCE, "clang-format"):
        if shutil.which(name):
            return name, version_of(name)
    sys.exit("format: clang-format is not installed (Debian package clang-format)")


def c_files():
    for top in ("supervisor", "tests"):
        for folder, folders, names in os.walk(os.path.join(SOURCE, top)):
            folders[:] = sorted(f for f in folders if f not in ("node_modules", "corpus"))
            for name in sorted(names):
                if name.endswith((".c", ".h")):
                    yield os.path.relpath(os.path.join(folder, name), SOURCE)


def main():
    fix = sys.argv[1:2] == ["--fix"]
    files = sys.argv[2:] or list(c_files())
    if not files:
        sys.exit("format: found no C files below %s: the lint is broken" % SOURCE)
    program, version = find_program()
    if version != REFERENCE:
        print("format: %s is version %d, the tree is formatted with %d: not checked" % (program, version, REFERENCE))
        return SKIPPED
    if fix:
        return subprocess.run([program, "-i"] + files, cwd=SOURCE, check=False).returncode

    bad = 0
    for file in files:
        answer = subprocess.run([program, "--dry-run", "-Werror", file], cwd=SOURCE, capture_output=True, text=True,
                                check=False)
        if answer.returncode:
            places = re.findall(r"^[^:\n]+:(\d+):\d+: error", answer.stderr, re.M)
            print("%s: lines %s%s" % (file, ", ".join(sorted(set(places), key=int)[:8]),
                                      " …" if len(set(places)) > 8 else ""))
            bad += 1
    if bad:
        print("format: %d of %d files; run tests/lint/format.py --fix" % (bad, len(files)))
        return 1
    print("format: %d files" % len(files))
    return 0


if __name__ == "__main__":
    sys.exit(main())
