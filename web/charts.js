/* charts.js: the small drawings of a card: a line of figures, a strip of states, squares for slots. */
import { h, setAttribute, setChildren, svg } from "./dom.js";
import { clock, span } from "./format.js";
import { t } from "./texts.js";

const WIDTH = 120;
const HEIGHT = 24;

/** The last figures as a line over a quiet area. */
export function sparkline(label) {
  const area = svg("path", { class: "spark-area" });
  const line = svg("path", { class: "spark-line" });
  const element = svg("svg", { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, area, line);
  return {
    element,
    /** points: [{at, value}], drawn over `window` ms up to now. */
    draw(points, now, window) {
      const top = Math.max(1e-9, ...points.map((one) => one.value));
      const x = (at) => Math.max(0, WIDTH * (1 - (now - at) / window)).toFixed(1);
      const y = (value) => (HEIGHT - 1.5 - (HEIGHT - 4) * (value / top)).toFixed(1);
      const seen = points.filter((one) => one.at >= now - window);
      const idle = seen.every((one) => !one.value);
      setAttribute(element, "data-idle", idle);
      if (idle) {
        setAttribute(line, "d", `M0 ${HEIGHT - 1.5}H${WIDTH}`);
        setAttribute(area, "d", "");
        return;
      }
      const path = seen.map((one, index) => `${index ? "L" : "M"}${x(one.at)} ${y(one.value)}`).join("") + `H${WIDTH}`;
      setAttribute(line, "d", path);
      setAttribute(area, "d", `${path}V${HEIGHT}H${x(seen[0].at)}Z`);
    },
  };
}

/** The last figures as bars, the newest at the right. */
export function bars(label, most) {
  const path = svg("path", { class: "spark-bars" });
  const element = svg("svg", { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, path);
  return {
    element,
    draw(values) {
      const top = Math.max(1e-9, ...values);
      const step = WIDTH / most;
      const places = values.slice(-most).map((value, index, all) => {
        const height = Math.max(1.5, (HEIGHT - 2) * (value / top));
        return `M${(WIDTH - step * (all.length - index)).toFixed(1)} ${HEIGHT}v${-height.toFixed(1)}h${(step * 0.7).toFixed(1)}v${height.toFixed(1)}z`;
      });
      setAttribute(element, "data-idle", !places.length);
      setAttribute(path, "d", places.join("") || `M0 ${HEIGHT - 1.5}h${WIDTH}v0.5h-${WIDTH}z`);
    },
  };
}

/** What share of the known time it was ready, and the pieces of the strip as [{from, to, status}]. */
function pieces(spans, now, window) {
  const start = now - window;
  const found = [];
  for (let i = 0; i < spans.length; i++) {
    const from = Math.max(start, spans[i].since);
    const to = Math.min(now, spans[i + 1]?.since ?? now);
    if (to <= from || !spans[i].status) continue;
    if (found.at(-1)?.status === spans[i].status) found.at(-1).to = to;
    else found.push({ from, to, status: spans[i].status });
  }
  return found;
}

/** States over an hour or a day, oldest left. What is short and bad is drawn wide enough to be seen. */
export function strip(what, window) {
  const element = svg("svg", { class: "strip", viewBox: "0 0 1000 10", preserveAspectRatio: "none", role: "img" });
  let drawn = null;
  return {
    element,
    draw(spans, now) {
      const found = pieces(spans, now, window);
      const key = found.map((one) => `${one.status}${Math.round((1000 * (one.from - now)) / window)}`).join();
      if (key === drawn) return;
      drawn = key;
      const known = found.reduce((sum, one) => sum + one.to - one.from, 0);
      const ready = found.reduce((sum, one) => sum + (one.status === "ready" ? one.to - one.from : 0), 0);
      const percent = known ? (100 * ready) / known : 0;
      const rounded = percent === 100 || percent === 0 ? percent : Math.min(99.9, percent).toFixed(1);
      setAttribute(element, "aria-label", known ? t.strip(what, `${rounded}%`) : t.stripUnknown(what));
      const x = (at) => 1000 * (1 - (now - at) / window);
      const calm = (one) => ["ready", "idle", "initial"].includes(one.status);
      const rects = [...found].sort((a, b) => calm(b) - calm(a)).map((one) => {
        const width = Math.max(x(one.to) - x(one.from), calm(one) ? 0.5 : 6);
        const left = Math.min(x(one.from), 1000 - width);
        return svg("rect", { x: left.toFixed(1), y: 0, width: width.toFixed(1), height: 10, class: `state-${one.status}` },
          svg("title", {}, t.segment(t.states[one.status] ?? t.legend.unknown, clock(one.from), one.to >= now ? span(0) && clock(now) : clock(one.to))));
      });
      setChildren(element, [svg("rect", { x: 0, y: 0, width: 1000, height: 10, class: "strip-ground" }), ...rects]);
    },
  };
}

/** ■■□□ up to sixteen, a bar for more. */
export function slots() {
  const element = h("span", { class: "slots", role: "img" });
  let drawn = null;
  return {
    element,
    draw(busy, total) {
      const key = `${busy}/${total}`;
      if (key === drawn) return;
      drawn = key;
      setAttribute(element, "aria-label", total ? t.slots(busy, total) : t.slotsUnknown);
      setAttribute(element, "title", total ? t.slots(busy, total) : null);
      if (total > 16) {
        setChildren(element, [h("span", { class: "slots-count" }, `${busy}/${total}`)]);
        return;
      }
      const squares = Array.from({ length: total }, (_, index) => h("i", { class: index < busy ? "slot busy" : "slot" }));
      setChildren(element, squares);
    },
  };
}
