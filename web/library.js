/* library.js: the fifth view: the model files that lie in models_dir, and starting one of them. */
import { h, setAttribute, setChildren, setText, show } from "./dom.js";
import { bytes, count } from "./format.js";
import { t } from "./texts.js";
import { button, copyButton, tell } from "./ui.js";

/** 'a "b c" d' as ["a", "b c", "d"]. */
export function splitArguments(text) {
  return [...text.matchAll(/"((?:\\.|[^"\\])*)"|'([^']*)'|(\S+)/g)].map(([, double, single, plain]) => double?.replace(/\\(.)/g, "$1") ?? single ?? plain);
}

function describe(model) {
  const parts = [model.architecture, model.quantization, model.parameters && t.library.parameters(model.parameters), model.context && t.context(count(model.context)),
    model.size && bytes(model.size), model.parts > 1 && t.library.parts(model.parts), model.type && model.type !== "completion" && model.type];
  return parts.filter(Boolean).join(" · ");
}

export function createLibrary({ api, store, askForKey, openInstance }) {
  let visible = false;
  let asking = false;

  const where = h("p", { class: "secondary library-where" });
  const again = button(t.library.again, { icon: "again", kind: "plain", onclick: () => ask(true) });
  const problems = h("p", { class: "notice bad" });
  const list = h("ul", { class: "library" });
  const emptyPath = h("code", {});
  const empty = h("div", { class: "empty" }, h("h2", {}, t.library.emptyTitle), h("p", {}, t.library.emptyText),
    h("p", { class: "empty-command" }, emptyPath, copyButton(() => emptyPath.textContent)));
  const element = h("section", { class: "view view-library", "aria-labelledby": "library-title" },
    h("header", { class: "library-head" }, h("div", {}, h("h1", { id: "library-title" }, t.views.library), where), again), problems, list, empty);

  function startDialog(model) {
    const name = h("input", { class: "field", id: "start-name", autocomplete: "off", spellcheck: "false", placeholder: t.library.ownName, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*" });
    const args = h("input", { class: "field", id: "start-args", autocomplete: "off", spellcheck: "false", placeholder: t.library.exampleArgs });
    const wrong = h("p", { class: "warning", role: "alert" });
    const go = h("button", { type: "submit", class: "button primary" }, t.orders.start);
    const form = h("form", { method: "dialog", on: { submit: async (event) => {
      event.preventDefault();
      go.disabled = true;
      show(wrong, false);
      try {
        const made = await api.order("POST", "api/v1/instances", {
          model: model.file, ...(name.value.trim() && { name: name.value.trim() }), ...(args.value.trim() && { args: splitArguments(args.value) }),
        });
        dialog.close();
        tell(t.library.started(made.name));
        openInstance(made.name);
      } catch (error) {
        if (error.status === 401 || error.status === 403) {
          dialog.close();
          askForKey(t.keyForOrders);
          return;
        }
        setText(wrong, error.message);
        show(wrong, true);
        go.disabled = false;
      }
    } } },
    h("label", { for: "start-name" }, t.library.name), name, h("label", { for: "start-args" }, t.library.args), args,
    h("p", { class: "secondary" }, t.library.hint), wrong, h("div", { class: "dialog-buttons" }, button(t.cancel, { onclick: () => dialog.close() }), go));
    const dialog = h("dialog", { class: "dialog", "aria-labelledby": "start-title" }, h("h2", { id: "start-title" }, t.library.startTitle(model.name)), form);
    show(wrong, false);
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
    name.focus();
  }

  function rowOf(model) {
    const used = model.instances.map((one) => h("a", { class: "tag", href: `#/fleet/${encodeURIComponent(one)}` }, one));
    const row = h("li", { class: "model", "data-file": model.file, "data-broken": Boolean(model.error) },
      h("div", { class: "model-words" }, h("h2", {}, model.name || model.file), h("p", { class: "card-model" }, describe(model)), h("p", { class: "model-file" }, model.file),
        model.error ? h("p", { class: "warning" }, model.error) : null),
      h("div", { class: "model-used" }, ...used),
      model.error ? null : button(t.orders.start, { kind: "plain", "aria-label": t.orderOf(t.orders.start, model.name || model.file), onclick: () => startDialog(model) }));
    return row;
  }

  async function ask(rescan) {
    if (asking) return;
    asking = true;
    setAttribute(again, "aria-busy", "true");
    try {
      const library = await api.get(`api/v1/library${rescan ? "?rescan=1" : ""}`);
      const trouble = [library.error, ...(library.warnings ?? [])].filter(Boolean);
      setText(where, t.library.where(library.models.length, library.dir));
      setText(emptyPath, library.dir);
      setText(problems, trouble.join("\n"));
      show(problems, trouble.length > 0);
      setChildren(list, [...library.models].sort((a, b) => Boolean(a.error) - Boolean(b.error)).map(rowOf));
      show(empty, library.models.length === 0);
    } catch (error) {
      setText(problems, t.failed(error.message));
      show(problems, true);
    }
    setAttribute(again, "aria-busy", null);
    asking = false;
  }

  show(problems, false);
  show(empty, false);
  let drawn = "";
  return {
    element,
    title: t.views.library,
    enter() {
      visible = true;
      drawn = [...store.items.keys()].join();
      ask(false);
    },
    leave() {
      visible = false;
    },
    /** Which instances use a file changes with the fleet. */
    draw() {
      const names = [...store.items.keys()].join();
      if (!visible || names === drawn) return;
      drawn = names;
      ask(false);
    },
  };
}
