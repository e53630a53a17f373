#!/usr/bin/env python3
"""The packages say what the tree says: the units meet every trap that was found with real systemd and are hardened, what is
installed is what the spec lists, and versions, dependencies, addresses and paths are the same everywhere."""
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

SOURCE = os.environ.get("LSV_SOURCE") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("LSV_BUILD") or os.path.join(SOURCE, "build/dev")
MOST_EXPOSED = 2.0
SKIPPED = 77

# Keys that every unit of ours needs, because children outlive it; why: docs/ARCHITECTURE.md and the comments in the units.
OUTLIVING = {"Type": "notify", "KillMode": "process", "OOMPolicy": "continue", "LimitCORE": "0", "Restart": "on-failure",
             "Delegate": "cpu memory pids", "DelegateSubgroup": "ctl", "NotifyAccess": "main", "StartLimitIntervalSec": "0",
             "ExecReload": "/bin/kill -HUP $MAINPID"}
# And the system's, since GPUs and the sandbox must both work.
SYSTEM = {"RuntimeDirectoryPreserve": "yes", "RuntimeDirectory": "llama-supervisor", "StateDirectory": "llama-supervisor",
          "LogsDirectory": "llama-supervisor", "LimitMEMLOCK": "infinity", "SupplementaryGroups": "video render",
          "User": "llama-supervisor", "ProtectSystem": "strict", "NoNewPrivileges": "yes", "CapabilityBoundingSet": ""}


def read(path):
    with open(os.path.join(SOURCE, path), encoding="utf-8") as file:
        return file.read()


def keys(text):
    """{key: its last value}, and {key: all values}"""
    pairs = re.findall(r"^(\w+)=(.*)$", text, re.M)
    return dict(pairs), {key: [v for k, v in pairs if k == key] for key, _ in pairs}


def seconds(text):
    match = re.fullmatch(r"(\d+)(ms|s|m|min|h)?", text)
    return int(match.group(1)) * {"ms": 0.001, None: 1, "s": 1, "m": 60, "min": 60, "h": 3600}[match.group(2)]


def sample():
    """The sample configuration without its comments."""
    text = re.sub(r'("(?:[^"\\\n]|\\.)*")|//[^\n]*', lambda m: m.group(1) or "", read("config/llama-supervisor.json"))
    return json.loads(text)


def check_units():
    config = sample()
    longest = seconds(config["stop"]["drain"]) + seconds(config["stop"]["grace"])
    for path, wanted in (("packaging/systemd/llama-supervisor.service.in", {**OUTLIVING, **SYSTEM}),
                         ("packaging/systemd/llama-supervisor.user.service.in", OUTLIVING)):
        last, every = keys(read(path))
        for key, value in wanted.items():
            if last.get(key) != value:
                yield "%s: %s=%s is needed, not %s" % (path, key, value, last.get(key))
        if not re.fullmatch(r"-@LSV_BINDIR@/llama-supervisor reap --post(?: --config \S+)?", last.get("ExecStopPost", "")):
            yield "%s: ExecStopPost=-… reap --post is needed" % path
        if seconds(last["TimeoutStopSec"]) < longest + 10:
            yield "%s: TimeoutStopSec=%s is too near to stop.drain + stop.grace (%d s)" % (path, last["TimeoutStopSec"], longest)
        for key in ("WatchdogSec", "FileDescriptorStoreMax", "TimeoutStartSec"):
            if key not in last:
                yield "%s: %s= is needed" % (path, key)
        for key in last:
            if len(every[key]) > 1 and key not in ("DeviceAllow", "SystemCallFilter"):
                yield "%s: %s= stands there twice" % (path, key)
    last, _ = keys(read("packaging/systemd/llama-supervisor.service.in"))
    if last["ExecStart"] != "@LSV_BINDIR@/llama-supervisor run --config @LSV_CONFIG_DIR@/llama-supervisor.json":
        yield "llama-supervisor.service.in: ExecStart names the configuration: the user's own default would be another one"
    if "LimitNOFILE" not in last or int(last["LimitNOFILE"]) < 65536:
        yield "llama-supervisor.service.in: LimitNOFILE is too small for a fleet with its clients"
    if "llama-supervisor-gpu.service" not in last["Wants"] or "llama-supervisor-gpu.service" not in last["After"]:
        yield "llama-supervisor.service.in: comes after llama-supervisor-gpu.service, or DeviceAllow finds no GPUs"
    if "/usr/bin/nvidia-modprobe" not in keys(read("packaging/systemd/llama-supervisor-gpu.service"))[0]["ExecStart"]:
        yield "llama-supervisor-gpu.service: calls nvidia-modprobe"
    groups = re.findall(r"^g (\S+)", read("packaging/systemd/llama-supervisor.sysusers"), re.M)
    for group in last["SupplementaryGroups"].split():
        if group not in groups:
            yield "llama-supervisor.sysusers: the group %s of the unit is missing, which would be fatal (216/GROUP)" % group
    listen, _ = keys(read("packaging/systemd/llama-supervisor.socket"))
    if listen["ListenStream"] != config["listen"][0]["address"]:
        yield "llama-supervisor.socket: ListenStream is %s, the sample's listen %s" % (listen["ListenStream"],
                                                                                      config["listen"][0]["address"])
    if "llama-supervisor.socket" in read("packaging/systemd/llama-supervisor.service.in"):
        yield "llama-supervisor.service.in: names the socket unit, which is not enabled"


