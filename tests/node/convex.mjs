// The real npm client "convex" as a llama-farm worker: node convex.mjs URL API-KEY JOBS. It waits for work, claims, streams, ends, as often as
// JOBS says; then it tries a key that nobody knows. What happens is told on stdout as lines of JSON.
import { ConvexClient } from "convex/browser";
import { anyApi } from "convex/server";
import WebSocket from "ws";

const [url, apiKey, jobs] = process.argv.slice(2);
const say = (what, data) => process.stdout.write(JSON.stringify({ what, data: data ?? null }) + "\n");
const client = new ConvexClient(url, { webSocketConstructor: WebSocket, unsavedChangesWarning: false });

const work = () => new Promise((resolve, reject) => {
        const stop = client.onUpdate(anyApi.workers.isThereWork, {}, (there) => {
                if (there) {
                        stop();
                        resolve();
                }
        }, reject);
});

for (let n = 0; n < Number(jobs); n++) {
        await work();
        const job = await client.mutation(anyApi.workers.giveMeWork, { apiKey });
        say("job", job);
        for (const message of ["Hello there.", " How are you?"])
                await client.mutation(anyApi.workers.submitWork, { apiKey, jobId: job.jobId, message, state: "streaming" });
        await client.mutation(anyApi.workers.imStillWorking, { apiKey, jobId: job.jobId });
        say("next", await client.mutation(anyApi.workers.submitWork, { apiKey, jobId: job.jobId, message: " bye", state: "success" }));
}
try {
        await client.mutation(anyApi.workers.giveMeWork, { apiKey: "revoked" });
} catch (error) {
        say("refused", error.message);
}
await client.close();
say("end");
process.exit(0);
