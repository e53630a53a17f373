/* Chat in a real Chromium: streaming from a real llama-server, stopping, waiting told plainly, and hostile output that stays text. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, test } from "node:test";
import { accessibility, actFleet, closeBrowser, eventually, LIMIT, openPage, realLlamaServer, shot, startDaemon, tellFleet } from "./harness.mjs";

after(closeBrowser);

const REFUSED = /50[0-9]|40[0-9]/;
const WIDTHS = [[390, 844], [1024, 800], [1600, 1000]];
const text = async (locator) => (await locator.innerText()).replace(/\s+/g, " ");

async function openChat(page, daemon) {
  await page.goto(`${daemon.address}/#/chat`);
  await page.getByLabel("Say something").waitFor();
  await eventually("a model is chosen", async () => (await page.getByLabel("Model").inputValue()) !== "");
}

async function send(page, words) {
  await page.getByLabel("Say something").fill(words);
  await page.keyboard.press("Enter");
}

const answers = (page) => page.locator(".from-model");

async function answered(page, n = 1) {
  await eventually(`${n} whole answers`, async () => (await answers(page).count()) === n && (await page.locator('.from-model[data-running]').count()) === 0);
  return answers(page).last();
}

/** The events of a stream that says this. */
function streamOf(...pieces) {
  const events = pieces.map((content) => `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content } }] })}\n\n`);
  return `${events.join("")}data: ${JSON.stringify({ choices: [{ index: 0, delta: {}, finish_reason: "stop" }], usage: { completion_tokens: 42, prompt_tokens: 7 }, timings: { predicted_n: 42, predicted_per_second: 41.3 } })}\n\ndata: [DONE]\n\n`;
}

async function actAnswer(page, ...pieces) {
  await page.unroute("**/v1/chat/completions");
  await page.route("**/v1/chat/completions", (route) => route.fulfill({ contentType: "text/event-stream", headers: { "x-llama-instance": "qwen-0" }, body: streamOf(...pieces) }));
}

test("a real model: an answer, its figures, again, edit, kept over a reload, exported, deleted", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [{ name: "tiny", model: "tiny.gguf", args: ["-c", "2048"] }], llama_server: { binary: realLlamaServer() } });
  await daemon.wait("tiny", "ready");
  const page = await openPage(t);
  await openChat(page, daemon);
  await page.getByRole("button", { name: "Settings of this conversation" }).click();
  await page.getByLabel("System prompt").fill("You are a fox.");
  await page.getByLabel("Longest answer (tokens)").fill("12");
  await page.getByLabel("Temperature").fill("0");
  await page.getByRole("button", { name: "Close" }).click();
  const asked = page.waitForRequest("**/v1/chat/completions");
  await send(page, "Hello, fox");
  const body = (await asked).postDataJSON();
  assert.deepEqual(body.messages, [{ role: "system", content: "You are a fox." }, { role: "user", content: "Hello, fox" }]);
  assert.equal(body.temperature, 0);
  assert.equal(body.max_tokens, 12);
  assert.equal("top_p" in body, false, "what is empty is the model's own choice");
  let answer = await answered(page);
  assert.match(await text(answer.locator(".message-text")), /[a-z]{2,}/);
  assert.match(await text(answer.locator(".message-figures")), /^tiny · 12 tokens · [\d.,]+ tok\/s · .* · cut at its longest$/);
  await answer.hover();
  await answer.getByRole("button", { name: "Answer again" }).click();
  await answered(page);
  await page.locator(".from-user").hover();
  await page.locator(".from-user").getByRole("button", { name: "Edit" }).click();
  await page.getByRole("textbox", { name: "Edit" }).fill("Good bye, fox");
  await page.keyboard.press("Enter");
  await page.locator(".from-user", { hasText: "Good bye, fox" }).waitFor();
  answer = await answered(page);
  const words = await text(answer.locator(".message-text"));

  await page.reload();
  await page.locator(".from-user", { hasText: "Good bye, fox" }).waitFor();
  assert.equal(await text(answers(page).locator(".message-text")), words);
  assert.equal(await page.locator(".conversation").count(), 1);
  await page.getByRole("button", { name: "New conversation" }).first().click();
  await page.getByText("Talk to a model").waitFor();
  await page.locator(".conversation-open").click();
  await page.getByRole("button", { name: "Settings of this conversation" }).click();
  assert.equal(await page.getByLabel("System prompt").inputValue(), "You are a fox.");
  const downloading = page.waitForEvent("download");
  await page.getByRole("button", { name: "Markdown" }).click();
  const file = readFileSync(await (await downloading).path(), "utf8");
  assert.match(file, /^# Hello, fox\n\n\*\*System prompt\*\*\n\nYou are a fox\.\n\n\*\*You\*\*\n\nGood bye, fox\n\n\*\*tiny\*\*\n\n/);
  await page.getByRole("button", { name: "Close" }).click();
  await page.locator(".conversation").hover();
  await page.locator(".conversation").getByRole("button", { name: "Delete “Hello, fox”" }).click();
  await page.getByRole("button", { name: "Delete it" }).click();
  await page.getByText("Talk to a model").waitFor();
  await page.reload();
  await page.getByText("Talk to a model").waitFor();
  assert.equal(await page.locator(".conversation").count(), 0);
});

