/* activity.js: the fourth view: what is asked of the models now, and what was asked last. Names and numbers, never a text. */
import { h, setAttribute, setChildren, setText, show } from "./dom.js";
import { clock, pace, short } from "./format.js";
import { t } from "./texts.js";
import { iconButton, tell } from "./ui.js";

const KEPT = 200;

function cell(label, ...children) {
  return h("td", { "data-label": label }, ...children);
}

export function createActivity({ feed, store, api, askForKey }) {
  const known = new Map(); // id → {record, row, at}
  let visible = false;
  let stop = null;
  let seen = false;

  const columns = t.activity.columns;
  const runningBody = h("tbody");
  const recentBody = h("tbody");
  const table = (body, label) => h("table", { class: "requests", "aria-label": label },
    h("thead", {}, h("tr", {}, ...Object.values(columns).map((text) => h("th", { scope: "col" }, text)), h("th", {}, h("span", { class: "visually-hidden" }, t.cancel)))), body);
  const runningTitle = h("h2", {}, t.activity.running);
  const runningTable = table(runningBody, t.activity.running);
  const recentTitle = h("h2", {}, t.activity.recent);
  const recentTable = table(recentBody, t.activity.recent);
  const empty = h("div", { class: "empty" }, h("h2", {}, t.activity.emptyTitle), h("p", {}, t.activity.emptyText));
  const element = h("section", { class: "view view-activity", "aria-labelledby": "activity-title" },
    h("h1", { id: "activity-title", class: "visually-hidden" }, t.views.activity), runningTitle, runningTable, recentTitle, recentTable, empty);

  async function cancel(id) {
    try {
      const { message } = await api.order("DELETE", `api/v1/requests/${encodeURIComponent(id)}`);
      tell(message);
    } catch (error) {
      if (error.status === 401 || error.status === 403) askForKey(t.keyForOrders);
      else tell(t.failed(error.message), { bad: true });
    }
  }

  function outcomeOf(record) {
    if (record.state === "waiting") return record.position ? t.activity.position(record.position) : t.activity.waiting;
    if (record.state === "running") return t.activity.answering;
    return t.activity.outcomes[record.outcome] ?? record.outcome;
  }

  /** The feed tells running ones each second; between its messages the clock goes on. */
  function drawRow(entry, now) {
    const { record, cells } = entry;
    const passed = record.state === "ended" ? 0 : Math.max(0, (now - entry.at) / 1000);
    const waits = record.state === "waiting";
    setText(cells.model, record.model);
    setText(cells.instance, record.instance ?? "–");
    setText(cells.who, record.key ?? record.peer ?? record.source ?? "–");
    setText(cells.wait, record.wait === null ? "–" : short(record.wait + (waits ? passed : 0)));
    setText(cells.first, record.timeToFirstToken === null ? "–" : short(record.timeToFirstToken));
    setText(cells.tokens, record.tokensOut === null ? "–" : t.activity.tokens(record.tokensIn ?? 0, record.tokensOut));
    setText(cells.pace, record.tokensPerSecond === null ? "–" : pace(record.tokensPerSecond));
    setText(cells.took, record.duration === null ? "–" : short(record.duration + passed));
    setText(cells.outcome, outcomeOf(record));
    setAttribute(entry.row, "data-outcome", record.state === "ended" ? (record.outcome === "ok" ? "ok" : /cancelled|client_gone/.test(record.outcome) ? "gone" : "bad") : record.state);
    show(entry.cancel, record.state !== "ended");
  }

  function entryOf(record) {
    let entry = known.get(record.id);
    if (!entry) {
      const cells = {};
      const names = { model: columns.model, instance: columns.instance, who: columns.who, wait: columns.wait, first: columns.first, tokens: columns.tokens, pace: columns.pace, took: columns.took, outcome: columns.outcome };
      const made = Object.entries(names).map(([key, label]) => {
        cells[key] = h("span", {});
        return cell(label, cells[key]);
      });
      const stopIt = iconButton("close", t.activity.cancel(record.id), () => cancel(record.id));
      const row = h("tr", { "data-request": record.id, title: record.path }, cell(columns.at, h("span", { class: "num" }, clock(record.at))), ...made, h("td", { class: "requests-cancel" }, stopIt));
      entry = { row, cells, cancel: stopIt };
      known.set(record.id, entry);
    }
    entry.record = record;
    return entry;
  }

  function take({ activity }) {
    const now = store.now();
    const ids = new Set();
    seen = true;
    for (const record of [...activity.running, ...activity.recent]) {
      const entry = entryOf(record);
      entry.at = now;
      ids.add(record.id);
    }
    // Ended, and pushed out of the message by many others: it is not running any more.
    for (const [id, entry] of known) if (entry.record.state !== "ended" && !ids.has(id)) known.delete(id);
    const ended = [...known.values()].filter((one) => one.record.state === "ended").sort((a, b) => (a.record.id < b.record.id ? 1 : -1));
    for (const one of ended.splice(KEPT)) known.delete(one.record.id);
    draw();
  }

  function draw() {
    if (!visible) return;
    const now = store.now();
    const all = [...known.values()];
    const running = all.filter((one) => one.record.state !== "ended").sort((a, b) => (a.record.id < b.record.id ? -1 : 1));
    const recent = all.filter((one) => one.record.state === "ended").sort((a, b) => (a.record.id < b.record.id ? 1 : -1));
    for (const one of all) drawRow(one, now);
    setChildren(runningBody, running.map((one) => one.row));
    setChildren(recentBody, recent.map((one) => one.row));
    for (const one of [runningTitle, runningTable]) show(one, running.length > 0);
    for (const one of [recentTitle, recentTable]) show(one, recent.length > 0);
    show(empty, seen && !all.length);
  }

  return {
    element,
    title: t.views.activity,
    enter() {
      visible = true;
      stop ??= feed.follow("activity", take);
      draw();
    },
    leave() {
      visible = false;
      stop?.();
      stop = null;
    },
    draw() {},
    tick(now) {
      for (const one of known.values()) if (one.record.state !== "ended") drawRow(one, now);
    },
  };
}
