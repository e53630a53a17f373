/* store.js: what the page knows of the fleet. The feed tells states and figures; what it does not tell (which model, how many
 * tries, the file …) is asked for once per instance and again when its process changed, never by the clock. */
import { HISTORY } from "./early.js";

const PACE_KEPT = 90; // points of the small chart
export const FIRSTS_KEPT = 24;
const FIRSTS_JUDGED = 9; // the median is of so many
/* ms: when the feed tells nothing; after a change; and when the last question was less than so long ago. */
const QUIET = 300;
const SOON = 100;
const STORM = 1000;
const CALM = 500;
const PACE_STEP = 2000; // ms between them
/* When this many changed at once, a ms for each passes until the next drawing, and no more than one part in so many is drawing. */
const MANY = 16;
const LONGEST_REST = 250; // ms
const SHARE = 8;
const DATA = ["status", "models", "lastError", "retries", "uptime", "startedAt", "pid", "gpu", "nextRetryAt", "inFlight", "slots", "queue", "tokensPerSecond"];
const HOUR = 3600e3;
export const DAY = 24 * HOUR;
/* Two states in this order are worse, for sorting and for what is said first. */
export const TROUBLE = new Set(["crashed", "error", "unhealthy"]);

/** At most one call a frame, and fewer when there is much to draw; draw() returns how many changed. The first is at once. */
function sparingly(draw) {
  let asked = false;
  let next = 0;
  function run() {
    asked = false;
    const began = performance.now();
    const n = draw();
    const ended = performance.now();
    next = n > MANY ? ended + Math.min(LONGEST_REST, Math.max(n, SHARE * (ended - began))) : 0;
  }
  return () => {
    if (asked) return;
    asked = true;
    const wait = next - performance.now();
    if (wait > 0) setTimeout(() => requestAnimationFrame(run), wait);
    else requestAnimationFrame(run);
  };
}