test("it streams, and stop stops the model, too", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [{ name: "slow", model: "tiny.gguf", args: ["--tok-s", "20", "--tokens", "100000"] }] });
  await daemon.wait("slow", "ready");
  const page = await openPage(t);
  await openChat(page, daemon);
  await send(page, "Go on and on");
  const words = async () => (await answers(page).locator(".message-text").innerText().catch(() => "")).split(/\s+/).length;
  const first = await eventually("some words", async () => (await words()) > 3 && (await words()));
  await eventually("more words", async () => (await words()) > first + 3);
  // Another conversation meanwhile: the first one goes on.
  await page.getByRole("button", { name: "New conversation" }).first().click();
  await page.getByText("Talk to a model").waitFor();
  await page.locator(".conversation-open", { hasText: "Go on and on" }).click();
  const then = await words();
  await eventually("it went on", async () => (await words()) > then);
  await page.getByRole("button", { name: "Stop", exact: true }).click();
  const answer = await answered(page);
  assert.match(await text(answer.locator(".message-figures")), /stopped$/);
  await eventually("the instance works no more", async () => (await daemon.instance("slow")).inFlight === 0);
  assert.equal(await page.getByRole("button", { name: "Send", exact: true }).isVisible(), true);
});

test("scrolled up, the reader is left alone", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [{ name: "slow", model: "tiny.gguf", args: ["--tok-s", "100", "--tokens", "100000"] }] });
  await daemon.wait("slow", "ready");
  const page = await openPage(t, { viewport: { width: 600, height: 400 } });
  await openChat(page, daemon);
  await send(page, "Go on and on");
  const scroll = page.locator(".chat-scroll");
  const state = () => scroll.evaluate((one) => ({ top: one.scrollTop, left: one.scrollHeight - one.scrollTop - one.clientHeight, height: one.scrollHeight }));
  await eventually("it fills the page, and follows", async () => {
    const { top, left } = await state();
    return top > 150 && left < 64;
  });
  await scroll.evaluate((one) => (one.scrollTop = 40));
  const { height } = await state();
  await eventually("it grows", async () => (await state()).height > height + 60);
  assert.equal((await state()).top, 40);
  await page.getByRole("button", { name: "To the end" }).click();
  const grown = (await state()).height;
  await eventually("it follows again", async () => {
    const now = await state();
    return now.height > grown && now.left < 64;
  });
  await page.getByRole("button", { name: "Stop", exact: true }).click();
  await answered(page);
});

test("a model that loads, one in whose queue it stands, one that is down", LIMIT, async (t) => {
  const daemon = await startDaemon(t, {
    instances: [
      { name: "lazy", model: "tiny.gguf", args: ["--load-ms", "4000"], on_demand: { idle_timeout: "10m" } },
      { name: "busy", model: "tiny.gguf", args: ["-np", "1", "--tok-s", "10", "--tokens", "100000"] },
      { name: "poor", model: "tiny.gguf", args: ["--oom-text"] },
    ],
  });
  await Promise.all([daemon.wait("lazy", "idle"), daemon.wait("busy", "ready"), daemon.wait("poor", "error")]);
  const page = await openPage(t, { forgive: REFUSED });
  await openChat(page, daemon);
  const notice = page.locator(".chat-notice");
  const state = page.locator(".message-box:last-child .message-state");

  await page.getByLabel("Model").selectOption("lazy");
  assert.match(await text(notice), /lazy is not loaded\. Your message loads it\./);
  await send(page, "Wake up");
  await eventually("it loads", async () => /lazy is loading, for \d+ s now/.test(await text(state)));
  const answer = await answered(page);
  assert.match(await text(answer.locator(".message-figures")), /^lazy · /);

  await page.getByLabel("Model").selectOption("busy");
  // Somebody has its only slot.
  const other = new AbortController();
  const hog = await fetch(`${daemon.address}/v1/chat/completions`, { method: "POST", signal: other.signal,
    headers: { "content-type": "application/json" }, body: JSON.stringify({ model: "busy", stream: true, messages: [{ role: "user", content: "all of it" }] }) });
  assert.equal(hog.status, 200);
  await send(page, "My turn");
  await eventually("its place", async () => /Place 1 in the queue/.test(await text(state)));
  await shot(page, "chat-queued");
  other.abort();
  await eventually("its turn", async () => /[a-z]{2,}/.test(await text(answers(page).last().locator(".message-text"))));
  await page.getByRole("button", { name: "Stop", exact: true }).click();
  await answered(page, 2);

  await page.getByLabel("Model").selectOption("poor");
  assert.match(await text(notice), /poor is down: .*out of GPU memory/);
  await send(page, "Hello?");
  const refused = await answered(page, 3);
  assert.match(await text(refused.locator(".message-error")), /No answer: .*out of GPU memory/);
});

