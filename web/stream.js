/* stream.js: asks a model and tells what comes: the place in the queue, the pieces of the answer, the figures at its end. */

/** Server-sent events out of bytes that come in any pieces: on({comment}) or on({event, data}). */
export function sseParser(on) {
  let rest = "";
  let data = [];
  let event = "";
  function line(text) {
    if (text === "") {
      if (data.length) on({ event: event || "message", data: data.join("\n") });
      data = [];
      event = "";
    } else if (text.startsWith(":")) on({ comment: text.slice(1).trim() });
    else {
      const colon = text.indexOf(":");
      const field = colon < 0 ? text : text.slice(0, colon);
      const value = colon < 0 ? "" : text.slice(colon + 1).replace(/^ /, "");
      if (field === "data") data.push(value);
      else if (field === "event") event = value;
    }
  }
  return (text) => {
    const lines = (rest + text).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const one of lines) line(one);
  };
}

/** "queued position=3 estimate=12s status=starting loaded=43%" as {word: "queued", position: "3", …}. */
export function parseComment(text) {
  const [word, ...pairs] = text.split(/\s+/);
  return { word, ...Object.fromEntries(pairs.map((pair) => pair.split("=", 2)).filter((pair) => pair.length === 2)) };
}

/* What is not there is not told. */
function takeChunk(chunk, on) {
  const choice = chunk.choices?.[0];
  const { content, reasoning_content: reasoning } = choice?.delta ?? {};
  if (reasoning) on.text("", reasoning);
  if (content) on.text(content, "");
  if (choice?.finish_reason) on.figures({ finish: choice.finish_reason });
  if (chunk.usage) on.figures({ tokens: chunk.usage.completion_tokens, promptTokens: chunk.usage.prompt_tokens });
  if (chunk.timings) on.figures({ tokens: chunk.timings.predicted_n, pace: chunk.timings.predicted_per_second });
}

/** Streams a chat completion. on.waiting(comment), on.served({instance}), on.text(content, reasoning), on.figures({…}).
 * Resolves when the answer is whole; throws an ApiError, or an Error whose `broken` says that it ended in the middle. */
export async function streamChat(api, body, signal, on) {
  const answer = await api.open("v1/chat/completions", {
    method: "POST", signal, headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
  });
  let done = false;
  let failure = null;
  const served = answer.headers.get("x-llama-instance");
  if (served) on.served({ instance: served });
  const parse = sseParser(({ comment, data }) => {
    if (comment !== undefined) {
      const told = parseComment(comment);
      if (told.word === "queued") on.waiting(told);
      else if (told.word === "served") on.served(told);
      return;
    }
    if (data === "[DONE]") {
      done = true;
      return;
    }
    let chunk;
    try {
      chunk = JSON.parse(data);
    } catch {
      return;
    }
    if (chunk.error) failure = chunk.error;
    else takeChunk(chunk, on);
  });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { value, done: ended } = await reader.read();
      if (ended) break;
      parse(value);
    }
    parse("\n\n");
  } catch (error) {
    if (error.name === "AbortError" || signal.aborted) throw error;
    failure ??= { message: "" };
  }
  if (failure || !done) {
    const error = new Error(failure?.message ?? "");
    error.broken = true;
    throw error;
  }
}
