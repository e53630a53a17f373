/* harness.mjs: what the tests of the page stand on: a daemon in a world of its own, a real Chromium, and the proof that nothing is
 * left and nothing was complained about.
 *
 * Environment: LSV_BUILD (the build folder), LSV_SOURCE; LSV_LLAMA_SERVER and LSV_TINY_MODEL for those that need the real thing; LSV_WEB:
 * a folder whose modules and styles take the place of those that are built in, to try a change, or to break one, without a build.
 * Screenshots go to LSV_BUILD/page/. */
import { execFileSync, spawn } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, unlinkSync, writeFileSync } from "node:fs";
import http from "node:http";
import net from "node:net";
import { dirname, join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";

export const SOURCE = process.env.LSV_SOURCE ?? dirname(dirname(dirname(fileURLToPath(import.meta.url))));
export const BUILD = process.env.LSV_BUILD ?? join(SOURCE, "build", "dev");
const PROGRAM = join(BUILD, "llama-supervisor");
export const FAKE = join(BUILD, "tests", "fakes", "fake_llama_server");
export const PATIENCE = 1000 * Number(process.env.LSV_PATIENCE ?? 60);
/* For node:test: everything inside has deadlines of its own, which tell more. */
export const LIMIT = { timeout: 4 * PATIENCE };

let playwright;
try {
  playwright = await import("playwright-core");
} catch {
  console.error("tests/page: playwright-core is not here: run scripts/test, or npm ci in tests/page");
  process.exit(1);
}

/** The first true answer of ask(); fails with `what` when time is up. */
export async function eventually(what, ask, patience = PATIENCE) {
  const end = Date.now() + patience;
  let last;
  for (;;) {
    try {
      const answer = await ask();
      if (answer) return answer;
      last = answer;
    } catch (error) {
      last = error;
    }
    if (Date.now() > end) throw new Error(`not within ${patience / 1000} s: ${typeof what === "function" ? await what() : what} (last: ${last})`);
    await pause(30);
  }
}

export function freePort() {
  return new Promise((resolve, reject) => {
    // Outside the range that the kernel gives to outgoing connections.
    const port = 15000 + Math.floor(Math.random() * 15000);
    const probe = net.createServer();
    probe.once("error", () => freePort().then(resolve, reject));
    probe.listen(port, "127.0.0.1", () => probe.close(() => resolve(port)));
  });
}

export function tinyModel() {
  for (const path of [process.env.LSV_TINY_MODEL, join(SOURCE, "build", "models", "tiny.gguf")]) if (path && existsSync(path)) return path;
  const path = join(BUILD, "page-tiny.gguf");
  if (!existsSync(path)) execFileSync("/usr/bin/python3", [join(SOURCE, "scripts", "make-tiny-model"), path]);
  return path;
}

/** Never skipped: a suite that silently did not meet the real program proves nothing. */
export function realLlamaServer() {
  for (const path of [process.env.LSV_LLAMA_SERVER, join(SOURCE, "build", "llama-server", "usr", "bin", "llama-server"), "/usr/bin/llama-server"])
    if (path && existsSync(path)) return path;
  throw new Error("no llama-server: set LSV_LLAMA_SERVER, or run scripts/fetch-llama-server");
}

function processesOf(folder) {
  const found = [];
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const command = readFileSync(`/proc/${name}/cmdline`, "latin1");
      const state = readFileSync(`/proc/${name}/stat`, "latin1").split(") ").pop()[0];
      if (command.includes(folder) && state !== "Z") found.push(Number(name));
    } catch {
      // It ended while we looked.
    }
  }
  return found;
}

const laters = new WeakMap();

/** At the end of the test, what came last goes first (node:test's own order is the other one); every one of them, whatever fails. */
function later(t, fn) {
  if (laters.has(t)) {
    laters.get(t).push(fn);
    return;
  }
  const fns = [fn];
  laters.set(t, fns);
  t.after(async () => {
    const errors = [];
    for (const one of fns.reverse()) await Promise.resolve(one()).catch((error) => errors.push(error));
    if (errors.length) throw errors[0];
  });
}

