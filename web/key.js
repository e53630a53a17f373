/* key.js: asks for a key, once it is needed. It lives in session storage: in this tab, until it is closed. */
import { h, setText, show } from "./dom.js";
import { t } from "./texts.js";
import { button, copyButton } from "./ui.js";

export function createKeyPrompt(onKey) {
  let dialog = null;

  function close() {
    if (dialog) dialog.answered = true;
    dialog?.close();
  }

  /** reason: why it is asked, in a sentence. With `optional` it can be sent away. */
  function ask(reason, { optional = true, complaint = "" } = {}) {
    if (dialog) {
      dialog.complain(complaint);
      return;
    }
    const input = h("input", { type: "password", id: "key-input", autocomplete: "off", spellcheck: "false", required: true, class: "field" });
    const wrong = h("p", { class: "warning", role: "alert" }, complaint);
    const form = h("form", { method: "dialog", on: { submit: (event) => {
      event.preventDefault();
      const key = input.value.trim();
      if (key) onKey(key);
      input.value = "";
      if (optional) close();
    } } },
    h("label", { for: "key-input" }, t.keyLabel), input, wrong,
    h("div", { class: "dialog-buttons" }, optional ? button(t.cancel, { onclick: close }) : null,
      h("button", { type: "submit", class: "button primary" }, t.keyGo)));
    const mine = h("dialog", { class: "dialog key", "aria-labelledby": "key-title" }, h("h2", { id: "key-title" }, t.keyTitle), h("p", {}, reason), form,
      h("p", { class: "secondary" }, t.keyHow), h("p", { class: "empty-command" }, h("code", {}, t.keyCommand), copyButton(t.keyCommand)));
    show(wrong, complaint !== "");
    mine.complain = (text) => {
      setText(wrong, text);
      show(wrong, text !== "");
    };
    // Without a key there is nothing behind it to go back to.
    mine.addEventListener("cancel", (event) => optional || event.preventDefault());
    mine.addEventListener("close", () => {
      mine.remove();
      dialog = null;
      // Browsers let a second Escape through.
      if (!optional && !mine.answered) ask(reason, { optional });
    });
    dialog = mine;
    document.body.append(mine);
    mine.showModal();
    input.focus();
  }

  return { ask, close };
}
