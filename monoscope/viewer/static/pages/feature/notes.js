/** What a person keeps about a feature: a note, and the lists it is on. */
import { put, remove, useApi } from "../../api.js";
import { Panel, toast } from "../../components.js";
import { html, useState } from "../../kit.js";
import { link } from "../../router.js";

/** @param {{feature: any, onLists: (lists: string[]) => void}} props */
export function Notes({ feature, onLists }) {
  const [text, setText] = useState(feature.note);
  const [kept, setKept] = useState(feature.note);
  const [name, setName] = useState("");
  const known = useApi("/lists");
  const said = (/** @type {any} */ error) => toast(error.message);
  const save = () => put(`/features/${feature.latent}/note`, { text }).then((n) => { setText(n.text); setKept(n.text); toast("Note kept"); }, said);
  const add = (/** @type {Event} */ event) => {
    event.preventDefault();
    const list = name.trim();
    if (!list) return;
    put(`/lists/${encodeURIComponent(list)}/${feature.latent}`, undefined).then(() => { setName(""); onLists([...new Set([...feature.lists, list])]); known.reload(); }, said);
  };
  const take = (/** @type {string} */ list) => remove(`/lists/${encodeURIComponent(list)}/${feature.latent}`).then(() => onLists(feature.lists.filter((/** @type {string} */ n) => n !== list)), said);
  const others = Object.keys(/** @type {any} */ (known.data)?.lists || {}).filter((n) => !feature.lists.includes(n));
  return html`<${Panel} title="Notes and lists">
    <textarea class="text" rows="3" maxlength="20000" aria-label="Note" placeholder="A note to keep with it" value=${text} onInput=${(/** @type {any} */ e) => setText(e.target.value)}></textarea>
    <div class="row"><button class="btn small" disabled=${text === kept} onClick=${save}>Keep the note</button></div>
    <div class="row lists">${feature.lists.map((/** @type {string} */ n) => html`<span key=${n} class="term"><a href=${link("/", { q: n.includes(" ") ? `list:"${n}"` : `list:${n}` })}>${n}</a><button class="quiet x" onClick=${() => take(n)} aria-label="Take off ${n}">×</button></span>`)}
      <form class="row" onSubmit=${add}><input class="text small" list="known-lists" maxlength="80" placeholder="put on a list…" aria-label="List" value=${name} onInput=${(/** @type {any} */ e) => setName(e.target.value)} /><datalist id="known-lists">${others.map((n) => html`<option key=${n} value=${n} />`)}</datalist><button class="btn small" disabled=${!name.trim()}>Add</button></form></div>
  <//>`;
}
