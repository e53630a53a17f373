/* card.js: one instance as a card. It is made once and then only changed where something changed. */
import { slots, sparkline, strip } from "./charts.js";
import { h, setAttribute, setChildren, setText, show, stateIcon } from "./dom.js";
import { bytes, count, modelName, pace, quantization, short, span, clock } from "./format.js";
import { ordersFor } from "./orders.js";
import { t } from "./texts.js";
import { button } from "./ui.js";

const PACE_WINDOW = 180e3;
const HOUR = 3600e3;

/** "qwen2.5-7b · Q4_K_M · 16k context · 4.7 GB" */
export function describeModel(item) {
  const path = item.more?.modelPath ?? "";
  const model = item.data.models[0];
  const parts = [modelName(path) || model?.name || item.model, quantization(path)];
  if (item.more?.context) parts.push(t.context(count(item.more.context)));
  if (model?.size) parts.push(bytes(model.size));
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

export function createCard(item, { order, openDetails }) {
  const shape = h("span", { class: "card-shape" });
  const word = h("span", { class: "card-word" });
  const since = h("span", { class: "card-since num" });
  const name = h("button", { type: "button", class: "card-name", on: { click: () => openDetails(item.name) } }, item.name);
  const model = h("p", { class: "card-model" });
  const tags = h("span", { class: "tags" });
  const busy = slots();
  const tokens = h("span", { class: "card-pace num" });
  const first = h("span", { class: "card-first num" });
  const chart = sparkline(t.paceChart);
  const hour = strip(t.lastHour, HOUR);
  const note = h("p", { class: "card-note" });
  const bar = h("i", {});
  const progress = h("div", { class: "countdown", "aria-hidden": "true" }, bar);
  const gpu = h("span", { class: "card-gpu num" });
  const buttons = h("div", { class: "card-buttons" });
  const work = h("div", { class: "card-work" }, busy.element, tokens, chart.element, first);
  const element = h("article", { class: "card", "data-instance": item.name, "aria-label": item.name },
    h("header", { class: "card-head" }, shape, name, word, since),
    model, work, note, progress,
    h("div", { class: "card-strip" }, h("span", { class: "label" }, t.lastHour), hour.element),
    h("footer", { class: "card-foot" }, h("span", { class: "card-facts" }, tags, gpu), buttons));
  let drawnState = "";
  let drawnOrders = "";

  function drawButtons(now) {
    const orders = ordersFor(now);
    const key = `${now.data.status} ${orders.join()}`;
    if (key === drawnOrders) return;
    drawnOrders = key;
    // A button that has the focus is not taken away under the finger when the same one comes back.
    const focused = buttons.contains(document.activeElement) ? document.activeElement.dataset.order : null;
    const troubled = now.data.status === "crashed" || now.data.status === "error";
    const made = orders.slice(0, 2).map((one) =>
      button(troubled && one === "restart" ? t.orders.retry : t.orders[one], {
        "data-order": one, "aria-label": t.orderOf(troubled && one === "restart" ? t.orders.retry : t.orders[one], now.name), onclick: () => order(one, item),
      }));
    const more = troubled ? t.why : t.details;
    made.push(button(more, { "data-order": "details", "aria-label": t.orderOf(more, now.name), onclick: () => openDetails(now.name) }));
    setChildren(buttons, made);
    if (focused) buttons.querySelector(`[data-order="${focused}"]`)?.focus();
  }

  return {
    element,
    item,
    draw(now) {
      const { data } = item;
      if (drawnState !== data.status) {
        drawnState = data.status;
        setAttribute(element, "data-state", data.status);
        setChildren(shape, [stateIcon(data.status)]);
        setText(word, t.states[data.status] ?? data.status);
        setAttribute(word, "title", t.legend[data.status]);
      }
      setText(model, describeModel(item));
      setAttribute(model, "title", item.more?.modelPath);
      busy.draw(data.inFlight, data.slots);
      setText(tokens, data.tokensPerSecond ? t.tokensPerSecond(pace(data.tokensPerSecond)) : t.noPace);
      setText(first, item.firstToken === undefined ? "" : t.firstToken(short(item.firstToken)));
      show(first, item.firstToken !== undefined);
      show(work, ["ready", "unhealthy", "draining"].includes(data.status));
      const told = [item.more?.foreign && t.foreign, item.more?.onDemand && t.onDemand, item.more?.dynamic && t.dynamic].filter(Boolean);
      if (tags.dataset.drawn !== told.join()) {
        tags.dataset.drawn = told.join();
        setChildren(tags, told.map((text) => h("span", { class: "tag" }, text)));
      }
      setText(gpu, data.gpu.length ? t.gpu(data.gpu.map((one) => one.replace(/^GPU-(.{8}).*$/, "$1")).join(", ")) : "");
      drawButtons(item);
      this.tick(now);
    },
    /** What moves with the clock alone. */
    tick(now) {
      const text = trouble(item, now);
      const done = countdown(item, now);
      setText(since, stateSpan(item, now));
      setText(note, text);
      show(note, text !== "");
      show(progress, done !== null);
      if (done !== null) bar.style.setProperty("--done", done.toFixed(3));
      chart.draw(item.pace, now, PACE_WINDOW);
      hour.draw(item.spans, now);
    },
  };
}