def check_versions():
    version = re.search(r"^project\(llama-supervisor VERSION (\S+)", read("CMakeLists.txt"), re.M).group(1)
    for path, pattern in (("packaging/deb/changelog", r"\Allama-supervisor \(([^)-]*)-1\) unstable;"),
                          ("packaging/rpm/llama-supervisor.spec", r"^Version:\s*(\S+)"),
                          ("packaging/rpm/llama-supervisor.spec", r"%changelog\n\* .* - (\S+)-1\n")):
        match = re.search(pattern, read(path), re.M)
        if not match or match.group(1) != version:
            yield "%s: the version is %s, CMakeLists.txt has %s" % (path, match and match.group(1), version)


def check_dependencies():
    control, spec = read("packaging/deb/control"), read("packaging/rpm/llama-supervisor.spec")
    depends = control.split("Build-Depends:", 1)[1].split("\n\n", 1)[0]
    for line in re.findall(r"^\S+ .*$", re.search(r"<<'TABLE'\n(.*?)\nTABLE", read("scripts/lib.sh"), re.S).group(1), re.M):
        purposes, check, debian, _ = line.split()
        wanted = "build" in purposes.split(",") or check == "pc:cmocka"
        # build-essential brings these, and gzip is essential itself.
        if not wanted or debian in ("gcc", "libc6-dev", "gzip"):
            continue
        # The same under its newer name, which lintian wants.
        debian = "pkgconf" if debian == "pkg-config" else debian
        if not re.search(r"(?<![\w-])%s(?![\w.-])" % re.escape(debian), depends):
            yield "packaging/deb/control: Build-Depends lacks %s" % debian
        if check.startswith("pc:") and "pkgconfig(%s)" % check[3:] not in spec:
            yield "packaging/rpm/llama-supervisor.spec: BuildRequires lacks pkgconfig(%s)" % check[3:]


def check_scripts():
    """What the maintainer scripts promise."""
    for path in ("packaging/deb/llama-supervisor.postinst", "packaging/rpm/llama-supervisor.spec"):
        text = read(path)
        if not re.search(r"llama-supervisor upgrade >&2", text):
            yield "%s: an upgrade calls our own upgrade" % path
        if re.search(r"(?:systemctl|deb-systemd-invoke)[^\n]*\brestart\b|_with_restart|daemon-reexec", text):
            yield "%s: a restart would end the models" % path
    for path in ("packaging/deb/llama-supervisor.prerm", "packaging/rpm/llama-supervisor.spec"):
        if not re.search(r"llama-supervisor reap >&2", read(path)):
            yield "%s: a removal calls reap" % path
    rules = read("packaging/deb/rules")
    for line in re.findall(r"^\tdh_installsystemd .*$", rules, re.M):
        if "--no-stop-on-upgrade" not in line or "--no-start" not in line:
            yield "packaging/deb/rules: %s: would restart the daemon" % line.strip()


# ---- what cmake installs ---------------------------------------------------------------------------------------------

def installed(folder):
    """The paths that `cmake --install` made below folder, as they will be with the prefix /usr."""
    answer = subprocess.run(["cmake", "--install", BUILD], capture_output=True, text=True, check=False, timeout=300,
                            env={**os.environ, "DESTDIR": folder})
    if answer.returncode:
        raise RuntimeError("cmake --install %s: %s" % (BUILD, answer.stderr.strip()[-500:]))
    names = []
    for at, _, files in os.walk(folder):
        names += ["/" + os.path.relpath(os.path.join(at, name), folder) for name in files]
    return names


