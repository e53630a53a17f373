"""The rpm package on a booted machine, with Debian's rpm and stand-ins for what Fedora has and Debian has not: installed, upgraded
with an edited configuration, removed. Dependencies are not looked at: this rpm does not know what Debian installed."""
import glob
import os
import subprocess

import pytest

import machine as machines
import service as services
from conftest import MACHINES, SUITES, ask_script
from harness import PATIENCE, wait_for
from machine import CONFIG, MODELS, UNIT, Machine
from service import fleet

pytestmark = pytest.mark.skipif("trixie" not in SUITES, reason="rpm is tested in trixie alone")

# Of Fedora's systemd: what %systemd_post and %systemd_preun call.
HELPER = """#!/bin/sh
verb=$1; shift
case $verb in
install-system-units) systemctl --no-reload preset "$@" ;;
remove-system-units) systemctl --no-reload disable --now --no-warn "$@" ;;
esac
"""


@pytest.fixture(scope="module")
def suite():
    """The only one: bookworm's rpm makes no users."""
    return "trixie"


@pytest.fixture(scope="module")
def rpm(suite):
    folder = os.environ.get("LSV_PACKAGES_" + suite.upper()) or os.path.join(machines.SOURCE, "build", "packages", suite)
    names = [name for name in glob.glob(os.path.join(folder, "llama-supervisor-[0-9]*.rpm")) if not name.endswith(".src.rpm")]
    assert names, "no rpm package in %s: packaging/build rpm %s makes it" % (folder, suite)
    return max(names, key=os.path.getmtime)


@pytest.fixture
def host(request, suite, rpm, fake, tiny_model):
    one = Machine(suite, ask_script(os.path.join(machines.SOURCE, "packaging", "root"), suite, "rpm"))
    request.config.stash[MACHINES].append(one)
    one.copy_in(rpm, "/root/package.rpm", mode="644")
    one.copy_in(fake, services.FAKE)
    one.copy_in(tiny_model, "/srv/tiny.gguf", mode="644")
    one.write("/usr/lib/systemd/systemd-update-helper", HELPER, mode="755")
    one.write("/etc/rpm/macros", "%__systemd_sysusers /usr/bin/systemd-sysusers\n")
    one.write("/usr/lib/systemd/system-preset/99-default.preset", "disable *\n")
    yield one
    request.config.stash[MACHINES].remove(one)
    one.stop()


def rpm_do(machine, *options):
    result = machine.run("rpm", "--nodeps", *options, timeout=4 * PATIENCE)
    return result.stdout + result.stderr


def running(machine, *names):
    machine.sh("cp /srv/tiny.gguf %s/" % MODELS)
    services.Service(machine).configure(fleet(*names))
    machine.systemctl("enable", "--now", UNIT)
    return machine.wait_ready(list(names))


def test_install_makes_the_user_and_starts_nothing(host):
    m = host
    rpm_do(m, "-i", "/root/package.rpm")
    assert m.sh("stat -c '%%U %%a' /var/lib/llama-supervisor /var/log/llama-supervisor %s" % MODELS).split() == [
        "llama-supervisor", "750", "llama-supervisor", "750", "llama-supervisor", "755"]
    assert m.show("UnitFileState") == "disabled" and m.show("ActiveState") == "inactive"
    assert rpm_do(m, "-V", "llama-supervisor").strip() == ""
    assert m.sh("rpm -q --configfiles llama-supervisor").split() == [CONFIG]
    m.systemctl("enable", "--now", UNIT)
    assert m.request("GET", "/api/v1/instances").json["instances"] == []


def test_upgrade_keeps_models_and_settings(host):
    """The same package again: its scripts see an upgrade, and the file of the running program is replaced."""
    m = host
    rpm_do(m, "-i", "/root/package.rpm")
    running(m, "a", "b")
    children, daemon, text = m.children(), m.main_pid, m.read(CONFIG)
    told = rpm_do(m, "-U", "--force", "/root/package.rpm")
    assert "becomes the new version" in told and "not upgraded now" not in told, told
    m.wait_ready(["a", "b"])
    assert m.children() == children and m.main_pid == daemon
    assert m.sh("readlink /proc/%d/exe" % daemon).strip() == "/usr/bin/llama-supervisor"
    assert m.read(CONFIG) == text
    assert m.show("UnitFileState") == "enabled"


def test_remove_stops_all_and_ends_what_a_dead_daemon_left(host):
    m = host
    rpm_do(m, "-i", "/root/package.rpm")
    m.write(services.DROP_INS + "/test.conf", "[Service]\nRestart=no\n")
    m.systemctl("daemon-reload")
    running(m, "a", "b")
    text = m.read(CONFIG)
    m.kill_pid(m.main_pid, 9)
    wait_for(lambda: m.show("ActiveState") == "failed", what="the unit failed")
    assert len(m.children()) == 2
    rpm_do(m, "-e", "llama-supervisor")
    assert not m.children(), m.children()
    assert m.read(CONFIG + ".rpmsave") == text
    assert m.exists(MODELS + "/tiny.gguf") and not m.exists("/usr/bin/llama-supervisor")
    # Again, and this time it runs when it goes.
    rpm_do(m, "-i", "/root/package.rpm")
    running(m, "a")
    rpm_do(m, "-e", "llama-supervisor")
    assert not m.children() and not m.children("llama-supervisor")
    assert subprocess.run(m.command("systemctl", "is-enabled", UNIT), capture_output=True, check=False).returncode != 0
