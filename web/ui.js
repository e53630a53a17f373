/* ui.js: dialogs, short messages, and what is said to screen readers. */
import { h, icon, setText } from "./dom.js";
import { t } from "./texts.js";

const MESSAGE_TIME = 6000;

export function button(label, { icon: name, kind = "quiet", title, onclick, ...attributes } = {}) {
  return h("button", { type: "button", class: `button ${kind}`, title, on: onclick && { click: onclick }, ...attributes },
    name ? icon(name) : null, label ? h("span", {}, label) : null);
}

export function iconButton(name, label, onclick, attributes = {}) {
  return h("button", { type: "button", class: "icon-button", "aria-label": label, title: label, on: { click: onclick }, ...attributes }, icon(name));
}

/** Asks before what hurts; resolves to true or false. Escape and a click beside it are no. */
export function confirm({ title, text, more, yes, danger = true }) {
  return new Promise((resolve) => {
    const agree = button(yes, { kind: danger ? "danger" : "primary", onclick: () => dialog.close("yes") });
    const dialog = h("dialog", { class: "dialog", "aria-labelledby": "confirm-title" },
      h("h2", { id: "confirm-title" }, title), h("p", {}, text), more ? h("p", { class: "warning" }, more) : null,
      h("div", { class: "dialog-buttons" }, button(t.cancel, { onclick: () => dialog.close("") }), agree));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close(""));
    document.body.append(dialog);
    dialog.showModal();
    agree.focus();
  });
}

let messages = null;

/** One line at the foot of the page, gone by itself; those of failures stay longer. */
export function tell(text, { bad = false } = {}) {
  if (!messages) {
    messages = h("div", { class: "messages", role: "status" });
    document.body.append(messages);
  }
  // In front of an open dialog, which covers everything else.
  const top = [...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body;
  if (messages.parentElement !== top) top.append(messages);
  const line = h("p", { class: bad ? "message bad" : "message" }, text);
  messages.append(line);
  while (messages.children.length > 3) messages.firstChild.remove();
  setTimeout(() => line.remove(), bad ? 2 * MESSAGE_TIME : MESSAGE_TIME);
}

let spoken = null;
let waiting = [];

/** For screen readers: what comes within a second is said at once, and no more than a few words of it. */
export function say(text) {
  if (!spoken) {
    spoken = h("p", { class: "visually-hidden", role: "status" });
    document.body.append(spoken);
  }
  if (!waiting.length)
    setTimeout(() => {
      setText(spoken, waiting.slice(0, 3).join(". "));
      waiting = [];
    }, 1000);
  waiting.push(text);
}

export function copyButton(text) {
  const label = h("span", {}, t.copy);
  return h("button", {
    type: "button", class: "button quiet copy",
    on: {
      async click() {
        await copyText(typeof text === "function" ? text() : text);
        setText(label, t.copied);
        setTimeout(() => setText(label, t.copy), 1500);
      },
    },
  }, icon("copy"), label);
}

/** The clipboard is for secure pages only; others select and copy as of old. */
export async function copyText(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return;
    } catch {
      // Not allowed here: the other way.
    }
  }
  const area = h("textarea", { class: "visually-hidden", "aria-hidden": "true" });
  area.value = text;
  (document.activeElement?.parentElement ?? document.body).append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
