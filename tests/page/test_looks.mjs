/* How it looks: three widths, two themes, fleets of 1, 6 and 200; nothing sticks out, nobody is shut out (axe), and a storm of
 * changes does not freeze it. The pictures are in LSV_BUILD/page. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { accessibility, actFleet, card, closeBrowser, eventually, feedMessage, inState, LIMIT, openPage, shot, startDaemon, tellFleet } from "./harness.mjs";

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
      await actFleet(page, tellFleet(size));
      await page.goto(daemon.address);
      await eventually("all cards", async () => (await page.locator(".card").count()) === size);
      await eventually("details of all", async () => (await page.locator(".group").count()) === (size === 1 ? 1 : 5));
      for (const [width, height] of WIDTHS) {
        await page.setViewportSize({ width, height });
        assert.ok((await sticksOut(page)) <= 0, `${width} px: the page scrolls sideways`);
        await shot(page, `fleet-${size}-${width}-${theme}`);
      }
      if (size === 6) {
        await page.setViewportSize({ width: 1280, height: 668 });
        await shot(page, `readme-${theme}`);
      }
      if (size !== 200) assert.deepEqual(await accessibility(page), []);
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
