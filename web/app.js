/* app.js: puts the page together: feed, store, views, the strip on top, theme and key. */
import { createApi } from "./api.js";
import { h, icon, setAttribute, setChildren, setText, show } from "./dom.js";
import { early } from "./early.js";
import { createFeed } from "./feed.js";
import { createFleet } from "./fleet.js";
import { clock, pace } from "./format.js";
import { createKeyPrompt } from "./key.js";
import { createOrders } from "./orders.js";
import { createStore, TROUBLE } from "./store.js";
import { t } from "./texts.js";
import { iconButton, say, tell } from "./ui.js";

const THEMES = ["auto", "light", "dark"];
const THEME = "llama-supervisor.theme";
const WHOLE = 150; // ms that the first picture waits for what it shows
const TITLE_EVERY = 1000;
const GONE_AFTER = 3000; // ms without any connection, on a page that never had one

const api = createApi(new URL("./", document.baseURI).href);
const feed = createFeed({ key: api.key });
const store = createStore(feed, api, early);
const key = createKeyPrompt((value) => {
  api.setKey(value);
  feed.setKey(value);
});
const askForKey = (reason) => key.ask(reason);
const { order, orderGpu, remove } = createOrders(api, store, askForKey);

// ---- what is fetched when it is asked for, or when there is nothing else to do -----------------------------------------

/** Resolves when the style is there. */
function style(name) {
  return new Promise((resolve, reject) => {
    document.head.append(h("link", { rel: "stylesheet", href: new URL(name, import.meta.url).href, on: { load: resolve, error: () => reject(new Error(name)) } }));
  });
}

/** Once, and again only if it failed. */
function once(make) {
  let made = null;
  return () => {
    made ??= make().catch((error) => {
      made = null;
      throw error;
    });
    return made;
  };
}

const instanceAt = (name) => `fleet/${encodeURIComponent(name)}`;
const hubs = new Map(); // name → {hub, at}, as the feed told them
const viewsStyle = once(() => style("./views.css"));
const makers = {
  fleet: once(async () => createFleet({ store, feed, order, orderGpu, openDetails: (name) => go(instanceAt(name)) })),
  chat: once(async () => {
    const [{ createChat }] = await Promise.all([import("./chat.js"), style("./chat.css")]);
    return createChat({ store, api, askForKey });
  }),
  logs: once(async () => {
    const [{ createLogs }] = await Promise.all([import("./logs.js"), viewsStyle()]);
    return createLogs({ store, feed, api, chosen: (name) => go(`logs/${encodeURIComponent(name)}`) });
  }),
  activity: once(async () => {
    const [{ createActivity }] = await Promise.all([import("./activity.js"), viewsStyle()]);
    return createActivity({ feed, store, api, askForKey });
  }),
  library: once(async () => {
    const [{ createLibrary }] = await Promise.all([import("./library.js"), viewsStyle()]);
    return createLibrary({ api, store, askForKey, openInstance: (name) => go(instanceAt(name)) });
  }),
  hub: once(async () => (await import("./hub.js")).createHub({ hubs, store })),
};
const makeDetails = once(async () => {
  const { createDetails } = await import("./details.js");
  details = createDetails({ store, feed, api, order, remove, gone: () => replaceHash(current.name) });
  return details;
});
let details = null;

const current = { name: "", wanted: "", view: null };

// ---- the frame -------------------------------------------------------------------------------------------------------

const sentence = h("p", { class: "sentence num" });
const light = h("span", { class: "light-word" });
const connection = h("p", { class: "connection", "data-state": "connecting" }, h("i", { class: "light", "aria-hidden": "true" }), light);
const stale = h("p", { class: "notice stale" });
const themeButton = iconButton("theme", "", nextTheme);
const keyButton = iconButton("key", t.keyEnter, () => (api.key ? forgetKey() : key.ask(t.keyText)));
const main = h("main", { id: "content", tabindex: "-1" });
const links = Object.fromEntries(Object.keys(makers).map((name) => [name, h("a", { href: `#/${name}`, class: "rail-link" }, icon(name), h("span", {}, t.views[name]))]));
const rail = h("nav", { class: "rail", "aria-label": t.nav }, ...Object.values(links));

// The first picture is a whole one, if its answers do not take long.
await Promise.race([store.begun, new Promise((resolve) => setTimeout(resolve, WHOLE))]);

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

/** A daemon of another version has other files: what was not fetched before is not there any more. */
function cannotShow(error) {
  console.warn(error);
  tell(t.loadAgain, { bad: true });
}

async function route() {
  const [name, argument] = location.hash.replace(/^#\/?/, "").split("/");
  const known = Object.hasOwn(makers, name) ? name : "fleet";
  const wanted = argument && decodeURIComponent(argument);
  if (current.wanted !== known) {
    current.wanted = known;
    let view;
    try {
      view = await makers[known]();
    } catch (error) {
      current.wanted = current.name;
      cannotShow(error);
      return;
    }
    if (current.wanted !== known) return; // meanwhile somebody went elsewhere
    current.view?.leave();
    current.name = known;
    current.view = view;
    setChildren(main, [view.element]);
    drawHubs();
    for (const [one, link] of Object.entries(links)) setAttribute(link, "aria-current", one === known ? "page" : null);
    view.enter(wanted);
  } else if (wanted && known === "logs" && current.name === "logs") current.view.enter(wanted);
  openPanel(wanted);
  drawTitle();
}

/** An address may name an instance that is not known yet, since the feed is on its way. */
async function openPanel(name) {
  if (current.name !== "fleet" || !name) {
    details?.close();
    return;
  }
  try {
    await makeDetails();
  } catch (error) {
    cannotShow(error);
    return;
  }
  const isWanted = () => location.hash === `#/${instanceAt(name)}`;
  if (!isWanted()) return;
  if (store.items.has(name)) {
    details.open(name);
    return;
  }
  const stop = store.subscribe(() => {
    if (!store.items.has(name)) return;
    queueMicrotask(() => stop());
    if (isWanted()) details.open(name);
  });
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

let titleTimer = 0;

function drawTitle() {
  const words = fleetSentence();
  setText(sentence, words);
  // The browser's own window is told, which is dear: once a second will do.
  titleTimer ||= setTimeout(() => {
    titleTimer = 0;
    const title = fleetSentence();
    document.title = title ? t.title(title) : t.product;
  }, document.title === t.product ? 0 : TITLE_EVERY);
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
      setText(stale, store.loaded ? t.notLive : t.gone);
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
  details?.tick(now);
}, 1000);

feed.follow("hub", (message) => {
  // The whole list, or one that changed.
  if (Array.isArray(message.hubs)) hubs.clear();
  for (const hub of message.hubs ?? [message.hub]) if (hub) hubs.set(hub.name, { hub, at: Date.now() });
  drawHubs();
});
addEventListener("hashchange", route);
route();

// So that each view is there at once, also when the daemon has become another one meanwhile.
const whenIdle = globalThis.requestIdleCallback ?? ((fn) => setTimeout(fn, 500));
addEventListener("load", () => setTimeout(() => whenIdle(async () => {
  for (const make of [makeDetails, ...Object.values(makers)]) await make().catch(() => {});
}, { timeout: 5000 }), 500));
