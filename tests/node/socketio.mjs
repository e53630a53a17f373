// The real socket.io-client, driven by lines: node socketio.mjs URL [OPTIONS-AS-JSON] [NAMESPACE].
// On stdin: {"emit": [event, …]}, {"ask": [event, …]} (with acknowledgement), {"close": true}. On stdout: what happens, as JSON.
// Without options it is what the page of somebody's front end does: io(url).
import { createInterface } from "node:readline";
import { io } from "socket.io-client";

const [url, options, namespace] = process.argv.slice(2);
const say = (what, data) => process.stdout.write(JSON.stringify({ what, data: data ?? null }) + "\n");

const socket = options && options !== "{}" ? io(url + (namespace ?? ""), JSON.parse(options)) : io(url + (namespace ?? ""));

socket.io.on("open", () => {
        say("open", socket.io.engine.transport.name);
        socket.io.engine.once("upgrade", (transport) => say("upgrade", transport.name));
});
socket.io.on("ping", () => say("ping"));
socket.on("connect", () => say("connect"));
socket.on("connect_error", (error) => say("connect_error", { message: error.message, context: String(error.context?.responseText ?? "") }));
socket.on("disconnect", (reason) => say("disconnect", reason));
socket.on("llamaStatus", (message) => say("llamaStatus", message));
socket.on("llamaStatusRemoved", (message) => say("llamaStatusRemoved", message));
socket.io.on("reconnect", (attempt) => say("reconnect", attempt));

createInterface({ input: process.stdin }).on("line", (line) => {
        const order = JSON.parse(line);
        if (order.emit)
                socket.emit(...order.emit);
        else if (order.ask)
                socket.timeout(30000).emitWithAck(...order.ask).then((answer) => say("ack", answer), (error) => say("no_ack", error.message));
        else if (order.close)
                socket.close();
}).on("close", () => process.exit(0));
