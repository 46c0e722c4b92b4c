/** The runs in view in a terminal and in Python: how each was trained, and what it came to. */
import { python, shell } from "../../format.js";

/** @typedef {{root: string, shown: string[], focus: string | undefined}} View shown: the runs drawn; focus: the one told in full */

/** The run that is told in full, or those drawn, a line each. @param {View} view */
export function asCommand({ root, shown, focus }) {
  return (focus === undefined ? shown : [focus]).map((id) => `monoscope info ${shell(`${root}/${id}`)}`).join("\n");
}

/** The ends of the curves drawn, read from the runs' folders, beside what evaluations say. @param {View} view */
export function asPython({ root, shown }) {
  return `from pathlib import Path

from monoscope.viewer import found, runs

seen = found.look(Path(${python(root)}))
for name in [${shown.map(python).join(", ")}]:
    folder = found.inside(seen.root, name, found.RUN)
    curve = runs.columns(runs.read_from(folder).events, points=800)
    if curve["n_tokens"]:
        print(name, "training", *(f"{key} {curve[key][-1]}" for key in ("n_tokens", "fvu", "l0", "dead_fraction")))
    if measured := runs.evaluation(folder, seen):
        print(name, "held out", *(f"{key} {measured[1][key]}" for key in ("n_tokens", "fvu", "l0", "dead_fraction")))
`;
}
