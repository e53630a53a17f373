/* The fleet view in a real Chromium, against the real daemon: states, deaths, orders, reconnecting, keys, sub-paths. */
import assert from "node:assert/strict";
import { renameSync, writeFileSync } from "node:fs";
import http from "node:http";
import { after, test } from "node:test";
import { card, closeBrowser, eventually, fakeGpus, inState, LIMIT, openPage, shot, startDaemon, startProxy } from "./harness.mjs";

after(closeBrowser);

/* What a browser says about a daemon that is not there. */
const AWAY = /ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET|WebSocket connection|ERR_EMPTY_RESPONSE|ERR_INCOMPLETE/;
const REFUSED = /401|403|WebSocket connection/;

const text = async (locator) => (await locator.innerText()).replace(/\s+/g, " ");

test("states have a word, a shape and a reason", LIMIT, async (t) => {
  const daemon = await startDaemon(t, {
    instances: [
      { name: "good", model: "tiny.gguf", replicas: 2 },
      { name: "poor", model: "tiny.gguf", args: ["--oom-text"] },
      { name: "lazy", model: "tiny.gguf", on_demand: { idle_timeout: "10m" } },
    ],
  });
  const page = await openPage(t);
  await page.goto(daemon.address);
  await Promise.all([inState(page, "good-0", "ready"), inState(page, "good-1", "ready"), inState(page, "poor", "error"), inState(page, "lazy", "idle")]);
  assert.equal(await card(page, "good-0").locator(".card-word").innerText(), "ready");
  assert.equal(await card(page, "poor").locator(".card-word").innerText(), "failed");
  const shapes = await page.locator(".card .shape").evaluateAll((all) => all.map((one) => one.innerHTML));
  assert.equal(new Set(shapes).size, 3, "ready, failed and resting look different without colour");
  await eventually("the cause in plain words", async () => /out of GPU memory/.test(await text(card(page, "poor").locator(".card-note"))));
  await eventually("the sentence", async () => /^2 of 4 ready/.test(await text(page.locator(".sentence"))));
  assert.match(await page.title(), /^2 of 4 ready/);
  // Grouped by model, in the order of the configuration.
  await eventually("groups", async () => JSON.stringify(await page.locator(".group h2 > span:first-child").allInnerTexts()) === '["good","poor","lazy"]');
  await card(page, "poor").getByRole("button", { name: "Why poor" }).click();
  const details = page.getByRole("dialog");
  await eventually("evidence", async () => /cudaMalloc failed/.test(await text(details)));
  assert.match(await text(details), /smaller context/);
  await page.keyboard.press("Escape");
  await details.waitFor({ state: "detached" });
  await eventually("the address without it", () => /#\/fleet$/.test(page.url()));
});

test("a kill -9 is seen, counted down, and repaired by hand", LIMIT, async (t) => {
  const daemon = await startDaemon(t, {
    instances: [{ name: "one", model: "tiny.gguf" }],
    restart: { backoff_initial: "600s", backoff_max: "600s", jitter: 0, max_retries: 5, reset_after: "60s" },
  });
  const before = await daemon.wait("one", "ready");
  const page = await openPage(t);
  await page.goto(daemon.address);
  await inState(page, "one", "ready");
  process.kill(before.pid, "SIGKILL");
  await inState(page, "one", "crashed");
  const note = card(page, "one").locator(".card-note");
  await eventually("the signal in words", async () => /SIGKILL|killed/i.test(await text(note)));
  const left = async () => Number(/next try in (\d+) s \(1 of 5\)/.exec(await text(note))?.[1] ?? NaN);
  const first = await eventually("a countdown", left);
  await eventually("it counts down", async () => (await left()) < first);
  await card(page, "one").getByRole("button", { name: "Try again now one" }).click();
  await inState(page, "one", "ready");
  assert.notEqual((await daemon.instance("one")).pid, before.pid);
  assert.equal(await note.isVisible(), false);
});

test("orders ask before they hurt", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [{ name: "one", model: "tiny.gguf" }] });
  const { pid } = await daemon.wait("one", "ready");
  const page = await openPage(t);
  await page.goto(daemon.address);
  await inState(page, "one", "ready");
  const restart = card(page, "one").getByRole("button", { name: "Restart one" });
  await restart.click();
  const question = page.getByRole("dialog", { name: "Restart one?" });
  assert.match(await text(question), /only instance of one that is ready/);
  await page.keyboard.press("Escape");
  await question.waitFor({ state: "detached" });
  assert.equal((await daemon.instance("one")).pid, pid, "Escape is no");
  await restart.click();
  await question.getByRole("button", { name: "Restart it" }).click();
  await eventually("another process", async () => {
    const now = await daemon.instance("one");
    return now.status === "ready" && now.pid !== pid;
  });
  await inState(page, "one", "ready");
  await card(page, "one").getByRole("button", { name: "Drain one" }).click();
  await page.getByRole("button", { name: "Drain it" }).click();
  await inState(page, "one", "initial");
  await eventually("who stopped it", async () => /Stopped by hand/.test(await text(card(page, "one"))));
  await card(page, "one").getByRole("button", { name: "Start one" }).click();
  await inState(page, "one", "ready");
});

