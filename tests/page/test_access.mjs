/* For everybody: keyboard alone, what a screen reader is told and what not, no motion where none is wanted. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { actFleet, closeBrowser, eventually, feedMessage, gpusMessage, inState, LIMIT, openPage, startDaemon, tellFleet, tellGpus } from "./harness.mjs";

after(closeBrowser);

const REFUSED = /50[0-9]|40[0-9]/;

const focused = (page) => page.evaluate(() => document.activeElement?.getAttribute("aria-label") ?? document.activeElement?.textContent?.trim());

/** Tab until this has the focus; each stop must be seen. */
async function tabTo(page, name, key = "Tab") {
  for (let i = 0; i < 80; i++) {
    await page.keyboard.press(key);
    const seen = await page.evaluate(() => {
      const one = document.activeElement;
      if (!one || one === document.body) return true;
      const { width, height } = one.getBoundingClientRect();
      const { outlineStyle, outlineWidth } = getComputedStyle(one);
      const form = one.closest("form");
      const ring = (outlineStyle !== "none" && outlineWidth !== "0px") || (form && one.matches("textarea") && getComputedStyle(form).borderColor !== "");
      return width > 0 && height > 0 && Boolean(ring);
    });
    const now = await focused(page);
    assert.ok(seen, `the focus is seen on ${now}`);
    if (now === name) return;
  }
  assert.fail(`${key} does not lead to ${name}`);
}

test("keyboard alone: the views, a chat, its answer, a log", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [{ name: "one", model: "tiny.gguf", args: ["--tokens", "8"] }] });
  await daemon.wait("one", "ready");
  const page = await openPage(t, { forgive: REFUSED });
  await page.goto(daemon.address);
  await inState(page, "one", "ready");
  // The first stop leads past the frame.
  await page.keyboard.press("Tab");
  assert.equal(await focused(page), "Skip to the content");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "content");
  await tabTo(page, "one");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog", { name: "one" }).waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog", { name: "one" }).waitFor({ state: "detached" });
  assert.equal(await focused(page), "one", "the focus is back");
  await tabTo(page, "Chat", "Shift+Tab");
  await page.keyboard.press("Enter");
  await page.getByLabel("Say something").waitFor();
  await eventually("a model is chosen", async () => (await page.getByLabel("Model").inputValue()) !== "");
  await eventually("the input has the focus", async () => (await focused(page)) === "Say something");
  await page.keyboard.type("Hello");
  await page.keyboard.press("Enter");
  await eventually("an answer", async () => (await page.locator(".from-model").count()) === 1 && (await page.locator(".from-model[data-running]").count()) === 0);
  await tabTo(page, "Answer again", "Shift+Tab");
  await page.keyboard.press("Enter");
  await eventually("another one", async () => (await page.locator(".from-model[data-running]").count()) === 0 && (await page.locator(".from-model .message-figures").innerText()) !== "");
  await tabTo(page, "Edit", "Shift+Tab");
  await page.keyboard.press("Enter");
  await page.keyboard.type(", fox");
  await page.keyboard.press("Enter");
  await page.locator(".from-user", { hasText: "Hello, fox" }).waitFor();
  await tabTo(page, "Logs", "Shift+Tab");
  await page.keyboard.press("Enter");
  await page.locator(".row").first().waitFor();
  await tabTo(page, "Lines of the log");
  await page.keyboard.press("Home");
});

/** All that was said to screen readers from now on, in the order in which it was said. */
async function listen(page) {
  await page.evaluate(() => {
    globalThis.told = [];
    new MutationObserver((changes) => {
      for (const { target } of changes) {
        const region = (target.nodeType === 1 ? target : target.parentElement)?.closest('[role="status"], [role="alert"], [aria-live]');
        if (region && region.textContent && globalThis.told.at(-1) !== region.textContent) globalThis.told.push(region.textContent);
      }
    }).observe(document, { subtree: true, childList: true, characterData: true });
  });
  return () => page.evaluate(() => globalThis.told);
}

