/* app.js: puts the page together: feed, store, views, the strip on top, theme and key. */
import { createActivity } from "./activity.js";
import { createApi } from "./api.js";
import { createChat } from "./chat.js";
import { createDetails } from "./details.js";
import { h, icon, setAttribute, setChildren, setText, show } from "./dom.js";
import { createFeed } from "./feed.js";
import { createFleet } from "./fleet.js";
import { createHub, createHubs } from "./hub.js";
import { clock, pace } from "./format.js";
import { createKeyPrompt } from "./key.js";
import { createLibrary } from "./library.js";
import { createLogs } from "./logs.js";
import { createOrders } from "./orders.js";
import { createStore, TROUBLE } from "./store.js";
import { t } from "./texts.js";
import { iconButton, say } from "./ui.js";

const THEMES = ["auto", "light", "dark"];
const THEME = "llama-supervisor.theme";
const GONE_AFTER = 3000; // ms without any connection, on a page that never had one

const api = createApi(new URL("./", document.baseURI).href);
const feed = createFeed({ key: api.key });
const store = createStore(feed, api);
const key = createKeyPrompt((value) => {
  api.setKey(value);
  feed.setKey(value);
});
const askForKey = (reason) => key.ask(reason);
const { order, remove } = createOrders(api, store, askForKey);
const details = createDetails({ store, feed, api, order, remove, gone: () => replaceHash(current.name) });
const hubs = createHubs(feed, () => drawHubs());
const views = {
  fleet: createFleet({ store, feed, order, openDetails: (name) => go(`fleet/${encodeURIComponent(name)}`) }),
  chat: createChat({ store, api, askForKey }),
  logs: createLogs({ store, feed, api, chosen: (name) => go(`logs/${encodeURIComponent(name)}`) }),
  activity: createActivity({ feed, store, api, askForKey }),
  library: createLibrary({ api, store, askForKey, openInstance: (name) => go(`fleet/${encodeURIComponent(name)}`) }),
  hub: createHub({ hubs, store }),
};
const current = { name: "", view: null };

// ---- the frame -------------------------------------------------------------------------------------------------------

const sentence = h("p", { class: "sentence num" });
const light = h("span", { class: "light-word" });
const connection = h("p", { class: "connection", "data-state": "connecting" }, h("i", { class: "light", "aria-hidden": "true" }), light);
const stale = h("p", { class: "notice stale" });
const themeButton = iconButton("theme", "", nextTheme);
const keyButton = iconButton("key", t.keyEnter, () => (api.key ? forgetKey() : key.ask(t.keyText)));
const main = h("main", { id: "content", tabindex: "-1" });
const links = Object.fromEntries(Object.keys(views).map((name) => [name, h("a", { href: `#/${name}`, class: "rail-link" }, icon(name), h("span", {}, t.views[name]))]));
const rail = h("nav", { class: "rail", "aria-label": t.nav }, ...Object.values(links));

document.body.append(
  h("a", { href: "#content", class: "skip", on: { click: (event) => {
    event.preventDefault();
    main.focus();
  } } }, t.skip),
  h("header", { class: "top" }, h("p", { class: "brand" }, t.product), sentence, h("div", { class: "top-end" }, connection, keyButton, themeButton)),
  rail, h("div", { class: "body" }, stale, main));

/** Where no hub is, nobody need look for one. */
function drawHubs() {
  show(links.hub, hubs.size > 0 || current.name === "hub");
  if (current.name === "hub") current.view.draw();
}
drawHubs();

// ---- theme and key ---------------------------------------------------------------------------------------------------

function applyTheme(theme) {
  setAttribute(document.documentElement, "data-theme", theme === "auto" ? null : theme);
  setAttribute(themeButton, "aria-label", t.theme[theme]);
  setAttribute(themeButton, "title", t.theme[theme]);
}

function nextTheme() {
  const theme = THEMES[(THEMES.indexOf(localStorage.getItem(THEME) ?? "auto") + 1) % THEMES.length];
  localStorage.setItem(THEME, theme);
  applyTheme(theme);
}

function forgetKey() {
  api.setKey(null);
  feed.setKey(null);
}

