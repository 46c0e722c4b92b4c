/** The hooks of Preact that the pages use. */
import type { Context } from "./preact.js";
type Inputs = ReadonlyArray<unknown>;
export function useState<S>(initial: S | (() => S)): [S, (next: S | ((previous: S) => S)) => void];
export function useReducer<S, A>(reducer: (state: S, action: A) => S, initial: S): [S, (action: A) => void];
export function useRef<T>(initial: T): { current: T };
export function useRef<T>(initial: T | null): { current: T | null };
export function useEffect(effect: () => void | (() => void), inputs?: Inputs): void;
export function useLayoutEffect(effect: () => void | (() => void), inputs?: Inputs): void;
export function useMemo<T>(factory: () => T, inputs: Inputs): T;
export function useCallback<T extends (...args: any[]) => any>(callback: T, inputs: Inputs): T;
export function useContext<T>(context: Context<T>): T;
export function useErrorBoundary(callback?: (error: any) => void): [any, () => void];
export function useId(): string;
