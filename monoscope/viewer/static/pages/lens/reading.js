/** What the lens reads: a text, a chat written as lines, or two texts; and the answer, as it comes. */
import { ApiError, post } from "../../api.js";
import { useEffect, useState } from "../../kit.js";

/**
 * What the lens says of a text, or of two; read again when they change.
 * @param {string} a @param {string | null} b @param {boolean} chat @param {number[]} pins
 * @param {string} by what the totals are ranked by, before they are cut
 */
export function useReading(a, b, chat, pins, by) {
  const [state, setState] = useState(/** @type {{data: any, error: any, loading: boolean}} */ ({ data: null, error: null, loading: false }));
  const [turn, setTurn] = useState(0);
  const key = JSON.stringify([a, b, chat, pins, by]);
  useEffect(() => {
    if (!a.trim() || (b !== null && !b.trim())) { setState({ data: null, error: null, loading: false }); return; }
    const stop = new AbortController();
    setState((s) => ({ data: s.data && Boolean(s.data.differences) === (b !== null) ? s.data : null, error: null, loading: true }));
    const body = b !== null ? { a: { text: a }, b: { text: b }, pinned: pins } : { ...(chat ? { messages: turnsOf(a) } : { text: a }), pinned: pins, by };
    post(b !== null ? "/lens/compare" : "/lens", body, stop.signal).then(
      (told) => setState({ data: b !== null ? told : { a: told, features: told.features }, error: null, loading: false }),
      (error) => { if (!stop.signal.aborted) setState({ data: null, error: error instanceof ApiError ? error.problem : { detail: String(error) }, loading: false }); },
    );
    return () => stop.abort();
  }, [key, turn]);
  return { ...state, again: () => setTurn((n) => n + 1) };
}

/** A chat from lines that begin with who speaks; a text without any is one message of the user's. @param {string} text */
export function turnsOf(text) {
  /** @type {import("../lab/state.js").Turn[]} */
  const turns = [];
  for (const line of text.split("\n")) {
    const spoken = /^(system|user|assistant):\s?(.*)$/i.exec(line);
    if (spoken) turns.push({ role: /** @type {"user"} */ (spoken[1].toLowerCase()), content: spoken[2] });
    else if (turns.length) turns[turns.length - 1].content += `\n${line}`;
    else turns.push({ role: "user", content: line });
  }
  return turns.map((turn) => ({ ...turn, content: turn.content.replace(/\n+$/, "") }));
}
