"""The Debian package on a booted machine: installed, upgraded with an edited configuration, downgraded, removed, purged, again;
and what becomes of the models meanwhile: an upgrade reloads none, also under load."""
import os
import shutil
import subprocess

import pytest

import service as services
from harness import PATIENCE, wait_for
from load import Load
from machine import CONFIG, MODELS, SOURCE, UNIT
from service import DROP_INS, fleet

STATE = "/var/lib/llama-supervisor"


@pytest.fixture(scope="module")
def versions(suite, packages, tmp_path_factory):
    """{"0": …, "1": …, "2": …}: an older version, the package itself, a newer one; each with another sample configuration."""
    folder = str(tmp_path_factory.mktemp("packages"))
    one = packages(suite)[-1]
    found = {"1": one}
    for name, version in (("0", "0.0.9"), ("2", "9.0")):
        tree = os.path.join(folder, "tree")
        subprocess.run(["dpkg-deb", "-R", one, tree], check=True)
        control = os.path.join(tree, "DEBIAN", "control")
        with open(control) as f:
            lines = ["Version: %s\n" % version if line.startswith("Version:") else line for line in f]
        with open(control, "w") as f:
            f.writelines(lines)
        with open(tree + CONFIG, "a") as f:
            f.write("// of version %s\n" % version)
        found[name] = os.path.join(folder, "llama-supervisor_%s_test.deb" % version)
        subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", tree, found[name]], check=True,
                       stdout=subprocess.DEVNULL)
        shutil.rmtree(tree)
    return found


@pytest.fixture(scope="module")
def bare(boot, fake, tiny_model):
    """A machine without the package, but with a llama-server."""
    m = boot()
    m.copy_in(fake, services.FAKE)
    m.copy_in(tiny_model, "/srv/tiny.gguf", mode="644")
    return m


@pytest.fixture
def host(bare):
    """That machine, and without the package again afterwards."""
    yield bare
    bare.sh("systemctl stop llama-supervisor.socket llama-supervisor.service 2>/dev/null || true; "
            "dpkg --purge llama-supervisor >/dev/null 2>&1; rm -rf %s %s; systemctl reset-failed" % (DROP_INS, STATE))
    wait_for(lambda: not bare.children(), what=lambda: "no child is left: %s" % bare.children())


def configured(machine, *configs):
    """Its models, a configuration with quick defaults, reloaded; all ready."""
    machine.sh("cp /srv/tiny.gguf %s/" % MODELS)
    one = services.Service(machine)
    one.configure(*configs)
    machine.systemctl("reload-or-restart", UNIT)
    machine.wait_ready(one.names())
    return one


def installed(machine, package, *options):
    machine.copy_in(package, "/root/" + os.path.basename(package), mode="644")
    return machine.run("dpkg", *options, "-i", "/root/" + os.path.basename(package), timeout=4 * PATIENCE)


def version_of(machine):
    return machine.sh("dpkg-query -W -f '${Status} ${Version}' llama-supervisor").split()[-1]


def test_install_starts_it_enabled(host, versions):
    m = host
    installed(m, versions["1"])
    assert m.show("ActiveState") == "active" and m.show("UnitFileState") == "enabled"
    assert m.systemctl("is-enabled", "llama-supervisor.socket", check=False).stdout.strip() == "disabled"
    assert m.request("GET", "/health").status == 200
    assert m.cli("status").returncode == 0
    assert m.sh("stat -c '%%a %%U' %s %s/models /var/log/llama-supervisor" % (STATE, STATE)).split() == [
        "750", "llama-supervisor", "755", "llama-supervisor", "750", "llama-supervisor"]
    # The configuration is the one that says of itself that it is the default, and it is good.
    m.cli("check", CONFIG)
    assert m.sh("systemd-analyze verify --man=no llama-supervisor.service llama-supervisor.socket 2>&1 || true") == ""


def test_its_own_autopkgtest(host, versions):
    """debian/tests/smoke, as autopkgtest would run it: by itself, with what Debian has."""
    m = host
    installed(m, versions["1"])
    m.copy_in(os.path.join(SOURCE, "packaging", "deb", "tests", "smoke"), "/root/smoke")
    m.run("/root/smoke", timeout=4 * PATIENCE)
    assert m.show("ActiveState") == "active"
    assert "stand-in" not in m.read(CONFIG) and not m.children("llama-server-stand-in")


def test_reinstall_changes_nothing(host, versions):
    m = host
    installed(m, versions["1"])
    configured(m, fleet("a"))
    before, pid = m.children(), m.main_pid
    installed(m, versions["1"])
    m.wait_ready(["a"])
    assert m.children() == before and m.main_pid == pid


def test_upgrade_keeps_models_configuration_and_pid(host, versions):
    """The running daemon becomes the new one in place; the conffile that somebody edited stays, the new one lies beside it."""
    m = host
    installed(m, versions["1"])
    configured(m, fleet("a", "b"))
    mine, before, pid = m.read(CONFIG), m.children(), m.main_pid
    installed(m, versions["2"], "--force-confdef", "--force-confold")
    assert version_of(m) == "9.0"
    m.wait_ready(["a", "b"])
    assert m.children() == before
    assert m.main_pid == pid and m.show("NRestarts") == "0"
    assert m.sh("readlink /proc/%d/exe" % pid).strip() == "/usr/bin/llama-supervisor", "it runs what is installed now"
    assert m.read(CONFIG) == mine and m.exists(CONFIG + ".dpkg-dist")
    # And down again, with the models still there.
    installed(m, versions["0"], "--force-downgrade", "--force-confdef", "--force-confold")
    assert version_of(m) == "0.0.9"
    m.wait_ready(["a", "b"])
    assert m.children() == before and m.main_pid == pid


