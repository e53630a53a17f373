"""Fixtures of the tests with the real systemd. Each module boots a machine for each suite and installs the package in it; each
test ends with the proof that the service left nothing.

Where no machine can be booted (not root, no tools) every test says SKIPPED with the reason, and the run ends with 77, so that
ctest and scripts/test tell it too. LSV_SUITES=bookworm narrows; LSV_SYSTEM_ROOT_<SUITE> and LSV_PACKAGES_<SUITE> name other roots
and folders of packages."""
import os
import subprocess

import pytest

import able
import machine as machines
import service as services

SUITES = os.environ.get("LSV_SUITES", "bookworm trixie").split()
MACHINES = pytest.StashKey()
WHY_NOT = pytest.StashKey()             # {why what was asked for cannot be run: how many tests}


def pytest_configure(config):
    config.addinivalue_line("markers", "vm: boots a virtual machine")
    config.stash[MACHINES], config.stash[WHY_NOT] = [], {}
    machines.harness.become_subreaper()
    if not able.why_not():
        able.sweep()


def pytest_collection_modifyitems(config, items):
    reasons = {True: able.why_no_vm(), False: able.why_not()}
    for item in items:
        reason = reasons[item.get_closest_marker("vm") is not None]
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))
            config.stash[WHY_NOT][reason] = config.stash[WHY_NOT].get(reason, 0) + 1


def pytest_sessionfinish(session, exitstatus):
    if session.config.stash[WHY_NOT] and exitstatus == 0:
        session.exitstatus = 77                 # ctest's SKIP_RETURN_CODE


def pytest_terminal_summary(terminalreporter, config):
    for reason, number in config.stash[WHY_NOT].items():
        terminalreporter.write_line("NOT RUN: %d tests: %s" % (number, reason))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows what its machine says."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for one in item.config.stash[MACHINES]:
            report.sections.extend(one.evidence())


# ---- what machines are made of -----------------------------------------------------------------------------------------

def ask_script(*args):
    """The last line that a script of ours prints; its messages go where ours go."""
    result = subprocess.run(args, cwd=machines.SOURCE, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL, check=False)
    assert result.returncode == 0, "%s failed with %d" % (" ".join(args), result.returncode)
    return result.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="session")
def base_root():
    """base_root(SUITE): the folder of its bare root."""
    def find(suite):
        given = os.environ.get("LSV_SYSTEM_ROOT_" + suite.upper())
        return given or ask_script(os.path.join(machines.SOURCE, "packaging", "root"), suite, "system")
    return find


@pytest.fixture(scope="session")
def packages():
    """packages(SUITE): our packages for it, oldest first."""
    def find(suite):
        folder = os.environ.get("LSV_PACKAGES_" + suite.upper()) or os.path.join(machines.SOURCE, "build", "packages", suite)
        names = [name for name in (os.listdir(folder) if os.path.isdir(folder) else [])
                 if name.startswith("llama-supervisor_") and name.endswith(".deb")]
        assert names, "no package in %s: packaging/build deb %s makes it" % (folder, suite)
        return sorted((os.path.join(folder, name) for name in names), key=os.path.getmtime)
    return find


@pytest.fixture(scope="session")
def fake(tmp_path_factory):
    """The fake llama-server, linked statically: it runs in every suite."""
    out = str(tmp_path_factory.mktemp("fake") / "llama-server")
    source = os.path.join(machines.SOURCE, "tests", "fakes", "fake_llama_server.c")
    headers = os.path.join(machines.SOURCE, "supervisor")
    result = subprocess.run(["cc", "-O1", "-static", "-pthread", "-D_GNU_SOURCE", "-I", headers, source, "-o", out],
                            capture_output=True, text=True, check=False)
    assert result.returncode == 0, "the fake does not link statically:\n" + result.stderr
    return out


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    given = os.environ.get("LSV_TINY_MODEL") or os.path.join(machines.SOURCE, "build", "models", "tiny.gguf")
    if os.path.exists(given):
        return given
    out = str(tmp_path_factory.mktemp("model") / "tiny.gguf")
    subprocess.run([os.path.join(machines.SOURCE, "scripts", "make-tiny-model"), out], check=True, stdout=subprocess.DEVNULL)
    return out


@pytest.fixture(scope="module", params=SUITES)
def suite(request):
    return request.param


@pytest.fixture(scope="module")
def boot(request, base_root, suite):
    """boot(): another machine of this suite with nothing of ours in it; gone when the module is done with the suite."""
    made = []

    def start():
        made.append(machines.Machine(suite, base_root(suite)))
        request.config.stash[MACHINES].append(made[-1])
        return made[-1]
    yield start
    for one in made:
        request.config.stash[MACHINES].remove(one)
        one.stop()


@pytest.fixture(scope="module")
def machine(boot, suite, packages, fake, tiny_model):
    """A machine of each suite with our package, the fake as llama-server and a model."""
    one = boot()
    services.install(one, packages(suite)[-1])
    services.furnish(one, fake, tiny_model)
    return one


@pytest.fixture
def service(machine):
    """The service on that machine: stopped, and as it was installed. At the end it is stopped, and nothing may be left."""
    one = services.Service(machine)
    one.reset()
    yield one
    one.finish()
