/** The runs in view in a terminal and in Python: where each is, and what it came to on held-out documents. */
import { python, shell } from "../../format.js";
import { address } from "../../api.js";
import { ON_DISK } from "../../router.js";

/** @typedef {{root: string, shown: string[], focus: string | undefined}} View shown: the runs drawn; focus: the one told in full */

/**
 * The run that is told in full, or the list, from the viewer's own API; pages opened from disk have no viewer to ask.
 * @param {View} view @returns {string}
 */
export function asCommand({ focus }) {
  if (ON_DISK) return "";
  return `curl ${shell(location.origin + (focus === undefined ? address("/runs") : address("/runs/one", { id: focus })))}`;
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
