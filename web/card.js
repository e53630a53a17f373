/* card.js: one instance as a card. It is made once and then only changed where something changed. */
import { bars, slots, sparkline, strip } from "./charts.js";
import { h, setAttribute, setChildren, setText, show, stateIcon } from "./dom.js";
import { count, modelName, pace, quantization, short, span, clock } from "./format.js";
import { describeGpus } from "./gpus.js";
import { orderLabel, ordersFor } from "./orders.js";
import { DAY, FIRSTS_KEPT } from "./store.js";
import { t } from "./texts.js";
import { button } from "./ui.js";

const PACE_WINDOW = 180e3;
const HOUR = 3600e3;
const UP = new Set(["ready", "unhealthy", "draining"]);

/** "qwen2.5-7b · Q4_K_M · 16k" */
export function describeModel(item) {
  const path = item.more?.modelPath ?? "";
  const model = item.data.models[0];
  const parts = [modelName(path) || model?.name || item.model, quantization(path)];
  if (item.more?.context) parts.push(count(item.more.context));
  return [...new Set(parts.filter(Boolean))].join(" · ");
}

/** How long it has been so; a moment of the browser's clock. */
function sinceState(item) {
  const told = item.more?.stateSince && item.more.status === item.data.status ? Date.parse(item.more.stateSince) : 0;
  return told || item.changedAt;
}

/** The word beside the state: how long it is up, or how long it has been like this. */
export function stateSpan(item, now) {
  const { status, startedAt } = item.data;
  if (status === "ready" && startedAt) return t.up(span((now - Date.parse(startedAt)) / 1000));
  if (status === "starting") return "";
  return t.since(span((now - sinceState(item)) / 1000));
}

/** One line in plain words about what is not as usual; "" when all is well. */
export function trouble(item, now) {
  const { status, lastError, retries, nextRetryAt, inFlight } = item.data;
  const max = item.more?.maxRetries ?? null;
  switch (status) {
    case "crashed": {
      const left = nextRetryAt ? Math.max(0, Math.ceil((Date.parse(nextRetryAt) - now) / 1000)) : 0;
      return [lastError, t.nextTry(left, retries, max)].filter(Boolean).join("\n");
    }
    case "error":
      return lastError ?? t.givenUp(retries);
    case "starting": {
      const last = item.more?.loadTime ? short(item.more.loadTime) : null;
      return [retries ? lastError : null, t.loadingFor(span((now - sinceState(item)) / 1000), last)].filter(Boolean).join("\n");
    }
    case "unhealthy":
      return lastError ?? t.unhealthyText;
    case "draining":
      return t.drainingText(inFlight);
    case "idle":
      return t.idleText;
    case "initial":
      // The list is asked for once the feed has told of a change: until it is answered, this is not known.
      if (item.more?.status !== status) return "";
      if (item.more.wantUp) return t.waitsToLoad;
      return item.more?.onDemand ? t.offDemandText : t.offText;
    default:
      return item.more?.until && item.more.status === status ? t.unloadsAt(clock(item.more.until, { seconds: false })) : "";
  }
}

/** How far the countdown to the next try has come, 0 to 1; null when there is none. */
function countdown(item, now) {
  const next = item.data.nextRetryAt && Date.parse(item.data.nextRetryAt);
  if (item.data.status !== "crashed" || !next) return null;
  const began = Math.min(sinceState(item), next - 1);
  return Math.min(1, Math.max(0, (now - began) / (next - began)));
}

/** What it does, as figures with their charts. */
function createWork(item) {
  const tokens = h("span", { class: "num" });
  const first = h("span", { class: "num" });
  const chart = sparkline(t.paceChart);
  const firsts = bars(t.firstChart, FIRSTS_KEPT);
  let drawnFirsts = null;
  return {
    element: h("div", { class: "card-work" }, h("div", { class: "card-pace" }, tokens, chart.element), h("div", { class: "card-first" }, first, firsts.element)),
    draw() {
      setText(tokens, item.data.tokensPerSecond ? t.tokensPerSecond(pace(item.data.tokensPerSecond)) : t.noPace);
      setText(first, item.firstToken === undefined ? t.noFirst : t.firstToken(short(item.firstToken)));
      if (drawnFirsts === (item.firsts ?? null)) return;
      drawnFirsts = item.firsts ?? null;
      firsts.draw(drawnFirsts ?? []);
    },
    tick: (now) => chart.draw(item.pace, now, PACE_WINDOW),
  };
}

