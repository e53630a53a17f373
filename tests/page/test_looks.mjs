/* How it looks: three widths, two themes, fleets of 1, 6 and 200; nothing sticks out, nobody is shut out (axe), and a storm of
 * changes does not freeze it. The pictures are in LSV_BUILD/page. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { accessibility, actFleet, card, closeBrowser, eventually, feedMessage, gpusMessage, inState, LIMIT, openPage, shot, startDaemon, tellFleet, tellGpus, tellHub } from "./harness.mjs";

after(closeBrowser);

const WIDTHS = [[390, 844], [1024, 800], [1600, 1000]];

async function sticksOut(page) {
  return page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
}

for (const size of [1, 6, 200])
  test(`fleet of ${size}`, LIMIT, async (t) => {
    const daemon = await startDaemon(t, { instances: [] });
    for (const theme of ["dark", "light"]) {
      const page = await openPage(t, { colorScheme: theme });
      const instances = tellFleet(size);
      await actFleet(page, instances, {}, { gpus: size === 1 ? [] : tellGpus(size === 6 ? 4 : 8, instances) });
      await page.goto(daemon.address);
      await eventually("all cards", async () => (await page.locator(".card").count()) === size);
      await eventually("details of all", async () => (await page.locator(".group").count()) === (size === 1 ? 1 : 5));
      for (const [width, height] of WIDTHS) {
        await page.setViewportSize({ width, height });
        assert.ok((await sticksOut(page)) <= 0, `${width} px: the page scrolls sideways`);
        await shot(page, `fleet-${size}-${width}-${theme}`);
      }
      if (size === 6) {
        await page.setViewportSize({ width: 1280, height: 852 });
        await shot(page, `readme-${theme}`);
      }
      if (size !== 200) assert.deepEqual(await accessibility(page), []);
    }
  });

test("GPUs: their figures, cards that say which, groups by them, and what is wrong", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [] });
  const page = await openPage(t);
  const instances = tellFleet(6);
  const gpus = tellGpus(2, instances);
  const { socket } = await actFleet(page, instances, {}, { gpus });
  await page.goto(daemon.address);
  const tiles = page.locator(".gpu");
  await eventually("two tiles", async () => (await tiles.count()) === 2);
  const text = async (locator) => (await locator.innerText()).replace(/\s+/g, " ");
  assert.equal(await text(tiles.first()), "GPU 0 NVIDIA RTX 6000 Ada 64 °C 22.1/48 GB 87% busy 212 W Take out of use");
  assert.equal(await page.getByRole("img", { name: "46% of its memory is used" }).count(), 1);
  assert.match(await text(page.locator(".figures")), /GB of GPU memory 47\.5\/96/);
  assert.equal(await text(card(page, "qwen-0").locator(".card-gpu")), "GPU 0 · 22.1/48 GB · 64 °C");
  // A message moves figures, and nothing else.
  gpus[0].memoryUsed = 40 * 2 ** 30;
  gpus[0].temperature = 81;
  gpus[0].throttle = ["power_cap"];
  const same = await card(page, "qwen-0").elementHandle();
  socket().send(gpusMessage(gpus));
  await eventually("hotter", async () => (await text(card(page, "qwen-0").locator(".card-gpu"))) === "GPU 0 · 40/48 GB · 81 °C");
  assert.ok(await same.evaluate((one) => one.isConnected));
  assert.equal(await tiles.first().locator(".gpu-note").isVisible(), false, "the cap of its power is no trouble");
  gpus[0].throttle = ["hardware_thermal", "thermal"];
  gpus[0].lastError = { xid: 79, count: 3, at: new Date().toISOString() };
  gpus[1].state = "lost";
  gpus[1].utilization = gpus[1].power = gpus[1].temperature = null;
  socket().send(gpusMessage(gpus));
  await eventually("why", async () => (await text(tiles.first())).includes("held back by heat · Xid 79, 3 errors of its driver"));
  await eventually("lost", async () => (await text(tiles.last())).includes("lost: its driver cannot reach it"));
  await shot(page, "gpus-trouble");

  const headings = () => page.locator(".group h2 > span:first-child").allInnerTexts();
  await page.getByRole("button", { name: "By GPU" }).click();
  await eventually("by GPU", async () => JSON.stringify(await headings()) === '["GPU 0","GPU 1","GPU 2","No GPU"]');
  assert.equal(await page.locator(".group").nth(1).locator(".card").count(), 1);
  // An instance that moves is with its new one.
  gpus[0].instances = [];
  gpus[1].instances = ["qwen-0", "qwen-1"];
  instances[0].gpu = ["1"];
  socket().send(feedMessage(instances[0]));
  socket().send(gpusMessage(gpus));
  await eventually("moved", async () => JSON.stringify(await headings()) === '["GPU 1","GPU 2","No GPU"]');
  for (const [width, height] of WIDTHS) {
    await page.setViewportSize({ width, height });
    assert.ok((await sticksOut(page)) <= 0, `${width} px`);
    await shot(page, `gpus-${width}`);
  }
  assert.deepEqual(await accessibility(page), []);
  await page.reload();
  await eventually("it is remembered", async () => (await headings()).includes("GPU 1"));
  // None, and why.
  socket().send(gpusMessage([]));
  await page.getByText("No GPU seen: models run on the processor.").waitFor();
  socket().send(gpusMessage([], "NVIDIA's driver does not answer: nvmlInit: driver not loaded"));
  await page.getByText("nvmlInit: driver not loaded").waitFor();
});

test("hubs: nothing where none is; how each is, why, and the countdown", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [] });
  const text = async (locator) => (await locator.innerText()).replace(/\s+/g, " ");
  for (const theme of ["dark", "light"]) {
    const page = await openPage(t, { colorScheme: theme });
    const hubs = [tellHub("farm"), tellHub("jobs", { driver: "spool", url: "/var/lib/llama-supervisor/spool", worker: "jobs", state: "drained" }),
      tellHub("web", { state: "down", why: "tls://hub.example:4222: connection refused", retryIn: 20, submit: true, submissions: { submitted: 17, failed: 1, open: 0 }, running: 0,
        lastError: "the hub closed the connection", lastErrorAt: Date.now() - 60_000 }),
      tellHub("old", { state: "revoked", why: "the hub refuses our key", credits: 0, running: 0, waiting: 0 })];
    const { socket } = await actFleet(page, tellFleet(6), {}, { hubs });
    await page.goto(daemon.address);
    await page.getByRole("link", { name: "Hub" }).click();
    const hub = (name) => page.locator(`[data-hub="${name}"]`);
    await eventually("its figures", async () => /lost 0$/.test(await text(hub("farm"))));
    assert.match(await text(hub("farm")), /^farm up for 2 h 1 min nats · tls:\/\/hub\.example:4222 · as gpu-box-1 running 2 waiting 1 to hand back 0 room for more 3 claimed 1204 done 1187 failed 9 given back 6 lost 0$/);
    const left = async () => Number(/next try in (\d+) s/.exec(await text(hub("web")))?.[1]);
    const first = await left();
    assert.ok(first > 0 && first <= 20, String(first));
    await eventually("it counts down", async () => (await left()) < first);
    assert.match(await text(hub("web")), /connection refused.*handed in 17.*\d\d:\d\d:\d\d the hub closed the connection/);
    assert.match(await text(hub("old")), /refused .*make it a new key/);
    for (const [width, height] of WIDTHS) {
      await page.setViewportSize({ width, height });
      assert.ok((await sticksOut(page)) <= 0, `${width} px`);
      await shot(page, `hubs-${width}-${theme}`);
    }
    assert.deepEqual(await accessibility(page), []);
    // One that changed is told alone.
    socket().send(JSON.stringify({ type: "hub", hub: { ...hubs[2], state: "up", why: null, retryIn: null } }));
    await eventually("it is up", async () => (await hub("web").getAttribute("data-state")) === "ready" && (await page.locator("[data-hub]").count()) === 4);
    socket().send(JSON.stringify({ type: "hub", hubs: [] }));
    await page.getByRole("heading", { name: "No hub" }).waitFor();
    await page.getByRole("link", { name: "Fleet" }).click();
    await page.getByRole("link", { name: "Hub" }).waitFor({ state: "hidden" });
  }
});

test("details", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [{ name: "poor", model: "tiny.gguf", args: ["--oom-text"] }] });
  await daemon.wait("poor", "error");
  for (const theme of ["dark", "light"]) {
    const page = await openPage(t, { colorScheme: theme });
    await page.goto(`${daemon.address}/#/fleet/poor`);
    await page.getByRole("dialog").getByText("cudaMalloc failed").first().waitFor();
    await page.getByRole("dialog").getByText("gave up").first().waitFor();
    for (const [width, height] of WIDTHS) {
      await page.setViewportSize({ width, height });
      assert.ok((await sticksOut(page)) <= 0, `${width} px`);
      await shot(page, `details-${width}-${theme}`);
    }
    assert.deepEqual(await accessibility(page), []);
  }
});

test("keyboard alone: from the top to an order and back", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [{ name: "one", model: "tiny.gguf" }] });
  await daemon.wait("one", "ready");
  const page = await openPage(t);
  await page.goto(daemon.address);
  await inState(page, "one", "ready");
  const focused = () => page.evaluate(() => document.activeElement?.getAttribute("aria-label") ?? document.activeElement?.textContent);
  await eventually("Tab reaches the card's order", async () => {
    await page.keyboard.press("Tab");
    return (await focused()) === "Restart one";
  });
  await page.keyboard.press("Enter");
  await page.getByRole("dialog", { name: "Restart one?" }).waitFor();
  assert.equal(await focused(), "Restart it");
  await page.keyboard.press("Escape");
  await eventually("the focus is back where it was", async () => (await focused()) === "Restart one");
});

test("a storm of 200 instances: the newest state is drawn, the focus stays", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [] });
  const page = await openPage(t);
  const instances = tellFleet(200);
  const { socket } = await actFleet(page, instances);
  await page.goto(daemon.address);
  await eventually("all cards", async () => (await page.locator(".card").count()) === 200);
  await card(page, "qwen-0").locator(".card-name").focus();
  for (let round = 0; round < 20; round++)
    for (const one of instances) {
      one.seq++;
      one.status = (one.seq + round) % 2 ? "ready" : "unhealthy";
      one.inFlight = round % 5;
      socket().send(feedMessage(one));
    }
  for (const one of instances) {
    one.seq++;
    one.status = "ready";
    socket().send(feedMessage(one));
  }
  await eventually("all are ready", async () => (await page.locator('.card[data-state="ready"]').count()) === 200);
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "qwen-0");
});
