/* dom.js: elements without innerHTML, and changes that touch the page only when something changed. */

const SVG = "http://www.w3.org/2000/svg";

/** h("button", {class: "quiet", on: {click}}, children…): attributes by name; `on` are listeners; null and false leave out. */
export function h(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function svg(name, attributes, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (key === "on") for (const [type, fn] of Object.entries(value)) element.addEventListener(type, fn);
    else setAttribute(element, key, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Null and false take it away, true sets it empty. */
export function setAttribute(element, key, value) {
  if (value === null || value === undefined || value === false) {
    if (element.hasAttribute(key)) element.removeAttribute(key);
    return;
  }
  const text = value === true ? "" : String(value);
  if (element.getAttribute(key) !== text) element.setAttribute(key, text);
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function show(element, visible) {
  if (element.hidden === visible) element.hidden = !visible;
}

/** Puts exactly these children there, in this order, moving no one that stands right already (focus and scroll stay). */
export function setChildren(parent, children) {
  let at = parent.firstChild;
  for (const child of children) {
    if (child === at) at = at.nextSibling;
    else parent.insertBefore(child, at);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

const ICONS = {
  fleet: "M4 5h7v6H4zM13 5h7v6h-7zM4 13h7v6H4zM13 13h7v6h-7z",
  chat: "M4 5h16v11H10l-4 3.5V16H4z",
  logs: "M5 6h14M5 10h14M5 14h9M5 18h11",
  activity: "M3 13h4l3-8 4 14 3-6h4",
  library: "M6 4v16M10 4v16M14 4.5l5 15",
  theme: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
  key: "M14.5 9.5a4 4 0 1 0-3.3 3.9L13 15h2v2h2v2h3v-3l-5.7-5.2c.1-.4.2-.8.2-1.3zM9 8.5h.01",
  close: "M6 6l12 12M18 6L6 18",
  send: "M5 12h13M13 6l6 6-6 6",
  stop: "M7.5 7.5h9v9h-9z",
  more: "M6 12h.01M12 12h.01M18 12h.01",
  copy: "M8 8h11v11H8zM5 15V5h10",
  edit: "M5 19l1-4L16 5l3 3L9 18z",
  again: "M19 12a7 7 0 1 1-2-5M19 4v4h-4",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  plus: "M12 5v14M5 12h14",
  sliders: "M4 7h9M17 7h3M4 17h3M11 17h9M15 5v4M9 15v4",
  save: "M12 4v11M7 10l5 5 5-5M5 20h14",
  image: "M4 5h16v14H4zM4 16l5-5 4 4 2-2 5 4M15.5 9.5h.01",
  hub: "M12 9.5a2.5 2.5 0 1 0 0 5a2.5 2.5 0 1 0 0-5zM12 4v5.5M7 18.5l3.4-4.6M17 18.5l-3.4-4.6M12 4h.01M6.5 19h.01M17.5 19h.01",
  menu: "M4 7h16M4 12h16M4 17h16",
};

export function icon(name) {
  return svg("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" }, svg("path", { d: ICONS[name] }));
}

/* Colour, shape and word: each state has all three. */
const SHAPES = {
  ready: ["circle", { cx: 8, cy: 8, r: 5 }],
  starting: ["path", { d: "M8 3a5 5 0 0 1 0 10z" }],
  unhealthy: ["path", { d: "M8 2l6 6-6 6-6-6z" }],
  draining: ["path", { d: "M8 3a5 5 0 0 0 0 10z" }],
  crashed: ["path", { d: "M8 2.5l6 11H2z" }],
  error: ["path", { d: "M3 3h10v10H3z" }],
};

export function stateIcon(state) {
  const [name, attributes] = SHAPES[state] ?? ["circle", { cx: 8, cy: 8, r: 4.5, class: "hollow" }];
  const ring = state === "starting" || state === "draining" ? svg("circle", { cx: 8, cy: 8, r: 5, class: "hollow" }) : null;
  return svg("svg", { viewBox: "0 0 16 16", class: "shape", "aria-hidden": "true" }, ring, svg(name, attributes));
}

/** At most one call a frame, with the newest of what is to be drawn. */
export function everyFrame(draw) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      draw();
    });
  };
}
