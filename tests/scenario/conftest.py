"""Fixtures of the scenarios. Each test ends with the proof that it left nothing (nothing_left)."""
import os
import shutil
import subprocess
import tempfile

import pytest

import harness

pytest.register_assert_rewrite("faults")


def pytest_configure(config):
    config.addinivalue_line("markers", "real: needs a real llama-server")
    harness.become_subreaper()


@pytest.fixture(scope="session")
def world():
    """The folder in which everything of this run lies; short, for unix socket paths."""
    # Not pytest's tmp_path: too long for a socket.
    root = tempfile.mkdtemp(prefix="lsv-", dir="/tmp")
    tempfile.tempdir = root
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def tools(world):
    """Things made once for all tests; the check of leftovers knows them as there before."""
    folder = os.path.join(world, "tools")
    os.mkdir(folder)
    return folder


def make_model(path, *args):
    script = os.path.join(harness.SOURCE, "scripts", "make-tiny-model")
    result = subprocess.run(["/usr/bin/env", "python3", script, path, *args], capture_output=True, text=True, check=False)
    assert result.returncode == 0, "scripts/make-tiny-model: " + result.stderr
    return path


@pytest.fixture(scope="session")
def tiny_model(tools):
    """A model file that the real and the fake llama-server load: LSV_TINY_MODEL, or one of the build, or made now."""
    for path in (os.environ.get("LSV_TINY_MODEL"), os.path.join(harness.SOURCE, "build", "models", "tiny.gguf")):
        if path and os.path.exists(path):
            return path
    return make_model(os.path.join(tools, "tiny.gguf"))


@pytest.fixture(scope="session")
def slow_model(tools):
    """The same text, but it loads for about a second and answers some ten tokens a second (with -t 1 -np 1 -c 4096)."""
    return make_model(os.path.join(tools, "slow.gguf"), "--pad-mb", "400")


@pytest.fixture(scope="session")
def embedding_model(tools):
    """64 dimensions."""
    return make_model(os.path.join(tools, "embedding.gguf"), "--embedding")


@pytest.fixture(scope="session")
def fake_llama_server():
    assert os.path.exists(harness.FAKE), "%s is not there: build first, and set LSV_BUILD" % harness.FAKE
    return harness.FAKE


@pytest.fixture(scope="session")
def real_llama_server():
    """Never skipped: a suite that silently did not meet the real program proves nothing."""
    given = os.environ.get("LSV_LLAMA_SERVER")
    unpacked = os.path.join(harness.SOURCE, "build", "llama-server", "usr", "bin", "llama-server")
    for path in (given, unpacked, shutil.which("llama-server")):
        if path and os.access(path, os.X_OK):
            return path
    pytest.fail("no llama-server: set LSV_LLAMA_SERVER, or run scripts/fetch-llama-server, or install one")


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.real)])
def server(request):
    """Path of the llama-server under supervision: once the fake, once the real."""
    return request.getfixturevalue(request.param + "_llama_server")


@pytest.fixture(autouse=True)
def nothing_left(world, request):
    """Compares processes, sockets, files, mounts and cgroups before and after the test. Set up first, so torn down last."""
    # Session fixtures that the test asks for are made now, so that what they leave counts as there before.
    for name in ("tools", "tiny_model", "slow_model", "embedding_model"):
        if name in request.fixturenames:
            request.getfixturevalue(name)
    check = harness.Leftovers(world)
    yield check
    left = check.left()
    if left:
        check.clean_up()
        pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture
def folder(nothing_left, world):
    """An empty folder for this test."""
    path = tempfile.mkdtemp(prefix="t-", dir=world)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def make_daemon(nothing_left, world, tiny_model, request):
    """make_daemon({"instances": […]}, start=True) gives a Daemon; models_dir has tiny.gguf. All are closed at the end."""
    made = request.node.stash.setdefault(DAEMONS, [])

    def make(config, start=True, **kwargs):
        daemon = harness.Daemon(world, config, **kwargs)
        made.append(daemon)
        os.symlink(tiny_model, os.path.join(daemon.models, "tiny.gguf"))
        return daemon.start() if start else daemon
    yield make
    errors = []
    for daemon in reversed(made):
        try:
            daemon.close()
        except Exception as error:              # all of them must be closed before one is complained about
            errors.append(error)
    if errors:
        raise errors[0]


@pytest.fixture
def make_server(nothing_left, folder):
    """make_server(PROGRAM, ARGS…) starts a llama-server, real or fake, without a daemon."""
    made = []

    def make(program, *args, **kwargs):
        server = harness.Server(program, *args, folder=folder, **kwargs)
        made.append(server)
        return server
    yield make
    for server in made:
        server.close()


DAEMONS = pytest.StashKey()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows what its daemons and their children said."""
    outcome = yield
    report = outcome.get_result()
    if report.failed and call.when == "call":
        for daemon in item.stash.get(DAEMONS, []):
            report.sections.append(("daemon in " + daemon.root, daemon.output()))
            for name, text in daemon.child_logs().items():
                report.sections.append(("log of " + name, text))
