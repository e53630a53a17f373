/* virtual.js: a list of very many lines of the same height, of which only those in sight are elements. */
import { everyFrame, h } from "./dom.js";

const MORE = 20; // lines above and below what is seen

/** rowOf(index) makes the element of a line. The list's owner calls change(count) when lines came, and again() when they differ. */
export function createVirtualList({ rowHeight, rowOf, label, onScroll }) {
  const rows = h("div", { class: "rows" });
  const element = h("div", { class: "log-lines", tabindex: "0", role: "region", "aria-label": label }, rows);
  let count = 0;
  let first = 0;
  let last = 0;

  function draw() {
    const from = Math.max(0, Math.floor(element.scrollTop / rowHeight) - MORE);
    const to = Math.min(count, Math.ceil((element.scrollTop + element.clientHeight) / rowHeight) + MORE);
    if (from === first && to === last) return;
    // What stays is not made again.
    const made = [];
    for (let i = from; i < to; i++) made.push(i >= first && i < last ? rows.children[i - first] : rowOf(i));
    rows.replaceChildren(...made);
    rows.style.setProperty("padding-top", `${from * rowHeight}px`);
    first = from;
    last = to;
  }

  function forget() {
    first = 0;
    last = 0;
    rows.replaceChildren();
    rows.style.setProperty("padding-top", "0");
  }

  const drawSoon = everyFrame(draw);
  element.addEventListener("scroll", () => {
    drawSoon();
    onScroll(api.isAtEnd());
  }, { passive: true });
  new ResizeObserver(() => drawSoon()).observe(element);

  const api = {
    element,
    isAtEnd: () => element.scrollTop + element.clientHeight >= element.scrollHeight - rowHeight,
    toEnd() {
      element.scrollTop = element.scrollHeight;
      drawSoon();
    },
    /** Lines were added at the end. */
    change(n) {
      count = n;
      rows.style.setProperty("height", `${n * rowHeight}px`);
      drawSoon();
    },
    /** All of them may be others. */
    again(n) {
      forget();
      api.change(n);
    },
    /** n lines at the beginning were dropped, and now there are so many: what is in sight stays in sight. */
    dropped(n, total) {
      const top = element.scrollTop;
      forget();
      api.change(total);
      element.scrollTop = Math.max(0, top - n * rowHeight);
    },
  };
  return api;
}
