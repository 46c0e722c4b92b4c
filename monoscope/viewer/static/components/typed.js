/** A field that keeps what is being typed, however often the page around it is drawn meanwhile. */
import { html, useState } from "../kit.js";

/**
 * What was typed is told once it is finished (Enter, or the field is left); until then it is the
 * field's own, since whatever arrives meanwhile draws the page anew with the value that was last told.
 * @param {{value: string | number, tell: (input: HTMLInputElement) => void, as?: "input" | "textarea", [attribute: string]: any}} props
 */
export function Typed({ value, tell, as = "input", ...attributes }) {
  const [draft, setDraft] = useState(/** @type {string | null} */ (null));
  return html`<${as} ...${attributes} value=${draft ?? value} onInput=${(/** @type {any} */ e) => setDraft(e.target.value)}
    onChange=${(/** @type {any} */ e) => tell(e.target)} onBlur=${() => setDraft(null)} />`;
}
