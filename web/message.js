/* message.js: one message of a conversation: text, thinking, figures, what may be done with it. */
import { h, setAttribute, setChildren, setText, show } from "./dom.js";
import { pace, short } from "./format.js";
import { addressOf } from "./images.js";
import { renderMarkdown } from "./markdown.js";
import { t } from "./texts.js";
import { button, copyText, iconButton, tell } from "./ui.js";

/* A long answer is drawn less often, so that drawing takes at most a fifth of the time. */
const SHARE = 5;
const CONTROL = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]/g;

/** Under an answer: "qwen · qwen-0 · 32 tokens · 41 tok/s · 180 ms" */
export function figuresOf(message) {
  const parts = [message.model];
  if (message.instance && message.instance !== message.model) parts.push(message.instance);
  if (message.tokens) parts.push(t.chat.tokens(message.tokens));
  if (message.pace) parts.push(t.tokensPerSecond(pace(message.pace)));
  if (message.firstToken !== undefined) parts.push(short(message.firstToken));
  if (message.finish === "length") parts.push(t.chat.cut);
  if (message.stopped) parts.push(t.chat.stopped);
  return parts.join(" · ");
}

/** Small in its message; larger when it is asked for. */
function picture({ blob, width, height }) {
  if (!blob) return h("li", { class: "image-gone" }, t.chat.imageGone);
  const words = t.chat.image(width, height);
  return h("li", {}, h("button", { type: "button", "aria-label": `${words}. ${t.chat.showImage}`, on: { click: () => {
    const dialog = h("dialog", { class: "lightbox", "aria-label": words }, h("img", { src: addressOf(blob), alt: words }), iconButton("close", t.close, () => dialog.close()));
    dialog.addEventListener("click", (event) => event.target.tagName !== "IMG" && dialog.close());
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  } } }, h("img", { src: addressOf(blob), alt: "", width, height })));
}

export function createMessage(message, { onEdit, onAgain }) {
  const isUser = message.role === "user";
  const content = h("div", { class: "message-text" });
  const thinking = h("pre", { class: "thinking-text" });
  const thinkingBox = h("details", { class: "thinking" }, h("summary", {}, t.chat.thinking), thinking);
  const pictures = h("ul", { class: "message-images" }, ...(message.images ?? []).map(picture));
  const state = h("p", { class: "message-state num" });
  const error = h("p", { class: "message-error" });
  const figures = h("span", { class: "message-figures num" });
  const actions = h("span", { class: "message-actions" });
  const foot = h("footer", { class: "message-foot" }, figures, actions);
  const element = h("article", { class: `message-box ${isUser ? "from-user" : "from-model"}`, "aria-label": isUser ? t.chat.you : message.model },
    pictures, thinkingBox, content, state, error, foot);
  let drawn = null;
  let drawnActions = "";
  let cost = 0;
  let due = 0;
  let timer = 0;

  function drawText(text) {
    drawn = text;
    const began = performance.now();
    const clean = text.replace(CONTROL, "");
    const fragment = isUser ? null : renderMarkdown(clean);
    setAttribute(content, "data-plain", fragment === null);
    // An open selection of a finished answer is not lost, since nothing is drawn twice.
    if (fragment) content.replaceChildren(fragment);
    else setText(content, clean);
    cost = performance.now() - began;
    due = performance.now() + cost * SHARE;
  }

  function startEdit() {
    const area = h("textarea", { class: "field", rows: "3", "aria-label": t.chat.edit });
    area.value = message.content;
    const form = h("form", { class: "edit-form", on: { submit: (event) => {
      event.preventDefault();
      if (area.value.trim() || message.images?.length) onEdit(message, area.value);
    } } }, area, h("div", { class: "dialog-buttons" }, button(t.cancel, { onclick: endEdit }), h("button", { type: "submit", class: "button primary" }, t.chat.send)));
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") endEdit();
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    function endEdit() {
      form.replaceWith(content);
      show(foot, true);
      actions.querySelector("button")?.focus();
    }
    content.replaceWith(form);
    show(foot, false);
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }

  function drawActions(running, isLast) {
    const key = `${running} ${isLast}`;
    if (key === drawnActions) return;
    drawnActions = key;
    setChildren(actions, running ? [] : [
      iconButton("copy", t.copy, async () => {
        await copyText(message.content);
        tell(t.copied);
      }),
      isUser ? iconButton("edit", t.chat.edit, startEdit) : null,
      !isUser && isLast ? iconButton("again", t.chat.again, () => onAgain(message)) : null,
    ].filter(Boolean));
  }

  return {
    element,
    message,
    /** waiting: a sentence while nothing has come yet. */
    draw({ running = false, isLast = false, waiting = "" } = {}) {
      if (drawn !== message.content) {
        clearTimeout(timer);
        const left = due - performance.now();
        if (running && left > 0) timer = setTimeout(() => drawText(message.content), left);
        else drawText(message.content);
      }
      setAttribute(element, "data-running", running);
      setText(thinking, (message.reasoning ?? "").replace(CONTROL, ""));
      show(thinkingBox, Boolean(message.reasoning));
      show(content, message.content !== "");
      show(pictures, pictures.children.length > 0);
      setText(state, waiting);
      show(state, running && waiting !== "");
      setText(error, message.error ?? "");
      show(error, Boolean(message.error));
      setText(figures, isUser || running ? "" : figuresOf(message));
      drawActions(running, isLast);
    },
  };
}
