/* chat.js: the second view: conversations with the models of the fleet. */
import { createAttachments } from "./attachments.js";
import { asJson, asMarkdown, createConversations, newConversation } from "./conversations.js";
import { h, icon, setAttribute, setChildren, setText, show, stateIcon, everyFrame } from "./dom.js";
import { short, span } from "./format.js";
import { forgetAddresses, keepNewest } from "./images.js";
import { loadMarkdown } from "./markdown.js";
import { createMessage } from "./message.js";
import { createSettings, requestOf } from "./settings.js";
import { streamChat } from "./stream.js";
import { t } from "./texts.js";
import { button, confirm, iconButton, say, tell } from "./ui.js";

const TITLE = 60; // characters of the first message
const NEAR = 64; // px from the end that still count as the end
const SAVE_EVERY = 2000;
/* The best state first: what a model as a whole can do. */
const HOPE = ["ready", "unhealthy", "starting", "draining", "crashed", "idle", "initial", "stopping", "error"];
const MODEL = "llama-supervisor.model";

export function createChat({ store, api, askForKey }) {
  let conversations = null;
  let current = null;
  let drawnModels = "";
  const running = new Map(); // id of the conversation → {controller, message, began, told}
  let boxes = [];
  let empty = null;
  let visible = false;

  // ---- elements

  const list = h("ul", { class: "conversations" });
  const aside = h("nav", { class: "chat-aside", "aria-label": t.chat.conversations },
    button(t.chat.fresh, { icon: "plus", kind: "plain", onclick: () => startNew() }), list);
  const shape = h("span", { class: "card-shape" });
  const picker = h("select", { class: "field model-picker", "aria-label": t.chat.model, on: { change: () => pickModel(picker.value) } });
  const settings = createSettings({ changed: () => save(), conversation: () => current, exported });
  const head = h("header", { class: "chat-head" },
    iconButton("menu", t.chat.conversations, () => toggleAside(), { class: "icon-button only-narrow" }),
    h("span", { class: "model-pick" }, shape, picker),
    iconButton("sliders", t.chat.settings, () => settings.open()),
    iconButton("plus", t.chat.fresh, () => startNew(), { class: "icon-button only-narrow" }));
  const column = h("div", { class: "chat-column" });
  const latest = button(t.chat.latest, { kind: "plain chat-latest", onclick: () => toEnd(true) });
  const scroll = h("div", { class: "chat-scroll", tabindex: "-1", on: { scroll: () => show(latest, !isAtEnd()) } }, column);
  const notice = h("p", { class: "chat-notice num" });
  const input = h("textarea", { class: "chat-input", rows: "1", placeholder: t.chat.placeholder, "aria-label": t.chat.placeholder });
  const go = h("button", { type: "submit", class: "chat-go", "aria-label": t.chat.send, title: t.chat.send }, icon("send"));
  const form = h("form", { class: "chat-form", on: { submit: (event) => {
    event.preventDefault();
    if (running.has(current.id)) stop();
    else sendInput();
  } } });
  const main = h("div", { class: "chat-main" }, head, scroll, h("div", { class: "chat-foot" }, latest, notice, form));
  const attached = createAttachments({ input, place: main, changed: () => drawFoot() });
  form.append(attached.row, attached.button, attached.picker, input, go);
  main.append(attached.veil);
  const element = h("section", { class: "view-chat", "aria-labelledby": "chat-title" },
    h("h1", { id: "chat-title", class: "visually-hidden" }, t.views.chat), aside, main);
  show(latest, false);

  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!running.has(current?.id)) sendInput();
  });
  input.addEventListener("input", grow);

  function grow() {
    input.style.setProperty("height", "auto");
    input.style.setProperty("height", `${Math.min(input.scrollHeight, 240)}px`);
  }

  // ---- models

  /** name → {state, items}: what can be talked to. */
  function models() {
    const found = new Map();
    for (const [name, items] of store.groups()) {
      if (items.every((one) => one.data.models[0]?.type && one.data.models[0].type !== "completion")) continue;
      const best = items.map((one) => one).sort((a, b) => HOPE.indexOf(a.data.status) - HOPE.indexOf(b.data.status))[0];
      found.set(name, { state: best.data.status, best, items });
    }
    return found;
  }

  function drawModels() {
    const found = models();
    // A conversation that was begun before the fleet was known.
    current.model ??= defaultModel();
    const chosen = current?.model;
    const key = JSON.stringify([[...found].map(([name, { state }]) => [name, state]), chosen]);
    if (key === drawnModels) return;
    drawnModels = key;
    const options = [...found].map(([name, { state }]) => h("option", { value: name }, t.chat.option(name, t.states[state] ?? state)));
    if (chosen && !found.has(chosen)) options.push(h("option", { value: chosen }, t.chat.option(chosen, t.chat.missing)));
    setChildren(picker, options);
    show(picker.parentElement, options.length > 0);
    if (chosen) picker.value = chosen;
    const state = found.get(chosen)?.state ?? "initial";
    setAttribute(shape, "data-state", state);
    setChildren(shape, [stateIcon(state)]);
  }

  function defaultModel() {
    const found = models();
    const last = localStorage.getItem(MODEL);
    if (found.has(last)) return last;
    return [...found].sort(([, a], [, b]) => HOPE.indexOf(a.state) - HOPE.indexOf(b.state))[0]?.[0] ?? null;
  }

  function pickModel(name) {
    current.model = name;
    localStorage.setItem(MODEL, name);
    if (current.messages.length) save();
    draw();
  }

  /** What waiting for this model means now, in a sentence; "" when it is just ready. */
  function waitingFor(name, told) {
    const model = models().get(name);
    if (told?.position) return t.chat.queued(told.position, told.estimate, told.loaded);
    if (!model) return t.chat.unknown(name);
    const { state, best } = model;
    const since = (store.now() - (best.more?.status === state && best.more.stateSince ? Date.parse(best.more.stateSince) : best.changedAt)) / 1000;
    switch (state) {
      case "ready":
        return best.data.queue ? t.chat.queueOf(best.data.queue) : "";
      case "starting":
        return t.chat.loading(name, span(since), best.more?.loadTime ? short(best.more.loadTime) : null);
      case "idle":
        return t.chat.idle(name);
      case "crashed":
        return t.chat.crashed(name, best.data.lastError ?? "", Math.max(0, Math.ceil((Date.parse(best.data.nextRetryAt) - store.now()) / 1000)) || 0);
      case "unhealthy":
        return t.chat.unhealthy(name);
      default:
        return t.chat.down(name, best.data.lastError ?? t.legend[state]);
    }
  }

  /** Does it see pictures? null: its server has not told yet. */
  function sees(name) {
    const told = (models().get(name)?.items ?? []).map((one) => one.more?.modalities).filter(Boolean);
    return told.length ? told.some((one) => one.includes("vision")) : null;
  }

  /** A sentence about pictures and a model that does not see them; "" when there is nothing to say. */
  function aboutImages(name) {
    const seen = sees(name);
    if (attached.count) return seen ? "" : seen === null ? t.chat.perhapsBlind(name) : t.chat.blind(name);
    return seen === false && current.messages.some((one) => one.images?.some((image) => image.blob)) ? t.chat.blindBefore(name) : "";
  }

  // ---- conversations

  function save() {
    if (!current) return Promise.resolve();
    return conversations.save(current);
  }

  function startNew() {
    select(newConversation(current ? { model: current.model, system: current.system, settings: current.settings } : { model: defaultModel() }));
    input.focus();
  }

  function select(conversation) {
    current = conversation;
    boxes = [];
    forgetAddresses(attached.blobs);
    setAttribute(aside, "data-open", null);
    draw();
    toEnd(true);
  }

  async function remove(conversation) {
    const sure = await confirm({ title: t.chat.removeTitle, text: t.chat.removeText(conversation.title), yes: t.chat.remove });
    if (!sure) return;
    running.get(conversation.id)?.controller.abort();
    await conversations.remove(conversation.id);
    if (current === conversation) select(conversations.list()[0] ?? newConversation({ model: current.model }));
    else drawList();
  }

  function drawList() {
    setChildren(list, conversations.list().map((one) => h("li", { class: "conversation", "data-current": one === current },
      h("button", { type: "button", class: "conversation-open", "aria-current": one === current ? "true" : null, on: { click: () => select(one) } }, one.title || t.chat.untitled),
      iconButton("trash", t.chat.removeOne(one.title), () => remove(one)))));
  }

  function toggleAside() {
    setAttribute(aside, "data-open", !aside.hasAttribute("data-open"));
    if (aside.hasAttribute("data-open")) aside.querySelector("button").focus();
  }

  async function exported(kind) {
    const name = (current.title || t.chat.untitled).replace(/[^\w-]+/g, "-").slice(0, 40).toLowerCase();
    const text = kind === "json" ? await asJson(current) : asMarkdown(current, { you: t.chat.you, system: t.chat.system, image: t.chat.image });
    const url = URL.createObjectURL(new Blob([text], { type: kind === "json" ? "application/json" : "text/markdown" }));
    const link = h("a", { href: url, download: `${name}.${kind === "json" ? "json" : "md"}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  // ---- asking

  function sendInput() {
    const text = input.value.trim();
    if ((!text && !attached.count) || attached.working || !current.model) return;
    if (attached.count && sees(current.model) === false) {
      say(aboutImages(current.model));
      return;
    }
    input.value = "";
    grow();
    const images = attached.take();
    current.messages.push({ role: "user", content: text, ...(images.length && { images }), at: Date.now() });
    keepNewest(current.messages);
    if (!current.title) current.title = text.split("\n")[0].slice(0, TITLE) || t.chat.imagesOnly(images.length);
    ask();
  }

  function stop() {
    running.get(current.id)?.controller.abort();
  }

  function edit(message, text) {
    current.messages.splice(current.messages.indexOf(message));
    current.messages.push({ role: "user", content: text, ...(message.images && { images: message.images }), at: Date.now() });
    boxes = boxes.filter((box) => current.messages.includes(box.message));
    ask();
  }

  function again(message) {
    current.messages.splice(current.messages.indexOf(message));
    ask();
  }

  async function ask() {
    const conversation = current;
    const message = { role: "assistant", content: "", reasoning: "", model: conversation.model, at: Date.now() };
    const asked = requestOf(conversation, sees(conversation.model) !== false);
    const job = { controller: new AbortController(), message, began: performance.now(), savedAt: 0, told: null };
    running.get(conversation.id)?.controller.abort();
    running.set(conversation.id, job);
    conversation.messages.push(message);
    conversation.updatedAt = Date.now();
    conversations.save(conversation);
    draw();
    toEnd(true);
    try {
      await streamChat(api, await asked, job.controller.signal, {
        waiting(told) {
          job.told = told;
          refresh(conversation);
        },
        served({ instance }) {
          message.instance = instance;
        },
        text(content, reasoning) {
          message.firstToken ??= (performance.now() - job.began) / 1000;
          message.content += content;
          message.reasoning += reasoning;
          if (performance.now() - job.savedAt > SAVE_EVERY) {
            job.savedAt = performance.now();
            conversations.save(conversation);
          }
          refresh(conversation);
        },
        figures(told) {
          Object.assign(message, told);
        },
      });
      if (!message.content && !message.reasoning) message.error = t.chat.empty;
    } catch (error) {
      if (job.controller.signal.aborted) message.stopped = true;
      else message.error = error.broken ? t.chat.broken(error.message) : t.chat.refused(error.message);
      if (error.status === 401 || error.status === 403) askForKey(t.chat.keyNeeded);
    }
    if (running.get(conversation.id) === job) running.delete(conversation.id);
    conversation.updatedAt = Date.now();
    conversations.save(conversation);
    if (conversation === current) {
      draw();
      if (visible) say(message.error ?? (message.stopped ? t.chat.stopped : t.chat.answered));
    } else tell(t.chat.answeredElsewhere(conversation.title));
  }

  // ---- drawing

  function isAtEnd() {
    return scroll.scrollTop + scroll.clientHeight >= scroll.scrollHeight - NEAR;
  }

  function toEnd(always) {
    if (always || isAtEnd()) scroll.scrollTop = scroll.scrollHeight;
  }

  const refreshSoon = everyFrame(() => {
    if (!visible || !current) return;
    const end = isAtEnd();
    drawMessages();
    if (end) toEnd(true);
    else show(latest, true);
  });

  function refresh(conversation) {
    if (conversation === current) refreshSoon();
  }

  /** Before the first message: what this is, or what is missing. */
  function emptyBox() {
    const isMissing = store.loaded && !current.model;
    const key = String(isMissing);
    if (empty?.dataset.key !== key) {
      empty = h("div", { class: "chat-empty", "data-key": key }, h("h2", {}, isMissing ? t.chat.noModel : t.chat.emptyTitle), h("p", {}, isMissing ? t.chat.noModelText : t.chat.emptyText),
        isMissing ? h("p", { class: "chat-empty-go" }, h("a", { class: "button primary", href: "#/library" }, t.emptyLibraryGo)) : null);
    }
    return empty;
  }

  function drawMessages() {
    const job = running.get(current.id);
    const { messages } = current;
    boxes = messages.map((message) => boxes.find((box) => box.message === message) ?? createMessage(message, { onEdit: edit, onAgain: again }));
    setChildren(column, boxes.length ? boxes.map((box) => box.element) : [emptyBox()]);
    boxes.forEach((box, index) => {
      const isRunning = job?.message === box.message;
      const none = isRunning && !box.message.content && !box.message.reasoning;
      box.draw({ running: isRunning, isLast: index === boxes.length - 1, waiting: none ? waitingFor(box.message.model, job.told) || t.chat.thinkingNow : "" });
    });
  }

  function drawFoot() {
    if (!current) return;
    const busy = running.has(current.id);
    setAttribute(form, "data-running", busy);
    const label = busy ? t.chat.stop : t.chat.send;
    if (go.getAttribute("aria-label") !== label) {
      setAttribute(go, "aria-label", label);
      setAttribute(go, "title", label);
      setChildren(go, [icon(busy ? "stop" : "send")]);
    }
    show(form, Boolean(current.model) || !store.loaded);
    const words = !current.model ? "" : busy ? "" : [aboutImages(current.model), waitingFor(current.model, null)].filter(Boolean).join("\n");
    show(attached.button, Boolean(attached.count) || sees(current.model) !== false);
    setText(notice, words);
    show(notice, words !== "");
  }

  function draw() {
    if (!visible || !current) return;
    drawModels();
    drawList();
    drawMessages();
    drawFoot();
    show(latest, !isAtEnd());
  }

  async function begin() {
    if (conversations) return;
    const [made] = await Promise.all([createConversations(() => tell(t.chat.notKept, { bad: true })), loadMarkdown()]);
    conversations = made;
    select(made.list()[0] ?? newConversation({ model: defaultModel() }));
    // An answer that was under way when the page was closed is not any more.
    for (const one of made.list()) {
      const last = one.messages.at(-1);
      if (last?.role === "assistant" && !last.finish && !last.error && !last.stopped) last.stopped = true;
    }
    draw();
  }

  return {
    element,
    title: t.views.chat,
    async enter() {
      visible = true;
      await begin();
      draw();
      toEnd(true);
      if (matchMedia("(hover: hover)").matches) input.focus({ preventScroll: true });
    },
    leave() {
      visible = false;
    },
    draw() {
      if (!visible || !current) return;
      drawModels();
      if (!current.messages.length) drawMessages();
      drawFoot();
      if (running.has(current.id)) refreshSoon();
    },
    tick() {
      if (!visible || !current) return;
      drawFoot();
      if (running.has(current.id)) refreshSoon();
    },
  };
}
