// Requests to the server, and what went wrong in words.

/** An error whose message is for the reader. `signIn`: the key is missing or wrong. */
export class Failure extends Error {
  constructor(message, signIn = false) {
    super(message);
    this.signIn = signIn;
  }
}

/** The frames of a streamed answer. Throws Failure; an abort through `signal` ends it quietly. */
export async function* ask(model, messages, signal) {
  try {
    const response = await post("/v1/chat/completions", { model, messages, stream: true }, signal);
    for await (const data of events(response.body.getReader())) {
      if (data === "[DONE]") return;
      const frame = JSON.parse(data);
      if (frame.error) throw new Failure(inWords(502, frame.error.message));
      yield frame;
    }
  } catch (error) {
    if (signal.aborted) return;
    if (error instanceof Failure) throw error;
    throw new Failure("The connection ended before the answer was complete. Try again.");
  }
  if (!signal.aborted) {
    throw new Failure("The connection ended before the answer was complete. Try again.");
  }
}

/** The response to a POST of `body` as JSON. Throws Failure where the status is 400 or above. */
export async function post(path, body, signal = null) {
  let response;
  try {
    const headers = { "Content-Type": "application/json" };
    response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Failure("The server cannot be reached. Check that it is running, then try again.");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  const wait = response.headers.get("Retry-After");
  throw new Failure(
    inWords(response.status, said.error?.message ?? "", wait),
    response.status === 401,
  );
}

function inWords(status, message, wait = null) {
  if (status === 401) return "The key is missing or no longer valid.";
  if (status === 413) return "The question is too long for this server.";
  if (status === 429) {
    const when = wait ? `in ${wait} second${wait === "1" ? "" : "s"}` : "in a moment";
    return `The server is answering too many requests at the moment. Try again ${when}.`;
  }
  if (status === 504) return "The answer took too long. Try again, or ask a shorter question.";
  if (status >= 500) return `The server could not answer: ${message || `status ${status}`}.`;
  return `The server did not take the request: ${message || `status ${status}`}.`;
}

/** The data of server-sent events, each of which is one line. */
async function* events(reader) {
  const decoder = new TextDecoder();
  let rest = "";
  while (true) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  }
}
