/** Training curves of several runs over tokens: four small charts that share one cursor. */
import { Empty, Panel, useSize } from "../../components.js";
import { percent, short, whole } from "../../format.js";
import { html, useEffect, useRef, useState } from "../../kit.js";
import uPlot from "../../vendor/uPlot.js";
import { DASHES, N_STYLES, Swatch, colour, nameOf } from "./style.js";

const CHARTS = [
  { name: "fvu", title: "FVU", about: "share of variance left unexplained, on the batch", show: short },
  { name: "loss", title: "Loss", about: "all terms of the training objective", show: short },
  { name: "l0", title: "L0", about: "latents active on a token, on average", show: short },
  { name: "dead_fraction", title: "Dead", about: "share of latents without a hit in the recipe's window of tokens", show: percent },
];
const HEIGHT = 168;
const SYNC = "monoscope-runs";

/** @param {{runs: {id: string}[], curves: Record<string, any>, log: boolean, setLog: (on: boolean) => void}} props */
export function Curves({ runs, curves, log, setLog }) {
  const drawn = runs.filter((run) => curves[run.id]?.columns.n_tokens?.length);
  const waiting = !drawn.length && runs.some((run) => !curves[run.id]);
  const troubles = runs.filter((run) => curves[run.id]?.error);
  const aside = html`<button class="btn small" aria-pressed=${log} onClick=${() => setLog(!log)} title="Tokens, FVU and loss on logarithmic scales">log scale</button>`;
  return html`<${Panel} title="Training curves" class="wide curves" aside=${aside}>
    ${troubles.map((run) => html`<p class="warn">${nameOf(run.id)}: ${curves[run.id].error}</p>`)}
    ${!runs.length ? html`<${Empty} title="No run is drawn">Tick a run above to draw its curves.<//>`
      : !drawn.length && !waiting ? html`<${Empty} title="No events yet">The curves begin with a run's first events.<//>`
      : html`<ul class="legend">${runs.filter((run) => !curves[run.id] || drawn.includes(run)).map((run) => html`<li key=${run.id}><${Swatch} place=${runs.indexOf(run)} />${nameOf(run.id)}</li>`)}</ul>
        <div class="charts" aria-busy=${waiting}>${CHARTS.map((chart) => waiting ? html`<figure key=${`wait${chart.name}`} class="chart"><figcaption><h3>${chart.title}</h3></figcaption><div class="plot"></div></figure>` : html`<${Chart} key=${chart.name} ...${chart} log=${log} steep=${chart.name === "fvu" || chart.name === "loss"}
          lines=${drawn.map((run) => ({ id: run.id, place: runs.indexOf(run), x: curves[run.id].columns.n_tokens, y: curves[run.id].columns[chart.name] }))} />`)}</div>`}
  <//>`;
}

/** @param {{title: string, about: string, show: (v: number | null) => string, log: boolean, steep: boolean,
 *   lines: {id: string, place: number, x: number[], y: (number | null)[]}[]}} props */
function Chart({ title, about, show, log, steep, lines }) {
  const [box, { width }] = useSize();
  const plot = useRef(/** @type {uPlot | null} */ (null));
  const [at, setAt] = useState(/** @type {{x: number, y: (number | null | undefined)[]} | null} */ (null));
  const theme = useTheme();
  const key = lines.map((line) => `${line.place}:${line.id}`).join("|");
  const data = aligned(lines);
  useEffect(() => {
    if (!width || !box.current) return;
    const made = new uPlot(options(width, lines, { x: log, y: log && steep }, show, setAt), data, box.current);
    plot.current = made;
    return () => { made.destroy(); plot.current = null; };
  }, [key, log, theme, width > 0]);
  useEffect(() => { plot.current?.setData(data); }, [lines.map((line) => line.x.length).join(), key, log, theme]);
  useEffect(() => { if (width) plot.current?.setSize({ width, height: HEIGHT }); }, [width]);
  const last = lines.map((line) => line.y[line.y.length - 1]);
  const read = at ? lines.map((_, i) => at.y[i]) : last;
  return html`<figure class="chart">
    <figcaption><h3 title=${about}>${title}</h3><span class="readout num">${at && html`<span class="dim">${whole(at.x)} tokens</span>`}
      ${lines.map((line, i) => html`<span key=${line.id} class="series s${line.place % N_STYLES}" title=${nameOf(line.id)}>${show(read[i] ?? null)}</span>`)}</span></figcaption>
    <div class="plot" ref=${box} role="img" aria-label=${`${title}, ${about}, over training tokens. Last: ${lines.map((line, i) => `${nameOf(line.id)} ${show(last[i] ?? null)}`).join(", ")}`}></div>
  </figure>`;
}

