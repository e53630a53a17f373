"""What the benchmarks share: CPU time and memory of a process, percentiles, and one line a result."""
import json
import os
import platform
import subprocess


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * p / 100))]


def cpu_seconds(pid):
    """CPU time of all threads, from the scheduler's own nanoseconds."""
    total = 0
    for tid in os.listdir("/proc/%d/task" % pid):
        try:
            with open("/proc/%d/task/%s/schedstat" % (pid, tid)) as f:
                total += int(f.read().split()[0])
        except OSError:
            pass
    return total / 1e9


def memory(pid):
    """(RSS, PSS) in MB."""
    found = {}
    with open("/proc/%d/smaps_rollup" % pid) as f:
        for line in f:
            words = line.split()
            if words[0] in ("Rss:", "Pss:"):
                found[words[0]] = int(words[1]) / 1024
    return found["Rss:"], found["Pss:"]


def about(program):
    """The machine and the version, for the head of a report."""
    with open("/proc/cpuinfo") as f:
        cpu = [line.split(":")[1].strip() for line in f if line.startswith("model name")]
    return {"machine": "%d x %s" % (len(cpu), cpu[0] if cpu else platform.machine()), "kernel": platform.release(),
            "version": subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.strip()}


class Report:
    """Collects results; each is one line on stdout at once, all of them JSON at the end."""

    def __init__(self, head):
        self.head, self.results = head, []
        print("# %(machine)s, Linux %(kernel)s, %(version)s" % head, flush=True)

    def tell(self, row, who, text, target="", **figures):
        self.results.append(dict(row=row, who=who, target=target, **figures))
        print("%-38s %-18s %-52s %s" % (row, who, text, target), flush=True)

    def write(self, path):
        with open(path, "w") as f:
            json.dump(dict(self.head, results=self.results), f, indent=1)
