/** The lab's state: what its address holds, what it asks of the API, and how it is said in a shell and in Python. */
import { hasUnit, notEdits, parseEdits, written, writtenAll } from "../../components/edits.js";
import { numberOf, wordOf } from "../../components/unread.js";
import { flag, python, shell } from "../../format.js";

/**
 * @typedef {import("../../components/edits.js").Edit} Edit
 * @typedef {{role: "user" | "assistant" | "system", content: string}} Turn
 * @typedef {{chat: boolean, prompt: string, turns: Turn[], edits: Edit[], n: number, temperature: number, topP: number, seed: number, going: boolean, sweep: number | null,
 *   bad: import("../../components/unread.js").Bad[]}} Lab bad: parts of the address that cannot be read; nothing is asked while there are any
 * @typedef {"score" | "effect" | "fluency"} Measure
 * @typedef {{words: string[], measure: Measure, open: number | null}} Swept what is counted (none: what the feature promises), drawn, and the strength read
 * @typedef {import("../../components/share.js").Loaded} Loaded
 */

export const PROMPT = "My favourite thing in the world is";
const ROLES = /** @type {const} */ ({ u: "user", a: "assistant", s: "system" });

/** @param {Record<string, string>} query @returns {Lab} */
export function read(query) {
  /** @type {import("../../components/unread.js").Bad[]} */
  const bad = notEdits(query.e).map((got) => ({ key: "e, an edit", got, expected: "latent=op:value, as in 123=add:0.4norm@generated" }));
  const lab = {
    chat: wordOf(query, "m", ["", "chat"], bad) === "chat", prompt: query.p ?? PROMPT, turns: readTurns(query.c, bad), edits: parseEdits(query.e),
    n: numberOf(query, "n", 60, { min: 1, max: 4096, whole: true, said: "tokens, 1 to 4096" }, bad),
    temperature: numberOf(query, "t", 0, { min: 0, max: 10, said: "a temperature, 0 to 10" }, bad),
    topP: numberOf(query, "tp", 1, { min: 0, max: 1, above: true, said: "a top p above 0, up to 1" }, bad),
    seed: numberOf(query, "s", 0, { min: 0, whole: true, said: "a seed, a whole number from 0" }, bad),
    sweep: query.sweep === undefined ? null : numberOf(query, "sweep", -1, { min: 0, whole: true, said: "a latent's number" }, bad),
  };
  readSwept(query, bad);
  return { ...lab, sweep: lab.sweep === -1 ? null : lab.sweep, bad, going: query.run === "1" && !bad.length };
}

/** An address without what could not be read. @param {Lab} lab @returns {Record<string, any>} a patch of it */
export function mended(lab) {
  const keys = lab.bad.map((one) => one.key.split(",")[0]);
  return Object.fromEntries(keys.map((key) => [key, key === "e" ? writtenAll(lab.edits) : key === "c" ? writeTurns(lab.turns) : ""]));
}

/** What the address holds of a sweep. @param {Record<string, string>} query @param {import("../../components/unread.js").Bad[]} [bad] @returns {Swept} */
export function readSwept(query, bad = []) {
  const open = numberOf(query, "so", 0, { min: 0, above: true, said: "a strength above 0" }, bad);
  const measure = wordOf(query, "sm", ["score", "effect", "fluency"], bad);
  return { words: wordsOf(query.sw), open: open > 0 ? open : null, measure: /** @type {Measure} */ (measure) };
}

/** @param {string | undefined} text */
export const wordsOf = (text) => (text || "").split(",").map((word) => word.trim()).filter(Boolean);

/** @param {string | undefined} text @param {import("../../components/unread.js").Bad[]} bad @returns {Turn[]} */
function readTurns(text, bad) {
  if (!text) return [];
  const note = (/** @type {string} */ got) => bad.push({ key: "c, a chat", got, expected: 'turns as JSON, as in [["u","Hello"],["a","Hi!"]]' });
  let turns;
  try { turns = JSON.parse(text); } catch { note(text); return []; }
  if (!Array.isArray(turns)) { note(text); return []; }
  const whole = turns.filter((turn) => Array.isArray(turn) && Object.hasOwn(ROLES, turn[0]) && typeof turn[1] === "string");
  for (const turn of turns) if (!whole.includes(turn)) note(JSON.stringify(turn));
  return whole.map((/** @type {["u", string]} */ turn) => ({ role: ROLES[turn[0]], content: turn[1] }));
}