/** Runs report at tokens of their own: one x for all, gaps where a run said nothing. @param {{x: number[], y: (number | null)[]}[]} lines */
function aligned(lines) {
  if (!lines.length) return /** @type {uPlot.AlignedData} */ ([[]]);
  return uPlot.join(lines.map((line) => /** @type {uPlot.AlignedData} */ ([line.x, line.y])));
}

/**
 * @param {number} width @param {{place: number, id: string}[]} lines @param {{x: boolean, y: boolean}} log
 * @param {(v: number | null) => string} show @param {(at: any) => void} setAt @returns {uPlot.Options}
 */
function options(width, lines, log, show, setAt) {
  const style = getComputedStyle(document.documentElement);
  const [dim, line] = ["--dim", "--line"].map((name) => style.getPropertyValue(name).trim());
  const font = `11px ${getComputedStyle(document.body).fontFamily}`;
  const axis = { stroke: dim, font, grid: { stroke: line, width: 1 }, ticks: { show: false } };
  return {
    width, height: HEIGHT, legend: { show: false }, padding: [8, 8, 0, 0],
    cursor: { sync: { key: SYNC }, points: { size: 6 }, drag: { x: true, y: false } },
    scales: { x: { time: false, distr: log.x ? 3 : 1 }, y: { distr: log.y ? 3 : 1 } },
    axes: [
      { ...axis, size: 24, values: (_, ticks) => ticks.map((tick) => tick === null ? "" : tokens(tick)) },
      { ...axis, size: 46, values: (_, ticks) => ticks.map((tick) => tick === null ? "" : show(tick)) },
    ],
    series: [{}, ...lines.map(({ place, id }) => ({
      label: id, stroke: colour(place), dash: DASHES[place % N_STYLES], width: 1.75, spanGaps: true, points: { show: false },
    }))],
    hooks: { setCursor: [(plot) => {
      const i = plot.cursor.idx;
      setAt(i === null || i === undefined ? null : { x: plot.data[0][i], y: plot.data.slice(1).map((_, s) => valueAt(plot, s + 1, i)) });
    }] },
  };
}

/** A line's value at a place, or the last one before it. @param {uPlot} plot @param {number} series @param {number} at */
function valueAt(plot, series, at) {
  const values = plot.data[series];
  for (let i = at; i >= 0; i--) if (values[i] !== null && values[i] !== undefined) return values[i];
  return null;
}

/** @param {number} n */
function tokens(n) {
  if (n >= 1e9) return `${+(n / 1e9).toPrecision(3)}B`;
  if (n >= 1e6) return `${+(n / 1e6).toPrecision(3)}M`;
  return n >= 1e3 ? `${+(n / 1e3).toPrecision(3)}k` : String(n);
}

/** Changes when the colours do, by the page's own button or by the system. */
function useTheme() {
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const media = matchMedia("(prefers-color-scheme: dark)");
    const changed = () => setTurn((n) => n + 1);
    media.addEventListener("change", changed);
    addEventListener("monoscope:setting", changed);
    return () => { media.removeEventListener("change", changed); removeEventListener("monoscope:setting", changed); };
  }, []);
  return turn;
}
