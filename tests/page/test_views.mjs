/* Logs, activity and library in a real Chromium against the real daemon. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { after, test } from "node:test";
import { accessibility, actFleet, closeBrowser, eventually, inState, LIMIT, openPage, shot, startDaemon, tellFleet } from "./harness.mjs";

after(closeBrowser);

const REFUSED = /50[0-9]|40[0-9]/;
const WIDTHS = [[390, 844], [1024, 800], [1600, 1000]];
const text = async (locator) => (await locator.innerText()).replace(/\s+/g, " ");

/** In each width nothing sticks out; and pictures. */
async function looks(page, name) {
  for (const [width, height] of WIDTHS) {
    await page.setViewportSize({ width, height });
    assert.ok((await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)) <= 0, `${name}: ${width} px`);
    await shot(page, `${name}-${width}`);
  }
  await page.setViewportSize({ width: 1024, height: 800 });
}

test("logs: past and live lines, levels, search, hostile bytes", LIMIT, async (t) => {
  const daemon = await startDaemon(t, {
    instances: [{ name: "one", model: "tiny.gguf" }, { name: "poor", model: "tiny.gguf", args: ["--oom-text"] }, { name: "ansi", model: "tiny.gguf", args: ["--log-ansi"] }],
  });
  await Promise.all([daemon.wait("one", "ready"), daemon.wait("poor", "error"), daemon.wait("ansi", "ready")]);
  const page = await openPage(t, { permissions: ["clipboard-read", "clipboard-write"] });
  await page.goto(`${daemon.address}/#/logs/poor`);
  const rows = page.locator(".log-lines .row");
  await page.locator('.row[data-level="error"]', { hasText: "cudaMalloc failed" }).first().waitFor();
  const counts = page.locator(".logs-counts");
  const all = await text(counts);
  assert.match(all, /^\d+ lines$/);
  await page.getByRole("searchbox").fill("CUDAMALLOC");
  await eventually("only those", async () => (await rows.count()) === 4 && (await rows.allInnerTexts()).every((one) => /cudaMalloc/.test(one)));
  assert.match(await text(counts), new RegExp(`^4 of ${all}$`));
  await page.getByRole("button", { name: "Copy" }).click();
  await eventually("copied", async () => (await page.evaluate(() => navigator.clipboard.readText())).split("\n").length === 4);
  await page.getByRole("button", { name: "Errors" }).click();
  await page.getByText("No line is like that.").waitFor();
  await page.getByRole("searchbox").fill("");
  await eventually("all but errors", async () => (await rows.count()) > 0 && (await page.locator('.row[data-level="error"]').count()) === 0);
  await page.getByRole("button", { name: "Errors" }).click();
  await looks(page, "logs-dark");
  assert.deepEqual(await accessibility(page), []);

  // Live, and no line twice.
  await page.getByLabel("Log of").selectOption("one");
  await eventually("its own log", async () => /listening on/.test(await rows.last().innerText()));
  await eventually("its address", () => /#\/logs\/one$/.test(page.url()));
  const before = await rows.allInnerTexts();
  assert.equal(new Set(before).size, before.length);
  await daemon.api("POST", "/v1/chat/completions", { model: "one", messages: [{ role: "user", content: "hello" }] });
  await eventually("a new line", async () => (await rows.count()) > before.length && /release/.test(await rows.last().innerText()));

  await page.getByLabel("Log of").selectOption("ansi");
  await eventually("text", async () => (await rows.count()) > 3);
  assert.doesNotMatch((await rows.allInnerTexts()).join(""), /[\u0000-\u0008\u001b\u007f]/);
});

test("logs: the supervisor's own, past and live", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [{ name: "one", model: "tiny.gguf" }] });
  const { pid } = await daemon.wait("one", "ready");
  const page = await openPage(t);
  await page.goto(`${daemon.address}/#/logs`);
  const rows = page.locator(".log-lines .row");
  await rows.filter({ hasText: "listening on unix:" }).waitFor();
  await page.getByLabel("Log of").selectOption("The supervisor itself");
  await rows.filter({ hasText: `listening on ${daemon.address}` }).waitFor();
  assert.equal(await rows.filter({ hasText: "llama_server" }).count(), 0, "only its own");
  assert.match(page.url(), /#\/logs\/@supervisor$|#\/logs\/%40supervisor$/);
  process.kill(pid, "SIGKILL");
  const death = rows.filter({ hasText: "SIGKILL" });
  await death.waitFor();
  assert.equal(await death.getAttribute("data-level"), "warning");
  await rows.filter({ hasText: /one: ready after/ }).last().waitFor();
  const all = await rows.allInnerTexts();
  assert.equal(new Set(all).size, all.length, "no line twice");
  await page.getByRole("button", { name: "Info" }).click();
  await eventually("warnings alone", async () => (await rows.count()) === 1);
  await page.getByRole("button", { name: "Info" }).click();
  await looks(page, "logs-own-dark");
  assert.deepEqual(await accessibility(page), []);
  // Its levels are those that it says, not words that it quotes.
  const told = { error: "2026-11-20T10:00:00.123Z error: cannot listen", info: '2026-11-20T10:00:01.123Z one: "failed with an error" was what it said', debug: "2026-11-20T10:00:02.123Z debug: error" };
  await page.route("**/api/v1/logs?*", (route) => route.fulfill({ contentType: "text/plain", body: `${Object.values(told).join("\n")}\n` }));
  await page.reload();
  await eventually("their levels", async () => JSON.stringify(await rows.evaluateAll((all) => all.slice(0, 3).map((one) => one.dataset.level))) === JSON.stringify(Object.keys(told)));
  await page.unroute("**/api/v1/logs?*");
  // The address leads there; without any instance it is what there is.
  await page.reload();
  await death.waitFor();
  daemon.config.instances = [];
  daemon.writeConfig();
  await daemon.api("POST", "/api/v1/reload");
  await page.goto("about:blank");
  await page.goto(`${daemon.address}/#/logs`);
  await death.waitFor();
});

