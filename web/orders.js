/* orders.js: start, stop, restart, drain and load, with a question before what hurts. */
import { t } from "./texts.js";
import { confirm, tell } from "./ui.js";

/** What may be ordered in which state, the likeliest first. */
export function ordersFor(item) {
  if (item.more?.foreign) return [];
  const onDemand = item.more?.onDemand;
  switch (item.data.status) {
    case "initial":
      return item.more?.status === "initial" && item.more.wantUp ? ["stop"] : [onDemand ? "load" : "start"];
    case "idle":
      return ["load"];
    case "crashed":
    case "error":
      return ["restart", "stop"];
    case "draining":
      return ["start", "stop"];
    case "stopping":
      return ["start"];
    case "starting":
      return ["restart", "stop"];
    default:
      return ["restart", "drain", "stop"];
  }
}

/** In trouble a restart is another try. */
export function orderLabel(order, item) {
  return order === "restart" && ["crashed", "error"].includes(item.data.status) ? t.orders.retry : t.orders[order];
}

export function createOrders(api, store, askForKey) {
  async function send(order, item) {
    const path = order === "load" ? `api/v1/models/${encodeURIComponent(item.model)}/load` : `api/v1/instances/${encodeURIComponent(item.name)}/${order}`;
    try {
      const { message } = await api.order("POST", path);
      tell(message ?? t.orderOf(t.orders[order], item.name));
      store.refresh();
    } catch (error) {
      if (error.status === 401 || error.status === 403) askForKey(t.keyForOrders);
      else tell(t.failed(error.message), { bad: true });
    }
  }

  /** One that came from the library goes for good. Resolves to whether it did. */
  async function remove(item) {
    const sure = await confirm({ title: t.confirm.remove.title(item.name), text: t.confirm.remove.text(item.data.inFlight), yes: t.confirm.remove.yes });
    if (!sure) return false;
    try {
      const { message } = await api.order("DELETE", `api/v1/instances/${encodeURIComponent(item.name)}`);
      tell(message ?? t.orderOf(t.orders.remove, item.name));
      return true;
    } catch (error) {
      if (error.status === 401 || error.status === 403) askForKey(t.keyForOrders);
      else tell(t.failed(error.message), { bad: true });
      return false;
    }
  }

  /** It hurts when something runs there; nobody is asked about what is down already. */
  function hurts(order, item) {
    return t.confirm[order] && ["ready", "unhealthy", "draining", "starting"].includes(item.data.status);
  }

  async function order(name, item) {
    const question = t.confirm[name];
    if (hurts(name, item)) {
      const others = [...store.items.values()].filter((one) => one.model === item.model && one.name !== item.name && one.data.status === "ready");
      const sure = await confirm({
        title: question.title(item.name),
        text: question.text(item.data.inFlight),
        more: item.data.status === "ready" && !others.length ? t.lastOfModel(item.model) : null,
        yes: question.yes,
      });
      if (!sure) return;
    }
    await send(name, item);
  }

  /** word: "cordon" or "uncordon". */
  async function orderGpu(word, gpu, name) {
    const { title, text, yes } = t.confirm.cordon;
    if (word === "cordon" && !(await confirm({ title: title(name), text, yes }))) return;
    try {
      const { message } = await api.order("POST", `api/v1/gpus/${encodeURIComponent(gpu.uuid ?? gpu.pci)}/${word}`);
      tell(message);
    } catch (error) {
      if (error.status === 401 || error.status === 403) askForKey(t.keyForOrders);
      else tell(t.failed(error.message), { bad: true });
    }
  }

  return { order, orderGpu, remove };
}
