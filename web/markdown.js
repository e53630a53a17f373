/* markdown.js: a model's text as elements. Whatever HTML is in it stays text; what the libraries make is sanitized nevertheless,
 * and nothing is loaded. Without the libraries (see web/embed.cmake) all of it stays plain. */
import { h } from "./dom.js";
import { t } from "./texts.js";
import { copyButton } from "./ui.js";

/* A longer text is shown as it is: nobody reads it, and making elements of it would freeze the page. */
const LONGEST = 200_000;
const TAGS = ["p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "strong", "em", "del", "code", "pre", "blockquote", "ul", "ol", "li", "a", "table", "thead",
  "tbody", "tr", "th", "td", "input"];
const ATTRIBUTES = ["href", "title", "class", "start", "align", "type", "checked", "disabled"];

let libraries = null;

function escaped(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}

/** Asked for once, when chat is first opened. */
export async function loadMarkdown() {
  if (libraries) return;
  const { marked, DOMPurify } = await import("./modules.js");
  if (!marked) {
    libraries = { plain: true };
    return;
  }
  marked.use({
    gfm: true,
    breaks: true,
    renderer: {
      html: ({ text }) => escaped(text),
      // Not loaded, but not hidden either.
      image: ({ href, text }) => `<a href="${escaped(href)}">${escaped(text || href)}</a>`,
    },
  });
  libraries = { marked, DOMPurify };
}

function codeBlock(pre) {
  const code = pre.querySelector("code");
  const language = /language-([\w+#.-]+)/.exec(code?.className ?? "")?.[1] ?? "";
  code?.removeAttribute("class");
  const box = h("div", { class: "code" }, h("div", { class: "code-head" }, h("span", {}, language), copyButton(() => pre.textContent)));
  pre.replaceWith(box);
  pre.setAttribute("tabindex", "0");
  pre.setAttribute("aria-label", t.chat.code(language));
  pre.setAttribute("role", "region");
  box.append(pre);
}

/** A fragment, or null when the text is to be shown as it is. */
export function renderMarkdown(text) {
  if (!libraries || libraries.plain || text.length > LONGEST) return null;
  let fragment;
  try {
    const html = libraries.marked.parse(text);
    fragment = libraries.DOMPurify.sanitize(html, { RETURN_DOM_FRAGMENT: true, ALLOWED_TAGS: TAGS, ALLOWED_ATTR: ATTRIBUTES, ALLOW_DATA_ATTR: false });
  } catch {
    return null;
  }
  for (const pre of fragment.querySelectorAll("pre")) codeBlock(pre);
  for (const link of fragment.querySelectorAll("a")) {
    link.setAttribute("target", "_blank");
    link.setAttribute("rel", "noopener noreferrer nofollow");
  }
  for (const table of fragment.querySelectorAll("table")) {
    const box = h("div", { class: "table", tabindex: "0", role: "region", "aria-label": t.chat.table });
    table.replaceWith(box);
    box.append(table);
  }
  for (const input of fragment.querySelectorAll("input")) {
    input.setAttribute("disabled", "");
    if (input.getAttribute("type") !== "checkbox") input.remove();
    else input.setAttribute("aria-label", t.chat.task);
  }
  return fragment;
}