test("logs: a hundred thousand lines, paused and followed", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [] });
  const page = await openPage(t);
  const { socket } = await actFleet(page, tellFleet(1), { "/api/v1/instances/*/logs*": (route) => route.fulfill({ contentType: "text/plain", body: "the first line\n" }) });
  await page.goto(`${daemon.address}/#/logs`);
  const rows = page.locator(".log-lines .row");
  await rows.first().waitFor();
  const flood = (from, to) => {
    for (let i = from; i < to; i += 1000) socket().send(JSON.stringify({ type: "log", instance: "qwen", skipped: 0,
      lines: Array.from({ length: 1000 }, (_, n) => `0.00.000.001 ${(i + n) % 100 ? "I" : "E"} srv line ${i + n}`) }));
  };
  flood(0, 99_000);
  const list = page.locator(".log-lines");
  await eventually("all of them", async () => (await text(page.locator(".logs-counts"))) === "99001 lines");
  assert.ok((await rows.count()) < 150, "only those in sight are elements");
  await eventually("the newest is in sight", async () => /line 98999$/.test(await rows.last().innerText()));
  // Up to the top, and there the reader is left alone.
  await list.evaluate((one) => (one.scrollTop = 0));
  await eventually("the first one", async () => (await rows.first().innerText()) === "the first line");
  flood(99_000, 100_000);
  await eventually("more came", async () => (await text(page.locator(".logs-counts"))) === "100001 lines");
  assert.equal(await list.evaluate((one) => one.scrollTop), 0);
  await page.getByRole("button", { name: "To the end" }).click();
  await eventually("the newest", async () => /line 99999$/.test(await rows.last().innerText()));
  await page.getByRole("button", { name: "Pause" }).click();
  flood(100_000, 102_000);
  await page.getByRole("button", { name: "Resume (2000 new)" }).waitFor();
  assert.match(await rows.last().innerText(), /line 99999$/);
  await page.getByRole("button", { name: /Resume/ }).click();
  await eventually("what came meanwhile", async () => /line 101999$/.test(await rows.last().innerText()));
  await page.getByRole("searchbox").fill("line 101900");
  await eventually("found", async () => (await rows.count()) === 1 && (await rows.first().getAttribute("data-level")) === "error");
  await page.getByRole("searchbox").fill("");
  // Far over the bound the oldest go.
  flood(102_000, 115_000);
  await eventually("bounded", async () => /line 114999$/.test(await rows.last().innerText()) && Number.parseInt(await text(page.locator(".logs-counts")), 10) <= 110_000);
});

