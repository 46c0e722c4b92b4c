/** Keyboard: single keys that act unless somebody is typing, and the sheet that lists them. */
import { html, useEffect, useRef } from "../kit.js";

/** Every key the pages answer to, for the sheet. */
export const KEYS = [
  ["/", "search"], ["j  k", "down and up a list"], ["Enter", "open what is marked"],
  ["n  p", "next and previous feature"], ["e", "edit the label"], ["b", "bookmark"],
  ["v", "values beside tokens"], ["r", "run or stop, in the Lab"], ["← ↑ → ↓", "on the map: the nearest that way; with Shift a box, Space selects it"], ["?", "this sheet"], ["Esc", "close, or leave a field"],
];

/**
 * Answer to single keys. Keys typed into a field, or with Ctrl, Alt or Meta, are left alone.
 * @param {Record<string, (event: KeyboardEvent) => void>} actions by event.key
 */
export function useKeys(actions) {
  const held = useRef(actions);
  held.current = actions;
  useEffect(() => {
    const pressed = (/** @type {KeyboardEvent} */ event) => {
      if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
      const target = event.target;
      if (target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName))) {
        if (event.key === "Escape") target.blur();
        return;
      }
      if (document.querySelector("dialog[open]") && event.key !== "?") return;
      // What has the focus goes first: Enter on a link follows the link.
      if (event.key === "Enter" && target instanceof Element && target.closest("a[href], button, summary, [role=button]")) return;
      const act = held.current[event.key];
      if (!act) return;
      event.preventDefault();
      act(event);
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
}

/**
 * Move the focus along what the page lists, as j and k do; from elsewhere to its first.
 * @param {string} selector of what can be focused, in the order of the page @param {number} by
 */
export function along(selector, by) {
  const all = /** @type {HTMLElement[]} */ ([...document.querySelectorAll(selector)]);
  const row = document.activeElement?.closest("li, tr");
  const at = all.findIndex((one) => one === document.activeElement || (row && row === one.closest("li, tr")));
  const next = all[Math.max(0, Math.min(all.length - 1, at + by))];
  next?.focus({ preventScroll: true });
  next?.scrollIntoView({ block: "nearest" });
}

/** @param {{close: () => void}} props */
export function Keys({ close }) {
  const dialog = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useEffect(() => { dialog.current?.showModal(); }, []);
  return html`<dialog class="sheet" ref=${dialog} onClose=${close} aria-labelledby="keys-title">
    <h2 id="keys-title">Keys</h2>
    <dl class="keys">${KEYS.map(([key, does]) => html`<div key=${key}><dt>${key.split("  ").map((k) => html`<kbd>${k}</kbd> `)}</dt><dd>${does}</dd></div>`)}</dl>
    <form method="dialog"><button class="btn" autofocus>Close</button></form>
  </dialog>`;
}