class Daemon {
  constructor(folder, { env, ...config }, port) {
    Object.assign(this, { folder, port, env, address: `http://127.0.0.1:${port}` });
    for (const name of ["run", "state", "log", "models"]) mkdirSync(join(folder, name));
    copyFileSync(tinyModel(), join(folder, "models", "tiny.gguf"));
    this.configFile = join(folder, "config.json");
    this.config = {
      listen: [{ address: `127.0.0.1:${port}` }],
      runtime_dir: join(folder, "run"), state_dir: join(folder, "state"), log_dir: join(folder, "log"), models_dir: join(folder, "models"),
      restart: { backoff_initial: "50ms", backoff_max: "200ms", jitter: 0, max_retries: 3, reset_after: "60s" },
      health: { interval: "100ms", timeout: "2s", failures: 3, load_timeout: "120s" },
      stop: { grace: "2s", drain: "1s" },
      ...config,
      llama_server: { binary: FAKE, ...config.llama_server },
      auth: config.auth ?? { anonymous: ["read", "infer", "admin"] },
    };
    this.writeConfig();
    this.output = "";
  }

  path(...names) {
    return join(this.folder, ...names);
  }

  writeConfig() {
    writeFileSync(this.configFile, JSON.stringify(this.config, null, 1));
  }

  async start() {
    const env = { ...process.env, HOME: this.folder, TMPDIR: this.folder };
    for (const key of Object.keys(env)) if (/^(XDG_|NOTIFY_|LISTEN_|LLAMA_|LSV_)/.test(key)) delete env[key];
    Object.assign(env, this.env);
    if (existsSync(this.path("run", "listen.json"))) unlinkSync(this.path("run", "listen.json"));
    this.child = spawn(PROGRAM, ["run", "--config", this.configFile], { cwd: this.folder, env, stdio: ["ignore", "pipe", "pipe"] });
    this.ended = new Promise((resolve) => this.child.once("exit", (code, signal) => resolve(code ?? signal)));
    for (const stream of [this.child.stdout, this.child.stderr]) stream.on("data", (data) => (this.output = (this.output + data).slice(-20000)));
    await eventually(() => `the daemon answers; it said:\n${this.output}`, async () => {
      if (this.child.exitCode !== null) throw new Error("it ended");
      return (await fetch(`${this.address}/health`)).ok;
    });
    return this;
  }

  cli(...args) {
    return execFileSync(PROGRAM, args, { cwd: this.folder, encoding: "utf8", env: { ...process.env, HOME: this.folder }, stdio: ["ignore", "pipe", "ignore"] });
  }

  async api(method, path, body) {
    const answer = await fetch(this.address + path, { method, body: body && JSON.stringify(body), headers: body && { "content-type": "application/json" } });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
    return JSON.parse(text);
  }

  instance(name) {
    return this.api("GET", `/api/v1/instances/${name}`);
  }

  wait(name, status) {
    return eventually(() => `${name} is ${status}; the daemon said:\n${this.output}`, async () => {
      const one = await this.instance(name);
      return one.status === status && one;
    });
  }

  /** Its children live on. */
  async kill9() {
    this.child.kill("SIGKILL");
    await this.ended;
  }

  async close() {
    try {
      if (this.child.exitCode === null && this.child.signalCode === null) {
        this.child.kill("SIGTERM");
        const timer = setTimeout(() => this.child.kill("SIGKILL"), PATIENCE);
        const how = await this.ended;
        clearTimeout(timer);
        if (how !== 0) throw new Error(`the daemon ended with ${how}:\n${this.output}`);
      }
      await eventually(() => `no process of ${this.folder} is left: ${processesOf(this.folder)}`, () => !processesOf(this.folder).length, 10_000);
    } finally {
      for (const pid of processesOf(this.folder)) process.kill(pid, "SIGKILL");
      rmSync(this.folder, { recursive: true, force: true });
    }
  }
}

/** GPUs of NVIDIA's that are not there (tests/fakes/fake_nvml.c): what a daemon's configuration says of them; tell() changes them. */
export function fakeGpus(t, gpus) {
  const folder = mkdtempSync("/tmp/lsv-page-gpus-");
  later(t, async () => rmSync(folder, { recursive: true, force: true }));
  const file = join(folder, "nvml");
  mkdirSync(join(folder, "root", "dev"), { recursive: true });
  writeFileSync(join(folder, "root", "dev", "nvidiactl"), "");
  gpus.forEach(({ uuid }, index) => {
    const place = join(folder, "root", "proc", "driver", "nvidia", "gpus", `0000:0${index + 1}:00.0`);
    mkdirSync(place, { recursive: true });
    writeFileSync(join(place, "information"), `Model: \t\t FAKE\nGPU UUID: \t ${uuid}\nBus Location: \t 0000:0${index + 1}:00.0\n`);
  });
  const tell = () => {
    const words = gpus.map(({ uuid, lost, ...figures }, index) => `gpu ${uuid} 00000000:0${index + 1}:00.0 FAKE ${Object.entries(figures).map(([key, value]) => `${key}=${value}`).join(" ")}${lost ? " lost" : ""}`);
    writeFileSync(`${file}.new`, ["driver 580.1", ...words, ""].join("\n"));
    renameSync(`${file}.new`, file);
  };
  tell();
  return { config: { nvml: join(BUILD, "tests", "fakes", "fake_nvml.so"), root: join(folder, "root") }, env: { FAKE_NVML: file }, tell };
}

