/* Images in chat, in a real Chromium: picked, pasted and dropped; made small; sent to models that see, and to no other. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, test } from "node:test";
import { deflateSync } from "node:zlib";
import { accessibility, actFleet, closeBrowser, eventually, LIMIT, openPage, shot, startDaemon, tellFleet } from "./harness.mjs";

after(closeBrowser);

const REFUSED = /50[0-9]|40[0-9]/;
const text = async (locator) => (await locator.innerText()).replace(/\s+/g, " ");

/** CRC of a PNG's chunk. */
function crc(bytes) {
  let c = ~0;
  for (const byte of bytes) {
    c ^= byte;
    for (let i = 0; i < 8; i++) c = c & 1 ? (c >>> 1) ^ 0xedb88320 : c >>> 1;
  }
  return ~c >>> 0;
}

/** A PNG of this size, of one colour with stripes, with a comment that nobody else shall read. */
function png(width, height, [r, g, b] = [200, 60, 40]) {
  const chunk = (name, data) => {
    const body = Buffer.concat([Buffer.from(name, "latin1"), data]);
    const frame = Buffer.alloc(8 + body.length);
    frame.writeUInt32BE(data.length, 0);
    body.copy(frame, 4);
    frame.writeUInt32BE(crc(body), 4 + body.length);
    return frame;
  };
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(height, 4);
  head.set([8, 2, 0, 0, 0], 8);
  const rows = Buffer.alloc(height * (1 + 3 * width));
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) rows.set((x >> 5) % 2 ? [r, g, b] : [255 - r, g, 255 - b], y * (1 + 3 * width) + 1 + 3 * x);
  return Buffer.concat([Buffer.from("\x89PNG\r\n\x1a\n", "latin1"), chunk("IHDR", head), chunk("tEXt", Buffer.from("Comment\0taken at home", "latin1")),
    chunk("IDAT", deflateSync(rows)), chunk("IEND", Buffer.alloc(0))]);
}

const file = (name, buffer, mimeType = "image/png") => ({ name, mimeType, buffer });
const attached = (page) => page.locator(".attached li");
const chooser = (page) => page.locator('input[type="file"]');

async function openChat(page, daemon, model) {
  await page.goto(`${daemon.address}/#/chat`);
  await page.getByLabel("Say something").waitFor();
  await eventually("the models are known", async () => (await page.getByLabel("Model").locator("option").count()) > 0);
  await page.getByLabel("Model").selectOption(model);
}

/** Width and height of a data: address, as the browser reads it. */
function sizeOf(page, address) {
  return page.evaluate(async (src) => {
    const image = new Image();
    image.src = src;
    await image.decode();
    return [image.naturalWidth, image.naturalHeight];
  }, address);
}

/** Puts files into a paste or a drop at the element. */
function transfer(locator, type, files) {
  return locator.evaluate((element, { type, files }) => {
    const data = new DataTransfer();
    for (const { name, mimeType, bytes } of files) data.items.add(new File([new Uint8Array(bytes)], name, { type: mimeType }));
    const options = { bubbles: true, cancelable: true };
    const event = type === "paste" ? new ClipboardEvent(type, { ...options, clipboardData: data }) : new DragEvent(type, { ...options, dataTransfer: data });
    return element.dispatchEvent(event);
  }, { type, files: files.map(({ buffer, ...one }) => ({ ...one, bytes: [...buffer] })) });
}

const WORLD = {
  instances: [
    { name: "eyes", model: "tiny.gguf", args: ["--mmproj", "eyes.gguf", "--tokens", "8"] },
    { name: "blind", model: "tiny.gguf", args: ["--tokens", "8"] },
  ],
};

