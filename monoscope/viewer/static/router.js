/** Addresses of the page: which page they name, and the state that their query holds. */
import { createContext, html, useCallback, useContext, useEffect, useState } from "./kit.js";

/**
 * A page: a pattern of the path, its name in the rail (none: not in the rail), its module.
 * To add one: a line here, and `static/pages/NAME.js` exporting `title` and `Page`.
 * @type {{path: RegExp, href: string, name: string | null, load: () => Promise<any>}[]}
 */
export const ROUTES = [
  { path: /^\/$/, href: "/", name: "Atlas", load: () => import("./pages/atlas.js") },
  { path: /^\/f\/(?<latent>\d+)$/, href: "/f/0", name: null, load: () => import("./pages/feature.js") },
  { path: /^\/lens$/, href: "/lens", name: "Lens", load: () => import("./pages/lens.js") },
  { path: /^\/steer$/, href: "/steer", name: "Lab", load: () => import("./pages/lab.js") },
  { path: /^\/run$/, href: "/run", name: "Runs", load: () => import("./pages/run.js") },
  { path: /^\/compare$/, href: "/compare", name: "Compare", load: () => import("./pages/compare.js") },
];

// A page opened from disk has no server to answer for /f/123: there the address lives behind a #.
export const ON_DISK = location.protocol === "file:";

/** @typedef {{path: string, query: Record<string, string>}} Place */

/** @returns {Place} */
export function here() {
  const [path, search] = ON_DISK
    ? (location.hash.slice(1) || "/").split("?")
    : [location.pathname, location.search.slice(1)];
  return { path: path || "/", query: Object.fromEntries(new URLSearchParams(search || "")) };
}

/** The address of a place, as an href. @param {string} path @param {Record<string, any>} [query] */
export function link(path, query) {
  const given = Object.entries(query || {}).filter(([, v]) => v !== null && v !== undefined && v !== "");
  const text = new URLSearchParams(given.map(([k, v]) => [k, String(v)])).toString();
  return (ON_DISK ? "#" : "") + path + (text ? `?${text}` : "");
}

/** Go to a place. @param {string} href as `link` gives it @param {{replace?: boolean}} [how] */
export function navigate(href, how = {}) {
  history[how.replace ? "replaceState" : "pushState"](null, "", href);
  dispatchEvent(new Event("monoscope:place"));
}

const PlaceContext = createContext(/** @type {Place} */ (here()));

/** @param {{children?: any}} props */
export function PlaceProvider({ children }) {
  const [place, setPlace] = useState(here);
  useEffect(() => {
    const moved = () => setPlace(here());
    const clicked = (/** @type {MouseEvent} */ event) => {
      if (event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
      const anchor = /** @type {Element} */ (event.target).closest?.("a[href]");
      if (!(anchor instanceof HTMLAnchorElement) || anchor.target || anchor.hasAttribute("download")) return;
      const href = anchor.getAttribute("href") || "";
      const ours = ON_DISK ? href.startsWith("#/") : href.startsWith("/") && ROUTES.some((r) => r.path.test(anchor.pathname));
      if (!ours) return;
      event.preventDefault();
      navigate(href);
      scrollTo(0, 0);
    };
    for (const name of ["popstate", "hashchange", "monoscope:place"]) addEventListener(name, moved);
    document.addEventListener("click", clicked);
    return () => {
      for (const name of ["popstate", "hashchange", "monoscope:place"]) removeEventListener(name, moved);
      document.removeEventListener("click", clicked);
    };
  }, []);
  return html`<${PlaceContext.Provider} value=${place}>${children}<//>`;
}

/** @returns {Place} */
export const usePlace = () => useContext(PlaceContext);

/**
 * The query of the address as state: what a page shows is what its address says.
 * `set` merges a patch; "" or null removes. It replaces the entry in the history unless told to push.
 * @returns {[Record<string, string>, (patch: Record<string, any>, how?: {push?: boolean}) => void]}
 */
export function useQuery() {
  const { query } = usePlace();
  const set = useCallback((/** @type {Record<string, any>} */ patch, how = /** @type {{push?: boolean}} */ ({})) => {
    const now = here();
    const next = link(now.path, { ...now.query, ...patch });
    if (next !== link(now.path, now.query)) navigate(next, { replace: !how.push });
  }, []);
  return [query, set];
}
