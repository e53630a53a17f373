/* gpus.js: the GPUs of the machine as the feed's topic "gpus" tells them, as a row of tiles; nothing where nobody tells. */
import { h, setAttribute, setChildren, setText, show } from "./dom.js";
import { gigabytes } from "./format.js";
import { t } from "./texts.js";
import { button } from "./ui.js";

/** "GPU 1", or for a part of one its own name. */
export function gpuName(gpu) {
  return gpu.index === null || gpu.index === undefined ? t.gpuPart : t.gpu(gpu.index);
}

/** What the feed told last. fn() after each message, and when it is told no more. */
export function createGpus(feed, fn) {
  let told = null;
  let byInstance = new Map();
  let byName = new Map();

  function take({ gpus }) {
    told = gpus;
    byInstance = new Map();
    byName = new Map();
    for (const gpu of gpus.gpus) {
      for (const key of [gpu.uuid, String(gpu.index)]) if (key) byName.set(key, gpu);
      for (const name of gpu.instances ?? []) byInstance.set(name, [...(byInstance.get(name) ?? []), gpu]);
    }
    fn();
  }

  return {
    /** As long as somebody looks: the daemon reads the figures for those who have the topic. Returns its end. */
    watch() {
      let end = null;
      function sync() {
        if (document.visibilityState === "visible") end ??= feed.follow("gpus", take);
        else end = end?.() ?? null;
      }
      document.addEventListener("visibilitychange", sync);
      sync();
      return () => {
        document.removeEventListener("visibilitychange", sync);
        end?.();
      };
    },
    get told() {
      return told;
    },
    /** Of an instance: those it is on, else those it is pinned to; [] when that is not known. */
    of(item) {
      const seen = byInstance.get(item.name) ?? [];
      return seen.length ? seen : item.data.gpu.map((name) => byName.get(name)).filter(Boolean);
    },
    totals() {
      const sum = { used: 0, total: 0 };
      // A divided GPU's memory is that of its parts.
      for (const { memoryTotal, memoryUsed, mig } of told?.gpus ?? []) {
        if (!memoryTotal || mig === "part") continue;
        sum.used += memoryUsed ?? 0;
        sum.total += memoryTotal;
      }
      return sum;
    },
  };
}

/** One line for a card: "GPU 0 · 22.1/48 GB · 64 °C". */
export function describeGpus(gpus) {
  return gpus.map((gpu) => [gpuName(gpu), gpu.memoryTotal && t.ofMemory(gigabytes(gpu.memoryUsed ?? 0), gigabytes(gpu.memoryTotal)),
    gpu.temperature !== null && gpu.temperature !== undefined && t.celsius(Math.round(gpu.temperature))].filter(Boolean).join(" · ")).join("\n");
}

function troubleOf(gpu) {
  if (gpu.state === "lost") return t.gpuLost;
  const parts = gpu.cordon ? [t.gpuCordoned(gpu.cordon.why)] : [];
  // The cap of its power is where a busy GPU stands; what harms is told.
  const reasons = [...new Set((gpu.throttle ?? []).map((one) => t.throttle[one]).filter(Boolean))];
  if (reasons.length) parts.push(t.throttled(reasons.join(", ")));
  if (gpu.ecc?.uncorrected) parts.push(t.eccErrors(gpu.ecc.uncorrected));
  if (gpu.lastError) parts.push(t.xid(gpu.lastError.xid, gpu.lastError.count));
  return parts.join(" · ");
}

function createTile(order) {
  const name = h("span", { class: "gpu-name" });
  const model = h("span", { class: "gpu-model" });
  const heat = h("span", { class: "gpu-heat num" });
  const bar = h("i", {});
  const meter = h("div", { class: "gpu-memory", role: "img" }, bar);
  const memory = h("span", { class: "num" });
  const use = h("span", { class: "num" });
  const power = h("span", { class: "num" });
  const note = h("p", { class: "gpu-note" });
  const orders = h("p", { class: "gpu-orders" });
  let offered = null;
  const element = h("li", { class: "gpu" }, h("p", { class: "gpu-head" }, name, model, heat), meter, h("p", { class: "gpu-figures" }, memory, use, power), note, orders);
  return {
    element,
    draw(gpu) {
      const share = gpu.memoryTotal ? (gpu.memoryUsed ?? 0) / gpu.memoryTotal : 0;
      const known = (value) => value !== null && value !== undefined;
      setText(name, gpuName(gpu));
      setText(model, gpu.name ?? "");
      setAttribute(model, "title", gpu.uuid);
      setText(heat, known(gpu.temperature) ? t.celsius(Math.round(gpu.temperature)) : "");
      bar.style.setProperty("--share", share.toFixed(3));
      setAttribute(meter, "aria-label", gpu.memoryTotal ? t.memoryUsed(Math.round(100 * share)) : t.memoryUnknown);
      setText(memory, gpu.memoryTotal ? t.ofMemory(gigabytes(gpu.memoryUsed ?? 0), gigabytes(gpu.memoryTotal)) : t.memoryUnknown);
      setText(use, known(gpu.utilization) ? t.busy(Math.round(100 * gpu.utilization)) : "");
      setText(power, known(gpu.power) ? t.watt(Math.round(gpu.power)) : "");
      setAttribute(power, "title", known(gpu.powerLimit) ? t.wattLimit(Math.round(gpu.powerLimit)) : null);
      const words = troubleOf(gpu);
      setText(note, words);
      show(note, words !== "");
      setAttribute(element, "data-state", gpu.state === "lost" || gpu.cordon ? "error" : words ? "unhealthy" : null);
      const word = gpu.cordon ? "uncordon" : "cordon";
      if (offered === word) return;
      offered = word;
      setChildren(orders, [button(t.cordon[word], { "data-order": word, "aria-label": t.cordonOf(t.cordon[word], gpuName(gpu)), onclick: () => order(word, gpu, gpuName(gpu)) })]);
    },
  };
}

export function createGpuPanel(gpus, order) {
  const tiles = new Map();
  const list = h("ul", { class: "gpus", "aria-label": t.gpus });
  const nothing = h("p", { class: "gpus-none" });
  const element = h("div", { class: "gpu-panel" }, list, nothing);
  show(element, false);
  return {
    element,
    /** idle: there is no instance that could want one. */
    draw(idle) {
      const { told } = gpus;
      show(element, told !== null);
      if (!told) return;
      const shown = told.gpus.filter((one) => one.mig !== "divided");
      setChildren(list, shown.map((gpu) => {
        const key = gpu.uuid ?? `${gpu.pci} ${gpu.index}`;
        if (!tiles.has(key)) tiles.set(key, createTile(order));
        tiles.get(key).draw(gpu);
        return tiles.get(key).element;
      }));
      show(list, shown.length > 0);
      const words = told.problem ?? (shown.length || idle ? "" : t.noGpu);
      setText(nothing, words);
      show(nothing, words !== "");
    },
  };
}