function drawKey(value) {
  const label = value ? t.keyForget : t.keyEnter;
  setAttribute(keyButton, "aria-label", label);
  setAttribute(keyButton, "title", label);
  setAttribute(keyButton, "data-on", Boolean(value));
}

applyTheme(localStorage.getItem(THEME) ?? "auto");
drawKey(api.key);
api.onKey(drawKey);

// ---- views -----------------------------------------------------------------------------------------------------------

function go(path) {
  location.hash = `#/${path}`;
}

/** After a panel was closed, without an entry in the history for it. */
function replaceHash(path) {
  if (location.hash.startsWith(`#/${path}/`)) history.replaceState(null, "", `#/${path}`);
}

function route() {
  const [name, argument] = location.hash.replace(/^#\/?/, "").split("/");
  const known = Object.hasOwn(views, name) ? name : "fleet";
  if (current.name !== known) {
    current.view?.leave();
    current.name = known;
    current.view = views[known];
    setChildren(main, [current.view.element]);
    drawHubs();
    for (const [one, link] of Object.entries(links)) setAttribute(link, "aria-current", one === known ? "page" : null);
    current.view.enter(argument && decodeURIComponent(argument));
  } else if (argument && known === "logs") current.view.enter(decodeURIComponent(argument));
  openPanel(argument && decodeURIComponent(argument));
  drawTitle();
}

/** An address may name an instance that is not known yet, since the feed is on its way. */
function openPanel(name) {
  if (current.name !== "fleet" || !name) details.close();
  else if (store.items.has(name)) details.open(name);
  else {
    const stop = store.subscribe(() => {
      if (!store.items.has(name)) return;
      queueMicrotask(() => stop());
      if (location.hash === `#/fleet/${encodeURIComponent(name)}`) details.open(name);
    });
  }
}

// ---- what is true now ------------------------------------------------------------------------------------------------

function fleetSentence() {
  const sum = store.totals();
  if (!sum.total) return store.loaded ? t.nothing : "";
  const parts = [t.ready(sum.ready, sum.total)];
  if (sum.waiting) parts.push(t.waiting(sum.waiting));
  if (sum.pace) parts.push(t.tokensPerSecond(pace(sum.pace)));
  return parts.join(" · ");
}

function drawTitle() {
  const words = fleetSentence();
  setText(sentence, words);
  document.title = words ? t.title(words) : t.product;
}

const said = new Map();

/** Screen readers hear of trouble and of its end, not of each step. */
function announce(changed) {
  for (const name of changed ?? store.items.keys()) {
    const item = store.items.get(name);
    const before = said.get(name);
    if (!item || before === item.data.status) continue;
    said.set(name, item.data.status);
    if (before === undefined) continue;
    const bad = TROUBLE.has(item.data.status);
    if (bad || item.data.status === "ready") say(t.became(name, t.states[item.data.status], bad ? item.data.lastError : null));
  }
}

store.subscribe((changed) => {
  announce(changed);
  current.view?.draw(changed);
  drawTitle();
});

let goneTimer = 0;

feed.onConnection(({ state, since, status }) => {
  const before = connection.dataset.state;
  setAttribute(connection, "data-state", state);
  setText(light, t.connection[state]);
  setAttribute(document.body, "data-connection", state);
  clearTimeout(goneTimer);
  show(stale, state === "stale");
  if (state === "stale") {
    setText(stale, t.staleSince(clock(since)));
    say(t.stale);
  } else if (state === "connecting") {
    goneTimer = setTimeout(() => {
      setText(stale, t.gone);
      show(stale, true);
    }, GONE_AFTER);
  } else if (state === "live") {
    key.close();
    if (before === "stale") say(t.live);
  } else if (state === "refused") {
    key.ask(t.keyText, { optional: false, complaint: api.key ? (status === 403 ? t.keyScope : t.keyWrong) : "" });
  }
});

// Uptimes and countdowns move with the clock; nothing is asked for.
setInterval(() => {
  if (document.visibilityState !== "visible" || feed.connection.state === "stale") return;
  const now = store.now();
  current.view?.tick?.(now);
  details.tick(now);
}, 1000);

addEventListener("hashchange", route);
route();
