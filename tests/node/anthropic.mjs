// The real npm client "@anthropic-ai/sdk" against the gateway: node anthropic.mjs BASE-URL MODEL [KEY].
import Anthropic from "@anthropic-ai/sdk";

const [base, model, key] = process.argv.slice(2);
const say = (what, data) => process.stdout.write(JSON.stringify({ what, data: data ?? null }) + "\n");
const client = new Anthropic({ baseURL: base, apiKey: key ?? "none", maxRetries: 0, timeout: 60000 });
const messages = [{ role: "user", content: "hello" }];

async function told(what, work) {
        try {
                say(what, await work());
        } catch (error) {
                say(what, { failed: error.constructor.name, status: error.status, type: error.error?.error?.type,
                            message: error.message });
        }
}

await told("messages", async () => {
        const answer = await client.messages.create({ model, messages, max_tokens: 8 });
        return { role: answer.role, text: answer.content[0]?.text, usage: answer.usage };
});
await told("stream", async () => {
        const stream = client.messages.stream({ model, messages, max_tokens: 16 });
        let text = "";
        stream.on("text", (piece) => (text += piece));
        const last = await stream.finalMessage();
        return { text, whole: last.content[0]?.text, stop: last.stop_reason };
});
await told("count", async () => (await client.messages.countTokens({ model, messages })).input_tokens);
await told("unknown", async () => client.messages.create({ model: "no-such-model", messages, max_tokens: 8 }));
say("end");
