/** The lab's state: what its address holds, what it asks of the API, and how it is said in a shell and in Python. */
import { hasUnit, parseEdits, written } from "../../components/edits.js";
import { flag, python, shell } from "../../format.js";

/**
 * @typedef {import("../../components/edits.js").Edit} Edit
 * @typedef {{role: "user" | "assistant" | "system", content: string}} Turn
 * @typedef {{chat: boolean, prompt: string, turns: Turn[], edits: Edit[], n: number, temperature: number, topP: number, seed: number, going: boolean, sweep: number | null}} Lab
 * @typedef {"score" | "effect" | "fluency"} Measure
 * @typedef {{words: string[], measure: Measure, open: number | null}} Swept what is counted (none: what the feature promises), drawn, and the strength read
 * @typedef {import("../../components/share.js").Loaded} Loaded
 */

export const PROMPT = "My favourite thing in the world is";
const ROLES = /** @type {const} */ ({ u: "user", a: "assistant", s: "system" });

/** @param {Record<string, string>} query @returns {Lab} */
export function read(query) {
  return {
    chat: query.m === "chat", prompt: query.p ?? PROMPT, turns: readTurns(query.c), edits: parseEdits(query.e),
    n: number(query.n, 60), temperature: number(query.t, 0), topP: number(query.tp, 1), seed: number(query.s, 0),
    going: query.run === "1", sweep: /^\d+$/.test(query.sweep || "") ? Number(query.sweep) : null,
  };
}

/** What the address holds of a sweep. @param {Record<string, string>} query @returns {Swept} */
export function readSwept(query) {
  const open = number(query.so, NaN);
  return {
    words: wordsOf(query.sw), open: open > 0 ? open : null,
    measure: query.sm === "effect" || query.sm === "fluency" ? query.sm : "score",
  };
}

/** @param {string | undefined} text */
export const wordsOf = (text) => (text || "").split(",").map((word) => word.trim()).filter(Boolean);

/** @param {string | undefined} text @param {number} otherwise */
function number(text, otherwise) {
  const value = text === undefined ? NaN : Number(text);
  return Number.isFinite(value) ? value : otherwise;
}

/** @param {string | undefined} text @returns {Turn[]} */
function readTurns(text) {
  try {
    const turns = JSON.parse(text || "[]");
    return turns.filter((/** @type {any} */ t) => ROLES[/** @type {"u"} */ (t[0])] && typeof t[1] === "string")
      .map((/** @type {["u", string]} */ t) => ({ role: ROLES[t[0]], content: t[1] }));
  } catch { return []; }
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
