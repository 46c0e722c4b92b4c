/** Edits as text and as values: the command line's own grammar, `123=set:5max@generated`. */

/**
 * @typedef {"add" | "set" | "scale" | "ablate" | "cap"} Op
 * @typedef {"raw" | "max" | "norm"} Unit
 * @typedef {{latent: number, op: Op, value: number, unit: Unit, where: string, off?: boolean}} Edit
 */

export const OPS = /** @type {Op[]} */ (["add", "set", "scale", "ablate", "cap"]);
export const OP_MEANS = {
  add: "move along the direction", set: "hold the activation at a value", scale: "multiply the activation",
  ablate: "remove the activation", cap: "hold the activation at a value or below",
};
export const UNIT_NAMES = { raw: "raw", max: "× max", norm: "× ‖x‖" };
export const WHERE_NAMES = { all: "all tokens", prompt: "the prompt", generated: "what is generated", when: "when another fires" };
const WRITTEN = /^(~?)(\d+)=(add|set|scale|ablate|cap)(?::([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)(raw|max|norm)?)?(?:@(all|prompt|given|generated|when:\d{1,18}(?::(?:\d+\.?\d*(?:e[+-]?\d+)?|\.\d+))?))?$/;

/** @param {Op} op whether it has a strength in a unit */
export const hasUnit = (op) => op === "add" || op === "set" || op === "cap";

/** One edit from its text; null where it is none. @param {string} text @returns {Edit | null} */
export function parseEdit(text) {
  const found = WRITTEN.exec(text.trim());
  if (!found) return null;
  const [, off, latent, op, value, unit, where] = found;
  if ((value === undefined) !== (op === "ablate") || (unit && op === "scale")) return null;
  return {
    latent: Number(latent), op: /** @type {Op} */ (op), value: value === undefined ? 0 : Number(value),
    unit: /** @type {Unit} */ (unit || "raw"), where: where || "all", off: off === "~",
  };
}

/** @param {Edit} edit @returns {string} */
export function written(edit) {
  const value = edit.op === "ablate" ? "" : `:${edit.value}${hasUnit(edit.op) && edit.unit !== "raw" ? edit.unit : ""}`;
  return `${edit.latent}=${edit.op}${value}${edit.where === "all" ? "" : `@${edit.where}`}`;
}

/** Edits of an address, and back; those that are off are kept with a tilde. @param {string | undefined} text */
export const parseEdits = (text) => /** @type {Edit[]} */ ((text || "").split(",").map(parseEdit).filter(Boolean));
/** What stands among them and is none. @param {string | undefined} text */
export const notEdits = (text) => text ? text.split(",").filter((part) => !parseEdit(part)) : [];
/** @param {Edit[]} edits */
export const writtenAll = (edits) => edits.map((edit) => (edit.off ? "~" : "") + written(edit)).join(",");

/** What the API takes. @param {Edit[]} edits */
export const forApi = (edits) => edits.filter((edit) => !edit.off).map(({ latent, op, value, unit, where }) => ({
  latent, op, value: op === "ablate" ? null : value, unit: hasUnit(op) ? unit : "raw", where,
}));

/** A slider's reach for an edit. @param {Edit} edit @param {number} max the latent's largest activation */
export function reach(edit, max) {
  if (edit.op === "scale") return { min: -2, max: 5, step: 0.1 };
  const least = edit.op === "cap" ? 0 : -1;
  if (edit.unit === "norm") return { min: 1.5 * least, max: 1.5, step: 0.05 };
  if (edit.unit === "max") return { min: (edit.op === "cap" ? 0 : 10) * least, max: edit.op === "cap" ? 2 : 10, step: 0.1 };
  const far = Number((10 * (max || 10)).toPrecision(1));
  return { min: far * least, max: far, step: far / 200 };
}

/** A strength at which something is likely to be seen. @param {Op} op @param {Unit} unit @param {number} max */
export function usual(op, unit, max) {
  if (op === "scale") return 2;
  if (op === "cap") return unit === "raw" ? Number((0.2 * max).toPrecision(2)) : 0.2;
  return unit === "norm" ? 0.4 : unit === "max" ? 3 : Number((3 * max).toPrecision(2));
}
