/** htm: tagged templates bound to a hyperscript function. */
declare const htm: { bind<H>(h: (type: any, props: Record<string, any>, ...children: any[]) => H): (strings: TemplateStringsArray, ...values: any[]) => H };
export default htm;
