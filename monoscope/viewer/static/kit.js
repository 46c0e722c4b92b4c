/** Preact, its hooks and htm from one place: what every page imports. */
import { Component, Fragment, createContext, createRef, h, render } from "./vendor/preact.js";
import htm from "./vendor/htm.js";

export const html = htm.bind(h);
export { Component, Fragment, createContext, createRef, h, render };
export {
  useCallback, useContext, useEffect, useErrorBoundary, useId, useLayoutEffect, useMemo, useReducer,
  useRef, useState,
} from "./vendor/hooks.js";