test("a model that sees gets them, small, and nothing but what is in them", LIMIT, async (t) => {
  const daemon = await startDaemon(t, WORLD);
  await Promise.all([daemon.wait("eyes", "ready"), daemon.wait("blind", "ready")]);
  await eventually("it says that it sees", async () => (await daemon.instance("eyes")).modalities?.includes("vision"));
  const page = await openPage(t);
  await openChat(page, daemon, "eyes");
  await eventually("nothing is said against it", async () => (await page.getByRole("button", { name: "Add an image" }).isVisible()));
  await chooser(page).setInputFiles([file("big.png", png(3000, 1000)), file("small.png", png(40, 60))]);
  await eventually("both are there", async () => (await attached(page).count()) === 2);
  assert.equal(await page.locator(".chat-notice").isVisible(), false);
  const asking = page.waitForRequest("**/v1/chat/completions");
  await page.getByLabel("Say something").fill("What is on them?");
  await page.keyboard.press("Enter");
  const { messages } = (await asking).postDataJSON();
  assert.equal(messages.length, 1);
  const [words, ...pictures] = messages[0].content;
  assert.deepEqual(words, { type: "text", text: "What is on them?" });
  assert.equal(pictures.length, 2);
  for (const one of pictures) {
    assert.equal(one.type, "image_url");
    assert.match(one.image_url.url, /^data:image\/jpeg;base64,\/9j\//);
    assert.doesNotMatch(Buffer.from(one.image_url.url.split(",")[1], "base64").toString("latin1"), /taken at home/);
  }
  assert.deepEqual(await sizeOf(page, pictures[0].image_url.url), [1536, 512], "made small");
  assert.deepEqual(await sizeOf(page, pictures[1].image_url.url), [40, 60], "not made large");
  await eventually("it answers", async () => /eyes · .*8 tokens/.test(await text(page.locator(".from-model .message-figures"))));
  assert.equal(await attached(page).count(), 0, "they are sent");
  assert.equal(await page.locator(".from-user .message-images img").count(), 2);
  assert.deepEqual(await accessibility(page), []);

  // Kept over a reload; sent again with the next question; larger when asked for.
  await page.reload();
  await eventually("both are shown again", async () => {
    const sizes = await page.locator(".from-user .message-images img").evaluateAll((all) => all.map((one) => one.naturalWidth));
    return sizes.length === 2 && sizes[0] === 1536 && sizes[1] === 40;
  });
  await page.getByRole("button", { name: /^Image, 1536 × 512/ }).click();
  await page.getByRole("dialog", { name: "Image, 1536 × 512" }).waitFor();
  await page.keyboard.press("Escape");
  const next = page.waitForRequest("**/v1/chat/completions");
  await page.getByLabel("Say something").fill("And now?");
  await page.keyboard.press("Enter");
  const again = (await next).postDataJSON().messages;
  assert.equal(again.length, 3);
  assert.equal(again[0].content.length, 3);
  assert.equal(again[2].content, "And now?");
  await eventually("it answers", async () => (await page.locator(".from-model").count()) === 2 && (await page.locator(".from-model[data-running]").count()) === 0);

  // Edited, the message keeps them; exported, they are in the file.
  await page.locator(".from-user").first().hover();
  await page.locator(".from-user").first().getByRole("button", { name: "Edit" }).click();
  const edited = page.waitForRequest("**/v1/chat/completions");
  await page.getByRole("textbox", { name: "Edit" }).fill("What else?");
  await page.keyboard.press("Enter");
  assert.deepEqual((await edited).postDataJSON().messages.map((one) => one.content.length), [3]);
  await eventually("it answers", async () => (await page.locator(".from-model").count()) === 1 && (await page.locator(".from-model[data-running]").count()) === 0);
  await page.getByRole("button", { name: "Settings of this conversation" }).click();
  const downloading = page.waitForEvent("download");
  await page.getByRole("button", { name: "JSON" }).click();
  const kept = JSON.parse(readFileSync(await (await downloading).path(), "utf8"));
  assert.match(kept.messages[0].images[0].url, /^data:image\/jpeg;base64,/);
});

test("a model that does not see says so before, and is spared what others saw", LIMIT, async (t) => {
  const daemon = await startDaemon(t, WORLD);
  await Promise.all([daemon.wait("eyes", "ready"), daemon.wait("blind", "ready")]);
  const page = await openPage(t);
  await openChat(page, daemon, "blind");
  const notice = page.locator(".chat-notice");
  await page.getByRole("button", { name: "Add an image" }).waitFor({ state: "hidden" });
  // A picture can be pasted nevertheless.
  const input = page.getByLabel("Say something");
  await input.fill("What is it?");
  assert.equal(await transfer(input, "paste", [file("one.png", png(80, 80))]), false, "the paste is taken");
  await eventually("it is there", async () => (await attached(page).count()) === 1);
  assert.equal(await text(notice), "blind cannot see images. Choose a model that can, or take them away.");
  await shot(page, "chat-blind");
  const asked = () => page.requests.filter((one) => one.url().endsWith("/v1/chat/completions")).length;
  await input.press("Enter");
  await page.getByRole("button", { name: "Send", exact: true }).click();
  assert.equal(asked(), 0);
  assert.equal(await input.inputValue(), "What is it?", "nothing is lost");
  await page.getByLabel("Model").selectOption("eyes");
  assert.equal(await notice.isVisible(), false);
  await input.press("Enter");
  await eventually("it answers", async () => (await page.locator(".from-model").count()) === 1 && (await page.locator(".from-model[data-running]").count()) === 0);

  await page.getByLabel("Model").selectOption("blind");
  assert.equal(await text(notice), "blind cannot see images: those of this conversation are not sent to it.");
  const next = page.waitForRequest("**/v1/chat/completions");
  await input.fill("And you?");
  await input.press("Enter");
  const { messages } = (await next).postDataJSON();
  assert.deepEqual(messages.map((one) => typeof one.content), ["string", "string", "string"]);
  await eventually("it answers", async () => (await page.locator(".from-model").count()) === 2 && /^blind · /.test(await text(page.locator(".from-model .message-figures").last())));
});

test("dropped, taken away, too many, and what is none", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [] });
  const page = await openPage(t);
  const instances = tellFleet(1);
  instances[0].modalities = null;
  await actFleet(page, instances);
  await openChat(page, daemon, "qwen");
  const place = page.locator(".chat-main");
  const one = file("one.png", png(300, 200));
  await transfer(place, "dragenter", [one]);
  await page.getByText("Drop images here").waitFor();
  assert.equal(await transfer(place, "drop", [one]), false, "the page stays");
  await eventually("it is there", async () => (await attached(page).count()) === 1);
  await page.getByText("Drop images here").waitFor({ state: "hidden" });
  assert.match(await text(page.locator(".chat-notice")), /It is not known yet whether qwen can see images\./);
  await shot(page, "chat-attached");
  assert.deepEqual(await accessibility(page), []);
  // By keyboard alone it goes again.
  await page.getByLabel("Say something").focus();
  await eventually("the focus is on its button", async () => {
    await page.keyboard.press("Shift+Tab");
    return page.evaluate(() => document.activeElement.getAttribute("aria-label") === "Take this image away");
  });
  await page.keyboard.press("Enter");
  assert.equal(await attached(page).count(), 0);
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute("aria-label")), "Say something");

  await transfer(place, "drop", [file("notes.txt", Buffer.from("x"), "text/plain")]);
  await page.getByText("Only images can be dropped here.").waitFor();
  await transfer(place, "drop", [file("broken.png", Buffer.from("no picture"))]);
  await page.getByText("broken.png is no image that this browser can read.").waitFor();
  // A script in a picture is none of ours.
  await transfer(place, "drop", [file("evil.svg", Buffer.from('<svg xmlns="http://www.w3.org/2000/svg"><script>globalThis.pwned = 1</script></svg>'), "image/svg+xml")]);
  await page.getByText("evil.svg is no image that this browser can read.").waitFor();
  assert.equal(await page.evaluate(() => globalThis.pwned), undefined);
  await chooser(page).setInputFiles([1, 2, 3, 4, 5].map((n) => file(`${n}.png`, png(20, 20))));
  await page.getByText("At most 4 images go with one message.").waitFor();
  await eventually("four of them", async () => (await attached(page).count()) === 4);

  // Without words; and of many the newest are kept.
  await page.route("**/v1/chat/completions", (route) => route.fulfill({ contentType: "text/event-stream",
    body: 'data: {"choices":[{"delta":{"content":"yes"}}]}\n\ndata: [DONE]\n\n' }));
  let body;
  for (let round = 0; round < 5; round++) {
    if (round) {
      await chooser(page).setInputFiles([1, 2, 3, 4].map((n) => file(`${n}.png`, png(20, 20 + round))));
      await eventually("four more", async () => (await attached(page).count()) === 4);
    }
    const asking = page.waitForRequest("**/v1/chat/completions");
    await page.getByLabel("Say something").press("Enter");
    body = (await asking).postDataJSON();
    await eventually("the answer", async () => (await page.locator(".from-model").count()) === round + 1 && (await page.locator(".from-model[data-running]").count()) === 0);
  }
  assert.equal(body.messages.at(-1).content.length, 4, "no text part without a text");
  assert.equal(body.messages.flatMap((m) => m.content).filter((part) => part.type === "image_url").length, 16);
  assert.equal(await page.locator(".conversation-open").innerText(), "4 images");
  await page.reload();
  await eventually("what they were is told", async () => (await page.getByText("An image that is kept no more").count()) === 4);
});

