/* texts.js: every English text of the page, in one place. Functions where a number or a name goes in. */

const plural = (n, one, many) => `${n} ${n === 1 ? one : many}`;

export const t = {
  product: "llama-supervisor",
  views: { fleet: "Fleet", chat: "Chat", logs: "Logs", activity: "Activity", library: "Library" },
  nav: "Views",
  skip: "Skip to the content",
  title: (sentence) => `${sentence} · llama-supervisor`,

  // times and numbers
  seconds: (n) => `${n} s`,
  milliseconds: (n) => `${n} ms`,
  minutes: (n) => `${n} min`,
  hours: (n) => `${n} h`,
  hoursMinutes: (h, m) => `${h} h ${m} min`,
  days: (n) => `${n} d`,
  daysHours: (d, h) => `${d} d ${h} h`,
  tokensPerSecond: (n) => `${n} tok/s`,
  noPace: "– tok/s",

  // states
  states: {
    initial: "off",
    starting: "starting",
    ready: "ready",
    unhealthy: "unhealthy",
    draining: "draining",
    stopping: "stopping",
    crashed: "crashed",
    error: "failed",
    idle: "resting",
  },
  legend: {
    initial: "not running",
    starting: "starting or loading its model",
    ready: "ready",
    unhealthy: "does not answer as it should",
    draining: "finishes its work, then stops",
    stopping: "stopping",
    crashed: "died, will be started again",
    error: "failed, needs a person",
    idle: "unloaded until it is asked for",
    unknown: "not watched",
  },

  // the top strip
  connection: { connecting: "connecting", live: "live", stale: "stale", refused: "no access" },
  staleSince: (time) => `What you see was true at ${time}. Reconnecting.`,
  gone: "The daemon does not answer. Is it running?",
  theme: { auto: "Theme: as the system has it", light: "Theme: light", dark: "Theme: dark" },
  ready: (ready, total) => `${ready} of ${total} ready`,
  nothing: "no instances",
  waiting: (n) => `${n} waiting`,
  totals: { ready: "ready", running: "running", waiting: "waiting", pace: "tokens/s", trouble: "in trouble" },
  reloadError: (text) => `The last reload of the configuration failed, the one before is in force: ${text}`,

  // cards
  fleet: "Fleet",
  up: (span) => `up ${span}`,
  since: (span) => `for ${span}`,
  slots: (busy, total) => `${busy} of ${total} slots busy`,
  slotsUnknown: "slots unknown",
  paceChart: "Tokens per second in the last minutes",
  context: (n) => `${n} context`,
  lastHour: "last hour",
  lastDay: "last 24 hours",
  strip: (what, percent) => `${what}: ready for ${percent} of the time`,
  stripUnknown: (what) => `${what}: not known yet`,
  segment: (state, from, to) => `${state}, ${from} to ${to}`,
  nextTry: (seconds, retry, max) =>
    `${seconds > 0 ? `next try in ${seconds} s` : "trying again now"} (${max === null ? retry : `${retry} of ${max}`})`,
  givenUp: (retries) => `gave up after ${plural(retries, "try", "tries")}`,
  loadingFor: (span, last) => (last ? `loading for ${span}, last time it took ${last}` : `loading for ${span}`),
  waitsToLoad: "waits for its turn to load",
  unhealthyText: "It does not answer its probes. Running work goes on as long as it can.",
  drainingText: (n) => (n ? `${plural(n, "request", "requests")} to finish, then it stops` : "stops now"),
  idleText: "Unloaded. The next request for it loads it again.",
  offText: "Stopped by hand. It starts when somebody says so.",
  offDemandText: "Stopped by hand.",
  foreign: "watched only",
  onDemand: "on demand",
  dynamic: "from the library",
  unloadsAt: (time) => `unloads at ${time} unless it is used`,
  gpu: (names) => `GPU ${names}`,

  // orders
  orders: { start: "Start", stop: "Stop", restart: "Restart", drain: "Drain", load: "Load", retry: "Try again now" },
  details: "Details",
  orderOf: (order, name) => `${order} ${name}`,
  confirm: {
    stop: {
      title: (name) => `Stop ${name}?`,
      text: (n) =>
        n
          ? `${plural(n, "request is", "requests are")} running. They get a moment to end, then they are cut. It stays off until somebody starts it.`
          : "It stays off until somebody starts it.",
      yes: "Stop it",
    },
    restart: {
      title: (name) => `Restart ${name}?`,
      text: (n) =>
        n
          ? `${plural(n, "request is", "requests are")} running. They get a moment to end, then they are cut. The model is loaded again.`
          : "The model is loaded again.",
      yes: "Restart it",
    },
    drain: {
      title: (name) => `Drain ${name}?`,
      text: (n) =>
        n
          ? `It takes no new work. When its ${plural(n, "request has", "requests have")} ended, it stops and stays off.`
          : "It takes no new work, stops, and stays off.",
      yes: "Drain it",
    },
  },
  lastOfModel: (model) => `It is the only instance of ${model} that is ready: until another one is, requests for it wait or fail.`,
  cancel: "Cancel",
  close: "Close",

  // details
  why: "Why",
  evidence: "What its log said",
  logTail: "The end of its log",
  noLog: "Nothing in its log yet.",
  logOf: (name) => `Log of ${name}`,
  logSkipped: (n) => `… ${plural(n, "line", "lines")} left out …`,
  command: "Its command",
  copy: "Copy",
  copied: "Copied",
  history: "What happened",
  noHistory: "Nothing yet.",
  facts: {
    state: "State",
    model: "Model",
    file: "File",
    size: "Size",
    context: "Context per slot",
    pid: "Process",
    endpoint: "Endpoint",
    build: "llama-server",
    load: "Last load took",
    restarts: "Restarts",
    log: "Log file",
    gpu: "GPU",
  },

  // empty and broken
  emptyTitle: "No model yet",
  emptyText: "Add one to “instances” in the configuration, then reload it:",
  emptyExample: '"instances": [{"name": "qwen", "model": "qwen2.5-7b.gguf"}]',
  emptyCommand: "llama-supervisor reload",
  keyTitle: "A key, please",
  keyText: "This daemon tells its state only to those who show a key. It is kept in this tab until you close it, and nowhere else.",
  keyWrong: "That key is not known here, or was revoked.",
  keyScope: "That key may not see the fleet: it lacks the scope “read”.",
  keyLabel: "Key",
  keyGo: "Continue",
  keyHow: "No key? Whoever runs the daemon makes one:",
  keyCommand: "llama-supervisor key add NAME --scope read,infer",
  keyForget: "Forget the key",
  keyForOrders: "A key of scope “admin” is needed for that.",
  keyEnter: "Use a key",

  // failures
  failed: (what) => `Not done: ${what}`,
  noAnswer: "the daemon does not answer",
  answered: (status) => `the daemon answered ${status}`,

  // for screen readers
  became: (name, state, error) => `${name}: ${state}${error ? `, ${error}` : ""}`,
  stale: "The connection to the daemon is lost.",
  live: "The connection to the daemon is back.",
};
