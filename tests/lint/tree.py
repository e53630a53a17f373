#!/usr/bin/env python3
"""What must hold for every file of the tree: nothing of the machine it was written on, no hosts of registries or mirrors,
nothing big, nothing left to do, scripts that parse, packages in one place."""
import os
import re
import shutil
import subprocess
import sys

SOURCE = os.environ.get("LSV_SOURCE") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIGGEST = 1000 * 1000

# Each with the reason. (Written so that the patterns do not find themselves.)
FORBIDDEN = [
    (re.compile(rb"(?<![\w.~-])/(?:work|opt/wheels|opt/npm)/[\w.]"), "a path of one machine"),
    (re.compile(rb"/tmp/(?:bash_jobs|land|newtree|BRIEF)\b"), "a path of one machine"),
    (re.compile(rb"\b(?:registry\.(?:npmjs|yarnpkg)|(?:files\.)?python[h]osted\.org|pypi\.(?:org|python)|(?:deb|ftp\.\w+|"
                rb"snapshot|security)\.debian\.[o]rg|archive\.ubuntu\.[c]om|proxy\.golang\.[o]rg|huggingface\.co/[\w-]+/resolve)"),
     "the host of a registry or mirror: the machine's own configuration decides that"),
    (re.compile(rb"\b(?:TO[D]O|FIX[M]E)\b"), "work left to do belongs into an issue"),
    (re.compile(rb"^(?:<{7} |>{7} |={7}$)", re.M), "a merge conflict"),
]
TRAILING_SPACE = re.compile(rb"[ \t]+\r?$", re.M)
TEXT = (".c", ".h", ".py", ".js", ".mjs", ".css", ".html", ".json", ".cmake", ".txt", ".md", ".sh", ".yml", ".yaml", ".8",
        ".5")


def tree():
    """What git tracks or would track; without git (a source archive) everything outside build/."""
    if os.path.exists(os.path.join(SOURCE, ".git")) and shutil.which("git"):
        answer = subprocess.run(["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others",
                                 "--exclude-standard"], cwd=SOURCE, capture_output=True, check=False)
        if answer.returncode == 0:
            names = {name.decode() for name in answer.stdout.split(b"\0") if name}
            return sorted(name for name in names if os.path.lexists(os.path.join(SOURCE, name)))
    found = []
    for folder, folders, names in os.walk(SOURCE):
        folders[:] = [f for f in folders if f not in ("node_modules", "__pycache__", ".git")
                      and not (folder == SOURCE and f.startswith("build"))]
        found += [os.path.relpath(os.path.join(folder, name), SOURCE) for name in names]
    return sorted(found)


def line_of(data, offset):
    return data.count(b"\n", 0, offset) + 1


def check_content(path, data):
    corpus = "/corpus/" in path
    for pattern, reason in FORBIDDEN:
        for match in pattern.finditer(data):
            if not corpus:
                yield "%s:%d: %r: %s" % (path, line_of(data, match.start()), match.group(0).decode(errors="replace"), reason)
    if path.endswith(TEXT) and not corpus:
        match = TRAILING_SPACE.search(data)
        if match and not path.endswith(".md"):
            yield "%s:%d: spaces at the end of the line" % (path, line_of(data, match.start()))
        if data and not data.endswith(b"\n"):
            yield "%s: no newline at the end" % path


def check_script(path, full, data):
    """Scripts parse and are executable; what is executable says what runs it."""
    first = data.split(b"\n", 1)[0]
    executable = os.access(full, os.X_OK)
    if executable and not first.startswith((b"#!", b"\x7fELF")):
        yield "%s: is executable and has no #! line" % path
    shell = first.startswith(b"#!") and re.search(rb"\b(?:ba)?sh\b", first)
    if shell and not executable:
        yield "%s: has a #! line and is not executable" % path
    if shell or path.endswith(".sh"):
        answer = subprocess.run(["bash", "-n", full], capture_output=True, text=True, check=False)
        if answer.returncode:
            yield "%s: bash -n: %s" % (path, answer.stderr.strip())
        if shutil.which("shellcheck"):
            answer = subprocess.run(["shellcheck", "-x", "-S", "warning", "-f", "gcc", "-P", os.path.join(SOURCE, "scripts"),
                                     full], capture_output=True, text=True, check=False)
            if answer.returncode:
                yield "%s: shellcheck:\n%s" % (path, answer.stdout.strip())
    if path.endswith(".py") or (first.startswith(b"#!") and b"python" in first):
        try:
            compile(data, path, "exec", dont_inherit=True)
        except SyntaxError as error:
            yield "%s:%s: %s" % (path, error.lineno, error.msg)


def check_packages():
    """What CMake asks pkg-config for is what the scripts install."""
    with open(os.path.join(SOURCE, "scripts/lib.sh"), encoding="utf-8") as file:
        known = set(re.findall(r"\bpc:(\S+)", file.read()))
    for path in ("CMakeLists.txt", "tests/CMakeLists.txt"):
        with open(os.path.join(SOURCE, path), encoding="utf-8") as file:
            text = file.read()
        for match in re.finditer(r"pkg_check_modules\(\s*\w+\s+(?:REQUIRED\s+)?(?:QUIET\s+)?(?:IMPORTED_TARGET\s+)?([^)]*)\)",
                                 text):
            for module in re.split(r"\s+", match.group(1).strip()):
                module = re.split(r"[<>=]", module)[0]
                if module and module not in known:
                    yield "%s: needs %s, which scripts/lib.sh does not install" % (path, module)


def main():
    faults, names = [], tree()
    if len(names) < 20:
        faults.append("only %d files below %s: the lint is broken" % (len(names), SOURCE))
    for path in names:
        full = os.path.join(SOURCE, path)
        if os.path.islink(full):
            if os.path.isabs(os.readlink(full)):
                faults.append("%s: an absolute link" % path)
            continue
        if os.path.getsize(full) > BIGGEST:
            faults.append("%s: %d bytes, more than %d" % (path, os.path.getsize(full), BIGGEST))
            continue
        with open(full, "rb") as file:
            data = file.read()
        faults += check_content(path, data)
        faults += check_script(path, full, data)
    faults += check_packages()
    for fault in faults:
        print(fault)
    print("tree: %d files, %d faults" % (len(names), len(faults)))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
