// The token that a server may ask for, and the choice among its checkpoints.

import { $, setText } from "./dom.js";

/** The token from the address's fragment, which no server log sees, or from earlier in this tab. */
export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("streamser-token", given);
    history.replaceState(null, "", location.pathname);
  }
  return given ?? sessionStorage.getItem("streamser-token");
}

/** Run a request, and once more with a token when the server asks for one. */
export async function withToken(client, request) {
  for (let wasRefused = false; ; wasRefused = true) {
    try {
      return await request();
    } catch (error) {
      if (error.status !== 401) throw error;
      client.token = await askToken(wasRefused);
    }
  }
}

/**
 * @param {boolean} wasRefused whether the token given before was wrong
 * @returns {Promise<string>}
 */
function askToken(wasRefused) {
  $("token").value = "";
  $("ask").showModal();
  setText("ask-refused", wasRefused ? "The server refused this token. Check it and try again." : "");
  return new Promise((resolve) => {
    $("ask").addEventListener("close", () => {
      sessionStorage.setItem("streamser-token", $("token").value);
      resolve($("token").value);
    }, { once: true });
  });
}

/** Fill the choice of checkpoints; returns the colors of the server's own. */
export async function meetModels(client) {
  const { current, models } = await withToken(client, () => client.models());
  setText("model", `speech emotion, live: ${current.labels.join(", ")}`);
  const usable = models.filter(({ error }) => !error);
  const known = usable.some(({ name }) => name === current.name) ? usable : [{ name: current.name, labels: current.labels }, ...usable];
  const option = ({ name, labels }) => new Option(`${name}, ${labels.length} emotions`, name);
  $("checkpoint").replaceChildren(...known.map(option));
  $("checkpoint").value = current.name;
  $("checkpoint").dataset.own = current.name;
  $("second").replaceChildren(new Option("nothing", ""), ...known.map(option));
  $("models").hidden = known.length < 2;
  return current.colours;
}

/** The name of a chosen checkpoint; the server's own needs none. */
export function chosenModel(id) {
  const { value } = $(id);
  return value && !(id === "checkpoint" && value === $("checkpoint").dataset.own) ? value : null;
}
