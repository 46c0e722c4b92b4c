/** A feature in a terminal and in Python: what the atlas knows of it, and what it does as the box beside it tries it. */
import { numberOf } from "../../components/unread.js";
import { python, shell } from "../../format.js";
import { PROMPT, asCommand, asPython, read } from "../lab/state.js";

export const TOKENS = 40;
const STRENGTH = 0.5; // × the median norm

/** What the box tries, as the address holds it: `p` the prompt, `add` the strength. @param {number} latent @param {Record<string, string>} query */
export function tried(latent, query) {
  const lab = read({ p: query.p ?? PROMPT, n: String(TOKENS) });
  const value = numberOf(query, "add", STRENGTH, { min: -1, max: 1, said: "a strength, −1 to 1 × the median norm" }, lab.bad);
  return { ...lab, edits: [{ latent, op: /** @type {const} */ ("add"), value, unit: /** @type {const} */ ("norm"), where: "all" }] };
}

/** @param {number} latent @param {string} folder of the atlas */
const told = (latent, folder) => `atlas = ms.load_atlas(${python(folder)})
feature = atlas.feature(${latent})
print(feature.label, feature.density, feature.max)
for example in feature.top[:5]:
    print(f"{example.value:.1f}", example.text)
`;

/**
 * Steering as the box does, or without a model what the atlas knows.
 * @param {number} latent @param {Record<string, string>} query @param {import("../../components/share.js").Loaded | null} model @param {string} folder of the atlas
 */
export const featureCommand = (latent, query, model, folder) => model
  ? asCommand(tried(latent, query), model, folder)
  : `monoscope features ${shell(folder)} --id ${latent}`;

/** @param {number} latent @param {Record<string, string>} query @param {import("../../components/share.js").Loaded | null} model @param {string} folder of the atlas */
export const featurePython = (latent, query, model, folder) => model
  ? `${asPython(tried(latent, query), model, folder)}${told(latent, folder).replace(/^.*\n/, "")}`
  : `import monoscope as ms\n\n${told(latent, folder)}`;