/** A daemon that ends with the test t. */
export async function startDaemon(t, config) {
  const daemon = new Daemon(mkdtempSync("/tmp/lsv-page-"), config, await freePort());
  later(t, () => daemon.close());
  return daemon.start();
}

// ---- the browser -----------------------------------------------------------------------------------------------------

function chromium() {
  for (const path of ["/usr/bin/chromium", "/usr/bin/chromium-browser"]) if (existsSync(path)) return path;
  throw new Error("no chromium: run scripts/test");
}

let browser = null;

/** To be awaited in after(): the browser of this file. */
export async function closeBrowser() {
  await browser?.close();
}

/** A page of its own that ends with the test, and fails it when anything was complained about: an exception, an error on the
 * console, a breach of the Content-Security-Policy, a request to another host. `forgive` is a pattern of complaints that the
 * test expects, such as connections to a daemon that it killed. */
export async function openPage(t, { forgive = null, init = null, ...options } = {}) {
  browser ??= await playwright.chromium.launch({ executablePath: chromium(), chromiumSandbox: false, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
  const context = await browser.newContext({ viewport: { width: 1024, height: 800 }, colorScheme: "dark", reducedMotion: "reduce", ...options });
  context.setDefaultTimeout(PATIENCE);
  if (process.env.LSV_WEB)
    await context.route(/\/web\/[0-9a-f]+\/[\w-]+\.(js|css)$/, (route) => {
      const path = join(process.env.LSV_WEB, new URL(route.request().url()).pathname.split("/").pop());
      return existsSync(path) ? route.fulfill({ contentType: path.endsWith("css") ? "text/css" : "text/javascript", body: readFileSync(path) }) : route.continue();
    });
  const page = await context.newPage();
  const complaints = [];
  const complain = (text) => !forgive?.test(text) && complaints.push(text);
  page.requests = [];
  page.on("console", (message) => message.type() === "error" && complain(`console: ${message.text()} (${message.location().url})`));
  page.on("pageerror", (error) => complain(`exception: ${error.stack}`));
  page.on("request", (request) => {
    page.requests.push(request);
    if (!["127.0.0.1", "localhost"].includes(new URL(request.url()).hostname) && !/^(data|blob):/.test(request.url())) complain(`foreign host: ${request.url()}`);
  });
  await page.addInitScript(() => {
    globalThis.violations = [];
    document.addEventListener("securitypolicyviolation", (event) => globalThis.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
  });
  if (init) await init(page);
  later(t, async () => {
    const violations = await page.evaluate(() => globalThis.violations).catch(() => []);
    await context.close();
    const all = [...complaints, ...(violations ?? []).map((one) => `policy: ${one}`)];
    if (all.length) throw new Error(`the page complained:\n  ${all.join("\n  ")}`);
  });
  return page;
}

export function card(page, name) {
  return page.locator(`.card[data-instance="${name}"]`);
}

export function inState(page, name, ...states) {
  return page.locator(states.map((state) => `.card[data-instance="${name}"][data-state="${state}"]`).join(",")).waitFor();
}

export async function shot(page, name) {
  const folder = join(BUILD, "page");
  mkdirSync(folder, { recursive: true });
  await page.screenshot({ path: join(folder, `${name}.png`) });
}

/** Serious and critical findings of axe. Chromium checks the page's policy for scripts that we add, too, so it is bypassed. */
export async function accessibility(page) {
  const axe = readFileSync(join(dirname(fileURLToPath(import.meta.url)), "node_modules", "axe-core", "axe.min.js"), "utf8");
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  return violations.filter((one) => ["serious", "critical"].includes(one.impact)).map((one) => `${one.id}: ${one.nodes.map((node) => `${node.target} ${node.any[0]?.message ?? ""}`).join("; ")}`);
}

// ---- a fleet that is only told ---------------------------------------------------------------------------------------

const NOW = () => Date.now();

/** What the feed and the API would tell of so many instances, in a mixture of states; for screenshots and storms. */
export function tellFleet(size) {
  const models = ["qwen2.5-7b-instruct-Q4_K_M", "gemma-3-12b-it-Q5_K_M", "nomic-embed-text-v1.5-F16", "qwen2.5-coder-14b-Q4_K_M", "llama-3.3-70b-Q4_K_M"];
  const names = ["qwen", "gemma", "embed", "coder", "big"];
  const instances = [];
  for (let i = 0; i < size; i++) {
    const group = size === 1 ? 0 : size <= 6 ? [0, 0, 1, 3, 2, 4][i] : Math.floor((i * 5) / size);
    const replicas = size <= 6 ? (group === 0 && size > 1 ? 2 : 1) : size / 5;
    const status = size === 1 ? "ready" : size <= 6 ? ["ready", "ready", "starting", "crashed", "idle", "error"][i] : i % 41 === 7 ? "crashed" : i % 67 === 11 ? "error" : i % 29 === 3 ? "starting" : "ready";
    const up = ["ready", "unhealthy", "draining"].includes(status);
    const since = NOW() - 1000 * (status === "ready" ? 15120 + 61 * i : 4 + (i % 20));
    instances.push({
      name: replicas > 1 ? `${names[group]}-${size <= 6 ? i : i % (size / 5)}` : names[group], model: names[group], status,
      models: up ? [{ id: names[group], name: names[group], size: 4683073184 + group * 3e9, type: "completion", modified_at: 1758000000 }] : [],
      lastError: status === "crashed" ? "died while loading: out of GPU memory (exit code 1, after 2.1 s)" : status === "error" ? "cannot start: /srv/models/llama-3.3-70b-Q4_K_M.gguf is cut off: 12.1 of 42.5 GB are there" : null,
      retries: status === "crashed" ? 2 : status === "error" ? 5 : 0, uptime: up ? 15120 : 0, startedAt: up ? new Date(since).toISOString() : null, pid: up || status === "starting" ? 4000 + i : null,
      gpu: ["ready", "starting"].includes(status) ? [String(i % 8)] : [], nextRetryAt: status === "crashed" ? new Date(NOW() + 8000).toISOString() : null,
      inFlight: up ? (size <= 6 ? 3 - 2 * (i % 2) : i % 5) : 0, slots: up ? 4 : 0, queue: group === 0 && size > 1 ? 2 : 0, tokensPerSecond: up && (size <= 6 || i % 5) ? 38.5 + (i % 7) : 0,
      seq: 1, maxRetries: 5, restarts: i % 3, wantUp: status !== "idle", adopted: false, foreign: false, dynamic: false, onDemand: status === "idle", until: null,
      stateSince: new Date(since).toISOString(), loadTime: 14.2, endpoint: "unix:/run/llama-supervisor/x.sock", modelPath: `${models[group]}.gguf`, logPath: "/var/log/llama-supervisor/x.log", context: 16384, build: "b6123", modalities: [],
    });
  }
  return instances;
}

const FEED_KEYS = ["status", "models", "lastError", "retries", "uptime", "startedAt", "pid", "gpu", "nextRetryAt", "inFlight", "slots", "queue", "tokensPerSecond"];

export function feedMessage(one, at = NOW()) {
  return JSON.stringify({ type: "llama_status", instance: one.name, seq: one.seq, timestamp: at, data: Object.fromEntries(FEED_KEYS.map((key) => [key, one[key]])) });
}

export function gpusMessage(gpus, problem = null) {
  return JSON.stringify({ type: "gpus", gpus: { gpus, driver: "570.1", problem, at: new Date(NOW()).toISOString() } });
}

/** So many GPUs, with the instances that tellFleet puts on them. */
export function tellGpus(count, instances) {
  return Array.from({ length: count }, (_, index) => ({
    index, vendor: "nvidia", uuid: `GPU-${String(index).padStart(8, "0")}-ce05-4b4e-9f1d-2f3c4d5e6f70`, name: "NVIDIA RTX 6000 Ada", pci: `0000:0${index + 1}:00.0`, mig: null, state: "ok",
    memoryTotal: 48 * 2 ** 30, memoryUsed: (22.1 + 3.3 * index) * 2 ** 30, utilization: (0.87 + 0.3 * index) % 1, temperature: 64 + ((4 * index) % 13), power: 212 - 20 * (index % 5), powerLimit: 300,
    throttle: [], ecc: null, lastError: null, instances: instances.filter((one) => one.gpu.includes(String(index))).map((one) => one.name), processes: null,
  }));
}

/** A hub as the feed tells it. */
export function tellHub(name, more = {}) {
  return {
    name, driver: "nats", url: "tls://hub.example:4222", worker: "gpu-box-1", state: "up", why: null, since: NOW() - 7_260_000, retryIn: null, lastError: null, lastErrorAt: null,
    inbound: true, submit: false, credits: 3, running: 2, waiting: 1, outbox: 0,
    jobs: { claimed: 1204, completed: 1187, failed: 9, failures: {}, released: 6, lost: 0, already: 0, rerun: 0, adopted: 0, refused: 0, tokens: 918204 },
    submissions: { submitted: 0, failed: 0, open: 0 }, link: {}, ...more,
  };
}

/** Puts told instances in the place of the daemon's: returns {socket()} to tell more. The page itself stays the real one. */
export async function actFleet(page, instances, answers = {}, { gpus = null, hubs = null } = {}) {
  let socket = null;
  await page.routeWebSocket(/\/ws$/, (ws) => {
    socket = ws;
    for (const one of instances) {
      // What a page that was open for three minutes would have seen.
      if (instances.length <= 6 && one.inFlight)
        for (let back = 180; back > 0; back -= 3) ws.send(feedMessage({ ...one, tokensPerSecond: one.tokensPerSecond * (0.75 + 0.25 * Math.sin(back / 11) ** 2) }, NOW() - 1000 * back));
      ws.send(feedMessage(one));
    }
    // How fast answers began.
    const recent = instances.filter((one) => one.inFlight).flatMap((one, index) => Array.from({ length: instances.length <= 6 ? 20 : 1 }, (_, n) => ({ id: `req-${index}-${n}`, model: one.model,
      instance: one.name, key: null, path: "/v1/chat/completions", peer: "127.0.0.1", source: "http", state: "ended", outcome: "ok", status: 200, position: null, estimate: null, tries: 1,
      stream: true, at: new Date(NOW()).toISOString(), wait: 0, timeToFirstToken: 0.17 + index / 100 + 0.06 * Math.sin(n * 1.7) ** 2, duration: 2, tokensIn: 7, tokensOut: 80, tokensPerSecond: 40 })));
    ws.onMessage((text) => {
      if (!text.includes('"subscribe"')) return;
      if (text.includes('"activity"')) ws.send(JSON.stringify({ type: "activity", activity: { total: 0, running: [], recent } }));
      if (text.includes('"hub"') && hubs) ws.send(JSON.stringify({ type: "hub", hubs }));
      if (text.includes('"gpus"') && gpus) ws.send(gpusMessage(gpus));
    });
  });
  const states = Object.fromEntries(instances.map((one) => {
    const steps = [{ since: NOW() - 86400e3, status: "ready" }];
    if (one.status === "crashed") for (const back of [2400, 1300, 900]) steps.push({ since: NOW() - back * 1000, status: "crashed" }, { since: NOW() - back * 1000 + 60e3, status: "ready" });
    if (one.status !== "ready") steps.push({ since: Date.parse(one.stateSince), status: one.status });
    return [one.name, one.status === "idle" ? [{ since: NOW() - 86400e3, status: "idle" }] : steps];
  }));
  const json = (body) => (route) => route.fulfill({ json: body });
  await page.route(/\/api\/v1\/instances$/, json({ instances }));
  await page.route(/\/api\/v1\/history/, json({ events: [], next: 1, states }));
  await page.route(/\/api\/v1\/status$/, json({ version: "0.1.0", reloadError: null, total: instances.length }));
  for (const [path, body] of Object.entries(answers)) await page.route(`**${path}`, typeof body === "function" ? body : json(body));
  return { socket: () => socket };
}

/** A proxy that puts the daemon below /models/, WebSockets included. */
export async function startProxy(t, daemon) {
  const strip = (url) => (url.startsWith("/models/") ? url.slice("/models".length) : null);
  const proxy = http.createServer((req, res) => {
    const path = strip(req.url);
    if (path === null) {
      res.writeHead(404).end();
      return;
    }
    req.pipe(http.request({ port: daemon.port, path, method: req.method, headers: req.headers }, (answer) => {
      res.writeHead(answer.statusCode, answer.headers);
      answer.pipe(res);
    }).on("error", () => res.destroy()));
  });
  proxy.on("upgrade", (req, socket, head) => {
    const other = net.connect(daemon.port, "127.0.0.1", () => {
      const lines = [];
      for (let i = 0; i < req.rawHeaders.length; i += 2) lines.push(`${req.rawHeaders[i]}: ${req.rawHeaders[i + 1]}`);
      other.write(`${req.method} ${strip(req.url)} HTTP/1.1\r\n${lines.join("\r\n")}\r\n\r\n`);
      other.write(head);
      socket.pipe(other).pipe(socket);
    });
    for (const one of [socket, other]) one.on("error", () => (socket.destroy(), other.destroy()));
  });
  await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  later(t, () => (proxy.closeAllConnections(), new Promise((resolve) => proxy.close(resolve))));
  return `http://127.0.0.1:${proxy.address().port}/models/`;
}
