#!/usr/bin/env python3
"""The page (web/): texts in one file and all of them used, nothing that the Content-Security-Policy would have to forbid, no
other host, modules that parse."""
import os
import re
import shutil
import subprocess
import sys

SOURCE = os.environ.get("LSV_SOURCE") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WEB = os.path.join(SOURCE, "web")
TEXTS = "texts.js"
LONGEST = 1000

COMMENT = re.compile(r"/\*.*?\*/|(?<![:\"'`\\])//[^\n]*", re.S)
STRING = re.compile(r'"((?:\\.|[^"\\\n])*)"|\'((?:\\.|[^\'\\\n])*)\'|`((?:\\.|[^`\\])*)`')
# Prose: two words of which one begins a sentence, or a sentence's end.
PROSE = re.compile(r"(?:^|[\s>])[A-Z][a-z]+[ ,:]+[a-z]|[a-z]{2,} [a-z]{2,}[.!?]$|^[A-Z][a-z]+ (?:[a-z]+ )*[a-z]+$")
# Words that are names, not texts.
NAMES = re.compile(r"^(?:Bearer |[A-Z][a-zA-Z]+$)")

FORBIDDEN = [
    (re.compile(r"\b(?:innerHTML|outerHTML|insertAdjacentHTML|createContextualFragment)\b"), "HTML out of text"),
    (re.compile(r"\bdocument\.write|\beval\s*\(|\bnew Function\b|\bsetTimeout\(\s*[\"'`]"), "text that is run"),
    (re.compile(r"setAttribute\(\s*[^,()]*,?\s*[\"'](?:on\w+|style)[\"']|\bstyle:\s*[\"'`]"), "an inline handler or style"),
    (re.compile(r"\bXMLHttpRequest\b|\bsendBeacon\b|\bimportScripts\b"), "another way to the network than api.js, chat and feed.js"),
]
HOST = re.compile(r"(?:https?|wss?):?//(?!www\.w3\.org/|127\.0\.0\.1|localhost)[\w.-]+|(?:src|href|url\()=?[\"']?//[\w.-]+")
INLINE_HTML = re.compile(r"<style\b|\sstyle=|\son[a-z]+=|<script\b(?![^>]*\bsrc=)", re.I)


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


def blanked(text):
    return COMMENT.sub(lambda m: re.sub(r"[^\n]", " ", m.group(0)), text)


def check_js(name, text):
    code = blanked(text)
    for pattern, reason in FORBIDDEN:
        for match in pattern.finditer(code):
            yield "web/%s:%d: %s: %s" % (name, line_of(code, match.start()), match.group(0), reason)
    if name == TEXTS:
        return
    for match in STRING.finditer(code):
        value = next(group for group in match.groups() if group is not None)
        # In a template only what stands between the expressions is text.
        for part in re.split(r"\$\{[^}]*\}", value):
            if PROSE.search(part.strip()) and not NAMES.search(part):
                yield "web/%s:%d: %r: a text for people belongs into web/%s" % (name, line_of(code, match.start()), part, TEXTS)


def check_texts(files):
    """Each text is used, each that is used is there."""
    known = set(re.findall(r"^  (\w+):", blanked(files[TEXTS]), re.M))
    used = set()
    for name, text in files.items():
        if name.endswith(".js") and name != TEXTS:
            used |= set(re.findall(r"(?<![\w.])t\.(\w+)", blanked(text)))
    if len(known) < 20:
        yield "web/%s: only %d texts: the lint is broken" % (TEXTS, len(known))
    for name in sorted(known - used):
        yield "web/%s: %s is used nowhere" % (TEXTS, name)
    for name in sorted(used - known):
        yield "web/%s: there is no %s" % (TEXTS, name)


def check_css(name, text):
    code = blanked(text)
    for match in re.finditer(r"@import|url\(", code):
        yield "web/%s:%d: %s: styles load nothing" % (name, line_of(code, match.start()), match.group(0))
    defined = set(re.findall(r"(--[\w-]+)\s*:", code)) | {"--done", "--share"}
    for match in re.finditer(r"var\((--[\w-]+)", code):
        if match.group(1) not in defined and name == "style.css":
            yield "web/%s:%d: %s is defined nowhere" % (name, line_of(code, match.start()), match.group(1))


def main():
    files, faults = {}, []
    for name in sorted(os.listdir(WEB)):
        path = os.path.join(WEB, name)
        if os.path.isfile(path) and name.endswith((".js", ".css", ".html", ".svg")):
            with open(path, encoding="utf-8") as file:
                files[name] = file.read()
    if len(files) < 8:
        faults.append("only %d files in web/: the lint is broken" % len(files))
    for name, text in files.items():
        for match in HOST.finditer(text):
            faults.append("web/%s:%d: %s: another host" % (name, line_of(text, match.start()), match.group(0)))
        if text.count("\n") > LONGEST:
            faults.append("web/%s: more than %d lines" % (name, LONGEST))
        if name.endswith(".js"):
            faults += check_js(name, text)
        elif name.endswith(".css"):
            faults += check_css(name, text)
        elif name.endswith(".html"):
            for match in INLINE_HTML.finditer(text):
                faults.append("web/%s:%d: %s: nothing inline" % (name, line_of(text, match.start()), match.group(0).strip()))
    faults += check_texts(files)
    node = shutil.which("node")
    for name in files if node else ():
        if name.endswith(".js"):
            answer = subprocess.run([node, "--input-type=module", "--check"], input=files[name], capture_output=True, text=True,
                                    check=False)
            if answer.returncode:
                faults.append("web/%s: %s" % (name, answer.stderr.strip().splitlines()[:3]))
    for fault in faults:
        print(fault)
    print("web: %d files, %d faults" % (len(files), len(faults)))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
