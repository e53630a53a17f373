/* early.js: asks for what the first picture needs as soon as the page begins, while the other modules are still on their way.
 * Who may not be told gets null; the feed finds out why. */

export const KEY = "llama-supervisor.key"; // in session storage: in this tab, until it is closed

const key = sessionStorage.getItem(KEY);

async function ask(path) {
  try {
    const answer = await fetch(new URL(path, document.baseURI), { cache: "no-store", headers: key ? { authorization: `Bearer ${key}` } : {} });
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

export const HISTORY = "api/v1/history?since=9007199254740991"; // the states alone
export const early = { instances: ask("api/v1/instances"), history: ask(HISTORY), status: ask("api/v1/status") };