/** @param {Turn[]} turns */
export const writeTurns = (turns) => turns.length ? JSON.stringify(turns.map((t) => [t.role[0], t.content])) : "";

/** Whether there is something to answer. @param {Lab} lab */
export const askable = (lab) => lab.chat ? lab.turns.at(-1)?.role === "user" : lab.prompt !== "";

/** What is continued or answered, as the API takes it. @param {Lab} lab */
export const given = (lab) => lab.chat ? { messages: lab.turns } : { prompt: lab.prompt };

/** The beginning of either command. @param {Loaded} model @param {string} atlas */
function steer(model, atlas) {
  const words = ["monoscope steer", shell(model.sae), "--atlas", shell(atlas)];
  if (model.model) words.push("--model", shell(model.model));
  return words;
}

/** What is continued, as a flag. @param {{prompt?: string, messages?: Turn[]}} given */
function prompted({ prompt, messages }) {
  if (messages === undefined) return flag("--prompt", prompt || "");
  return messages.length === 1 ? `--chat ${flag("--prompt", messages[0].content)}` : flag("--messages", JSON.stringify(messages));
}

/** The same as a command. @param {Lab} lab @param {Loaded} model @param {string} atlas */
export function asCommand(lab, model, atlas) {
  const words = [...steer(model, atlas), prompted(given(lab))];
  for (const edit of lab.edits) if (!edit.off) words.push("--edit", shell(written(edit)));
  words.push("--max-new-tokens", String(lab.n), "--temperature", String(lab.temperature), "--seed", String(lab.seed));
  if (lab.topP !== 1) words.push("--top-p", String(lab.topP));
  return words.join(" ");
}

/**
 * A sweep as a command. @param {number} latent @param {{prompt?: string, messages?: Turn[], seed: number}} body
 * @param {string[]} words @param {Loaded} model @param {string} atlas
 */
export function sweepCommand(latent, body, words, model, atlas) {
  const counted = words.length ? [flag("--words", words.join(","))] : [];
  return [...steer(model, atlas), "--sweep", String(latent), prompted(body), ...counted, "--seed", String(body.seed)].join(" ");
}

/** @param {Loaded} model @param {string} atlas */
const loaded = (model, atlas) => `sae = ms.load_sae(${python(model.sae)})
atlas = ms.load_atlas(${python(atlas)})
lm = ms.load_lm(${python(model.model || "demo")})
`;

/**
 * A sweep as Python. @param {number} latent @param {{prompt?: string, messages?: Turn[], seed: number}} body
 * @param {string[]} words @param {Loaded} model @param {string} atlas
 */
export function sweepPython(latent, body, words, model, atlas) {
  return `import monoscope as ms
from monoscope.steer import sweep_feature

${loaded(model, atlas)}swept = sweep_feature(
    lm,
    sae,
    atlas.feature(${latent}),
    ${body.messages ? JSON.stringify(body.messages) : python(body.prompt || "")},
    words=${JSON.stringify(words)},
    seed=${body.seed},
).result()
for point in swept.points:
    print(point.kind, point.trial.times_norm, round(point.trial.score, 2), point.trial.texts[0])
print(swept.spot.found, swept.spot.best.times_norm, swept.spot.control, swept.spot.prompt)
`;
}

/** The same as Python. @param {Lab} lab @param {Loaded} model @param {string} atlas */
export function asPython(lab, model, atlas) {
  const prompt = lab.chat ? JSON.stringify(lab.turns) : python(lab.prompt);
  return `import monoscope as ms

${loaded(model, atlas)}said = ms.generate(
    lm,
    ${prompt},
    edits=[${lab.edits.filter((e) => !e.off).map(pythonEdit).join(", ")}],
    max_new_tokens=${lab.n},
    temperature=${lab.temperature},
    top_p=${lab.topP},
    seed=${lab.seed},
)
print(said.default)
print(said.steered)
print(said.relative_norm, said.kl)
`;
}

/** @param {Edit} edit */
function pythonEdit(edit) {
  const kind = edit.op[0].toUpperCase() + edit.op.slice(1);
  const name = hasUnit(edit.op) ? { raw: "value", max: "times_max", norm: "times_norm" }[edit.unit] : "value";
  const words = ["sae", String(edit.latent)];
  if (edit.op !== "ablate") words.push(`${name}=${edit.value}`);
  if (hasUnit(edit.op) && edit.unit === "max") words.push("atlas=atlas");
  if (edit.where !== "all") words.push(`where=${python(edit.where)}`);
  return `ms.${kind}(${words.join(", ")})`;
}
