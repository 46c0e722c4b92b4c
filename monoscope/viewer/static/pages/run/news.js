/** The curves of runs, and what is added to them while they train. */
import { events, get } from "../../api.js";
import { useEffect, useState } from "../../kit.js";
import { ON_DISK } from "../../router.js";

const POINTS = 800;
const AGAIN_MS = 2000; // before a broken stream is taken up again

/** @typedef {{columns: Record<string, (number | null)[]>, notes: any[], end: number, status: string, error: string | null}} RunCurve */

/**
 * The curves of the given runs, kept up to date by one stream for all that are not finished.
 * @param {{id: string, status: string}[]} runs
 * @returns {Record<string, RunCurve>} by id; a run whose curve is still awaited is not in it
 */
export function useCurves(runs) {
  const [curves, setCurves] = useState(/** @type {Record<string, RunCurve>} */ ({}));
  const key = runs.map((run) => run.id).join("|");
  // Followed until the stream itself says that it ended, so a status that the list learns of first
  // does not cut off the last events.
  useEffect(() => {
    const stop = new AbortController();
    watch(runs, stop.signal, (id, change) => setCurves((all) => ({ ...all, [id]: change(all[id]) })));
    return () => stop.abort();
  }, [key]);
  return curves;
}

/**
 * @param {{id: string, status: string}[]} runs @param {AbortSignal} signal
 * @param {(id: string, change: (curve: RunCurve | undefined) => RunCurve) => void} put
 */
async function watch(runs, signal, put) {
  const ends = /** @type {Record<string, number>} */ ({});
  await Promise.all(runs.map(async ({ id, status }) => {
    try {
      const curve = await get("/runs/curve", { id, points: POINTS }, signal);
      ends[id] = curve.end;
      put(id, () => ({ columns: curve.columns, notes: curve.notes, end: curve.end, status, error: null }));
    } catch (error) {
      if (!signal.aborted) put(id, () => ({ columns: {}, notes: [], end: 0, status, error: /** @type {Error} */ (error).message }));
    }
  }));
  let open = runs.filter((run) => run.status !== "finished" && run.id in ends).map((run) => run.id);
  while (open.length && !ON_DISK && !signal.aborted) {
    try {
      const params = { id: open, start: open.map((id) => ends[id]) };
      for await (const { event, data } of events("/runs/follow", undefined, { params, signal })) {
        if (event === "status") {
          put(data.id, (curve) => ({ .../** @type {RunCurve} */ (curve), status: data.status }));
          if (data.status === "finished") open = open.filter((id) => id !== data.id);
        } else if (event === "figures") {
          ends[data.id] = data.end;
          put(data.id, (curve) => extended(/** @type {RunCurve} */ (curve), data));
        }
      }
    } catch { /* the viewer went away, or the page did */ }
    if (open.length && !signal.aborted) await new Promise((done) => setTimeout(done, AGAIN_MS));
  }
}

/** @param {RunCurve} curve @param {any} news @returns {RunCurve} */
function extended(curve, news) {
  const names = Object.keys(news.columns);
  const old = news.again ? {} : curve.columns;
  const columns = Object.fromEntries(names.map((name) => [name, [...(old[name] || []), ...news.columns[name]]]));
  return { ...curve, columns, end: news.end, notes: news.again ? news.notes : [...curve.notes, ...news.notes] };
}