def check_spec(names):
    spec = read("packaging/rpm/llama-supervisor.spec")
    section = spec.split("\n%files\n", 1)[1].split("\n\n", 1)[0]
    macros = {"_bindir": "/usr/bin", "_unitdir": "/usr/lib/systemd/system", "_userunitdir": "/usr/lib/systemd/user",
              "_sysusersdir": "/usr/lib/sysusers.d", "_tmpfilesdir": "/usr/lib/tmpfiles.d", "_mandir": "/usr/share/man",
              "_datadir": "/usr/share", "_docdir": "/usr/share/doc", "_sysconfdir": "/etc", "_localstatedir": "/var",
              "name": "llama-supervisor"}
    listed = []
    for line in section.splitlines():
        path = re.sub(r"%\{(\w+)\}", lambda m: macros[m.group(1)], line).split()[-1]
        if not line.startswith("%license"):
            listed.append((path, line.startswith("%dir")))
    license_file = "/usr/share/doc/llama-supervisor/LICENSE"
    for name in names:
        name = re.sub(r"^/usr/local/", "/usr/", name)
        if name != license_file and not any(not is_dir and (fnmatch.fnmatch(name, path) or name.startswith(path + "/"))
                                            for path, is_dir in listed):
            yield "llama-supervisor.spec: %s is installed and stands not in %%files" % name
    for path, is_dir in listed:
        if not is_dir and not any(fnmatch.fnmatch(n, path) or n.startswith(path + "/")
                                  for n in (re.sub(r"^/usr/local/", "/usr/", name) for name in names)):
            yield "llama-supervisor.spec: %s is listed and not installed" % path


def check_with_systemd(names, folder):
    units = os.path.join(folder, "units")
    os.mkdir(units)
    for name in names:
        if re.search(r"/systemd/(system|user)/", name):
            text = open(folder + name, encoding="utf-8").read()
            # The program that was built stands in for the one that will be installed.
            paths = set(re.findall(r"(/\S*/bin/llama-supervisor)\b", text))
            if not all(any(path == n for n in names) for path in paths):
                yield "%s: starts %s, which is not where it is installed" % (name, ", ".join(sorted(paths)))
            where = os.path.join(units, "user" if "/systemd/user/" in name else "system")
            os.makedirs(where, exist_ok=True)
            with open(os.path.join(where, os.path.basename(name)), "w", encoding="utf-8") as file:
                file.write(re.sub(r"/\S*/bin/llama-supervisor\b", os.path.join(BUILD, "llama-supervisor"), text))
    service = os.path.join(units, "system/llama-supervisor.service")
    system = sorted(os.path.join(units, "system", name) for name in os.listdir(os.path.join(units, "system")))
    for options, files in (([], system), (["--user"], [os.path.join(units, "user/llama-supervisor.service")])):
        answer = subprocess.run(["systemd-analyze", "verify", "--man=no", *options, *files], capture_output=True, text=True,
                                check=False, timeout=120, env={**os.environ, "XDG_RUNTIME_DIR": folder})
        for line in sorted({line for line in (answer.stdout + answer.stderr).splitlines() if line.strip()}):
            yield "systemd-analyze verify: %s" % line.replace(units, "")
    answer = subprocess.run(["systemd-analyze", "security", "--offline=yes", "--no-pager", service], capture_output=True,
                            text=True, check=False, timeout=120, env={**os.environ, "SYSTEMD_COLORS": "0"})
    match = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", answer.stdout)
    if not match:
        yield "systemd-analyze security: no answer: %s" % answer.stderr.strip()[:300]
    elif float(match.group(1)) > MOST_EXPOSED:
        yield "systemd-analyze security: exposure %s, more than %s" % (match.group(1), MOST_EXPOSED)


def main():
    if not os.path.exists(os.path.join(BUILD, "llama-supervisor")):
        print("packaging: %s has no program yet" % BUILD)
        return SKIPPED
    faults = [*check_units(), *check_versions(), *check_dependencies(), *check_scripts()]
    skipped = ""
    with tempfile.TemporaryDirectory(prefix="lsv-packaging.") as folder:
        names = installed(folder)
        faults += check_spec(names)
        if shutil.which("systemd-analyze"):
            faults += check_with_systemd(names, folder)
        else:
            skipped = "; systemd-analyze is not here, so the units were read by us alone"
    for fault in faults:
        print(fault)
    print("packaging: %d files installed, %d faults%s" % (len(names), len(faults), skipped))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