test("the daemon goes: stale, and since when; it comes back: live, without a reload", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [{ name: "one", model: "tiny.gguf" }, { name: "two", model: "tiny.gguf" }] });
  const { pid } = await daemon.wait("one", "ready");
  const page = await openPage(t, { forgive: AWAY });
  await page.goto(daemon.address);
  await inState(page, "one", "ready");
  await page.evaluate(() => (globalThis.sameDocument = true));
  await daemon.kill9();
  await page.locator('body[data-connection="stale"]').waitFor();
  assert.match(await text(page.locator(".notice.stale")), /What you see was true at \d\d:\d\d:\d\d\. Reconnecting\./);
  assert.equal(await card(page, "one").isVisible(), true, "what was known stays readable");
  // One of two was taken out of the configuration meanwhile.
  daemon.config.instances.pop();
  daemon.writeConfig();
  await daemon.start();
  await page.locator('body[data-connection="live"]').waitFor();
  await card(page, "two").waitFor({ state: "detached" });
  await inState(page, "one", "ready");
  assert.equal(await page.locator(".notice.stale").isVisible(), false);
  assert.equal((await daemon.wait("one", "ready")).pid, pid, "the model was not loaded again");
  assert.equal(await page.evaluate(() => globalThis.sameDocument), true);
});

test("nothing is asked by the clock", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [{ name: "one", model: "tiny.gguf" }] });
  await daemon.wait("one", "ready");
  const page = await openPage(t, { init: (one) => one.clock.install() });
  await page.goto(daemon.address);
  await inState(page, "one", "ready");
  const asked = () => page.requests.filter((one) => /\/api\//.test(one.url())).length;
  // The questions of the beginning: the list, the history, the daemon; each is answered.
  await eventually("the first questions", async () => asked() >= 3 && (await card(page, "one").locator(".card-model").innerText()).includes("tiny"));
  const before = asked();
  for (let i = 0; i < 5; i++) await page.clock.runFor(5000);
  assert.equal(asked(), before, "a page that nothing happens on asks nothing");
});

