/* feed.js: the status feed of llama-supervisor for any page: live states, logs, reconnecting, and the truth about staleness.
 *
 *   import { createFeed } from "http://127.0.0.1:8077/web/feed.js";
 *   const feed = createFeed();                    // of the server that this file came from; {base, key, instance} say otherwise
 *   feed.subscribe((instances, changed) => …);    // a Map: name → {instance, seq, timestamp, data}; at once, and on each change
 *   feed.onConnection(({state, since}) => …);     // "connecting" | "live" | "stale" | "refused"; since: ms, when it became so
 *   const stop = feed.follow("log:qwen-0", (message) => …);   // a topic: subscribed again after each reconnect; also "log" (the
 *                                                 // supervisor's own), "activity", "gpus"
 *   feed.request();                               // asks for the whole set now
 *   feed.setKey("lsv_…"); feed.close();
 *
 * "stale": the connection is gone, what is in `instances` was true at `since`, and it is being tried again (0.25 s, doubled up
 * to 10 s, with jitter; at once when the network or the tab comes back). "refused": the server said 401 or 403 (`status`);
 * nothing is tried until setKey. Each function that takes a callback returns one that ends it. A page of another origin must
 * be in gateway.allowed_origins. Nothing is polled: a connection that said nothing for 30 s is asked for a sign of life. */

const FIRST_DELAY = 250;
const LAST_DELAY = 10_000;
const SILENCE = 30_000;
const ANSWER_TIME = 8_000;
const SETTLED = 1_000;