/** `early` are the answers to the first questions (early.js). */
export function createStore(feed, api, early) {
  const items = new Map(); // name → {name, model, data, more, spans, pace}
  const listeners = new Set();
  const pending = new Set(); // names that changed since the last frame
  let pendingAll = false;
  let asking = null;
  let askedAt = 0;
  let wishes = 0; // numbers of what is to be asked for
  let quietTimer = 0;
  let daemon = null;
  let loaded = false;
  let skew = null; // the browser's clock minus the daemon's, the smallest seen: what is left is the way

  function publishNow() {
    const changed = pendingAll ? null : new Set(pending);
    pendingAll = false;
    pending.clear();
    for (const fn of listeners) fn(changed);
    return changed?.size ?? items.size;
  }

  const publish = sparingly(publishNow);

  function touch(name) {
    if (name === null) pendingAll = true;
    else pending.add(name);
    publish();
  }

  /** States of the last day as [{since, status}], the newest last; the feed goes on writing where the history ended. */
  function record(item, status, at) {
    const last = item.spans.at(-1);
    if (last?.status === status) return;
    item.spans.push({ since: at, status });
    while (item.spans.length > 1 && item.spans[1].since < at - DAY) item.spans.shift();
  }

  function notePace(item, at) {
    const value = item.data.tokensPerSecond ?? 0;
    const last = item.pace.at(-1);
    if (last && at - last.at < PACE_STEP) last.value = Math.max(last.value, value);
    else item.pace.push({ at, value });
    if (item.pace.length > PACE_KEPT) item.pace.shift();
  }

  function take(message) {
    const { instance: name, data, timestamp } = message;
    skew = Math.min(skew ?? Infinity, Date.now() - timestamp);
    let item = items.get(name);
    const isNew = !item;
    if (isNew) {
      item = { name, model: name, data, more: null, spans: [], pace: [], changedAt: timestamp };
      items.set(name, item);
    }
    const before = item.data;
    item.data = data;
    item.at = timestamp;
    if (isNew || before.status !== data.status) item.changedAt = timestamp;
    record(item, data.status, timestamp);
    notePace(item, timestamp);
    if ((isNew || before.pid !== data.pid || before.status !== data.status || before.slots !== data.slots) && !fits(item)) {
      item.wants = ++wishes;
      ask();
    }
    touch(isNew ? null : name);
  }

  /** Is what we asked for of the process and the state that the feed tells, and what its server says of itself? (Slots are told with it.) */
  function fits(item) {
    return item.more?.status === item.data.status && item.more.pid === item.data.pid && item.more.slots === item.data.slots;
  }

  /** One question at a time; what changed after it was asked is asked for when it is answered. */
  async function ask() {
    if (asking) return;
    clearTimeout(quietTimer);
    // What changes together is asked for together; the first question waits for nobody, and in a storm a second passes between two.
    const wait = askedAt ? (Date.now() - askedAt < CALM ? STORM : SOON) : 0;
    asking = wait ? new Promise((resolve) => setTimeout(resolve, wait)) : begun;
    await asking;
    const isFirst = askedAt === 0;
    askedAt = Date.now();
    if (isFirst && items.size && [...items.values()].every(fits)) {
      // The feed began before the first answers were there, and they tell all of it.
      asking = null;
      for (const item of items.values()) item.wants = 0;
      return;
    }
    const until = wishes;
    try {
      takeList((await api.get("api/v1/instances")).instances, false);
    } catch {
      // The feed notices and tells; it asks again when it is back. Until then an instance stands for itself.
      for (const item of items.values()) item.more ??= {};
      touch(null);
    }
    asking = null;
    for (const item of items.values()) if (item.wants && (item.wants <= until || fits(item))) item.wants = 0;
    if ([...items.values()].some((item) => item.wants)) ask();
  }

  /** What the list tells beside the feed. With `first` the feed has not begun, and the list tells who there is. */
  function takeList(instances, first) {
    const order = new Map(instances.map((one, index) => [one.name, index]));
    for (const one of instances) {
      const known = items.get(one.name);
      if (!known && !first) continue;
      if (!known) {
        const data = Object.fromEntries(DATA.map((key) => [key, one[key]]));
        items.set(one.name, { name: one.name, model: one.model, data, more: null, spans: [], pace: [], changedAt: Date.now(), at: Date.now() });
      }
      const item = items.get(one.name);
      const key = JSON.stringify([one.status, one.pid, one.stateSince, one.wantUp, one.until, one.restarts, one.loadTime, one.context, one.modalities, one.maxRetries, one.modelPath]);
      const moved = !item.more || item.model !== one.model || item.order !== order.get(one.name);
      const changed = moved || item.key !== key;
      item.more = one;
      item.model = one.model;
      item.order = order.get(one.name);
      item.key = key;
      // Only what is another one is drawn again.
      if (changed) touch(moved ? null : one.name);
    }
    // One that went before the feed began is told by nobody.
    for (const name of items.keys()) if (!order.has(name) && !feed.instances.has(name)) {
      items.delete(name);
      touch(null);
    }
  }

  async function askHistory() {
    try {
      takeHistory(...(await Promise.all([api.get(HISTORY), api.get("api/v1/status")])));
    } catch {
      // As above.
    }
  }

  function takeHistory(history, status) {
    for (const [name, spans] of Object.entries(history.states ?? {})) {
      const item = items.get(name);
      if (!item) continue;
      const told = item.spans.filter((one) => one.since > (spans.at(-1)?.since ?? 0));
      item.spans = [...spans.map(({ since, status: word }) => ({ since, status: word })), ...told];
    }
    daemon = status;
    loaded = true;
    touch(null);
  }

  /** True when the first questions were answered: then the feed only has to tell what is new. */
  async function begin() {
    const { instances } = (await early.instances) ?? {};
    if (!instances) return false;
    takeList(instances, !feed.instances.size);
    const [history, status] = await Promise.all([early.history, early.status]);
    if (!history || !status) return false;
    takeHistory(history, status);
    return true;
  }

  /** How long the last streamed answers took to begin: the median of a few, by instance. */
  function takeActivity({ activity }) {
    for (const { instance, stream, timeToFirstToken } of [...activity.recent].reverse()) {
      const item = items.get(instance);
      if (!item || !stream || timeToFirstToken === null) continue;
      item.firsts = [...(item.firsts ?? []), timeToFirstToken].slice(-FIRSTS_KEPT);
      const judged = item.firsts.slice(-FIRSTS_JUDGED).sort((a, b) => a - b);
      item.firstToken = judged[judged.length >> 1];
      touch(instance);
    }
  }

  feed.subscribe((instances, changed) => {
    if (changed === null) for (const message of instances.values()) take(message);
    else if (instances.has(changed)) take(instances.get(changed));
    else if (items.delete(changed)) touch(null);
  });
  const begun = begin();
  let isFirst = true;
  feed.onConnection(async ({ state }) => {
    if (state !== "live") return;
    const knows = isFirst && (await begun);
    isFirst = false;
    if (knows) return;
    // Whatever the feed tells first asks; what did not change while it was away is asked for nevertheless.
    clearTimeout(quietTimer);
    quietTimer = setTimeout(ask, QUIET);
    askHistory();
  });

  return {
    items,
    /** Resolves when the answers to the first questions are taken, to whether there were any. */
    begun,
    /** As long as somebody wants to see how fast answers begin; returns its end. */
    watchFirstTokens() {
      for (const item of items.values()) item.firsts = [];
      return feed.follow("activity", takeActivity);
    },
    get daemon() {
      return daemon;
    },
    get loaded() {
      return loaded;
    },
    /** The daemon's time, as well as we know it: countdowns and uptimes are told by its clock. */
    now: () => Date.now() - (skew ?? 0),
    refresh: ask,
    refreshDaemon: askHistory,
    /** fn(null) when anything may have changed, fn(Set of names) when only those did; at most once a frame. */
    subscribe(fn) {
      listeners.add(fn);
      fn(null);
      return () => listeners.delete(fn);
    },
    /** Models in the order of the configuration, each with its instances; those of which the model is not known yet are left out. */
    groups() {
      const groups = new Map();
      const sorted = [...items.values()].filter((item) => item.more).sort((a, b) => (a.order ?? 1e9) - (b.order ?? 1e9) || a.name.localeCompare(b.name, "en", { numeric: true }));
      for (const item of sorted) {
        if (!groups.has(item.model)) groups.set(item.model, []);
        groups.get(item.model).push(item);
      }
      return groups;
    },
    totals() {
      const sum = { total: 0, ready: 0, trouble: 0, running: 0, waiting: 0, pace: 0, slots: 0 };
      const queues = new Map(); // replicas tell the queue of their model, all the same one
      for (const { data, model } of items.values()) {
        sum.total++;
        if (data.status === "ready") sum.ready++;
        if (TROUBLE.has(data.status)) sum.trouble++;
        sum.running += data.inFlight;
        sum.slots += data.slots;
        if (data.inFlight) sum.pace += data.tokensPerSecond ?? 0;
        queues.set(model, Math.max(queues.get(model) ?? 0, data.queue));
      }
      for (const n of queues.values()) sum.waiting += n;
      return sum;
    },
  };
}