/** `gpus` tells what is known of an instance's GPUs (gpus.js). */
export function createCard(item, { order, openDetails, gpus }) {
  const shape = h("span", { class: "card-shape" });
  const word = h("span", { class: "card-word" });
  const since = h("span", { class: "card-since num" });
  const name = h("button", { type: "button", class: "card-name", on: { click: () => openDetails(item.name) } }, item.name);
  const model = h("p", { class: "card-model" });
  const tags = h("span", { class: "tags" });
  const busy = slots();
  const work = createWork(item);
  const hour = strip(t.lastHour, HOUR);
  const day = strip(t.lastDay, DAY);
  const note = h("p", { class: "card-note" });
  const bar = h("i", {});
  const progress = h("div", { class: "countdown", "aria-hidden": "true" }, bar);
  const gpu = h("span", { class: "card-gpu num" });
  const buttons = h("div", { class: "card-buttons" });
  const element = h("article", { class: "card", "data-instance": item.name, "aria-label": item.name },
    h("header", { class: "card-head" }, shape, name, word, since),
    h("div", { class: "card-what" }, model, busy.element), work.element, note, progress,
    h("div", { class: "card-strips" }, h("span", { class: "label" }, t.hourLabel), hour.element, h("span", { class: "label" }, t.dayLabel), day.element),
    h("footer", { class: "card-foot" }, h("span", { class: "card-facts" }, tags, gpu), buttons));
  let drawnState = "";
  let drawnOrders = "";
  let drawnTick = "";

  function drawButtons() {
    const orders = ordersFor(item);
    const troubled = item.data.status === "crashed" || item.data.status === "error";
    const key = `${troubled} ${orders.join()}`;
    if (key === drawnOrders) return;
    drawnOrders = key;
    // A button that has the focus is not taken away under the finger when the same one comes back.
    const focused = buttons.contains(document.activeElement) ? document.activeElement.dataset.order : null;
    const made = orders.slice(0, 2).map((one) => {
      const label = orderLabel(one, item);
      return button(label, { "data-order": one, "aria-label": t.orderOf(label, item.name), onclick: () => order(one, item) });
    });
    const more = troubled ? t.why : t.details;
    made.push(button(more, { "data-order": "details", "aria-label": t.orderOf(more, item.name), onclick: () => openDetails(item.name) }));
    setChildren(buttons, made);
    if (focused) buttons.querySelector(`[data-order="${focused}"]`)?.focus();
  }

  return {
    element,
    item,
    /** dense: so many cards that this one has no charts. */
    draw(now, dense) {
      const { data } = item;
      if (drawnState !== data.status) {
        drawnState = data.status;
        setAttribute(element, "data-state", data.status);
        setChildren(shape, [stateIcon(data.status)]);
        setText(word, t.states[data.status] ?? data.status);
        setAttribute(word, "title", t.legend[data.status]);
      }
      const isUp = UP.has(data.status);
      busy.draw(data.inFlight, data.slots);
      show(busy.element, isUp);
      show(work.element, isUp);
      if (isUp) work.draw();
      if (!dense) {
        setText(model, describeModel(item));
        setAttribute(model, "title", item.more?.modelPath);
        const told = [item.more?.foreign && t.foreign, item.more?.onDemand && t.onDemand, item.more?.dynamic && t.dynamic].filter(Boolean);
        if (tags.dataset.drawn !== told.join()) {
          tags.dataset.drawn = told.join();
          setChildren(tags, told.map((text) => h("span", { class: "tag" }, text)));
        }
        this.drawGpus();
        drawButtons();
      }
      drawnTick = "";
      this.tick(now, dense);
    },
    drawGpus() {
      const known = gpus.of(item);
      setText(gpu, known.length ? describeGpus(known) : item.data.gpu.length ? t.gpu(item.data.gpu.map((one) => one.replace(/^GPU-(.{8}).*$/, "$1")).join(", ")) : "");
    },
    /** What moves with the clock alone. */
    tick(now, dense) {
      const text = trouble(item, now);
      const done = countdown(item, now);
      const spanned = dense ? "" : stateSpan(item, now);
      const key = `${text} ${done} ${spanned}`;
      if (key !== drawnTick) {
        drawnTick = key;
        setText(since, spanned);
        setText(note, text);
        show(note, text !== "");
        show(progress, done !== null);
        if (done !== null) bar.style.setProperty("--done", done.toFixed(3));
      }
      if (dense) return;
      work.tick(now);
      hour.draw(item.spans, now);
      day.draw(item.spans, now);
    },
  };
}