test("how a picture looks in a conversation", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [] });
  for (const theme of ["dark", "light"]) {
    const page = await openPage(t, { colorScheme: theme, forgive: REFUSED });
    const instances = tellFleet(6).map((one) => ({ ...one, modalities: ["vision"] }));
    await actFleet(page, instances);
    await page.route("**/v1/chat/completions", (route) => route.fulfill({ contentType: "text/event-stream", headers: { "x-llama-instance": "qwen-0" },
      body: 'data: {"choices":[{"delta":{"content":"Broad **stripes**, red and teal, of the same width."}}]}\n\ndata: {"choices":[],"timings":{"predicted_n":12,"predicted_per_second":41.3}}\n\ndata: [DONE]\n\n' }));
    await openChat(page, daemon, "qwen");
    await chooser(page).setInputFiles([file("a.png", png(1200, 800, [40, 120, 200]))]);
    await eventually("it is there", async () => (await attached(page).count()) === 1);
    await page.getByLabel("Say something").fill("What is on this picture?");
    await page.keyboard.press("Enter");
    await page.getByText("of the same width").waitFor();
    await chooser(page).setInputFiles([file("b.png", png(200, 200)), file("c.png", png(500, 200))]);
    await eventually("the next ones", async () => (await attached(page).count()) === 2);
    for (const [width, height] of [[390, 844], [1024, 800], [1600, 1000]]) {
      await page.setViewportSize({ width, height });
      assert.ok((await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)) <= 0, `${width} px`);
      await shot(page, `chat-images-${width}-${theme}`);
    }
    assert.deepEqual(await accessibility(page), []);
  }
});
