/**
 * The one way to the server: JSON in and out, errors as problem+json, server-sent events.
 * A page never calls fetch itself, so that an exported page can bring another transport.
 */
import { useCallback, useEffect, useRef, useState } from "./kit.js";

export const API = "/api/v1";

/** @typedef {{title: string, status: number, detail: string, got?: string, expected?: string, hint?: string}} Problem */
/** @typedef {(path: string, init?: RequestInit) => Promise<Response>} Transport */

/** An answer that is an error; `problem` says what, got, expected and what to do. */
export class ApiError extends Error {
  /** @param {Problem} problem */
  constructor(problem) {
    super(problem.detail || problem.title);
    this.problem = problem;
  }
}

/** @type {Transport} */
let transport = (path, init) => fetch(path, init);

/** Put another way of fetching in place of the network. @param {Transport} other */
export function setTransport(other) { transport = other; }

/**
 * The address of an API path with its query; null, undefined and "" are left out.
 * @param {string} path below /api/v1, or absolute where it begins with /v1 or /api
 * @param {Record<string, any>} [params]
 */
export function address(path, params) {
  const base = /^\/(api|v1)\//.test(path) ? path : API + path;
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params || {})) {
    if (value === null || value === undefined || value === "") continue;
    for (const one of Array.isArray(value) ? value : [value]) query.append(name, String(one));
  }
  const text = query.toString();
  return text ? `${base}?${text}` : base;
}

/**
 * @param {string} path @param {{method?: string, params?: Record<string, any>, body?: any, signal?: AbortSignal, accept?: string}} [how]
 * @returns {Promise<Response>} an answer that is no error; otherwise throws ApiError
 */
async function ask(path, how = {}) {
  /** @type {Record<string, string>} */
  const headers = { accept: how.accept || "application/json" };
  if (how.body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await transport(address(path, how.params), {
      method: how.method || "GET", headers, signal: how.signal,
      body: how.body === undefined ? undefined : JSON.stringify(how.body),
    });
  } catch (error) {
    if (/** @type {any} */ (error)?.name === "AbortError") throw error;
    throw new ApiError({
      title: "No answer", status: 0, detail: "the viewer does not answer",
      hint: "Is `monoscope view` still running in the terminal?",
    });
  }
  if (answer.ok) return answer;
  throw new ApiError(await problemOf(answer));
}

/** @param {Response} answer @returns {Promise<Problem>} */
async function problemOf(answer) {
  try {
    const body = await answer.json();
    if (body && typeof body.detail === "string") return body;
    if (body?.error?.message) return { title: "Error", status: answer.status, detail: body.error.message };
  } catch { /* not JSON */ }
  return { title: answer.statusText || "Error", status: answer.status, detail: `the viewer answered ${answer.status}` };
}

/** @param {string} path @param {Record<string, any>} [params] @param {AbortSignal} [signal] @returns {Promise<any>} */
export const get = async (path, params, signal) => (await ask(path, { params, signal })).json();
/** @param {string} path @param {any} body @param {AbortSignal} [signal] @returns {Promise<any>} */
export const post = (path, body, signal) => send("POST", path, body, signal);
/** @param {string} path @param {any} body @param {AbortSignal} [signal] @returns {Promise<any>} */
export const put = (path, body, signal) => send("PUT", path, body, signal);
/** @param {string} path @returns {Promise<any>} */
export const remove = (path) => send("DELETE", path);
/** @param {string} path @param {Record<string, any>} [params] @param {AbortSignal} [signal] @returns {Promise<{data: ArrayBuffer, headers: Headers}>} */
export async function binary(path, params, signal) {
  const answer = await ask(path, { params, signal, accept: "application/octet-stream" });
  return { data: await answer.arrayBuffer(), headers: answer.headers };
}

/** @param {string} method @param {string} path @param {any} [body] @param {AbortSignal} [signal] */
async function send(method, path, body, signal) {
  const answer = await ask(path, { method, body, signal });
  return answer.status === 204 ? null : answer.json();
}

/**
 * Server-sent events of a POST (or a GET, without body), one by one; ends with the stream.
 * An event named "problem" is thrown as ApiError.
 * @param {string} path @param {any} [body] @param {{params?: Record<string, any>, signal?: AbortSignal}} [how]
 * @returns {AsyncGenerator<{event: string, data: any}, void, void>}
 */
export async function* events(path, body, how = {}) {
  const method = body === undefined ? "GET" : "POST";
  const answer = await ask(path, { ...how, method, body, accept: "text/event-stream" });
  const reader = /** @type {ReadableStream<Uint8Array>} */ (answer.body).getReader();
  const decoder = new TextDecoder();
  let held = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      held += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const blocks = held.split(/\r\n\r\n|\n\n|\r\r/);
      held = blocks.pop() || "";
      for (const block of blocks) {
        const event = parseEvent(block);
        if (!event) continue;
        if (event.event === "problem") throw new ApiError(event.data);
        yield event;
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** @param {string} block @returns {{event: string, data: any} | null} */
function parseEvent(block) {
  let event = "message";
  const lines = [];
  for (const line of block.split(/\r\n|\n|\r/)) {
    if (line.startsWith("event:")) event = line.slice(6).trim();
    else if (line.startsWith("data:")) lines.push(line.slice(5).replace(/^ /, ""));
  }
  if (!lines.length) return null;
  const text = lines.join("\n");
  try { return { event, data: JSON.parse(text) }; } catch { return { event, data: text }; }
}

/**
 * What a GET answers, as component state. While the next answer is awaited the last one stays, so
 * that nothing jumps; `path` null asks nothing.
 * @template T
 * @param {string | null} path @param {Record<string, any>} [params]
 * @returns {{data: T | null, error: ApiError | null, loading: boolean, reload: () => void, set: (data: T) => void}}
 */
export function useApi(path, params) {
  const key = path === null ? null : address(path, params);
  const [state, setState] = useState(/** @type {{data: T | null, error: ApiError | null, loading: boolean}} */ ({ data: null, error: null, loading: key !== null }));
  const [turn, setTurn] = useState(0);
  const asked = useRef(/** @type {string | null} */ (null));
  useEffect(() => {
    if (key === null) { setState({ data: null, error: null, loading: false }); return; }
    const stop = new AbortController();
    const last = asked.current;
    asked.current = key;
    setState((s) => ({ data: last === null || samePath(last, key) ? s.data : null, error: null, loading: true }));
    get(key, undefined, stop.signal).then(
      (data) => setState({ data, error: null, loading: false }),
      (error) => { if (!stop.signal.aborted) setState((s) => ({ data: s.data, error, loading: false })); },
    );
    return () => stop.abort();
  }, [key, turn]);
  const reload = useCallback(() => setTurn((n) => n + 1), []);
  const set = useCallback((/** @type {T} */ data) => setState({ data, error: null, loading: false }), []);
  return { ...state, reload, set };
}

/** @param {string} a @param {string} b */
const samePath = (a, b) => a.split("?")[0] === b.split("?")[0];
