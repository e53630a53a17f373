/* Empty and broken states: each says what is so and what to do, in both themes and three widths. The pictures are in LSV_BUILD/page. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { after, test } from "node:test";
import { accessibility, actFleet, closeBrowser, eventually, gpusMessage, inState, LIMIT, openPage, shot, startDaemon, tellFleet } from "./harness.mjs";

after(closeBrowser);

const AWAY = /ERR_FAILED|ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET|WebSocket connection|ERR_EMPTY_RESPONSE|ERR_INCOMPLETE/;
const REFUSED = /401|403|50[0-9]|40[0-9]|WebSocket connection/;
const WIDTHS = [[390, 844], [1024, 800], [1600, 1000]];
const THEMES = ["dark", "light"];

async function look(page, name, theme) {
  for (const [width, height] of WIDTHS) {
    await page.setViewportSize({ width, height });
    assert.ok((await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)) <= 0, `${name}: ${width} px`);
    await shot(page, `state-${name}-${width}-${theme}`);
  }
  assert.deepEqual(await accessibility(page), [], `${name}, ${theme}`);
  await page.setViewportSize({ width: 1024, height: 800 });
}

test("nothing there yet: fleet, chat, activity, library, hub", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [], spool: { enabled: false } });
  // Not even a file in the library.
  const models = daemon.path("models", "tiny.gguf");
  (await import("node:fs")).unlinkSync(models);
  for (const theme of THEMES) {
    const page = await openPage(t, { colorScheme: theme });
    for (const [view, words] of [["fleet", "No model yet"], ["chat", "There is no model to talk to yet"], ["activity", "Nothing was asked yet"], ["library", "No model files yet"], ["hub", "No hub"]]) {
      await page.goto(`${daemon.address}/#/${view}`);
      await page.getByText(words).waitFor();
      await look(page, `empty-${view}`, theme);
    }
  }
});

test("the daemon is gone; it was never there for long", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [{ name: "one", model: "tiny.gguf" }] });
  await daemon.wait("one", "ready");
  const pages = [];
  for (const theme of THEMES) {
    const page = await openPage(t, { colorScheme: theme, forgive: AWAY });
    await page.goto(daemon.address);
    await inState(page, "one", "ready");
    pages.push([page, theme]);
  }
  await daemon.kill9();
  for (const [page, theme] of pages) {
    await page.getByText(/What you see was true at \d\d:\d\d:\d\d\. Reconnecting\./).waitFor();
    await look(page, "stale", theme);
  }
  // A page that is loaded and gets no feed at all says so, too.
  const page = await openPage(t, { forgive: AWAY });
  await daemon.start();
  await page.routeWebSocket(/\/ws$/, (ws) => ws.close());
  await page.route("**/api/v1/status", (route) => route.abort());
  await page.goto(daemon.address);
  await page.getByText("The daemon does not answer. Is it running?").waitFor();
  await look(page, "gone", "dark");
  // One whose proxy lets everything through but WebSockets shows what is, and that it is not live.
  const held = await openPage(t, { forgive: AWAY });
  await held.routeWebSocket(/\/ws$/, (ws) => ws.close());
  await held.goto(daemon.address);
  await inState(held, "one", "ready");
  await held.getByText("the connection for news does not come about").waitFor();
  await look(held, "not-live", "dark");
});

test("a key is needed; one that is wrong", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [], auth: { anonymous: [], keys_file: "keys.json" } });
  daemon.cli("key", "add", "somebody", "--scope", "read", "--config", daemon.configFile);
  for (const theme of THEMES) {
    const page = await openPage(t, { colorScheme: theme, forgive: REFUSED });
    await page.goto(daemon.address);
    await page.getByRole("dialog", { name: "A key, please" }).waitFor();
    await look(page, "key", theme);
    await page.getByLabel("Key", { exact: true }).fill("lsv_wrong");
    await page.keyboard.press("Enter");
    await page.getByText("That key is not known here").waitFor();
    await look(page, "key-wrong", theme);
  }
});

test("nothing in the log, nothing found, no GPU, a reload that failed", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [] });
  for (const theme of THEMES) {
    const page = await openPage(t, { colorScheme: theme });
    let log = "";
    const { socket } = await actFleet(page, tellFleet(1), { "/api/v1/instances/*/logs*": (route) => route.fulfill({ contentType: "text/plain", body: log }) }, { gpus: [] });
    await page.goto(`${daemon.address}/#/logs`);
    await page.getByText("Nothing in the log yet. What comes is shown here at once.").waitFor();
    await look(page, "log-empty", theme);
    log = "0.00.000.001 I srv one line\n";
    await page.reload();
    await page.locator(".row").waitFor();
    await page.getByRole("searchbox").fill("two");
    await page.getByText("No line is like that.").waitFor();
    await look(page, "log-nothing-found", theme);
    await page.goto(`${daemon.address}/#/fleet`);
    await page.getByText("No GPU seen: models run on the processor.").waitFor();
    await look(page, "no-gpu", theme);
    socket().send(gpusMessage([], "NVIDIA's driver does not answer: figures of its GPUs are missing"));
    await page.getByText("figures of its GPUs are missing").waitFor();
  }
  writeFileSync(daemon.configFile, "{ broken");
  daemon.child.kill("SIGHUP");
  await eventually("the reload failed", async () => (await daemon.api("GET", "/api/v1/status")).reloadError);
  for (const theme of THEMES) {
    const page = await openPage(t, { colorScheme: theme });
    await page.goto(daemon.address);
    await page.getByText("The last reload of the configuration failed").waitFor();
    await look(page, "reload-failed", theme);
  }
});
