// Shows the server's own OpenAPI and AsyncAPI documents as a page that works offline.

import { $, item, setText } from "./dom.js";

const list = (pairs) => item("dl", {}, ...pairs.flatMap(([name, text]) => [item("dt", {}, item("code", {}, name)), item("dd", {}, text)]));

/** A schema's type in a few words. */
function typeOf(schema = {}) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.enum) return schema.enum.join(", ");
  const type = [schema.type ?? "anything"].flat().join(" or ");
  return schema.default === undefined ? type : `${type}, default ${schema.default}`;
}

function operation(method, path, { summary, description, parameters = [], requestBody, responses, security }) {
  const parts = [
    item("h3", {}, item("span", { className: "method" }, method.toUpperCase()), item("code", {}, path)),
    item("p", {}, summary + (description ? `. ${description}` : "")),
  ];
  if (security) parts.push(item("p", {}, "Needs a token if the server has one."));
  if (parameters.length) {
    parts.push(list(parameters.map(({ name, required, description: text, schema }) =>
      [name, `${text} ${typeOf(schema)}${required ? ", required" : ""}`])));
  }
  if (requestBody) parts.push(item("p", {}, `Body: ${Object.keys(requestBody.content).join(" or ")}`));
  parts.push(list(Object.entries(responses).map(([status, answer]) => {
    const kinds = Object.entries(answer.content ?? {}).map(([kind, { schema }]) => (schema ? typeOf(schema) : kind));
    return [status, `${answer.description} ${kinds.join(", ")}`];
  })));
  return item("article", {}, ...parts);
}

function channel({ address, description, messages }) {
  return item("article", {},
    item("h3", {}, item("span", { className: "method" }, "WS"), item("code", {}, address)),
    item("p", {}, description),
    item("p", {}, `Messages: ${Object.keys(messages).join(", ")}`));
}

function schema([name, content]) {
  return item("details", { className: "schema" }, item("summary", {}, name), item("pre", {}, JSON.stringify(content, null, 2)));
}

async function show() {
  const [http, sockets] = await Promise.all(["openapi.json", "asyncapi.json"].map(async (path) => (await fetch(path)).json()));
  setText("version", `version ${http.info.version}, on ${location.host}`);
  setText("about", http.info.description);
  for (const [path, methods] of Object.entries(http.paths)) {
    for (const [method, content] of Object.entries(methods)) $("http").append(operation(method, path, content));
  }
  $("sockets").append(...Object.values(sockets.channels).map(channel));
  $("schemas").append(...Object.entries(http.components.schemas).map(schema));
}

show().catch((error) => setText("about", `The description could not be loaded: ${error.message}`));
