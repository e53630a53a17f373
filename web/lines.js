/* lines.js: lines of llama-server's log, or of the supervisor's own, as values: their level, and those that somebody looks for. Pure. */

const TERMINAL = /\u001b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)|[@-_])/g;
// eslint-disable-next-line no-control-regex
const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f]/g;
const OWN = /^\d{4}-\d\d-\d\dT[\d:.]+Z (?:(error|warning|debug): )?/;
const LEVEL = /^(?:[\d.:]+ )?([DIWE]) /;
const BAD = /\b(?:error|failed|fatal|abort(?:ed)?|exception|assert)\b|^E /i;
const WARN = /\bwarn(?:ing)?\b/i;

/** As plain text: no colours of terminals, no control bytes. */
export function plainLine(line) {
  return line.replace(TERMINAL, "").replace(CONTROL, "\u00b7");
}

/** "error" "warning" "info" "debug", or "mark" for the supervisor's own lines. */
export function levelOf(line) {
  if (line.startsWith("--- llama-supervisor")) return "mark";
  // The supervisor's own lines: one that has no word is info, whatever it quotes.
  const own = OWN.exec(line);
  if (own) return own[1] ?? "info";
  const told = LEVEL.exec(line)?.[1];
  if (told) return { D: "debug", I: "info", W: "warning", E: "error" }[told];
  if (BAD.test(line)) return "error";
  return WARN.test(line) ? "warning" : "info";
}

export const LEVELS = ["error", "warning", "info", "debug"];

/** The lines kept, and the indices of those that pass the filter. */
export function createLines(most) {
  let all = []; // {text, level}
  let shown = [];
  let words = "";
  let levels = new Set(LEVELS);

  function passes(line) {
    if (line.level === "mark") return !words || line.text.toLowerCase().includes(words);
    return levels.has(line.level) && (!words || line.text.toLowerCase().includes(words));
  }

  function filter() {
    shown = all.filter(passes);
  }

  return {
    get shown() {
      return shown;
    },
    get total() {
      return all.length;
    },
    /** Returns how many of the shown ones had to go at the beginning. */
    add(texts) {
      for (const text of texts) {
        const line = { text, level: levelOf(text) };
        all.push(line);
        if (passes(line)) shown.push(line);
      }
      // A tenth at once, so that it is rare.
      if (all.length <= most * 1.1) return 0;
      all = all.slice(-most);
      const before = shown.length;
      filter();
      return before - shown.length;
    },
    clear() {
      all = [];
      shown = [];
    },
    look(text, newLevels) {
      words = text.trim().toLowerCase();
      levels = newLevels;
      filter();
    },
  };
}
