#!/usr/bin/env python3
"""Nothing in the spool is ever overwritten or deleted: the rooms that touch its folder have no call that could. One line is allowed, the first
name of a file that was not published yet (base/publish.c)."""
import glob
import os
import re
import sys

SOURCE = os.environ.get("LSV_SOURCE") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ROOMS = ("supervisor/hub/spool*.[ch]", "supervisor/core/spool*.[ch]", "supervisor/core/prompt*.[ch]", "supervisor/cli/jobs*.[ch]",
         "supervisor/base/publish.[ch]")
# Whatever removes, renames, empties or writes over what is there.
FORBIDDEN = re.compile(r"\b(unlink|unlinkat|remove|rmdir|rename|renameat2?|truncate|ftruncate|creat|fopen|freopen|pwritev?2?|"
                       r"fallocate|copy_file_range|mkstemp|mkostemp|tmpfile|symlink|symlinkat|system|popen)\s*\(|\b(O_TRUNC)\b")
ALLOWED = {"supervisor/base/publish.c": ["(void)unlink(p->scratch); /* its first name; what was linked keeps the other one */"]}
# A file is opened for writing in these ways alone: new and exclusive, without a name, appended to, or for its lock.
OPEN = re.compile(r"\bopen(?:at)?\s*\(((?:[^()]|\([^()]*\))*)\)", re.S)
WRITES = re.compile(r"\bO_(WRONLY|RDWR)\b")
GOOD_WRITES = re.compile(r"\bO_(TMPFILE|EXCL|APPEND)\b|/\* for its lock \*/")
COMMENT = re.compile(r"/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"", re.S)


def blank(match):
    return re.sub(r"[^\n]", " ", match.group(0))


def faults_of(path, text):
    allowed = ALLOWED.get(path, [])
    bare = COMMENT.sub(blank, text)
    lines = text.splitlines()
    for number, line in enumerate(bare.splitlines(), 1):
        match = FORBIDDEN.search(line)
        if match and lines[number - 1].strip() not in allowed:
            yield "%s:%d: %s: nothing in the spool is overwritten or deleted" % (path, number, match.group(1) or match.group(2))
    for match in OPEN.finditer(text):
        if WRITES.search(match.group(1)) and not GOOD_WRITES.search(match.group(0)):
            yield "%s:%d: opens what is there for writing" % (path, text.count("\n", 0, match.start()) + 1)


# The lint itself is tried on lines that it must refuse and on lines that it must not.
BAD = ["unlink(a);", "renameat2(a, b);", "(void)remove(x);", "open(p, O_RDWR | O_CLOEXEC);", "open(p, O_WRONLY | O_CREAT | O_TRUNC, 0600);",
       "ftruncate(fd, 0);", "fopen(p, \"w\");"]
GOOD = ["open(p, O_RDONLY | O_CLOEXEC);", "open(p, O_WRONLY | O_CREAT | O_EXCL, 0444);", "open(d, O_RDWR | O_TMPFILE, 0600);",
        "/* never unlink(a) */", "list_remove(&x->node);", "open(p, O_RDWR | O_CLOEXEC /* for its lock */);"]


def main():
    faults = ["the lint does not see: %s" % line for line in BAD if not list(faults_of("x.c", line))]
    faults += ["the lint refuses: %s" % line for line in GOOD if list(faults_of("x.c", line))]
    seen = 0
    for pattern in ROOMS:
        found = glob.glob(os.path.join(SOURCE, pattern))
        if not found:
            faults.append("%s: there is no such file: the lint is blind" % pattern)
        for name in sorted(found):
            seen += 1
            with open(name, encoding="utf-8") as file:
                faults += faults_of(os.path.relpath(name, SOURCE), file.read())
    for fault in faults:
        print(fault)
    print("spool: %d files, %d faults" % (seen, len(faults)))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
