/* logs.js: the third view: the log of an instance, or of the supervisor itself, live. 100,000 lines stay smooth, since only those in sight are elements. */
import { h, setAttribute, setChildren, setText, show, everyFrame } from "./dom.js";
import { createLines, LEVELS, plainLine } from "./lines.js";
import { t } from "./texts.js";
import { button, copyText, tell } from "./ui.js";
import { createVirtualList } from "./virtual.js";

const MOST = 100_000;
const ASKED = 10_000; // lines of the past
const OWN = "@supervisor"; // in the address, where no instance can have such a name
const ROW = 20; // px, as in logs.css

export function createLogs({ store, feed, api, chosen }) {
  const lines = createLines(MOST);
  const levels = new Set(LEVELS);
  let name = null;
  let visible = false;
  let stop = null;
  let following = true;
  let held = null; // lines that came while it is paused
  let asking = 0; // which question is the newest
  let early = null; // lines that came before the answer
  let drawnNames = "";

  const picker = h("select", { class: "field logs-picker", "aria-label": t.logs.instance, on: { change: () => chosen(picker.value) } });
  const search = h("input", { type: "search", class: "field logs-search", placeholder: t.logs.search, "aria-label": t.logs.search, on: { input: () => look() } });
  const levelButtons = LEVELS.map((level) => h("button", { type: "button", class: "level", "data-level": level, "aria-pressed": "true", on: { click: (event) => {
    if (!levels.delete(level)) levels.add(level);
    setAttribute(event.currentTarget, "aria-pressed", String(levels.has(level)));
    look();
  } } }, t.logs.levels[level]));
  const pauseButton = button(t.logs.pause, { kind: "plain", "aria-pressed": "false", onclick: () => pause(held === null) });
  const followButton = button(t.logs.follow, { kind: "plain", onclick: () => follow() });
  const copy = button(t.copy, { icon: "copy", kind: "plain", onclick: async () => {
    await copyText(lines.shown.map((line) => line.text).join("\n"));
    tell(t.logs.copied(lines.shown.length));
  } });
  const counts = h("p", { class: "logs-counts num" });
  const empty = h("p", { class: "logs-empty" });
  const list = createVirtualList({
    rowHeight: ROW, label: t.logs.lines,
    rowOf: (index) => h("div", { class: "row", "data-level": lines.shown[index]?.level }, lines.shown[index]?.text ?? ""),
    onScroll: (isAtEnd) => {
      following = isAtEnd;
      show(followButton, !following);
    },
  });
  const element = h("section", { class: "view-logs", "aria-labelledby": "logs-title" },
    h("h1", { id: "logs-title", class: "visually-hidden" }, t.views.logs),
    h("header", { class: "logs-head" }, picker, search, h("div", { class: "levels", role: "group", "aria-label": t.logs.levelsLabel }, ...levelButtons),
      h("div", { class: "logs-buttons" }, followButton, pauseButton, copy)),
    list.element, empty, counts);

  const drawSoon = everyFrame(() => {
    setText(counts, lines.shown.length === lines.total ? t.logs.count(lines.total) : t.logs.countOf(lines.shown.length, lines.total));
    list.change(lines.shown.length);
    show(list.element, lines.shown.length > 0);
    show(empty, lines.shown.length === 0);
    setText(empty, name === null ? "" : lines.total ? t.logs.nothingFound : t.logs.nothing);
    show(copy, lines.shown.length > 0);
    if (following) list.toEnd();
  });

  function add(texts) {
    const dropped = lines.add(texts);
    if (dropped > 0) {
      list.dropped(dropped, lines.shown.length);
      // Before the browser tells of the scrolling, which would read as the reader's own.
      if (following) list.toEnd();
    }
    drawSoon();
  }

  function take(texts) {
    if (early) early.push(...texts);
    else if (held) {
      held.push(...texts);
      if (held.length > MOST) held.splice(0, held.length - MOST);
      setText(pauseButton, t.logs.resume(held.length));
    } else add(texts);
  }

  function pause(on) {
    if (on) held = [];
    else if (held) {
      const came = held;
      held = null;
      add(came);
    }
    setText(pauseButton, on ? t.logs.resume(0) : t.logs.pause);
    setAttribute(pauseButton, "aria-pressed", String(on));
  }

  function follow() {
    following = true;
    list.toEnd();
    show(followButton, false);
  }

  function look() {
    lines.look(search.value, levels);
    list.again(lines.shown.length);
    drawSoon();
  }

  async function open(next) {
    if (next === name && stop) return;
    stop?.();
    stop = null;
    name = next;
    lines.clear();
    list.again(0);
    pause(false);
    following = true;
    drawNames();
    drawSoon();
    if (name === null) return;
    const mine = ++asking;
    early = [];
    stop = feed.follow(name === OWN ? "log" : `log:${name}`, (message) => {
      if (mine !== asking) return;
      take([...(message.skipped ? [t.logSkipped(message.skipped)] : []), ...message.lines.map(plainLine)]);
    });
    let past = [];
    try {
      const text = await api.text(`api/v1/${name === OWN ? "" : `instances/${encodeURIComponent(name)}/`}logs?lines=${ASKED}`);
      past = text.split("\n").map(plainLine);
      if (past.at(-1) === "") past.pop();
    } catch (error) {
      if (mine === asking && error.status) tell(t.failed(error.message), { bad: true });
    }
    if (mine !== asking) return;
    // What came by both ways is told once: the end of the past is where the live lines began.
    const live = early;
    early = null;
    let overlap = Math.min(past.length, live.length);
    while (overlap && !past.slice(-overlap).every((line, index) => line === live[index])) overlap--;
    past.length -= overlap;
    add([...past, ...live]);
    follow();
  }

  function drawNames() {
    const names = [...store.groups().values()].flat().map((one) => one.name);
    const key = `${names.join()} ${name}`;
    if (key === drawnNames) return;
    drawnNames = key;
    setChildren(picker, [...names.map((one) => h("option", { value: one }, one)), h("option", { value: OWN }, t.logs.own)]);
    if (name) picker.value = name;
  }

  function firstName() {
    return [...store.groups().values()].flat()[0]?.name ?? (store.loaded && !store.items.size ? OWN : null);
  }

  show(followButton, false);
  return {
    element,
    title: t.views.logs,
    enter(argument) {
      visible = true;
      open(argument ?? name ?? firstName());
    },
    leave() {
      visible = false;
      stop?.();
      stop = null;
      asking++;
    },
    draw() {
      if (!visible) return;
      if (name === null && firstName() !== null) open(firstName());
      drawNames();
    },
  };
}
