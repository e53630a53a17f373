/* details.js: everything about one instance, at the side: why it is as it is, the end of its log, its command, its day. */
import { describeModel, stateSpan, trouble } from "./card.js";
import { strip } from "./charts.js";
import { h, setAttribute, setChildren, setText, show, stateIcon } from "./dom.js";
import { bytes, clock, count, short } from "./format.js";
import { plainLine } from "./lines.js";
import { orderLabel, ordersFor } from "./orders.js";
import { DAY } from "./store.js";
import { t } from "./texts.js";
import { button, copyButton, iconButton } from "./ui.js";

const TAIL = 200; // lines
function facts(item) {
  const { more, data } = item;
  const f = t.facts;
  return [
    [f.model, item.model], [f.file, more?.modelPath], [f.size, data.models[0]?.size && bytes(data.models[0].size)],
    [f.context, more?.context && count(more.context)], [f.gpu, data.gpu.join(", ")], [f.pid, data.pid], [f.endpoint, more?.endpoint],
    [f.build, more?.build], [f.load, more?.loadTime && short(more.loadTime)], [f.restarts, more?.restarts], [f.log, more?.logPath],
  ].filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== 0);
}

export function createDetails({ store, feed, api, order, remove, gone }) {
  let open = null;

  function show_(name) {
    const item = store.items.get(name);
    if (!item) return;
    open?.dialog.close();

    const shape = h("span", { class: "card-shape" });
    const word = h("span", { class: "card-word" });
    const since = h("span", { class: "card-since num" });
    const model = h("p", { class: "card-model" });
    const note = h("p", { class: "card-note" });
    const hint = h("p", { class: "hint" });
    const buttons = h("div", { class: "details-buttons" });
    const hour = strip(t.lastHour, 3600e3);
    const day = strip(t.lastDay, DAY);
    const factList = h("dl", { class: "facts" });
    const evidence = h("pre", { class: "log", tabindex: "0", "aria-label": t.evidence });
    const evidenceBox = h("section", {}, h("h3", {}, t.evidence), evidence);
    const tail = h("pre", { class: "log", tabindex: "0", "aria-label": t.logOf(name) });
    const command = h("pre", { class: "log", tabindex: "0", "aria-label": t.command });
    const commandBox = h("section", {}, h("h3", {}, h("span", {}, t.command), copyButton(() => command.textContent)), command);
    const removal = button(t.orders.remove, { kind: "plain", onclick: async () => {
      if (await remove(store.items.get(name))) dialog.close();
    } });
    const events = h("ol", { class: "events" });
    const dialog = h("dialog", { class: "details", "aria-labelledby": "details-title" },
      h("header", { class: "details-head" }, shape, h("h2", { id: "details-title", tabindex: "-1", autofocus: true }, name), word, since,
        iconButton("close", t.close, () => dialog.close())),
      model, note, hint, buttons,
      h("div", { class: "card-strip" }, h("span", { class: "label" }, t.lastHour), hour.element),
      h("div", { class: "card-strip" }, h("span", { class: "label" }, t.lastDay), day.element),
      evidenceBox,
      h("section", {}, h("h3", {}, h("span", {}, t.logTail), h("a", { class: "button quiet", href: `#/logs/${encodeURIComponent(name)}` }, t.wholeLog)), tail),
      h("section", {}, h("h3", {}, t.history), events),
      h("section", {}, factList), commandBox, h("div", { class: "details-buttons" }, removal));
    const lines = [];
    let drawnOrders = "";
    let asked = "";

    function drawLog() {
      const atEnd = tail.scrollTop + tail.clientHeight >= tail.scrollHeight - 24;
      if (lines.length > 2 * TAIL) lines.splice(0, lines.length - TAIL);
      setText(tail, lines.length ? lines.join("\n") : t.noLog);
      if (atEnd) tail.scrollTop = tail.scrollHeight;
    }

    async function askWhy() {
      try {
        const [why, history] = await Promise.all([
          api.get(`api/v1/instances/${encodeURIComponent(name)}/why`),
          api.get(`api/v1/history?instance=${encodeURIComponent(name)}`),
        ]);
        const troubled = ["crashed", "error", "unhealthy"].includes(why.status);
        show(hint, Boolean(troubled && why.hint));
        setText(hint, why.hint ?? "");
        show(evidenceBox, Boolean(troubled && why.evidence?.log?.length));
        setText(evidence, (why.evidence?.log ?? []).map(plainLine).join("\n"));
        evidence.scrollTop = evidence.scrollHeight;
        show(commandBox, Boolean(why.command?.shell));
        setText(command, why.command?.shell ?? "");
        const told = history.events.slice(-12).reverse();
        setChildren(events, told.length
          ? told.map((one) => h("li", {}, h("time", { datetime: one.time, class: "num" }, clock(one.timestamp)), h("span", {}, one.text)))
          : [h("li", {}, t.noHistory)]);
      } catch {
        // It is gone, or the daemon is: the head of this panel tells.
      }
    }

    function draw() {
      const now = store.now();
      const current = store.items.get(name);
      if (!current) {
        dialog.close();
        return;
      }
      setAttribute(dialog, "data-state", current.data.status);
      if (shape.dataset.state !== current.data.status) {
        shape.dataset.state = current.data.status;
        setChildren(shape, [stateIcon(current.data.status)]);
      }
      setText(word, t.states[current.data.status] ?? current.data.status);
      setText(since, stateSpan(current, now));
      setText(model, describeModel(current));
      const text = trouble(current, now);
      setText(note, text);
      show(note, text !== "");
      hour.draw(current.spans, now);
      day.draw(current.spans, now);
      const orders = ordersFor(current);
      const labels = orders.map((one) => orderLabel(one, current)).join();
      if (drawnOrders !== labels) {
        drawnOrders = labels;
        setChildren(buttons, orders.map((one) => button(orderLabel(one, current), { kind: "plain", "data-order": one, onclick: () => order(one, current) })));
      }
      show(removal, Boolean(current.more?.dynamic));
      const key = JSON.stringify(facts(current));
      if (factList.dataset.drawn !== key) {
        factList.dataset.drawn = key;
        setChildren(factList, facts(current).map(([label, value]) => h("div", {}, h("dt", {}, label), h("dd", {}, String(value)))));
      }
      // What only a question tells is asked for when the state or the process is another one.
      const state = `${current.data.status} ${current.data.pid} ${current.data.retries}`;
      if (asked !== state) {
        asked = state;
        askWhy();
      }
    }

    async function askLog() {
      try {
        const text = await api.text(`api/v1/instances/${encodeURIComponent(name)}/logs?lines=${TAIL}`);
        lines.unshift(...text.replace(/\n$/, "").split("\n").filter((line, index, all) => line || index < all.length - 1).map(plainLine));
      } catch {
        // A server that is only watched has no log of ours.
      }
      drawLog();
      tail.scrollTop = tail.scrollHeight;
    }

    show(hint, false);
    show(evidenceBox, false);
    show(commandBox, false);
    const ends = [
      store.subscribe((changed) => (changed === null || changed.has(name)) && draw()),
      feed.follow(`log:${name}`, (message) => {
        if (message.skipped) lines.push(t.logSkipped(message.skipped));
        lines.push(...message.lines.map(plainLine));
        drawLog();
      }),
    ];
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("close", () => {
      for (const end of ends) end();
      dialog.remove();
      if (open?.dialog === dialog) {
        open = null;
        gone();
      }
    });
    document.body.append(dialog);
    open = { dialog, draw };
    dialog.showModal();
    askLog();
  }

  return {
    open: show_,
    close: () => open?.dialog.close(),
    tick: () => open?.draw(),
  };
}
