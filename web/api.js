/* api.js: questions and orders over HTTP, with the key that the person gave (session storage only). */
import { KEY } from "./early.js";
import { t } from "./texts.js";

export class ApiError extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export function createApi(base) {
  const listeners = new Set();
  let key = sessionStorage.getItem(KEY);

  function headers() {
    return key ? { authorization: `Bearer ${key}` } : {};
  }

  async function refusal(answer) {
    let message = t.answered(answer.status);
    let code = answer.status;
    try {
      const { error } = await answer.json();
      message = error.message;
      code = error.code;
    } catch {
      // A proxy's own page, say: the status is all we know.
    }
    return new ApiError(answer.status, message, code);
  }

  /** The answer itself, for those who read it as a stream. */
  async function open(path, options = {}) {
    let answer;
    try {
      answer = await fetch(new URL(path, base), { cache: "no-store", ...options, headers: { ...headers(), ...options.headers } });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, t.noAnswer, 0);
    }
    if (!answer.ok) throw await refusal(answer);
    return answer;
  }

  return {
    open,
    async get(path, options) {
      return (await open(path, options)).json();
    },
    async text(path, options) {
      return (await open(path, options)).text();
    },
    async order(method, path, body) {
      const json = body === undefined ? {} : { headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
      const answer = await open(path, { method, ...json });
      return answer.status === 204 ? {} : answer.json();
    },
    get key() {
      return key;
    },
    setKey(value) {
      key = value || null;
      if (key) sessionStorage.setItem(KEY, key);
      else sessionStorage.removeItem(KEY);
      for (const fn of listeners) fn(key);
    },
    onKey(fn) {
      listeners.add(fn);
    },
  };
}