test("a screen reader hears of trouble and its end, and not of figures", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [] });
  const page = await openPage(t);
  const instances = tellFleet(6);
  const gpus = tellGpus(2, instances);
  const { socket } = await actFleet(page, instances, {}, { gpus });
  await page.goto(daemon.address);
  await inState(page, "qwen-0", "ready");
  const told = await listen(page);
  // Figures, and steps on the way.
  for (let i = 0; i < 30; i++) {
    instances[0].seq++;
    instances[0].inFlight = i % 4;
    instances[0].tokensPerSecond = 30 + i;
    socket().send(feedMessage(instances[0]));
    gpus[0].temperature = 60 + i;
    socket().send(gpusMessage(gpus));
  }
  await eventually("they are drawn", async () => /89 °C/.test(await page.locator(".gpu").first().innerText()));
  instances[0].seq++;
  Object.assign(instances[0], { status: "crashed", lastError: "died: out of GPU memory", nextRetryAt: new Date(Date.now() + 60_000).toISOString() });
  socket().send(feedMessage(instances[0]));
  await eventually("the death is said", async () => (await told()).includes("qwen-0: crashed, died: out of GPU memory"));
  assert.equal((await told()).length, 1, JSON.stringify(await told()));
  // Its countdown is not said, nor each step of the next try.
  instances[0].seq++;
  instances[0].status = "starting";
  socket().send(feedMessage(instances[0]));
  await inState(page, "qwen-0", "starting");
  instances[0].seq++;
  Object.assign(instances[0], { status: "ready", lastError: null, nextRetryAt: null });
  socket().send(feedMessage(instances[0]));
  await eventually("its end is said", async () => (await told()).includes("qwen-0: ready"));
  assert.equal((await told()).length, 2, JSON.stringify(await told()));
  // Many at once are a few words.
  for (const one of instances) {
    one.seq++;
    one.status = "error";
    one.lastError = "gone";
    socket().send(feedMessage(one));
  }
  await eventually("said", async () => (await told()).length === 3);
  assert.ok((await told())[2].length < 120, (await told())[2]);
  assert.deepEqual(await page.locator("[aria-live], [role=status], [role=alert], [role=log]").evaluateAll((all) => all.filter((one) => one.querySelector(".card, .gpu, .row, .num")).length), 0,
    "no region around what moves");
});

test("an answer is said when it is whole, not as it streams", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [{ name: "one", model: "tiny.gguf", args: ["--tok-s", "40", "--tokens", "40"] }] });
  await daemon.wait("one", "ready");
  const page = await openPage(t);
  await page.goto(`${daemon.address}/#/chat`);
  await eventually("a model is chosen", async () => (await page.getByLabel("Model").inputValue()) !== "");
  const told = await listen(page);
  await page.getByLabel("Say something").fill("Hello");
  await page.keyboard.press("Enter");
  await eventually("it is said", async () => (await told()).includes("The answer is there"));
  assert.equal((await told()).length, 1, JSON.stringify(await told()));
});

test("motion is short, and none where none is wanted", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [{ name: "one", model: "tiny.gguf", args: ["--tok-s", "20", "--tokens", "100000"] }] });
  await daemon.wait("one", "ready");
  for (const reducedMotion of ["reduce", "no-preference"]) {
    const page = await openPage(t, { reducedMotion });
    const longest = () => page.evaluate(() => {
      const seconds = (text) => Math.max(...text.split(",").map((one) => (one.trim().endsWith("ms") ? Number.parseFloat(one) / 1000 : Number.parseFloat(one))));
      let most = 0;
      for (const one of document.querySelectorAll("*")) {
        const style = getComputedStyle(one);
        if (style.animationName !== "none") most = Infinity;
        if (style.transitionProperty !== "none") most = Math.max(most, seconds(style.transitionDuration) + seconds(style.transitionDelay));
      }
      return most;
    });
    await page.goto(daemon.address);
    await inState(page, "one", "ready");
    const bound = reducedMotion === "reduce" ? 0 : 0.15;
    assert.ok((await longest()) <= bound, `fleet: ${await longest()}`);
    if (reducedMotion !== "reduce") assert.ok((await longest()) > 0, "it is looked at");
    await page.goto(`${daemon.address}/#/chat`);
    await eventually("a model is chosen", async () => (await page.getByLabel("Model").inputValue()) !== "");
    await page.getByLabel("Say something").fill("Hello");
    await page.keyboard.press("Enter");
    await page.locator(".from-model[data-running]").waitFor();
    assert.ok((await longest()) <= bound, `chat: ${await longest()}`);
    await page.getByRole("button", { name: "Stop", exact: true }).click();
    await eventually("stopped", async () => (await page.locator(".from-model[data-running]").count()) === 0);
  }
});
