/** The lens in a terminal and in Python: a text, a chat, or two texts. */
import { flag, python, shell } from "../../format.js";
import { turnsOf } from "./reading.js";

const WINDOW = 120; // tokens that the command line reads at once unless told otherwise, and room for a prefix

/**
 * @typedef {{text: string, other: string | null, chat: boolean, by: string, n: number, dense: boolean}} View
 *   other: the text compared with; n: tokens; dense: with the latents that fire on most texts
 * @typedef {import("../../components/share.js").Loaded} Loaded
 */

/** @param {View} view @param {Loaded} model @param {string} atlas */
export function asCommand({ text, other, chat, by, n, dense }, model, atlas) {
  const words = ["monoscope features", shell(atlas), "--sae", shell(model.sae)];
  if (model.model) words.push("--model", shell(model.model));
  words.push(chat ? flag("--messages", JSON.stringify(turnsOf(text))) : flag("--text", text));
  if (other !== null) words.push(flag("--text-b", other));
  else if (by !== "sum") words.push("--by", by);
  if (!dense) words.push("--no-dense");
  if (n > WINDOW) words.push("--context-length", String(Math.max(n + 8, 256)));
  return words.join(" ");
}

/** @param {View} view @param {Loaded} model @param {string} atlas */
export function asPython({ text, other, chat, by, dense }, model, atlas) {
  const left = dense ? "" : ".without(atlas.dense())"; // what fires on most texts, as the page leaves it out
  const read = (/** @type {string} */ given) => `features_on_text(lm, sae, ${python(given)}, context_length=lm.context_length)${left}`;
  const begin = (/** @type {string} */ names) => `import monoscope as ms
from monoscope.features.text import ${names}

lm = ms.load_lm(${python(model.model || "demo")})
sae = ms.load_sae(${python(model.sae)})
atlas = ms.load_atlas(${python(atlas)})
labels = atlas.labels()
`;
  if (other !== null) return `${begin("differences, features_on_text")}a = ${read(text)}
b = ${read(other)}
for row in differences(a, b, limit=10):
    print(row.latent, f"{row.difference:+.2f}", labels[row.latent])
`;
  const found = chat ? `features_on_chat(lm, sae, ${JSON.stringify(turnsOf(text))}, context_length=lm.context_length)${left}` : read(text);
  return `${begin(chat ? "features_on_chat" : "features_on_text")}found = ${found}
for total in found.ranked(${python(by)})[:20]:
    print(total.latent, round(total.${by}, 2), labels[total.latent])
`;
}