test("activity: who runs, who waits, how it ended, cancel", LIMIT, async (t) => {
  const daemon = await startDaemon(t, {
    instances: [{ name: "slow", model: "tiny.gguf", args: ["-np", "1", "--tok-s", "10", "--tokens", "100000"] }, { name: "quick", model: "tiny.gguf" }],
  });
  await Promise.all([daemon.wait("slow", "ready"), daemon.wait("quick", "ready")]);
  const page = await openPage(t, { forgive: REFUSED });
  await page.goto(`${daemon.address}/#/activity`);
  await page.getByText("Nothing was asked yet").waitFor();
  await shot(page, "activity-empty");
  await daemon.api("POST", "/v1/chat/completions", { model: "quick", messages: [{ role: "user", content: "a secret" }] });
  const ended = page.getByRole("table", { name: "Ended" }).locator("tbody tr");
  const running = page.getByRole("table", { name: "Running" }).locator("tbody tr");
  await eventually("one ended", async () => (await ended.count()) === 1 && / ok$/.test((await text(ended.first())).trim()));
  assert.match(await text(ended.first()), /quick quick 127\.0\.0\.1 .* \d+ → 32 /);
  const ask = () => fetch(`${daemon.address}/v1/chat/completions`, { method: "POST", headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "slow", stream: true, messages: [{ role: "user", content: "a secret" }] }) }).then((answer) => answer.text()).catch(() => "");
  const first = ask();
  await eventually("it answers", async () => (await running.count()) === 1 && /answers/.test(await text(running.first())));
  const second = ask();
  await eventually("the other one waits", async () => (await running.count()) === 2 && /waits, place 1/.test(await text(running.last())));
  await looks(page, "activity-dark");
  assert.deepEqual(await accessibility(page), []);
  await running.first().getByRole("button", { name: /^Cancel req-/ }).click();
  await first;
  await eventually("cancelled, and its turn", async () => (await running.count()) === 1 && /cancelled/.test(await text(ended.first())) && /answers/.test(await text(running.first())));
  await running.first().getByRole("button", { name: /^Cancel req-/ }).click();
  await second;
  await eventually("nothing runs", async () => (await running.count()) === 0 && (await ended.count()) === 3);
  assert.doesNotMatch(await page.content(), /a secret/);
  // Another view takes nothing of it; back again all is there.
  await page.getByRole("link", { name: "Fleet" }).click();
  await page.getByRole("link", { name: "Activity" }).click();
  await eventually("still known", async () => (await ended.count()) === 3);
});

test("first run: from the empty fleet over the library to a running model, and away again", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [] });
  writeFileSync(daemon.path("models", "broken.gguf"), "no model");
  const page = await openPage(t, { forgive: REFUSED });
  await page.goto(daemon.address);
  await page.getByRole("link", { name: "Open the library" }).click();
  const model = page.locator('.model[data-file="tiny.gguf"]');
  await model.waitFor();
  assert.match(await text(model), /llama · F16 · 132800 weights · 32k context/);
  const broken = page.locator('.model[data-file="broken.gguf"]');
  assert.match(await text(broken), /no GGUF file/);
  assert.equal(await broken.getByRole("button").count(), 0, "what cannot be served cannot be started");
  await looks(page, "library-dark");
  assert.deepEqual(await accessibility(page), []);
  await model.getByRole("button", { name: /^Start / }).click();
  const dialog = page.getByRole("dialog", { name: /^Start / });
  await dialog.getByLabel("Name of the instance").fill("mine");
  await dialog.getByLabel("Arguments for llama-server").fill('--path "/etc"');
  await dialog.getByRole("button", { name: "Start" }).click();
  await eventually("why not", async () => /--path/.test(await text(dialog.getByRole("alert"))));
  await dialog.getByLabel("Arguments for llama-server").fill("-c 4096");
  await dialog.getByRole("button", { name: "Start" }).click();
  const details = page.getByRole("dialog", { name: "mine" });
  await details.waitFor();
  await inState(page, "mine", "ready");
  assert.ok((await daemon.instance("mine")).dynamic);
  await eventually("its arguments", async () => /-c 4096/.test(await text(details)));
  await details.getByRole("button", { name: "Remove" }).click();
  await page.getByRole("button", { name: "Remove it" }).click();
  await details.waitFor({ state: "detached" });
  await page.getByRole("heading", { name: "No model yet" }).waitFor();
});

test("the other views in light", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [{ name: "one", model: "tiny.gguf" }] });
  await daemon.wait("one", "ready");
  await daemon.api("POST", "/v1/chat/completions", { model: "one", messages: [{ role: "user", content: "x" }] });
  const page = await openPage(t, { colorScheme: "light" });
  for (const [view, ready] of [["logs", ".row"], ["activity", "tbody tr"], ["library", ".model"]]) {
    await page.goto(`${daemon.address}/#/${view}`);
    await page.locator(ready).first().waitFor();
    await looks(page, `${view}-light`);
    assert.deepEqual(await accessibility(page), [], view);
  }
});
