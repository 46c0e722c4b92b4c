/** One feature: what it is called and why, where it fires, what it writes, what is near it. */
import { put, remove, useApi } from "../api.js";
import { Await, Copy, toast } from "../components.js";
import { visible, whole } from "../format.js";
import { html } from "../kit.js";
import { link, navigate, useQuery } from "../router.js";
import { useKeys } from "../shell/keys.js";
import { useModel } from "../shell/model.js";
import { useSetting } from "../settings.js";
import { orderOf } from "./atlas/passage.js";
import { passageOf } from "./atlas/query.js";
import { Activation, Basis, Logits, Metadata } from "./feature/aside.js";
import { featureCommand, featurePython } from "./feature/copies.js";
import { Kindred } from "./feature/kin.js";
import { Nearby } from "./feature/nearby.js";
import { Contexts } from "./feature/contexts.js";
import { LabelHead } from "./feature/label.js";
import { Notes } from "./feature/notes.js";
import { TryIt } from "./feature/tryit.js";

/** @param {{latent: string}} params */
export const title = (params) => `Feature ${params.latent}`;

/** @param {{params: {latent: string}, query: Record<string, string>, atlas: any}} props */
export function Page({ params, query, atlas }) {
  const latent = Number(params.latent);
  const list = { q: query.q, sort: query.sort, order: query.order, box: query.box, read: query.read };
  const feature = useApi(`/features/${latent}`);
  const passage = passageOf(query), order = orderOf(passage);
  const asked = { q: passage === null ? query.q : "", sort: query.sort || (passage === null && (query.q || query.box) ? "" : "latent"), order: query.order, box: query.box };
  const around = useApi(order ? null : `/features/${latent}/around`, asked);
  const near = order ? beside(order, latent) : /** @type {any} */ (around.data);
  const [shading, setShading] = useSetting("shading");
  const go = (/** @type {number | null | undefined} */ to) => { if (to !== null && to !== undefined) { navigate(link(`/f/${to}`, list)); scrollTo(0, 0); } };
  useKeys({
    n: () => go(near?.next), p: () => go(near?.previous),
    j: () => step(1), k: () => step(-1),
    v: () => setShading(shading === "numbers" ? "hue" : "numbers"),
    b: () => document.getElementById("bookmark")?.click(),
    e: () => document.getElementById("edit-label")?.click(),
  });
  return html`<article class="feature">
    <nav class="crumbs" aria-label="In the list">
      <a href=${link("/", { ...list, at: latent })}>← Atlas</a>
      <span class="dim">${near ? place(near, passage !== null && order === null ? undefined : list.q) : " "}</span>
      <span class="row nextprev"><${Step} to=${near?.previous} list=${list} name="previous" key_="p" /><${Step} to=${near?.next} list=${list} name="next" key_="n" /></span>
    </nav>
    <${Await} of=${feature} lines=${12}>${(/** @type {any} */ f) => html`
      <${LabelHead} key=${f.latent} feature=${f} onLabel=${(/** @type {any} */ label) => feature.set({ ...f, label })}>
        <${Bookmark} feature=${f} onLists=${(/** @type {string[]} */ lists) => feature.set({ ...f, lists })} />
        <${Copies} latent=${f.latent} atlas=${atlas} query=${query} />
      <//>
      <div class="cols">
        <div><${Contexts} key=${f.latent} feature=${f} />
          <div class="two"><${Nearby} feature=${f} list=${list} /><${Kindred} feature=${f} /></div></div>
        <aside>
          <${Activation} feature=${f} edges=${atlas?.histogram_edges} />
          <${TryIt} key=${`try${f.latent}`} feature=${f} atlas=${atlas} />
          <${Logits} feature=${f} atlas=${atlas} />
          <${Metadata} feature=${f} />
          <${Notes} key=${`note${f.latent}`} feature=${f} onLists=${(/** @type {string[]} */ lists) => feature.set({ ...f, lists })} />
          <${Basis} feature=${f} atlas=${atlas} />
        </aside>
      </div>`}<//>
  </article>`;
}

/** The place of a latent in an order held here. @param {Uint32Array} order @param {number} latent */
function beside(order, latent) {
  const at = order.indexOf(latent);
  return { latent, previous: at > 0 ? order[at - 1] : null, next: at < 0 ? null : order[at + 1] ?? null, rank: at < 0 ? null : at + 1, total: order.length };
}

/** @param {any} near @param {string | undefined} q */
function place(near, q) {
  if (near.rank === null) return "not in this list";
  return `${whole(near.rank)} of ${whole(near.total)}${q ? ` in ${visible(q)}` : ""}`;
}

/** @param {any} props */
function Step({ to, list, name, key_ }) {
  const off = to === null || to === undefined;
  return html`<a class="btn small ${off ? "off" : ""}" href=${off ? undefined : link(`/f/${to}`, list)} aria-disabled=${off} title="${name} feature (${key_})"><kbd aria-hidden="true">${key_}</kbd> ${name}</a>`;
}

/** Move the focus along the contexts. @param {number} by */
function step(by) {
  const all = /** @type {HTMLElement[]} */ ([...document.querySelectorAll(".contexts > li")]);
  if (!all.length) return;
  const at = all.findIndex((li) => li === document.activeElement || li.contains(document.activeElement));
  const next = all[Math.min(all.length - 1, Math.max(0, at + by))];
  next.focus({ preventScroll: true });
  next.scrollIntoView({ block: "nearest" });
}

/** @param {any} props */
function Bookmark({ feature, onLists }) {
  const on = feature.lists.includes("bookmarks");
  const toggle = async () => {
    try {
      const path = `/lists/bookmarks/${feature.latent}`;
      await (on ? remove(path) : put(path, undefined));
      onLists(on ? feature.lists.filter((/** @type {string} */ n) => n !== "bookmarks") : [...feature.lists, "bookmarks"]);
    } catch (error) { toast(String(/** @type {any} */ (error).message)); }
  };
  return html`<button id="bookmark" class="btn small" aria-pressed=${on} onClick=${toggle} title="Keep it on the list bookmarks (b)">${on ? "★ bookmarked" : "☆ bookmark"}</button>`;
}

/**
 * What names the model waits until it is known, as in components/share.js; where there is none, none is named.
 * @param {{latent: number, atlas: any, query: Record<string, string>}} props
 */
function Copies({ latent, atlas, query }) {
  const model = useModel();
  if (!atlas) return null;
  const without = model?.state === "absent" || model?.state === "failed", ready = without || model?.state === "ready";
  const loaded = () => without ? null : /** @type {any} */ (model);
  const title = (/** @type {string} */ says) => ready ? says : "when the model is ready";
  return html`<${Copy} label="Copy link" text=${() => location.href} title="This page as it stands" />
    <${Copy} label="as command" disabled=${!ready} text=${() => featureCommand(latent, query, loaded(), atlas.folder)} title=${title(without ? "What the atlas knows of it" : "Steer with it, as the box beside does")} />
    <${Copy} label="as Python" disabled=${!ready} text=${() => featurePython(latent, query, loaded(), atlas.folder)} title=${title("Load it, read it, steer with it")} />`;
}