/** The server's address, out of this file's own: /web/feed.js or /web/VERSION/feed.js, below whatever a proxy adds. */
function ownBase() {
  return new URL(import.meta.url).href.replace(/web\/(?:[^/]+\/)?feed\.js(?:[?#].*)?$/, "");
}

function base64url(text) {
  const bytes = new TextEncoder().encode(text);
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

export function createFeed({ base = ownBase(), key = null, instance = null } = {}) {
  const instances = new Map();
  const listeners = new Set();
  const connectionListeners = new Set();
  const topics = new Map(); // topic → Set of callbacks
  let unconfirmed = new Set(); // names of before the reconnect that were not told again yet
  let socket = null;
  let delay = FIRST_DELAY;
  let retryTimer = 0;
  let silenceTimer = 0;
  let settleTimer = 0;
  let closed = false;
  let connection = { state: "connecting", since: Date.now(), status: 0 };

  function tellConnection(state, status = 0) {
    if (state === connection.state && status === connection.status) return;
    connection = { state, since: Date.now(), status };
    for (const fn of connectionListeners) fn(connection);
  }

  function tell(changed) {
    for (const fn of listeners) fn(instances, changed);
  }

  function send(message) {
    if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
  }

  function takeStatus(message) {
    const before = instances.get(message.instance);
    unconfirmed.delete(message.instance);
    // seq rises also across restarts of the daemon; one that is lower is an older message that came late.
    if (before && message.seq < before.seq && message.timestamp < before.timestamp) return;
    instances.set(message.instance, message);
    tell(message.instance);
  }

  function takeRemoved(message) {
    unconfirmed.delete(message.instance);
    if (instances.delete(message.instance)) tell(message.instance);
  }

  /** After a reconnect the whole set comes; who is not in it went while we were away. */
  function forgetUnconfirmed() {
    for (const name of unconfirmed) if (instances.delete(name)) tell(name);
    unconfirmed = new Set();
  }

  function heard() {
    clearTimeout(silenceTimer);
    silenceTimer = setTimeout(() => {
      send({ type: "subscribe", topics: [] });
      silenceTimer = setTimeout(() => lost(socket), ANSWER_TIME);
    }, SILENCE);
    if (unconfirmed.size) {
      clearTimeout(settleTimer);
      settleTimer = setTimeout(forgetUnconfirmed, SETTLED);
    }
  }

  function onMessage(event) {
    let message;
    heard();
    try {
      message = JSON.parse(event.data);
    } catch {
      return;
    }
    if (message.type === "llama_status") takeStatus(message);
    else if (message.type === "llama_status_removed") takeRemoved(message);
    else if (message.type === "log") for (const fn of topics.get(message.instance === null ? "log" : `log:${message.instance}`) ?? []) fn(message);
    else for (const fn of topics.get(message.type) ?? []) fn(message);
  }

  /** A browser does not tell why a WebSocket failed; the same question by HTTP does. */
  async function whyRefused() {
    try {
      const headers = key ? { authorization: `Bearer ${key}` } : {};
      const answer = await fetch(new URL("api/v1/status", base), { headers, cache: "no-store" });
      return answer.status === 401 || answer.status === 403 ? answer.status : 0;
    } catch {
      return 0;
    }
  }

  async function lost(which) {
    if (which !== socket || closed) return;
    const wasLive = connection.state === "live";
    socket = null;
    clearTimeout(silenceTimer);
    clearTimeout(settleTimer);
    which.close();
    if (wasLive) tellConnection("stale");
    const status = wasLive ? 0 : await whyRefused();
    if (closed || socket) return;
    if (status) {
      tellConnection("refused", status);
      return;
    }
    if (connection.state !== "stale") tellConnection(instances.size ? "stale" : "connecting");
    clearTimeout(retryTimer);
    retryTimer = setTimeout(open, delay * (0.75 + Math.random() / 2));
    delay = Math.min(2 * delay, LAST_DELAY);
  }

  function open() {
    if (closed || socket) return;
    const url = new URL(`ws${instance ? `?instance=${encodeURIComponent(instance)}` : ""}`, base);
    url.protocol = url.protocol.replace("http", "ws");
    const mine = new WebSocket(url, key ? ["llama-status", `key.${base64url(key)}`] : ["llama-status"]);
    socket = mine;
    mine.onopen = () => {
      if (mine !== socket) return;
      delay = FIRST_DELAY;
      unconfirmed = new Set(instances.keys());
      tellConnection("live");
      heard();
      if (topics.size) send({ type: "subscribe", topics: [...topics.keys()] });
    };
    mine.onmessage = (event) => mine === socket && onMessage(event);
    mine.onclose = () => lost(mine);
  }

  function reopen() {
    if (socket || closed || connection.state === "refused") return;
    clearTimeout(retryTimer);
    delay = FIRST_DELAY;
    open();
  }

  function onVisible() {
    if (document.visibilityState === "visible") reopen();
  }

  globalThis.addEventListener?.("online", reopen);
  globalThis.document?.addEventListener("visibilitychange", onVisible);
  open();

  return {
    base,
    instances,
    get connection() {
      return connection;
    },
    subscribe(fn) {
      listeners.add(fn);
      fn(instances, null);
      return () => listeners.delete(fn);
    },
    onConnection(fn) {
      connectionListeners.add(fn);
      fn(connection);
      return () => connectionListeners.delete(fn);
    },
    follow(topic, fn) {
      const first = !topics.has(topic);
      if (first) topics.set(topic, new Set());
      topics.get(topic).add(fn);
      if (first) send({ type: "subscribe", topics: [topic] });
      return () => {
        const fns = topics.get(topic);
        if (!fns?.delete(fn) || fns.size) return;
        topics.delete(topic);
        send({ type: "unsubscribe", topics: [topic] });
      };
    },
    request() {
      send({ type: "requestLlamaStatus" });
    },
    setKey(newKey) {
      key = newKey;
      const old = socket;
      socket = null;
      clearTimeout(retryTimer);
      clearTimeout(silenceTimer);
      clearTimeout(settleTimer);
      old?.close();
      delay = FIRST_DELAY;
      if (connection.state !== "stale") tellConnection("connecting");
      open();
    },
    close() {
      closed = true;
      clearTimeout(retryTimer);
      clearTimeout(silenceTimer);
      clearTimeout(settleTimer);
      globalThis.removeEventListener?.("online", reopen);
      globalThis.document?.removeEventListener("visibilitychange", onVisible);
      socket?.close();
      socket = null;
    },
  };
}
