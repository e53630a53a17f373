/* format.js: numbers as people read them. Pure. */
import { t } from "./texts.js";

/** Seconds as "48 s", "12 min", "4 h 12 min", "3 d 4 h". */
export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return t.seconds(s);
  const minutes = Math.floor(s / 60);
  if (minutes < 60) return t.minutes(minutes);
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 ? t.hoursMinutes(hours, minutes % 60) : t.hours(hours);
  return hours % 24 ? t.daysHours(Math.floor(hours / 24), hours % 24) : t.days(Math.floor(hours / 24));
}

/** Short times: "180 ms", "2.3 s", "41 s". */
export function short(seconds) {
  if (seconds < 0.9995) return t.milliseconds(Math.round(seconds * 1000));
  return seconds < 10 ? t.seconds(seconds.toFixed(1)) : span(seconds);
}

export function bytes(n) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let at = 0;
  let value = n;
  while (value >= 1000 && at < units.length - 1) {
    value /= 1000;
    at++;
  }
  return `${at && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[at]}`;
}

/** Memory of a GPU, in the binary gigabytes that it is sold by: "61.2", "139". */
export function gigabytes(n) {
  const value = n / 2 ** 30;
  return value < 100 && !Number.isInteger(value) ? value.toFixed(1) : String(Math.round(value));
}

/** Tokens of context: "16k", "512". */
export function count(n) {
  if (n >= 1024 && n % 1024 === 0) return `${n / 1024}k`;
  return n >= 10_000 ? `${Math.round(n / 1000)}k` : String(n);
}

/** Tokens per second. */
export function pace(n) {
  if (!n) return "0";
  if (n >= 99_950) return n >= 999_500 ? `${(n / 1e6).toFixed(1)}M` : `${Math.round(n / 1000)}k`;
  return n >= 100 ? Math.round(n).toLocaleString("en") : n.toFixed(n >= 10 ? 0 : 1);
}

export function clock(moment, { seconds = true } = {}) {
  return new Date(moment).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", ...(seconds && { second: "2-digit" }), hour12: false });
}

/** "Q4_K_M" out of "qwen2.5-7b-instruct-q4_k_m.gguf"; null when the name does not tell. */
export function quantization(file) {
  const match = /(?:^|[-_.])((?:I?Q\d[0-9A-Z_]*|TQ\d_\d|MXFP4|BF16|F16|F32))(?=[-.]|$)/i.exec(file);
  return match ? match[1].toUpperCase() : null;
}

/** The file's name without folder, part, ending and quantisation. */
export function modelName(path) {
  const name = (path ?? "").split("/").pop().replace(/(?:-00001-of-\d{5})?\.gguf$/i, "");
  const weights = quantization(name);
  return weights && name.toUpperCase().endsWith(weights) ? name.slice(0, -weights.length).replace(/[-_.]+$/, "") || name : name;
}
