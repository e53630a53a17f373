"""llama-supervisor.service on a Machine: how it is installed, configured and put back, and what it may not leave."""
import json
import os

from harness import PATIENCE, merged, wait_for
from machine import CONFIG, MODELS, PORT, UNIT

DROP_INS = "/etc/systemd/system/llama-supervisor.service.d"
FAKE = "/usr/local/bin/llama-server"
CGROUP = "/sys/fs/cgroup/system.slice/llama-supervisor.service"
QUICK = {
    "listen": [{"address": "127.0.0.1:%d" % PORT}],
    "restart": {"backoff_initial": "100ms", "backoff_max": "500ms", "jitter": 0, "max_retries": 5},
    "health": {"interval": "200ms", "timeout": "5s"},
    "stop": {"grace": "2s", "drain": "10s"},
    "auth": {"anonymous": ["read", "infer", "admin"]},
}


def install(machine, package):
    """As a person does it who has the file."""
    machine.copy_in(package, "/root/" + os.path.basename(package), mode="644")
    return machine.sh("dpkg -i /root/" + os.path.basename(package) + " 2>&1", timeout=4 * PATIENCE)


def furnish(machine, fake, model):
    machine.copy_in(fake, FAKE)
    machine.copy_in(model, MODELS + "/tiny.gguf", mode="644")


def entries(*names, args=(), **keys):
    """Entries of the configuration: the fake for each name."""
    return [{"name": name, "model": "tiny.gguf", "args": list(args), **keys} for name in names]


def fleet(*names, args=(), **keys):
    """A configuration of such entries."""
    return {"instances": entries(*names, args=args, **keys)}


class Service:
    def __init__(self, machine):
        self.machine = machine

    # -- putting it in order

    def reset(self):
        m = self.machine
        assert not m.is_off, "a test before this one switched the machine off"
        self.halt()
        m.sh("rm -rf %s /var/lib/llama-supervisor/*.json /var/lib/llama-supervisor/*.jsonl; "
             "find /var/log/llama-supervisor -mindepth 1 -delete; rm -rf /run/llama-supervisor; "
             "systemctl daemon-reload; systemctl reset-failed" % DROP_INS)

    def halt(self):
        """Down, whatever state it is in."""
        m = self.machine
        m.sh("pkill -CONT -x llama-superviso || true")
        m.systemctl("stop", "llama-supervisor.socket", UNIT, timeout=4 * PATIENCE)

    def finish(self):
        if self.machine.is_off:
            return
        self.halt()
        try:
            self.assert_nothing_runs()
        finally:                                        # the next test shall not stumble over it
            self.machine.sh("pkill -KILL -x llama-server || true")

    def assert_nothing_runs(self):
        wait_for(lambda: not self.left(), 5, lambda: "nothing is left; there is: %s" % self.left())

    def left(self):
        m = self.machine
        ours = ["%d %s" % (pid, row[3]) for pid, row in m.processes().items()
                if row[1] not in "ZX" and os.path.basename(row[3].split(" ")[0]) in ("llama-server", "llama-supervisor")]
        if m.exists(CGROUP):
            ours += ["cgroup " + CGROUP]
        return ours

    def configure(self, *configs):
        """Each laid over the one before, over quick defaults."""
        config = QUICK
        for one in configs:
            config = merged(config, one)
        self.config = config
        self.machine.write(CONFIG, json.dumps(config, indent=1), mode="644")

    def drop_in(self, name, text):
        self.machine.write("%s/%s.conf" % (DROP_INS, name), text)
        self.machine.systemctl("daemon-reload")

    # -- life

    def start(self, *configs):
        """Configured, started, all ready; the instances as the API tells them."""
        if configs:
            self.configure(*configs)
        self.machine.systemctl("start", UNIT)
        return self.machine.wait_ready(self.names())

    def names(self):
        return [name for entry in self.config["instances"]
                for name in (["%s-%d" % (entry["name"], i) for i in range(entry["replicas"])] if entry.get("replicas", 1) != 1
                             else [entry["name"]])]

    def wait_another(self, name, before):
        """Until an instance is ready as another process than it was before; all instances then."""
        def ask():
            now = self.machine.instances()
            one = now.get(name, {})
            return now if one.get("status") == "ready" and one["pid"] != before[name]["pid"] else None
        return wait_for(ask, what=lambda: "another %s: %s" % (name, json.dumps(self.machine.instances(), indent=1)))

    def stop(self):
        self.machine.systemctl("stop", UNIT, timeout=4 * PATIENCE)
        self.assert_nothing_runs()

    def status_text(self):
        return self.machine.show("StatusText")

    def wait_status_text(self, question, timeout=PATIENCE):
        return wait_for(lambda: (lambda text: text if question(text) else None)(self.status_text()), timeout,
                        lambda: "another status text than " + self.status_text())