test("a key is asked for, kept in this tab only, and can be forgotten", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [{ name: "one", model: "tiny.gguf" }], auth: { anonymous: [], keys_file: "keys.json" } });
  const key = daemon.cli("key", "add", "somebody", "--scope", "read", "--config", daemon.configFile).trim();
  await eventually("the key is known", async () => (await fetch(`${daemon.address}/api/v1/status`, { headers: { authorization: `Bearer ${key}` } })).ok);
  const page = await openPage(t, { forgive: REFUSED });
  await page.goto(daemon.address);
  const prompt = page.getByRole("dialog", { name: "A key, please" });
  await prompt.waitFor();
  assert.equal(await page.locator(".card").count(), 0);
  await page.keyboard.press("Escape");
  await page.keyboard.press("Escape");
  await eventually("it is there again: there is nothing behind it to go back to", () => prompt.isVisible());
  await prompt.getByLabel("Key").fill("lsv_wrong");
  await page.keyboard.press("Enter");
  await prompt.getByText("That key is not known here").waitFor();
  await shot(page, "key");
  await prompt.getByLabel("Key").fill(key);
  await page.keyboard.press("Enter");
  await inState(page, "one", "ready");
  const stores = await page.evaluate(() => [JSON.stringify(sessionStorage), JSON.stringify(localStorage), document.cookie]);
  assert.ok(stores[0].includes(key) && !stores[1].includes(key) && !stores[2].includes(key));
  assert.ok(page.requests.every((one) => !one.url().includes(key)), "never in an address");
  await page.reload();
  await inState(page, "one", "ready");
  // It may read only: an order asks for another key.
  await card(page, "one").getByRole("button", { name: "Drain one" }).click();
  await page.getByRole("button", { name: "Drain it" }).click();
  await page.getByText("A key of scope “admin” is needed").waitFor();
  await page.getByRole("button", { name: "Cancel" }).click();
  await page.getByRole("button", { name: "Forget the key" }).click();
  await prompt.waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
});

test("figures of work: slots, pace, first token", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [{ name: "one", model: "tiny.gguf", args: ["--tok-s", "20", "--tokens", "100000", "--prompt-ms", "200"] }] });
  await daemon.wait("one", "ready");
  const page = await openPage(t);
  await page.goto(daemon.address);
  await inState(page, "one", "ready");
  const work = new AbortController();
  const answer = await fetch(`${daemon.address}/v1/chat/completions`, { method: "POST", signal: work.signal, headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "one", stream: true, messages: [{ role: "user", content: "x" }] }) });
  assert.equal(answer.status, 200);
  await eventually("a busy slot", async () => (await card(page, "one").locator(".slot.busy").count()) === 1);
  await eventually("its pace", async () => /^\d[\d.]* tok\/s/.test(await text(card(page, "one").locator(".card-pace"))));
  assert.match(await text(page.locator(".figures")), /running 1 waiting 0/);
  work.abort();
  await eventually("how fast it began", async () => /^first token [\d.]+ m?s$/.test(await text(card(page, "one").locator(".card-first"))));
  await eventually("idle again", async () => (await card(page, "one").locator(".slot.busy").count()) === 0);
});

test("GPUs of the machine, as the daemon reads them", LIMIT, async (t) => {
  const gpus = [
    { uuid: "GPU-11111111-aaaa-bbbb-cccc-000000000000", total: 48 * 2 ** 30, used: 12 * 2 ** 30, use: 37, temp: 51, power: 120_400, limit: 300_000 },
    { uuid: "GPU-22222222-aaaa-bbbb-cccc-000000000000", total: 48 * 2 ** 30, used: 0, use: 0, temp: 33, power: 20_000, limit: 300_000 },
  ];
  const machine = fakeGpus(t, gpus);
  const daemon = await startDaemon(t, { instances: [{ name: "one", model: "tiny.gguf", replicas: "per-gpu" }], gpus: machine.config, env: machine.env });
  await Promise.all([daemon.wait("one-0", "ready"), daemon.wait("one-1", "ready")]);
  const page = await openPage(t);
  await page.goto(daemon.address);
  const tile = page.locator(".gpu").first();
  await eventually("its figures", async () => (await text(tile)) === "GPU 0 FAKE 51 °C 12/48 GB 37% busy 120 W Take out of use");
  gpus[0].temp = 77;
  gpus[0].used = 24 * 2 ** 30;
  gpus[1].lost = true;
  machine.tell();
  await eventually("they move", async () => (await text(tile)) === "GPU 0 FAKE 77 °C 24/48 GB 37% busy 120 W Take out of use");
  await eventually("one is lost", async () => /lost: its driver/.test(await text(page.locator(".gpu").last())));
  await eventually("on its card", async () => (await text(card(page, "one-0").locator(".card-gpu"))) === "GPU 0 · 24/48 GB · 77 °C");
  await page.getByRole("button", { name: "By GPU" }).click();
  await eventually("groups", async () => JSON.stringify(await page.locator(".group h2 > span:first-child").allInnerTexts()) === '["GPU 0","GPU 1"]');
});