def test_upgrade_under_load_loses_nothing(host, versions):
    """Requests go on all the time: every one is answered whole, every model stays loaded."""
    m = host
    installed(m, versions["1"])
    configured(m, {"instances": [{"name": "m", "model": "tiny.gguf", "replicas": 2, "args": ["--tok-s", "100", "--tokens", "20"]}]})
    before, pid = m.children(), m.main_pid
    with Load(m, "m", workers=4) as load:
        for version in ("2", "1", "2"):
            wait_for(lambda: load.answers > 10, what=lambda: "requests are answered: %r" % load)
            installed(m, versions[version], "--force-downgrade", "--force-confdef", "--force-confold")
            assert m.main_pid == pid
            load.answers = 0
        wait_for(lambda: load.answers > 10, what=lambda: "requests are answered: %r" % load)
    assert not load.lost and not load.wrong, load
    m.wait_ready(["m-0", "m-1"])
    assert m.children() == before
    assert m.journal().count("upgrade") > 0, m.journal()


def test_who_disabled_it_finds_it_disabled(host, versions):
    m = host
    installed(m, versions["1"])
    m.systemctl("disable", "--now", UNIT)
    installed(m, versions["2"], "--force-confdef", "--force-confold")
    assert m.show("ActiveState") == "inactive" and m.show("UnitFileState") == "disabled"


def test_who_stopped_it_finds_it_stopped(host, versions):
    m = host
    installed(m, versions["1"])
    m.systemctl("stop", UNIT)
    installed(m, versions["2"], "--force-confdef", "--force-confold")
    assert m.show("ActiveState") == "inactive" and m.show("UnitFileState") == "enabled"


def test_remove_stops_all_and_keeps_what_is_yours(host, versions):
    m = host
    installed(m, versions["1"])
    configured(m, fleet("a", "b"))
    mine = m.read(CONFIG)
    m.run("dpkg", "--remove", "llama-supervisor", timeout=4 * PATIENCE)
    assert m.children() == {}
    assert m.read(CONFIG) == mine and m.exists(MODELS + "/tiny.gguf")
    assert m.show("ActiveState") == "inactive"
    # Installed again: as it was.
    installed(m, versions["1"])
    m.wait_ready(["a", "b"])


def test_remove_ends_what_a_dead_daemon_left(host, versions):
    """The daemon is down and its children are not: nobody would find them after the removal."""
    m = host
    installed(m, versions["1"])
    m.write(DROP_INS + "/never.conf", "[Service]\nRestart=no\n")
    m.systemctl("daemon-reload")
    configured(m, fleet("a"))
    m.kill_pid(m.main_pid, 9)
    wait_for(lambda: m.show("ActiveState") == "failed", what=lambda: m.show("ActiveState"))
    assert len(m.children()) == 1
    m.run("dpkg", "--remove", "llama-supervisor", timeout=4 * PATIENCE)
    wait_for(lambda: not m.children(), what=lambda: "nothing is left: %s" % m.children())


def test_purge_leaves_nothing_but_models(host, versions):
    m = host
    installed(m, versions["1"])
    configured(m, fleet("a"))
    m.run("dpkg", "--purge", "llama-supervisor", timeout=4 * PATIENCE)
    assert m.children() == {}
    left = m.sh("find / -xdev -path /proc -prune -o -path /root -prune -o -path /var/lib/dpkg -prune -o -path /usr/share -prune -o "
                "-name '*llama-supervisor*' -print 2>/dev/null || true").split()
    assert left == [STATE], left
    assert m.sh("find %s -type f" % STATE).split() == [MODELS + "/tiny.gguf"]
    m.sh("rm -rf " + STATE)
    installed(m, versions["1"])
    assert m.show("ActiveState") == "active"


def test_a_configuration_that_the_new_version_refuses_stops_nothing(host, versions):
    """The upgrade is told to have failed, the installation is not; once it is repaired, the upgrade is one order."""
    m = host
    installed(m, versions["1"])
    configured(m, fleet("a"))
    children, daemon, good = m.children(), m.main_pid, m.read(CONFIG)
    m.write(CONFIG, good.replace('"instances"', '"instance"'), mode="644")
    told = installed(m, versions["2"], "--force-confdef", "--force-confold")
    assert "not upgraded now" in told.stdout + told.stderr
    assert m.children() == children and m.main_pid == daemon
    m.write(CONFIG, good, mode="644")
    m.cli("upgrade", timeout=4 * PATIENCE)
    m.wait_ready(["a"])
    assert m.children() == children and m.main_pid == daemon
    assert m.sh("readlink /proc/%d/exe" % daemon).strip() == "/usr/bin/llama-supervisor"


def test_nobody_is_surprised_by_what_is_enabled_or_open(host, versions):
    m = host
    installed(m, versions["1"])
    assert m.systemctl("is-system-running", check=False).stdout.strip() == "running"
    assert m.show("UnitFileState", "llama-supervisor.socket") == "disabled"
    assert m.sh("systemctl --global is-enabled llama-supervisor.service || true").strip() == "disabled"
    assert m.sh("ps -o user:20= -p %d" % m.main_pid).strip() == "llama-supervisor"
    assert m.sh("stat -c '%%U %%a' %s /var/log/llama-supervisor %s" % (STATE, MODELS)).split() == [
        "llama-supervisor", "750", "llama-supervisor", "750", "llama-supervisor", "755"]
    assert m.sh("stat -c '%G %a' /run/llama-supervisor/control.sock").strip() == "llama-supervisor 660"
