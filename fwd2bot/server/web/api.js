// What the server is asked, and how it refuses: every refusal becomes a Failure with a sentence to show.

const KEY = "fwd2bot.token";
const PATIENCE = 5; // how often a full server is asked again
const KEPT_PICTURES = 400;

export class Failure extends Error {}

let gate = null; // gives a new token, or null where the user gives up
let waiting = null; // the gate is asked once, however many calls wait

export function askForTokensWith(ask) {
  gate = ask;
}

export async function getJson(path, signal) {
  return (await call(path, { signal })).json();
}

export async function postJson(path, body, signal) {
  return (await call(path, { body, signal })).json();
}

// The deltas of a streamed chat completion, one after the other.
export async function* streamChat(body, signal) {
  const response = await call("/v1/chat/completions", { body: { ...body, stream: true }, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      return { done: true };
    });
    if (done) throw new Failure("The answer broke off: is the server still running?");
    const events = (rest + value).split(/\r?\n\r?\n/);
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: ?/gm, "");
      if (data === "[DONE]") return;
      if (!data || event.startsWith(":")) continue;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Failure(chunk.error.message);
      const text = chunk.choices?.[0]?.delta?.content;
      if (text) yield text;
    }
  }
}

// What an <img> may show: the address itself, or, where pictures too need the token, a blob of it.
const blobs = new Map();

export async function pictureSource(path) {
  if (!sessionStorage.getItem(KEY)) return path;
  if (!blobs.has(path)) {
    const blob = call(path).then((response) => response.blob()).then(URL.createObjectURL);
    blob.catch(() => blobs.delete(path));
    blobs.set(path, blob);
    for (const [oldest, other] of blobs) {
      if (blobs.size <= KEPT_PICTURES) break;
      blobs.delete(oldest);
      other.then(URL.revokeObjectURL, () => {});
    }
  }
  return blobs.get(path);
}

async function call(path, { body, signal } = {}) {
  for (let attempt = 0; ; attempt += 1) {
    const token = sessionStorage.getItem(KEY);
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    if (body) headers["Content-Type"] = "application/json";
    const options = { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) };
    let response;
    try {
      response = await fetch(path, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Failure("The server cannot be reached: is it still running?");
    }
    if (response.ok) return response;
    if (response.status === 401) await newToken(token);
    else if (response.status === 429 && attempt < PATIENCE) await pause(response.headers.get("Retry-After"), signal);
    else throw new Failure(await sentence(response));
  }
}

async function newToken(refused) {
  if (sessionStorage.getItem(KEY) !== refused) return; // another call has asked for it since
  waiting ??= gate(refused !== null).finally(() => (waiting = null));
  const token = await waiting;
  if (!token) throw new Failure("The album asks for a token: reload the page to enter it.");
  sessionStorage.setItem(KEY, token);
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * Math.min(30, Number(seconds) || 1));
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

async function sentence(response) {
  try {
    const { error } = await response.json();
    return error.message;
  } catch {
    return `The server answered ${response.status} ${response.statusText}`.trim() + ".";
  }
}
