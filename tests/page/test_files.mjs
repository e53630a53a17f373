/* The page's files as they are served: compressed, kept, revalidated, light, and with a strict policy. */
import assert from "node:assert/strict";
import http from "node:http";
import { test } from "node:test";
import { gunzipSync } from "node:zlib";
import { LIMIT, startDaemon } from "./harness.mjs";

/** fetch() would decode and add headers of its own. */
function get(url, headers = {}) {
  return new Promise((resolve, reject) => {
    http.get(url, { headers }, (answer) => {
      const parts = [];
      answer.on("data", (part) => parts.push(part));
      answer.on("end", () => resolve({ status: answer.statusCode, headers: answer.headers, body: Buffer.concat(parts) }));
    }).on("error", reject);
  });
}

test("files of the page", LIMIT, async (t) => {
  const daemon = await startDaemon(t, { instances: [] });
  const page = await get(`${daemon.address}/`);
  const policy = page.headers["content-security-policy"];
  assert.match(policy, /default-src 'none'/);
  assert.match(policy, /frame-ancestors 'none'/);
  assert.doesNotMatch(policy, /unsafe|\*|https?:/);
  assert.equal(page.headers["x-content-type-options"], "nosniff");
  assert.equal(page.headers["cache-control"], "no-store");
  const html = page.body.toString();
  assert.doesNotMatch(html, /<script(?![^>]*\ssrc=)|<style|\son\w+=|\sstyle=/, "nothing inline");
  const files = [...html.matchAll(/(?:href|src)="(web\/[^"]+)"/g)].map((match) => match[1]);
  assert.ok(files.length > 10, html);

  // What is asked for at once is what app.js stands on; the rest is asked for when there is time, and counts all the same.
  const folder = files[0].slice(0, files[0].lastIndexOf("/"));
  const source = async (name) => (await get(`${daemon.address}/${folder}/${name}`)).body.toString();
  const reached = async (roots, pattern) => {
    const found = new Set(roots);
    for (const name of found) for (const [, one] of (await source(name)).matchAll(pattern)) found.add(one);
    return found;
  };
  const atOnce = new Set(files.filter((one) => one.endsWith(".js")).map((one) => one.slice(folder.length + 1)));
  assert.deepEqual([...atOnce].sort(), [...(await reached(["app.js"], /^import .* from "\.\/([^"]+)";/gm))].sort(), "neither more nor less than the first view needs");
  for (const view of ["chat.js", "logs.js", "details.js"]) assert.ok(!atOnce.has(view), view);
  const all = await reached(atOnce, /(?:^import .* from|\bimport\() ?"\.\/([^"]+)"/gm);
  assert.ok(all.has("chat.js") && all.has("markdown.js"), [...all].join());
  files.push(...[...all].filter((one) => !atOnce.has(one) && one !== "modules.js").map((one) => `${folder}/${one}`), `${folder}/chat.css`, `${folder}/views.css`);
  const libraries = (await get(`${daemon.address}/${folder}/modules.js`)).body.toString().match(/lib\/\w+\.js/g);
  assert.equal(libraries?.length, 2, "built without web/node_modules: run scripts/test, or npm ci in web/");
  files.push(`${folder}/modules.js`, ...libraries.map((one) => `${folder}/${one}`));
  let weight = page.body.length;
  for (const file of files) {
    const zipped = await get(`${daemon.address}/${file}`, { "accept-encoding": "br, gzip;q=0.8" });
    const plain = await get(`${daemon.address}/${file}`);
    assert.equal(zipped.status, 200, file);
    assert.equal(zipped.headers["content-encoding"], "gzip");
    assert.equal(plain.headers["content-encoding"], undefined);
    assert.deepEqual(gunzipSync(zipped.body), plain.body, file);
    assert.match(zipped.headers["cache-control"], /max-age=31536000, immutable/);
    assert.equal(zipped.headers["x-content-type-options"], "nosniff");
    assert.equal(zipped.headers.vary, "Accept-Encoding");
    assert.match(plain.headers["content-type"], file.endsWith(".js") ? /^text\/javascript/ : file.endsWith(".css") ? /^text\/css/ : /^image\/svg/);
    assert.notEqual(zipped.headers.etag, plain.headers.etag, "they are different bytes");
    for (const tag of [plain.headers.etag, `W/${plain.headers.etag}`, `"other", ${plain.headers.etag}`, "*"]) {
      const again = await get(`${daemon.address}/${file}`, { "if-none-match": tag });
      assert.equal(again.status, 304, tag);
      assert.equal(again.body.length, 0);
      assert.equal(again.headers.etag, plain.headers.etag);
    }
    assert.equal((await get(`${daemon.address}/${file}`, { "if-none-match": '"other"' })).status, 200);
    assert.equal((await get(`${daemon.address}/${file}`, { "accept-encoding": "gzip;q=0" })).headers["content-encoding"], undefined);
    weight += zipped.body.length;
  }
  t.diagnostic(`${(weight / 1024).toFixed(1)} KB`);
  assert.ok(weight <= 250 * 1024, `${weight} bytes`);

  // For other people's pages: a fixed address, asked again each time.
  const feed = await get(`${daemon.address}/web/feed.js`);
  assert.equal(feed.status, 200);
  assert.equal(feed.headers["cache-control"], "no-cache");
  assert.equal((await get(`${daemon.address}/web/feed.js`, { "if-none-match": feed.headers.etag })).status, 304);
  for (const path of ["web/", "web/0123456789ab/app.js", "web/../page.c", "web/none.js", "web/index.html"]) assert.notEqual((await get(`${daemon.address}/${path}`)).status, 200, path);
});