test("a hub of the machine: its state, and the work that comes from it", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [{ name: "one", model: "tiny.gguf" }], spool: { dir: "spool" } });
  await daemon.wait("one", "ready");
  const page = await openPage(t);
  await page.goto(daemon.address);
  await page.getByRole("link", { name: "Hub" }).click();
  const hub = page.locator("[data-hub]");
  await eventually("it is up", async () => (await hub.count()) === 1 && (await hub.getAttribute("data-state")) === "ready");
  assert.match(await text(hub), /spool/);
  assert.match(await text(hub), /claimed 0 done 0/);
  writeFileSync(daemon.path("spool", "texts", "a.new"), JSON.stringify({ model: "one", messages: [{ role: "user", content: "hello" }], max_tokens: 4 }));
  renameSync(daemon.path("spool", "texts", "a.new"), daemon.path("spool", "jobs", "a.json"));
  await eventually("a job is done", async () => /claimed 1 done 1/.test(await text(hub)));
});

test("feed.js in a page of somebody else", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [{ name: "one", model: "tiny.gguf" }] });
  const { pid } = await daemon.wait("one", "ready");
  const theirs = http.createServer((req, res) => res.writeHead(200, { "content-type": "text/html" }).end(`<!doctype html><title>x</title><ul></ul><script type="module">
    import { createFeed } from "${daemon.address}/web/feed.js";
    const feed = createFeed();
    const list = document.querySelector("ul");
    feed.subscribe((instances) => list.replaceChildren(...[...instances].map(([name, { data }]) => Object.assign(document.createElement("li"), { textContent: name + " " + data.status }))));
    feed.follow("log:one", ({ lines }) => (document.title = lines.at(-1)));
    </script>`));
  await new Promise((resolve) => theirs.listen(0, "127.0.0.1", resolve));
  t.after(() => (theirs.closeAllConnections(), theirs.close()));
  const page = await openPage(t, { forgive: /favicon/ });
  await page.goto(`http://127.0.0.1:${theirs.address().port}/`);
  await page.getByText("one ready").waitFor();
  process.kill(pid, "SIGKILL");
  await eventually("the next one's log", async () => (await page.title()) !== "x");
  await page.getByText("one ready").waitFor();
});

test("below a path of a proxy", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [{ name: "one", model: "tiny.gguf" }] });
  const address = await startProxy(t, daemon);
  const page = await openPage(t);
  await page.goto(address);
  await inState(page, "one", "ready");
  await card(page, "one").getByRole("button", { name: "Details one" }).click();
  await eventually("its log", async () => /load_model|llama_server/.test(await text(page.getByRole("dialog"))));
  assert.ok(page.requests.every((one) => new URL(one.url()).pathname.startsWith("/models/")), page.requests.map((one) => one.url()).join("\n"));
});

test("without JavaScript the state is there as HTML", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [{ name: "one", model: "tiny.gguf" }] });
  await daemon.wait("one", "ready");
  const page = await openPage(t, { javaScriptEnabled: false });
  await page.goto(daemon.address);
  assert.match(await text(page.locator("body")), /one is ready/);
  assert.equal(await page.locator("td.ready").innerText(), "ready");
  await shot(page, "plain");
});

test("no instance: what to do", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [] });
  const page = await openPage(t);
  await page.goto(daemon.address);
  await page.getByRole("heading", { name: "No model yet" }).waitFor();
  await shot(page, "empty");
  // A reload that fails is told.
  writeFileSync(daemon.configFile, "{ broken");
  daemon.child.kill("SIGHUP");
  await eventually("the reload failed", async () => (await daemon.api("GET", "/api/v1/status")).reloadError);
  await page.reload();
  await page.getByText("The last reload of the configuration failed").waitFor();
});
