// One tile of the grid: an image, a failure, a task at work, or an image that cannot be shown.

import { refusal } from "./api.js";
import { h, icon } from "./dom.js";

// The address of a tile's image: who made it, never where it is stored.
export function imageAddress(kind, run, tile, more = {}) {
  const query = new URLSearchParams({ dag_id: run.dag_id, run_id: run.run_id, task_id: tile.task_id });
  if (tile.map_index >= 0) query.set("map_index", tile.map_index);
  if (tile.item !== null) query.set("item", tile.item);
  query.set("index", tile.index);
  query.set("v", tile.sha256.slice(0, 16));
  for (const [key, value] of Object.entries(more)) query.set(key, value);
  return `${kind}?${query}`;
}

// What a tile is called under its prompt: its task, and which of it this is. Without a prompt, an item's id
// takes its place.
export function tileName(tile, { isWhole = true } = {}) {
  const parts = [tile.task_id];
  if (tile.label) parts.push(isOwnLabel(tile) ? `${tile.map_index}` : tile.label);
  if (tile.item !== null && (isWhole || tile.prompt)) parts.push(tile.item);
  if (tile.images > 1) parts.push(`${tile.index + 1} of ${tile.images}`);
  return parts.join(" · ");
}

// Without a map_index_template the label is the number and the prompt, which stands above it already.
function isOwnLabel(tile) {
  return tile.prompt !== null && tile.label.startsWith(`${tile.map_index}: `);
}

// What a tile is, in words: the alternative text of its image, and what a screen reader says of the rest.
export function tileWords(tile) {
  if (tile.kind === "image") return tile.prompt ?? `Image ${tileName(tile)}`;
  if (tile.kind === "failure") return `${failureTitle(tile)}. ${tile.message}`;
  if (tile.kind === "waiting") return `At work: ${tile.prompt ?? tileName(tile)}`;
  return tile.message;
}

const TITLES = {
  ContentRefused: "Refused by the content policy",
  OutcomeUnknown: "Unknown outcome: perhaps billed",
  FewerImages: "Fewer images than asked for",
  OverBudget: "Over budget",
  RateLimited: "Rate limited",
  GatewayFailed: "The gateway failed",
  KeyRefused: "The API key was refused",
  QuotaExceeded: "The key's spend cap is reached",
  StorageFailed: "S3 refused",
  Failed: "Failed",
};

// An error's class in words: InvalidRequest becomes "Invalid request".
export function failureTitle(tile) {
  const words = tile.error.replace(/([a-z])([A-Z])/g, (_, a, b) => `${a} ${b.toLowerCase()}`);
  const title = TITLES[tile.error] ?? words;
  return tile.will_retry ? `${title} · will be tried again` : title;
}

const STATES = { running: "Generating", deferred: "Generating", up_for_retry: "Waiting for the next try" };

export function makeTile(tile, run) {
  const picture = h("div", { class: `picture ${tile.kind}` }, ...inside(tile, run));
  const prompt = tile.prompt ?? tile.item ?? tile.label ?? tile.task_id;
  return h(
    "button",
    { type: "button", class: "tile", tabindex: "-1" },
    picture,
    h("span", { class: "prompt", "aria-hidden": tile.kind === "image" ? "true" : null }, prompt),
    h("span", { class: "name" }, tileName(tile, { isWhole: false })),
  );
}

function inside(tile, run) {
  if (tile.kind === "image") return [image(tile, run)];
  if (tile.kind === "failure") {
    return [icon("failure"), h("strong", {}, failureTitle(tile)), h("span", { class: "message" }, tile.message)];
  }
  if (tile.kind === "waiting") {
    return [h("span", { class: "spinner" }), h("strong", {}, STATES[tile.state] ?? "Waiting")];
  }
  return [icon("missing"), h("span", { class: "message" }, tile.message)];
}

function image(tile, run) {
  const address = imageAddress("thumbnail", run, tile);
  const element = h("img", { alt: tileWords(tile), decoding: "async", draggable: "false" });
  element.addEventListener("load", () => element.classList.add("loaded"));
  element.addEventListener("error", () => explain(element, address));
  element.dataset.src = address;
  return element;
}

// Start to load the image of a tile that has come to rest in view.
export function loadImage(element) {
  const found = element.querySelector("img[data-src]");
  if (!found) return;
  found.src = found.dataset.src;
  delete found.dataset.src;
}

// Say in the tile why there is no image. The browser does not tell, so that the server is asked again.
async function explain(element, address) {
  const message = await reason(address);
  const picture = element.parentElement;
  if (!picture) return;
  picture.className = "picture missing";
  picture.replaceChildren(icon("missing"), h("span", { class: "message" }, message));
}

export async function reason(address) {
  try {
    const answer = await fetch(address, { credentials: "same-origin" });
    return answer.ok ? "The browser cannot show this image." : (await refusal(answer)).message;
  } catch {
    return "Airflow's API server cannot be reached.";
  }
}
