/** The part of Preact that the pages use. */
export interface VNode<P = any> { type: any; props: P & { children?: ComponentChildren }; key: any }
export type ComponentChild = VNode<any> | object | string | number | bigint | boolean | null | undefined;
export type ComponentChildren = ComponentChild[] | ComponentChild;
export interface RefObject<T> { current: T | null }
export interface Context<T> { Provider: any; Consumer: any; __type?: T }
export class Component<P = any, S = any> {
  constructor(props?: P);
  props: P; state: S;
  setState(state: Partial<S>): void;
  forceUpdate(): void;
  render(props?: P, state?: S): ComponentChild;
}
export const Fragment: any;
export function h(type: any, props: any, ...children: ComponentChildren[]): VNode<any>;
export function render(vnode: ComponentChild, parent: Element): void;
export function createContext<T>(value: T): Context<T>;
export function createRef<T>(): RefObject<T>;
