/* conversations.js: the conversations of this browser, in IndexedDB; nothing of them leaves it but what is sent to a model. */
import { dataAddress } from "./images.js";

const NAME = "llama-supervisor";
const STORE = "conversations";

function promised(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function openDatabase() {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
  return promised(request);
}

export function newConversation(like) {
  return { id: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`, title: "", model: like?.model ?? null, system: like?.system ?? "",
    settings: { ...like?.settings }, messages: [], createdAt: Date.now(), updatedAt: Date.now() };
}

/** Where the browser keeps nothing (private windows of some), they live as long as the page. onLost: once, when something could not
 * be kept, mostly since the browser's room for it is full. */
export async function createConversations(onLost) {
  const all = new Map();
  let database = null;
  try {
    database = await openDatabase();
    for (const one of await promised(database.transaction(STORE).objectStore(STORE).getAll())) all.set(one.id, one);
  } catch {
    database = null;
  }

  let isLost = false;

  async function write(fn) {
    if (!database) return;
    try {
      const transaction = database.transaction(STORE, "readwrite");
      await promised(fn(transaction.objectStore(STORE)));
    } catch {
      if (!isLost) onLost();
      isLost = true;
    }
  }

  return {
    kept: database !== null,
    get: (id) => all.get(id),
    /** The last used first. */
    list: () => [...all.values()].sort((a, b) => b.updatedAt - a.updatedAt),
    save(conversation) {
      all.set(conversation.id, conversation);
      return write((store) => store.put(conversation));
    },
    remove(id) {
      all.delete(id);
      return write((store) => store.delete(id));
    },
  };
}

/** As one text for programs, pictures in it. */
export async function asJson(conversation) {
  const messages = await Promise.all(conversation.messages.map(async ({ images, ...one }) => images
    ? { ...one, images: await Promise.all(images.map(async ({ blob, width, height }) => ({ width, height, url: blob ? await dataAddress(blob) : null }))) } : one));
  return `${JSON.stringify({ ...conversation, messages }, null, 2)}\n`;
}

/** As one text for people. words: {you, system, image(width, height)} */
export function asMarkdown(conversation, words) {
  const parts = [`# ${conversation.title}`];
  if (conversation.system) parts.push(`**${words.system}**\n\n${conversation.system}`);
  for (const one of conversation.messages) {
    const images = (one.images ?? []).map(({ width, height }) => `*${words.image(width, height)}*`);
    parts.push([`**${one.role === "user" ? words.you : one.model}**`, ...images, one.content].filter(Boolean).join("\n\n"));
  }
  return `${parts.join("\n\n")}\n`;
}
