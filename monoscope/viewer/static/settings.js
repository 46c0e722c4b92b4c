/** What this browser remembers of how a person likes to look: theme, numbers, shading. */
import { useEffect, useState } from "./kit.js";

/** theme: "system", "light", "dark"; shading: "hue", "numbers" (values printed beside tokens). */
const DEFAULTS = { theme: "system", shading: "hue" };

/** @param {keyof typeof DEFAULTS} name @returns {string} */
function read(name) {
  try { return JSON.parse(localStorage.getItem(`monoscope.${name}`) || "null") ?? DEFAULTS[name]; }
  catch { return DEFAULTS[name]; }
}

/** @param {keyof typeof DEFAULTS} name @returns {[string, (value: string) => void]} */
export function useSetting(name) {
  const [value, setValue] = useState(() => read(name));
  useEffect(() => {
    const changed = () => setValue(read(name));
    addEventListener("monoscope:setting", changed);
    return () => removeEventListener("monoscope:setting", changed);
  }, [name]);
  return [value, (next) => {
    try { localStorage.setItem(`monoscope.${name}`, JSON.stringify(next)); } catch { /* not kept */ }
    if (name === "theme") {
      if (next === "system") delete document.documentElement.dataset.theme;
      else document.documentElement.dataset.theme = next;
    }
    setValue(next);
    dispatchEvent(new Event("monoscope:setting"));
  }];
}
