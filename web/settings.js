/* settings.js: a conversation's system prompt and sampling, and its export. What is left empty is the model's own choice. */
import { h } from "./dom.js";
import { dataAddress } from "./images.js";
import { t } from "./texts.js";
import { button } from "./ui.js";

const NUMBERS = [
  { key: "temperature", min: 0, max: 5, step: 0.05 },
  { key: "top_p", min: 0, max: 1, step: 0.01 },
  { key: "top_k", min: 0, max: 1000, step: 1 },
  { key: "min_p", min: 0, max: 1, step: 0.01 },
  { key: "repeat_penalty", min: 0, max: 3, step: 0.05 },
  { key: "max_tokens", min: 1, max: 1_000_000, step: 1 },
  { key: "seed", min: 0, max: 4294967295, step: 1 },
];

async function contentOf({ content, images = [] }, sees) {
  const blobs = sees ? images.filter((one) => one.blob).map((one) => one.blob) : [];
  if (!blobs.length) return content;
  const parts = await Promise.all(blobs.map(async (blob) => ({ type: "image_url", image_url: { url: await dataAddress(blob) } })));
  return content ? [{ type: "text", text: content }, ...parts] : parts;
}

/** What is sent for the next answer: everything up to the last message of the person; pictures only to a model that may see. */
export async function requestOf(conversation, sees) {
  const told = await Promise.all(conversation.messages.map(async (one) => ({ role: one.role, content: await contentOf(one, sees) })));
  const messages = told.filter((one) => one.content.length);
  if (conversation.system.trim()) messages.unshift({ role: "system", content: conversation.system });
  return { model: conversation.model, messages, ...conversation.settings };
}

export function createSettings({ conversation, changed, exported }) {
  function open() {
    const now = conversation();
    const system = h("textarea", { class: "field", id: "chat-system", rows: "5" });
    system.value = now.system;
    system.addEventListener("input", () => {
      now.system = system.value;
    });
    const fields = NUMBERS.map(({ key, min, max, step }) => {
      const input = h("input", { type: "number", class: "field num", id: `chat-${key}`, min, max, step, placeholder: t.chat.byModel, inputmode: "decimal" });
      input.value = now.settings[key] ?? "";
      input.addEventListener("input", () => {
        if (input.value === "" || !input.checkValidity()) delete now.settings[key];
        else now.settings[key] = Number(input.value);
      });
      return h("div", {}, h("label", { for: `chat-${key}` }, t.chat.numbers[key]), input);
    });
    const dialog = h("dialog", { class: "dialog chat-settings", "aria-labelledby": "settings-title" },
      h("h2", { id: "settings-title", tabindex: "-1", autofocus: true }, t.chat.settings),
      h("label", { for: "chat-system" }, t.chat.system), system,
      h("div", { class: "settings-grid" }, ...fields),
      h("div", { class: "dialog-buttons" },
        button(t.chat.exportMarkdown, { icon: "save", onclick: () => exported("markdown") }),
        button(t.chat.exportJson, { icon: "save", onclick: () => exported("json") }),
        button(t.close, { kind: "primary", onclick: () => dialog.close() })));
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (now.messages.length) changed();
    });
    document.body.append(dialog);
    dialog.showModal();
  }
  return { open };
}
