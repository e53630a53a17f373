/* images.js: pictures for models that see: made small in the browser, kept as blobs, sent as data: addresses.
 *
 * What llama-server reads is JPEG and PNG (not WebP), and a model looks at a thousand pixels or so: so every picture is drawn anew as
 * a JPEG of at most SIDE pixels a side, which also leaves out where and when it was taken. */

export const MOST = 4; // of one message
export const KEPT = 16; // of one conversation; the oldest go
const SIDE = 1536;
const QUALITY = 0.85;
const LARGEST_FILE = 64e6; // bytes of what is opened at all
const LARGEST_AREA = 120e6; // pixels
const LARGEST = 3e6; // bytes of what is made of it

export class ImageError extends Error {
  /** why: "unreadable" or "large" */
  constructor(why) {
    super(why);
    this.why = why;
  }
}

function draw(bitmap, scale) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  // What is transparent would be black in a JPEG.
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** {blob, width, height} of a file that a person chose; throws ImageError. */
export async function shrink(file) {
  if (!file.type.startsWith("image/")) throw new ImageError("unreadable");
  if (file.size > LARGEST_FILE) throw new ImageError("large");
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new ImageError("unreadable");
  }
  try {
    if (bitmap.width * bitmap.height > LARGEST_AREA) throw new ImageError("large");
    const canvas = draw(bitmap, Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height)));
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
    if (!blob) throw new ImageError("unreadable");
    if (blob.size > LARGEST) throw new ImageError("large");
    return { blob, width: canvas.width, height: canvas.height };
  } finally {
    bitmap.close();
  }
}

/** "data:image/jpeg;base64,…" */
export function dataAddress(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

const shown = new Map(); // blob → its address in this page

export function addressOf(blob) {
  if (!shown.has(blob)) shown.set(blob, URL.createObjectURL(blob));
  return shown.get(blob);
}

/** Of those that are shown no more. */
export function forgetAddresses(kept = []) {
  for (const [blob, address] of shown) {
    if (kept.includes(blob)) continue;
    URL.revokeObjectURL(address);
    shown.delete(blob);
  }
}

/** Takes the oldest pictures out of a conversation until no more than KEPT are left; what they were is still told. */
export function keepNewest(messages) {
  let left = KEPT;
  for (const message of [...messages].reverse())
    for (const image of [...(message.images ?? [])].reverse()) {
      if (!image.blob) continue;
      if (left > 0) left--;
      else delete image.blob;
    }
}
