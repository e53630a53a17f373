"""Can the tests of this folder run here? As a program (with --vm: about those in qemu) it prints why not, and fails."""
import glob
import os
import shutil
import subprocess
import sys

CGROUPS = [path for path in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")
           if os.path.exists(os.path.join(path, "cgroup.procs"))]
PREFIX = "lsv-system-"          # of machines' names and so of their cgroups; harness.Leftovers looks past it


def missing(*programs):
    for program, package in programs:
        if not shutil.which(program):
            return "%s is not installed (Debian: %s)" % (program, package)
    return None


def why_not():
    """Why no machine can be booted here, or None."""
    if os.geteuid() != 0:
        return "not root, so systemd cannot be booted in a container"
    lacking = missing(("systemd-nspawn", "systemd-container"), ("unshare", "util-linux"), ("nsenter", "util-linux"),
                      ("mmdebstrap", "mmdebstrap"))
    if lacking:
        return lacking
    top = [path for path in CGROUPS if os.path.exists(os.path.join(path, "cgroup.controllers"))]
    if not top:
        return "there is no cgroup v2 here, so systemd cannot be booted"
    probe = os.path.join(top[0], PREFIX + "%d-probe" % os.getpid())
    try:
        os.mkdir(probe)
        os.rmdir(probe)
    except OSError as error:
        return "cgroups cannot be made here (%s)" % error
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "--mount-proc", "true"], capture_output=True,
                      check=False).returncode != 0:
        return "namespaces cannot be made here"
    return None


def why_no_vm():
    """Why no virtual machine can be made and started here, or None."""
    if os.geteuid() != 0:
        return "not root, so the disk of a virtual machine cannot be made"
    if os.uname().machine != "x86_64":
        return "the virtual machine is made for x86_64 only"
    return missing(("qemu-system-x86_64", "qemu-system-x86"), ("mkfs.ext4", "e2fsprogs"), ("mmdebstrap", "mmdebstrap"))


def sweep():
    """Empty cgroups and folders of machines whose owner (the pid in their name) is gone: of runs that were killed."""
    for path in [p for top in CGROUPS for p in glob.glob(os.path.join(top, PREFIX + "*"))] + glob.glob("/tmp/" + PREFIX + "*"):
        owner = os.path.basename(path)[len(PREFIX):].split("-")[0]
        if owner.isdigit() and not os.path.exists("/proc/" + owner):
            remove_tree(path)


def remove_tree(path):
    """A cgroup with what is below it, or an empty folder; what is still in use stays."""
    for folder, _, _ in os.walk(path, topdown=False):
        try:
            os.rmdir(folder)
        except OSError:
            pass


if __name__ == "__main__":
    reason = why_no_vm() if "--vm" in sys.argv else why_not()
    print(reason or "")
    sys.exit(1 if reason else 0)
