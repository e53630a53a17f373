/* hub.js: the sixth view, there where the machine works for a hub: how each link is, what runs for it, what came of it. */
import { h, setAttribute, setChildren, setText, show, stateIcon } from "./dom.js";
import { clock, span } from "./format.js";
import { t } from "./texts.js";

/* A hub's state in the colour and shape of the instance's state that feels alike. */
const LIKE = { up: "ready", connecting: "starting", down: "crashed", revoked: "error", drained: "initial" };
const COUNTS = ["claimed", "completed", "failed", "released", "lost"];

function figure(label) {
  const value = h("dd", { class: "num" });
  return { element: h("div", {}, h("dt", {}, label), value), set: (text) => setText(value, text) };
}

function createHubCard(name) {
  const shape = h("span", { class: "card-shape" });
  const word = h("span", { class: "card-word" });
  const since = h("span", { class: "card-since num" });
  const what = h("p", { class: "card-model" });
  const note = h("p", { class: "card-note" });
  const before = h("p", { class: "hub-before num" });
  const now = Object.fromEntries(["running", "waiting", "outbox", "credits"].map((key) => [key, figure(t.hub.figures[key])]));
  const counts = Object.fromEntries([...COUNTS, "submitted"].map((key) => [key, figure(t.hub.counts[key])]));
  const element = h("article", { class: "card", "data-hub": name, "aria-label": name },
    h("header", { class: "card-head" }, shape, h("h2", {}, name), word, since), what, note,
    h("dl", { class: "hub-now" }, ...Object.values(now).map((one) => one.element)),
    h("dl", { class: "hub-counts" }, ...Object.values(counts).map((one) => one.element)), before);
  let drawn = "";
  return {
    element,
    draw({ hub, at }, clockNow) {
      const passed = Math.max(0, (Date.now() - at) / 1000);
      const like = hub.state === "up" && hub.why ? "unhealthy" : LIKE[hub.state] ?? "initial"; // up, and something is amiss all the same
      if (drawn !== hub.state + like) {
        drawn = hub.state + like;
        setAttribute(element, "data-state", like);
        setChildren(shape, [stateIcon(like)]);
        setText(word, t.hub.states[hub.state] ?? hub.state);
      }
      setText(since, hub.since ? t.since(span((clockNow - hub.since) / 1000)) : "");
      setText(what, [hub.driver, hub.url, hub.worker && hub.worker !== hub.name && t.hub.worker(hub.worker)].filter(Boolean).join(" · "));
      const left = hub.retryIn === null || hub.retryIn === undefined ? null : Math.ceil(Math.max(0, hub.retryIn - passed));
      const words = [hub.why, hub.state !== "up" && left !== null ? t.hub.retry(left) : "", hub.state === "revoked" ? t.hub.revoked : ""].filter(Boolean).join("\n");
      setText(note, words);
      show(note, words !== "");
      for (const [key, one] of Object.entries(now)) one.set(String(hub[key] ?? 0));
      for (const key of COUNTS) counts[key].set(String(hub.jobs?.[key] ?? 0));
      counts.submitted.set(String(hub.submissions?.submitted ?? 0));
      show(counts.submitted.element, Boolean(hub.submit));
      const error = hub.lastError && hub.lastError !== hub.why ? t.hub.lastError(hub.lastErrorAt ? clock(hub.lastErrorAt) : "", hub.lastError) : "";
      setText(before, error);
      show(before, error !== "");
    },
  };
}

/** hubs: name → {hub, at}: what the feed told of it, and when (ms). */
export function createHub({ hubs, store }) {
  const cards = new Map();
  const list = h("div", { class: "cards" });
  const empty = h("div", { class: "empty" }, h("h2", {}, t.hub.emptyTitle), h("p", {}, t.hub.emptyText));
  const element = h("section", { class: "view view-hub", "aria-labelledby": "hub-title" }, h("h1", { id: "hub-title", class: "visually-hidden" }, t.views.hub), list, empty);
  let visible = false;

  function draw() {
    if (!visible) return;
    const now = store.now();
    for (const name of cards.keys()) if (!hubs.has(name)) cards.delete(name);
    setChildren(list, [...hubs].map(([name, entry]) => {
      if (!cards.has(name)) cards.set(name, createHubCard(name));
      cards.get(name).draw(entry, now);
      return cards.get(name).element;
    }));
    show(empty, hubs.size === 0);
  }

  return {
    element,
    title: t.views.hub,
    enter() {
      visible = true;
      draw();
    },
    leave() {
      visible = false;
    },
    draw,
    tick: draw,
  };
}
