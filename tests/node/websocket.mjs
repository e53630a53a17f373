// The real npm ws, driven by lines: node websocket.mjs URL [PROTOCOLS-AS-JSON]. Each line of stdin is sent as a message, "!close"
// closes; what happens is told on stdout as JSON.
import { createInterface } from "node:readline";
import WebSocket from "ws";

const [url, protocols] = process.argv.slice(2);
const say = (what, data) => process.stdout.write(JSON.stringify({ what, data: data ?? null }) + "\n");
const socket = new WebSocket(url, protocols ? JSON.parse(protocols) : []);

socket.on("open", () => say("open", { protocol: socket.protocol, extensions: socket.extensions }));
socket.on("message", (data, isBinary) => say(isBinary ? "binary" : "message", isBinary ? data.length : JSON.parse(data)));
socket.on("unexpected-response", (request, response) => say("refused", response.statusCode));
socket.on("error", (error) => say("error", error.message));
socket.on("close", (code, reason) => say("close", { code, reason: reason.toString() }));

createInterface({ input: process.stdin })
        .on("line", (line) => (line === "!close" ? socket.close() : socket.send(line)))
        .on("close", () => process.exit(0));
