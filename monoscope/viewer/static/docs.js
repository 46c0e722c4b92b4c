/** The API's own page: every endpoint with its parameters and answers, read from the OpenAPI document. */
import { html, render, useState } from "./kit.js";

/** @param {{document: any}} props */
function Docs({ document: d }) {
  const [find, setFind] = useState("");
  const all = Object.entries(d.paths).flatMap(([path, methods]) => Object.entries(/** @type {any} */ (methods)).map(([method, op]) => ({ path, method, op: /** @type {any} */ (op) })));
  const shown = all.filter(({ path, op }) => `${path} ${op.description || ""}`.toLowerCase().includes(find.toLowerCase()));
  const tags = [...new Set(shown.map(({ op }) => op.tags?.[0] || "other"))];
  return html`<main class="docs">
    <h1>${d.info.title} API <span class="dim num">${d.info.version}</span></h1>
    <p class="sub">${d.info.summary} OpenAPI ${d.openapi}: <a href="/api/openapi.json">/api/openapi.json</a>. Errors are problem+json with detail, got, expected and hint. <a href="/">To the atlas</a>.</p>
    <input class="text" type="search" placeholder="find an endpoint" aria-label="Find an endpoint" value=${find} onInput=${(/** @type {any} */ e) => setFind(e.target.value)} />
    ${tags.map((tag) => html`<section key=${tag}><h2>${tag}</h2>${shown.filter(({ op }) => (op.tags?.[0] || "other") === tag).map((e) => html`<${Endpoint} key=${e.method + e.path} ...${e} d=${d} />`)}</section>`)}
  </main>`;
}

/** @param {any} props */
function Endpoint({ path, method, op, d }) {
  const parameters = op.parameters || [];
  const body = op.requestBody && Object.values(op.requestBody.content)[0];
  const [status, answer] = Object.entries(op.responses)[0] || ["", {}];
  const [kind, schema] = Object.entries(/** @type {any} */ (answer).content || {})[0] || ["", {}];
  return html`<details class="panel endpoint" id=${op.operationId}><summary><code class="method ${method}">${method.toUpperCase()}</code> <code>${path}</code> <span class="dim">${(op.description || op.summary || "").split("\n")[0]}</span></summary>
    ${(op.description || "").split("\n").length > 1 && html`<p>${op.description}</p>`}
    ${parameters.length > 0 && html`<h3>Parameters</h3><table class="docs-table"><tbody>${parameters.map((/** @type {any} */ p) => html`<tr key=${p.name}><th><code>${p.name}</code></th><td class="dim">${p.in}${p.required ? ", required" : ""}</td><td><code>${shape(p.schema)}</code></td><td>${p.description || ""}</td></tr>`)}</tbody></table>`}
    ${body && html`<h3>Body</h3><${Schema} schema=${/** @type {any} */ (body).schema} d=${d} />`}
    <h3>Answer ${status} <span class="dim">${kind}</span></h3><${Schema} schema=${/** @type {any} */ (schema).schema || {}} d=${d} />
  </details>`;
}

/** A type in a few words. @param {any} s @returns {string} */
function shape(s) {
  if (!s) return "any";
  if (s.$ref) return s.$ref.split("/").pop();
  if (s.const !== undefined) return JSON.stringify(s.const);
  if (s.enum) return s.enum.map((/** @type {any} */ v) => JSON.stringify(v)).join(" | ");
  if (s.anyOf || s.oneOf) return (s.anyOf || s.oneOf).map(shape).join(" | ");
  if (s.type === "array") return `${shape(s.items)}[]`;
  if (s.type === "object" && s.additionalProperties) return `{…: ${shape(s.additionalProperties)}}`;
  const limits = [["minimum", "≥"], ["exclusiveMinimum", ">"], ["maximum", "≤"], ["exclusiveMaximum", "<"], ["maxLength", "length ≤"]].filter(([k]) => s[k] !== undefined).map(([k, sign]) => ` ${sign} ${s[k]}`).join(",");
  return (s.format === "binary" ? "bytes" : s.type || "any") + limits + (s.default !== undefined && s.default !== null ? ` = ${JSON.stringify(s.default)}` : "");
}

/** @param {{schema: any, d: any, depth?: number}} props @returns {any} */
function Schema({ schema, d, depth = 0 }) {
  const name = schema?.$ref?.split("/").pop() || schema?.items?.$ref?.split("/").pop();
  const known = name && d.components?.schemas?.[name];
  if (!known || !known.properties || depth > 2) return html`<p><code>${shape(schema)}</code></p>`;
  return html`<p><code>${shape(schema)}</code>${known.description ? ` · ${known.description}` : ""}</p>
    <table class="docs-table"><tbody>${Object.entries(known.properties).map(([key, of]) => {
      const inner = /** @type {any} */ (of), ref = (inner.$ref || inner.items?.$ref || inner.anyOf?.find((/** @type {any} */ s) => s.$ref)?.$ref)?.split("/").pop();
      return html`<tr key=${key}><th><code>${key}</code></th><td><code>${shape(inner)}</code></td><td>${inner.description || ""}${ref && d.components.schemas[ref]?.properties && depth < 2 && html`<details><summary class="dim">${ref}</summary><${Schema} schema=${{ $ref: `#/${ref}` }} d=${d} depth=${depth + 1} /></details>`}</td></tr>`;
    })}</tbody></table>`;
}

const root = /** @type {Element} */ (document.getElementById("app"));
fetch("/api/openapi.json").then((answer) => answer.json()).then((document) => { root.textContent = ""; render(html`<${Docs} document=${document} />`, root); },
  () => { root.textContent = "The viewer does not answer."; });
