/* fleet.js: the first view: totals, the machine's GPUs, and a card for each instance, grouped by model or by GPU. */
import { createCard } from "./card.js";
import { h, setAttribute, setChildren, setText, show } from "./dom.js";
import { gigabytes, pace } from "./format.js";
import { createGpuPanel, createGpus, gpuName } from "./gpus.js";
import { t } from "./texts.js";
import { copyButton } from "./ui.js";

/* From this many on, cards are small. */
const DENSE = 25;
const GROUPING = "llama-supervisor.grouping";

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

/** Two buttons of which one is pressed. */
function createGrouping(changed) {
  let chosen = localStorage.getItem(GROUPING) === "gpu" ? "gpu" : "model";
  const buttons = Object.entries(t.groupings).map(([key, label]) => h("button", { type: "button", class: "level", "data-key": key, on: { click: () => {
    chosen = key;
    localStorage.setItem(GROUPING, key);
    draw();
    changed();
  } } }, label));
  const element = h("div", { class: "levels grouping", role: "group", "aria-label": t.groupBy }, ...buttons);
  function draw() {
    for (const one of buttons) setAttribute(one, "aria-pressed", String(one.dataset.key === chosen));
  }
  draw();
  return { element, get chosen() {
    return chosen;
  } };
}

export function createFleet({ store, feed, order, orderGpu, openDetails }) {
  const ready = figure(t.totals.ready);
  const running = figure(t.totals.running);
  const waiting = figure(t.totals.waiting);
  const speed = figure(t.totals.pace);
  const memory = figure(t.totals.memory);
  const figures = h("dl", { class: "figures" }, ready.element, running.element, waiting.element, speed.element, memory.element);
  const grouping = createGrouping(() => drawAll(store.now()));
  const head = h("div", { class: "fleet-head" }, figures, grouping.element);
  const reload = h("p", { class: "notice bad" });
  const empty = emptyState();
  const list = h("div", { class: "groups" });
  const gpus = createGpus(feed, () => visible && drawGpus());
  const panel = createGpuPanel(gpus, orderGpu);
  const element = h("section", { class: "view view-fleet", "aria-labelledby": "fleet-title" },
    h("h1", { id: "fleet-title", class: "visually-hidden" }, t.fleet), reload, head, panel.element, list, empty);
  const cards = new Map();
  const groups = new Map(); // title → its elements
  const groupOfCard = new Map(); // name of an instance → title
  let dense = false;
  let drawnPlaces = "";

  function cardOf(item) {
    let card = cards.get(item.name);
    if (card?.item !== item) {
      card = createCard(item, { order, openDetails, gpus });
      cards.set(item.name, card);
    }
    return card;
  }

  function groupOf(title) {
    let group = groups.get(title);
    if (!group) {
      const counts = h("span", { class: "group-counts num" });
      const grid = h("div", { class: "cards" });
      const id = `group-${groups.size}-${title.replace(/[^\w-]/g, "_")}`;
      group = { counts, grid, element: h("section", { class: "group", "aria-labelledby": id }, h("h2", { id }, h("span", {}, title), counts), grid) };
      groups.set(title, group);
    }
    return group;
  }

  /** On which GPUs an instance is, in words; those that nobody knows of go by what they are pinned to. */
  function placeOf(item) {
    const known = gpus.of(item);
    if (known.length) return known.map(gpuName).join(" + ");
    return item.data.gpu.length ? item.data.gpu.map((one) => t.gpu(one.replace(/^GPU-(.{8}).*$/, "$1"))).join(" + ") : t.noGpuGroup;
  }

  function sections() {
    const byModel = store.groups();
    if (!grouping.element.hidden && grouping.chosen === "gpu") {
      const byGpu = new Map();
      for (const item of [...byModel.values()].flat()) {
        const place = placeOf(item);
        if (!byGpu.has(place)) byGpu.set(place, []);
        byGpu.get(place).push(item);
      }
      return new Map([...byGpu].sort(([a], [b]) => (a === t.noGpuGroup) - (b === t.noGpuGroup) || a.localeCompare(b, "en", { numeric: true })));
    }
    return byModel;
  }

  function drawTotals() {
    const sum = store.totals();
    const { used, total } = gpus.totals();
    ready.set(sum.total ? `${sum.ready}/${sum.total}` : "0");
    running.set(String(sum.running));
    waiting.set(String(sum.waiting));
    speed.set(pace(sum.pace));
    memory.set(total ? `${gigabytes(used)}/${gigabytes(total)}` : "");
    show(memory.element, total > 0);
    setAttribute(ready.element, "data-trouble", sum.trouble > 0);
    setAttribute(waiting.element, "data-on", sum.waiting > 0);
    const error = store.daemon?.reloadError;
    show(reload, Boolean(error));
    if (error) setText(reload, t.reloadError(error));
  }

  function drawGroup(title, items) {
    const { counts } = groupOf(title);
    const up = items.filter((one) => one.data.status === "ready").length;
    // Replicas tell the queue of their model, all the same one.
    const queue = items.every((one) => one.model === items[0].model) ? Math.max(...items.map((one) => one.data.queue)) : 0;
    setText(counts, [items.length > 1 ? t.ready(up, items.length) : "", queue ? t.waiting(queue) : ""].filter(Boolean).join(" · "));
  }

  function drawAll(now) {
    dense = store.items.size >= DENSE;
    setAttribute(element, "data-dense", dense);
    show(grouping.element, Boolean(gpus.told?.gpus.length) || [...store.items.values()].some((one) => one.data.gpu.length));
    const found = sections();
    for (const name of cards.keys()) if (!store.items.has(name)) cards.delete(name);
    for (const title of groups.keys()) if (!found.has(title)) groups.delete(title);
    groupOfCard.clear();
    setChildren(list, [...found].map(([title, items]) => {
      const group = groupOf(title);
      setAttribute(group.element, "data-many", items.length > 1);
      setChildren(group.grid, items.map((item) => cardOf(item).element));
      for (const item of items) groupOfCard.set(item.name, title);
      drawGroup(title, items);
      return group.element;
    }));
    for (const card of cards.values()) card.draw(now, dense);
    panel.draw(store.items.size === 0);
    show(empty, store.loaded && store.items.size === 0);
    show(head, store.items.size > 0);
  }

  function drawSome(changed, now) {
    const titles = new Set();
    for (const name of changed) {
      cards.get(name)?.draw(now, dense);
      if (groupOfCard.has(name)) titles.add(groupOfCard.get(name));
    }
    if (!titles.size) return;
    const members = new Map([...titles].map((title) => [title, []]));
    for (const [name, title] of groupOfCard) if (titles.has(title) && store.items.has(name)) members.get(title).push(store.items.get(name));
    for (const [title, items] of members) if (items.length && groups.has(title)) drawGroup(title, items);
  }

  /** Each second as long as this view is open, so only what is another one is touched. */
  function drawGpus() {
    panel.draw(store.items.size === 0);
    drawTotals();
    const places = JSON.stringify(gpus.told?.gpus.map((one) => [one.uuid, one.index, one.instances]));
    if (places !== drawnPlaces) {
      drawnPlaces = places;
      drawAll(store.now());
    } else if (!dense) for (const card of cards.values()) card.drawGpus();
  }

  let visible = false;
  let ends = [];
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
      ends = [store.watchFirstTokens(), gpus.watch()];
      view.draw(null);
    },
    leave() {
      visible = false;
      for (const end of ends) end();
      ends = [];
    },
    tick(now) {
      for (const card of cards.values()) card.tick(now, dense);
    },
  };
  return view;
}