const HOSTILE = [
  "<script>globalThis.pwned = 1</script>",
  "<img src=x onerror=\"globalThis.pwned = 2\">",
  "<svg onload=globalThis.pwned=3><circle/></svg>",
  "[click](javascript:globalThis.pwned=4)",
  "[click](JaVaScRiPt:alert(1))",
  "[click](data:text/html;base64,PHNjcmlwdD5nbG9iYWxUaGlzLnB3bmVkPTU8L3NjcmlwdD4=)",
  "![x](javascript:globalThis.pwned=6)",
  "![tracker](https://tracker.example/pixel.png)",
  "<iframe src=\"javascript:globalThis.pwned=7\"></iframe>",
  "<a href=\"javascript:globalThis.pwned=8\">x</a>",
  "<style>body{display:none}</style>",
  "<link rel=stylesheet href=https://evil.example/x.css>",
  "<meta http-equiv=refresh content=\"0;url=https://evil.example\">",
  "<base href=https://evil.example/>",
  "<form action=https://evil.example><button>x</button></form>",
  "<math><mtext><table><mglyph><style><!--</style><img title=\"--&gt;&lt;img src=1 onerror=globalThis.pwned=9&gt;\">",
  "`<img src=x onerror=globalThis.pwned=10>`",
  "```html\n<script>globalThis.pwned = 11</script>\n```",
  "```\"><img/src=x onerror=globalThis.pwned=12>\ncode\n```",
  "<details open ontoggle=globalThis.pwned=13>x</details>",
  "<input autofocus onfocus=globalThis.pwned=14>",
  "[a]: javascript:globalThis.pwned=15\n[a]",
  "<javascript:alert(1)>",
  "<x-y id=content name=cookie>clobber</x-y>",
  "\u001b[31mred\u001b[0m \u001b]0;title\u0007 \u0000",
  "&lt;script&gt;globalThis.pwned = 16&lt;/script&gt;",
];

test("hostile output stays text", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [] });
  const page = await openPage(t);
  await actFleet(page, tellFleet(1));
  await openChat(page, daemon);
  for (const one of HOSTILE) {
    await actAnswer(page, one.slice(0, 7), one.slice(7));
    await send(page, "x");
    await answered(page, HOSTILE.indexOf(one) + 1);
    const box = answers(page).last().locator(".message-text");
    const found = await box.evaluate((root) => {
      const wrong = [];
      for (const element of root.querySelectorAll("*")) {
        if (/^(script|img|svg|iframe|style|link|meta|base|form|object|embed|math|details|x-y)$/i.test(element.tagName) && !(element.tagName === "svg" && element.closest("button"))) wrong.push(element.outerHTML);
        for (const { name, value } of element.attributes) {
          if (/^on|^style$|^srcdoc$/i.test(name)) wrong.push(element.outerHTML);
          if (/^(href|src|action)$/i.test(name) && !/^(https?:|mailto:|#)/i.test(value)) wrong.push(element.outerHTML);
        }
        if (element.tagName === "INPUT" && element.type !== "checkbox") wrong.push(element.outerHTML);
      }
      return wrong;
    });
    assert.deepEqual(found, [], one);
    assert.doesNotMatch(await box.innerText(), /[\u0000\u001b]/, "no control bytes");
  }
  assert.match(await text(answers(page).first()), /<script>globalThis\.pwned = 1<\/script>/, "it is shown, as text");
  assert.equal(await page.evaluate(() => globalThis.pwned), undefined);
  assert.equal(await page.evaluate(() => document.getElementById("content").tagName), "MAIN");
});

