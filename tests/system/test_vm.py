"""Resource limits under a kernel of Debian's, in qemu without KVM: what a container on a hybrid machine cannot show. One machine
for each suite runs payload/run once, and each of its checks is a test here."""
import os
import re
import shutil
import subprocess

import pytest

import machine as machines

PAYLOAD = os.path.join(machines.HERE, "payload", "run")
CHECKS = subprocess.run([PAYLOAD, "--list"], capture_output=True, text=True, check=True).stdout.split()
LIMIT = 600                     # seconds from power-on to power-off; some 90 on two idle cores
pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def console(suite, packages, fake, tiny_model, tmp_path_factory):
    """What the machine of that suite said. Whose kernel itself fell is booted once more: that is the emulator's doing, not ours."""
    image = os.environ.get("LSV_VM_" + suite.upper()) or ask(os.path.join(machines.HERE, "vm-image"), suite)
    folder = tmp_path_factory.mktemp("vm-" + suite)
    for source in (PAYLOAD, packages(suite)[-1], tiny_model):
        shutil.copy(source, folder / ("tiny.gguf" if source == tiny_model else os.path.basename(source)))
    shutil.copy(fake, folder / "llama-server")
    tar = str(folder) + ".tar"
    subprocess.run(["tar", "-C", str(folder), "-cf", tar, "."], check=True)
    try:
        told = boot_vm(image, tar)
        return boot_vm(image, tar) if re.search("Kernel panic|Oops: |double fault", told) else told
    finally:
        os.unlink(tar)


def boot_vm(image, tar):
    disk = "if=virtio,format=raw,file="
    process = machines.harness.spawn(
        # Without cmpxchg16b, which qemu 7.2 emulates with a fault now and then ("double fault" in the allocator of Linux 6.12).
        ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "qemu64,-cx16", "-m", "1024", "-smp", "2", "-nographic",
         "-nodefaults", "-no-reboot", "-serial", "stdio", "-monitor", "none",
         "-kernel", image + "/vmlinuz", "-initrd", image + "/initrd.img",
         "-append", "console=ttyS0 root=/dev/vda rw quiet loglevel=3 panic=-1 psi=1 mitigations=off nokaslr",
         "-drive", disk + image + "/disk.img,snapshot=on", "-drive", disk + tar + ",readonly=on"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=machines.die_with_parent)
    try:
        output = process.communicate(timeout=LIMIT)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        output = process.communicate()[0] + b"\n(it was ended after %d s)" % LIMIT
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return output.decode("utf-8", "replace").replace("\r", "")


def ask(*args):
    told = subprocess.run(args, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL, check=True).stdout
    return told.strip().splitlines()[-1]


@pytest.mark.parametrize("check", CHECKS)
def test_limits(console, check):
    told = re.search(r"RESULT %s ((ok|FAILED).*)" % check, console)
    assert told, "it said nothing about %s:\n%s" % (check, console[-6000:])
    if not told.group(1).startswith("ok"):
        before = console[:told.start()].rfind("RESULT ")
        pytest.fail("%s\n%s" % (told.group(1), console[max(before, 0):told.end()]), pytrace=False)
