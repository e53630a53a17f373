/* fleet.js: the first view: totals, and a card for each instance, grouped by model. */
import { createCard } from "./card.js";
import { h, setAttribute, setChildren, setText, show } from "./dom.js";
import { pace } from "./format.js";
import { t } from "./texts.js";
import { copyButton } from "./ui.js";

/* From this many on, cards are small. */
const DENSE = 25;

function figure(label) {
  const value = h("dd", { class: "num" });
  const element = h("div", { class: "figure" }, h("dt", {}, label), value);
  return { element, set: (text) => setText(value, text) };
}

function emptyState() {
  return h("section", { class: "empty" }, h("h2", {}, t.emptyTitle), h("p", {}, t.emptyText),
    h("pre", {}, h("code", {}, t.emptyExample)),
    h("p", { class: "empty-command" }, h("code", {}, t.emptyCommand), copyButton(t.emptyCommand)),
    h("p", { class: "empty-more" }, t.emptyLibrary), h("p", {}, h("a", { class: "button primary", href: "#/library" }, t.emptyLibraryGo)));
}

export function createFleet({ store, order, openDetails }) {
  const ready = figure(t.totals.ready);
  const running = figure(t.totals.running);
  const waiting = figure(t.totals.waiting);
  const speed = figure(t.totals.pace);
  const figures = h("dl", { class: "figures" }, ready.element, running.element, waiting.element, speed.element);
  const reload = h("p", { class: "notice bad" });
  const empty = emptyState();
  const list = h("div", { class: "groups" });
  const element = h("section", { class: "view view-fleet", "aria-labelledby": "fleet-title" },
    h("h1", { id: "fleet-title", class: "visually-hidden" }, t.fleet), reload, figures, list, empty);
  const cards = new Map();
  const groups = new Map();

  function cardOf(item) {
    let card = cards.get(item.name);
    if (card?.item !== item) {
      card = createCard(item, { order, openDetails });
      cards.set(item.name, card);
    }
    return card;
  }

  function groupOf(model) {
    let group = groups.get(model);
    if (!group) {
      const counts = h("span", { class: "group-counts num" });
      const grid = h("div", { class: "cards" });
      const id = `group-${groups.size}-${model.replace(/[^\w-]/g, "_")}`;
      group = { counts, grid, element: h("section", { class: "group", "aria-labelledby": id }, h("h2", { id }, h("span", {}, model), counts), grid) };
      groups.set(model, group);
    }
    return group;
  }

  function drawTotals() {
    const sum = store.totals();
    ready.set(sum.total ? `${sum.ready}/${sum.total}` : "0");
    running.set(String(sum.running));
    waiting.set(String(sum.waiting));
    speed.set(pace(sum.pace));
    setAttribute(ready.element, "data-trouble", sum.trouble > 0);
    setAttribute(waiting.element, "data-on", sum.waiting > 0);
    const error = store.daemon?.reloadError;
    show(reload, Boolean(error));
    if (error) setText(reload, t.reloadError(error));
  }

  function drawGroup(model, items) {
    const { counts } = groupOf(model);
    const up = items.filter((one) => one.data.status === "ready").length;
    const queue = Math.max(...items.map((one) => one.data.queue));
    setText(counts, [items.length > 1 ? t.ready(up, items.length) : "", queue ? t.waiting(queue) : ""].filter(Boolean).join(" · "));
  }

  function drawAll(now) {
    const found = store.groups();
    const dense = store.items.size >= DENSE;
    setAttribute(element, "data-dense", dense);
    for (const name of cards.keys()) if (!store.items.has(name)) cards.delete(name);
    for (const model of groups.keys()) if (!found.has(model)) groups.delete(model);
    const sections = [];
    for (const [model, items] of found) {
      const group = groupOf(model);
      setAttribute(group.element, "data-many", items.length > 1);
      setChildren(group.grid, items.map((item) => cardOf(item).element));
      drawGroup(model, items);
      sections.push(group.element);
    }
    setChildren(list, sections);
    for (const card of cards.values()) card.draw(now);
    show(empty, store.loaded && store.items.size === 0);
    show(figures, store.items.size > 0);
  }

  function drawSome(changed, now) {
    const models = new Set();
    for (const name of changed) {
      const card = cards.get(name);
      card?.draw(now);
      if (card) models.add(card.item.model);
    }
    const found = models.size ? store.groups() : null;
    for (const model of models) if (groups.has(model)) drawGroup(model, found.get(model));
  }

  let visible = false;
  let stop = null;
  const view = {
    element,
    title: t.views.fleet,
    draw(changed) {
      if (!visible) return;
      const now = store.now();
      drawTotals();
      if (changed === null || [...changed].some((name) => !cards.has(name) && store.items.get(name)?.more)) drawAll(now);
      else drawSome(changed, now);
    },
    enter() {
      visible = true;
      stop = store.watchFirstTokens();
      view.draw(null);
    },
    leave() {
      visible = false;
      stop?.();
      stop = null;
    },
    tick(now) {
      for (const card of cards.values()) card.tick(now);
    },
  };
  return view;
}