test("a line of a megabyte does not freeze it, and broken streams are told", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [] });
  const page = await openPage(t);
  await actFleet(page, tellFleet(1));
  await openChat(page, daemon);
  await actAnswer(page, "*".repeat(500_000), "<b>".repeat(200_000));
  await send(page, "x");
  const long = await answered(page);
  assert.equal((await long.locator(".message-text").textContent()).length, 1_100_000);
  await page.unroute("**/v1/chat/completions");
  await page.route("**/v1/chat/completions", (route) => route.fulfill({ contentType: "text/event-stream",
    body: 'data: {"choices":[{"delta":{"content":"half a"}}]}\n\ndata: {"error":{"message":"instance qwen-0 died: killed by SIGKILL","code":502}}\n\n' }));
  await send(page, "x");
  const broken = await answered(page, 2);
  assert.match(await text(broken), /half a The answer broke off: instance qwen-0 died: killed by SIGKILL/);
});

const RICH = `## Three ways to keep a model alive

A supervisor is a **small program** that notices a death *at once* and starts the next one. Compare:

| way | notices after | reloads on upgrade |
|---|---|---|
| cron and curl | a minute | yes |
| a systemd unit | a second | yes |
| llama-supervisor | a millisecond | no |

1. Write the configuration
2. \`systemctl start llama-supervisor\`
   - look at the dashboard
   - then forget about it

\`\`\`json
{
  "instances": [{ "name": "qwen", "model": "qwen2.5-7b.gguf", "replicas": "per-gpu" }]
}
\`\`\`

> A probe that is late is not a death.

See [the manual](https://example.org/manual).`;

test("markdown, code and copy; how it looks", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [] });
  for (const theme of ["dark", "light"]) {
    const page = await openPage(t, { colorScheme: theme, permissions: ["clipboard-read", "clipboard-write"] });
    await actFleet(page, tellFleet(6));
    await openChat(page, daemon);
    await shot(page, `chat-empty-${theme}`);
    await actAnswer(page, ...RICH.match(/[\s\S]{1,9}/g));
    await send(page, "How do I keep llama-server running?");
    const answer = await answered(page);
    assert.equal(await answer.locator("h2").innerText(), "Three ways to keep a model alive");
    assert.equal(await answer.locator("tbody tr").count(), 3);
    assert.equal(await answer.locator(".code-head span").first().innerText(), "json");
    assert.equal(await answer.locator("a").getAttribute("rel"), "noopener noreferrer nofollow");
    assert.match(await text(answer.locator(".message-figures")), /^qwen · qwen-0 · 42 tokens · 41 tok\/s · /);
    await answer.locator(".code").getByRole("button", { name: "Copy" }).click();
    await eventually("the code is copied", async () => (await page.evaluate(() => navigator.clipboard.readText())).startsWith('{\n  "instances"'));
    for (const [width, height] of WIDTHS) {
      await page.setViewportSize({ width, height });
      await page.locator(".chat-scroll").evaluate((one) => (one.scrollTop = 0));
      assert.ok((await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)) <= 0, `${width} px`);
      await shot(page, `chat-${width}-${theme}`);
    }
    assert.deepEqual(await accessibility(page), []);
    await page.getByRole("button", { name: "Settings of this conversation" }).click();
    await shot(page, `chat-settings-${theme}`);
    assert.deepEqual(await accessibility(page), []);
  }
});

test("what the browser cannot keep is told, once, and the talk goes on", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [] });
  const page = await openPage(t, { init: (one) => one.addInitScript(() => {
    IDBObjectStore.prototype.put = () => {
      throw new DOMException("full", "QuotaExceededError");
    };
  }) });
  await actFleet(page, tellFleet(1));
  await openChat(page, daemon);
  await actAnswer(page, "one");
  await send(page, "x");
  await page.getByText("This browser cannot keep the conversation").waitFor();
  await answered(page);
  await send(page, "y");
  assert.equal(await text((await answered(page, 2)).locator(".message-text")), "one");
  assert.equal(await page.getByText("This browser cannot keep the conversation").count(), 1);
});

test("without the libraries chat text stays plain", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [] });
  const page = await openPage(t);
  await page.route(/\/modules\.js$/, (route) => route.fulfill({ contentType: "text/javascript", body: "export const marked = null;\nexport const DOMPurify = null;\n" }));
  await actFleet(page, tellFleet(1));
  await openChat(page, daemon);
  await actAnswer(page, "**not bold**\n\n<b>x</b>");
  await send(page, "x");
  const answer = await answered(page);
  assert.equal(await answer.locator(".message-text").innerText(), "**not bold**\n\n<b>x</b>");
});
