/** Whether the model can be asked: absent, loading, ready or failed. */
import { useApi } from "../api.js";
import { html, useEffect } from "../kit.js";

/** The model's status, asked again every second while it loads. @returns {{state: string, detail: string, model: string | null, sae: string | null} | null} */
export function useModel() {
  const { data, error, reload } = useApi("/status");
  const state = /** @type {any} */ (data)?.model?.state;
  useEffect(() => {
    if (state !== "loading") return;
    const timer = setInterval(reload, 1000);
    return () => clearInterval(timer);
  }, [state]);
  return error ? null : /** @type {any} */ (data)?.model || null;
}

export function ModelChip() {
  const model = useModel();
  const said = { absent: "browsing only", loading: "loading model…", ready: "model ready", failed: "model failed" };
  const state = model?.state || "absent";
  return html`<span class="chip model is-${state}" role="status" title=${model?.detail || model?.model || ""}>
    <i class="dot" aria-hidden="true"></i>${model ? said[/** @type {keyof typeof said} */ (state)] : " "}</span>`;
}
