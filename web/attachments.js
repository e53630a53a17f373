/* attachments.js: the pictures that go with the next message: picked, pasted or dropped, and shown until they are sent. */
import { h, setAttribute, setChildren, show } from "./dom.js";
import { addressOf, ImageError, MOST, shrink } from "./images.js";
import { t } from "./texts.js";
import { iconButton, say, tell } from "./ui.js";

function filesOf(transfer) {
  return [...(transfer?.files ?? [])].filter((file) => file.type.startsWith("image/"));
}

/** changed() when there are others. The owner puts `button` and `row` into its form. */
export function createAttachments({ input, place, changed }) {
  let images = []; // {blob, width, height}
  let working = 0;

  const picker = h("input", { type: "file", accept: "image/*", multiple: true, hidden: true, "aria-hidden": "true", tabindex: "-1", on: { change: () => {
    add([...picker.files]);
    picker.value = "";
  } } });
  const button = iconButton("image", t.chat.addImage, () => picker.click(), { class: "icon-button chat-attach" });
  const row = h("ul", { class: "attached", "aria-label": t.chat.attached });
  const veil = h("p", { class: "chat-drop", "aria-hidden": "true" }, t.chat.dropHere);
  let hovering = 0;

  function draw() {
    setChildren(row, images.map((image) => (image.element ??= h("li", {},
      h("img", { src: addressOf(image.blob), alt: t.chat.image(image.width, image.height) }),
      iconButton("close", t.chat.removeImage, () => {
        images = images.filter((one) => one !== image);
        draw();
        input.focus();
      })))));
    show(row, images.length > 0);
    setAttribute(row, "aria-busy", working > 0);
    changed();
  }

  async function add(files) {
    for (const file of files) {
      if (images.length + working >= MOST) {
        tell(t.chat.tooManyImages(MOST), { bad: true });
        break;
      }
      working++;
      try {
        const image = await shrink(file);
        images.push(image);
        say(t.chat.imageAdded(image.width, image.height));
      } catch (error) {
        if (!(error instanceof ImageError)) throw error;
        tell(t.chat.imageRefused[error.why](file.name), { bad: true });
      } finally {
        working--;
        draw();
      }
    }
  }

  input.addEventListener("paste", (event) => {
    const files = filesOf(event.clipboardData);
    if (!files.length) return;
    event.preventDefault();
    add(files);
  });

  // A file that is dropped anywhere on the page must not take the page's place.
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const hover = (on) => {
    hovering = Math.max(0, hovering + on);
    show(veil, hovering > 0);
  };
  place.addEventListener("dragenter", (event) => hasFiles(event) && hover(1));
  place.addEventListener("dragleave", (event) => hasFiles(event) && hover(-1));
  place.addEventListener("dragover", (event) => {
    if (hasFiles(event)) event.preventDefault();
  });
  place.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    hovering = 0;
    show(veil, false);
    const files = filesOf(event.dataTransfer);
    if (files.length) add(files);
    else tell(t.chat.noImage, { bad: true });
    input.focus();
  });
  show(row, false);
  show(veil, false);

  return {
    button,
    picker,
    row,
    veil,
    get count() {
      return images.length;
    },
    get blobs() {
      return images.map((one) => one.blob);
    },
    get working() {
      return working > 0;
    },
    /** The pictures, which are its own no more. */
    take() {
      const taken = images.map(({ blob, width, height }) => ({ blob, width, height }));
      images = [];
      draw();
      return taken;
    },
  };
}
