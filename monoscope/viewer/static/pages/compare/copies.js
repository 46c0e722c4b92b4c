/** A comparison in a terminal and in Python. */
import { flag, python, shell } from "../../format.js";

/** @typedef {{a: string, b: string, threshold: number, kind: string, words: string, family: string, pair: [number, number] | null}} View family: the one opened; pair: a latent of either, side by side */

/** @param {string} root @param {string} id */
const path = (root, id) => id.startsWith("/") ? id : `${root}/${id}`;

/** The folder to look for SAEs in, where they need not lie beside the atlases. @param {string} root @param {View} view */
const away = (root, { a, b }) => `${a}${b}`.includes("/") ? root : "";

/** @param {string} root @param {View} view */
export function asCommand(root, view) {
  const words = ["monoscope compare", shell(path(root, view.a)), shell(path(root, view.b)), "--threshold", String(view.threshold)];
  if (view.family) words.push(shell(`--family=${view.family}`));
  else if (view.kind) words.push("--kind", view.kind);
  if (!view.family && view.words) words.push(flag("--search", view.words));
  if (away(root, view)) words.push("--runs", shell(root));
  return words.join(" ");
}

/** @param {string} root @param {View} view */
export function asPython(root, view) {
  const runs = away(root, view);
  const given = [String(view.threshold), ...(view.kind ? [`kind=${python(view.kind)}`] : []), ...(view.words ? [`words=${python(view.words)}`] : [])];
  return `from monoscope.features.compare import counts
from monoscope.viewer.comparison import open_comparison

pair = open_comparison(${[path(root, view.a), path(root, view.b), ...(runs ? [runs] : [])].map(python).join(", ")})
print(counts(pair.families(${view.threshold})))
labels = pair.labels
for family in pair.found(${given.join(", ")})[:20]:
    print(family.kind, f"{family.cosine:.2f}", *([i, labels[0][i]] for i in family.a), "|", *([i, labels[1][i]] for i in family.b))
${view.pair ? `for place in pair.contexts([${view.pair[0]}], [${view.pair[1]}], 12):
    print(place["sides"], "".join(place["pieces"]), place["a"][0], place["b"][0])
` : ""}`;
}
