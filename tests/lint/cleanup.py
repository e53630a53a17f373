#!/usr/bin/env python3
"""A variable that is cleaned up at the end of its scope has a value before anything can leave that scope: either it is
declared with one, or the first line that can return comes after the line that sets it. Compilers do not tell: gcc 12 and
clang 14 take the clean-up's pointer for a write."""
import os
import re
import sys

SOURCE = os.environ.get("LSV_SOURCE") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DECLARATION = re.compile(r"^\s*_cleanup_\w*(?:\([^)]*\))?\s+(?:const\s+)?(?:struct\s+)?\w+\s+(?P<names>[^;]*);")
LEAVES = re.compile(r"\b(?:return|goto|break|continue)\b")


def names_without_value(declared):
    """The variables of a declaration that have no initialiser: "*a = NULL, b" has one, b."""
    depth, part, parts = 0, "", []
    for char in declared:
        depth += (char in "({[") - (char in ")}]")
        if char == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += char
    for one in parts + [part]:
        if "=" not in one:
            yield one.strip().lstrip("*").split("[")[0]


def check(path, lines):
    for number, line in enumerate(lines):
        match = DECLARATION.match(line)
        if not match or line.lstrip().startswith("#"):
            continue
        for name in names_without_value(match.group("names")):
            set_here = re.compile(r"&%s\b|\b%s\s*=[^=]" % (re.escape(name), re.escape(name)))
            for later in range(number + 1, len(lines)):
                if set_here.search(lines[later]):
                    break
                if LEAVES.search(lines[later]) or lines[later].startswith("}"):
                    yield "%s:%d: %s may be cleaned up without a value (line %d leaves first)" % (
                        path, number + 1, name, later + 1)
                    break


def main():
    faults, seen = [], 0
    for top in ("supervisor", "tests"):
        for folder, folders, names in os.walk(os.path.join(SOURCE, top)):
            folders[:] = sorted(f for f in folders if f not in ("node_modules", "corpus"))
            for name in sorted(names):
                if not name.endswith((".c", ".h")):
                    continue
                full = os.path.join(folder, name)
                with open(full, encoding="utf-8") as file:
                    lines = file.read().splitlines()
                seen += sum(bool(DECLARATION.match(line)) for line in lines)
                faults += check(os.path.relpath(full, SOURCE), lines)
    if not seen:
        faults.append("no clean-up variable found: the lint is broken")
    for fault in faults:
        print(fault)
    print("cleanup: %d variables, %d faults" % (seen, len(faults)))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
