// The real npm client "openai" against the gateway: node openai.mjs BASE-URL MODEL EMBEDDING-MODEL [KEY].
// Does what an application does, one after the other, and tells what came of it as lines of JSON.
import OpenAI from "openai";

const [base, model, embedding, key] = process.argv.slice(2);
const say = (what, data) => process.stdout.write(JSON.stringify({ what, data: data ?? null }) + "\n");
const client = new OpenAI({ baseURL: base + "/v1", apiKey: key ?? "none", maxRetries: 0, timeout: 60000 });
const messages = [{ role: "user", content: "hello" }];

async function told(what, work) {
        try {
                say(what, await work());
        } catch (error) {
                say(what, { failed: error.constructor.name, status: error.status, code: error.code, message: error.message });
        }
}

await told("models", async () => {
        const ids = [];
        for await (const one of client.models.list())
                ids.push(one.id);
        return ids;
});
await told("chat", async () => {
        const answer = await client.chat.completions.create({ model, messages, max_tokens: 8 });
        return { role: answer.choices[0].message.role, text: answer.choices[0].message.content, usage: answer.usage };
});
await told("stream", async () => {
        const stream = await client.chat.completions.create({ model, messages, stream: true,
                                                              stream_options: { include_usage: true } });
        let text = "", pieces = 0, usage = null, finish = null;
        for await (const chunk of stream) {
                pieces++;
                text += chunk.choices[0]?.delta?.content ?? "";
                finish = chunk.choices[0]?.finish_reason ?? finish;
                usage = chunk.usage ?? usage;
        }
        return { text, pieces, usage, finish };
});
await told("tools", async () => {
        const answer = await client.chat.completions.create({
                model, messages, max_tokens: 8, tool_choice: "auto",
                tools: [{ type: "function", function: { name: "now", description: "the time",
                                                        parameters: { type: "object", properties: {} } } }],
        });
        return { finish: answer.choices[0].finish_reason, text: answer.choices[0].message.content };
});
await told("completions", async () => {
        const answer = await client.completions.create({ model, prompt: "the", max_tokens: 4 });
        return answer.choices[0].text;
});
await told("responses", async () => {
        const answer = await client.responses.create({ model, input: "hello", max_output_tokens: 8 });
        return { status: answer.status, text: answer.output_text };
});
await told("embeddings", async () => {
        const answer = await client.embeddings.create({ model: embedding, input: ["one", "two"], encoding_format: "float" });
        return answer.data.map((one) => one.embedding.length);
});
await told("unknown", async () => client.chat.completions.create({ model: "no-such-model", messages }));
await told("abort", async () => {
        const abort = new AbortController();
        const stream = await client.chat.completions.create(
                { model, messages, stream: true, max_tokens: 100000, ignore_eos: true }, { signal: abort.signal });
        let pieces = 0;
        try {
                for await (const _ of stream)
                        if (++pieces === 3)
                                abort.abort();
        } catch (error) {
                if (!abort.signal.aborted)
                        throw error;
        }
        return { pieces };
});
say("end");
