// One image as large as the window allows, with all that is known of it. Arrow keys lead to the others.

import { download, follow, taskPath } from "./airflow.js";
import { h, icon, iconButton } from "./dom.js";
import { bytes, money } from "./format.js";
import { failureTitle, imageAddress, reason, tileName, tileWords } from "./tiles.js";

export class Lightbox {
  // tileAt(number) returns a tile or null; onClose(number) is told which tile was looked at last.
  constructor({ tileAt, totalOf, runOf, onClose }) {
    this.tileAt = tileAt;
    this.totalOf = totalOf;
    this.runOf = runOf;
    this.number = 0;
    this.stage = h("div", { class: "stage" });
    this.details = h("div", { class: "details" });
    this.position = h("p", { class: "position", role: "status" });
    this.previous = iconButton("previous", "Previous (left arrow)", () => this.show(this.number - 1));
    this.next = iconButton("next", "Next (right arrow)", () => this.show(this.number + 1));
    this.previous.classList.add("previous");
    this.next.classList.add("next");
    const bar = h(
      "div",
      { class: "bar" },
      this.position,
      iconButton("fullscreen", "Full screen (F)", () => this.#toggleFullscreen()),
      iconButton("close", "Close (Escape)", () => this.element.close()),
    );
    this.element = h(
      "dialog",
      { class: "lightbox", "aria-label": "Image" },
      h("div", { class: "view" }, this.stage, this.previous, this.next),
      h("aside", { class: "side" }, bar, this.details),
    );
    this.element.addEventListener("keydown", (event) => this.#key(event));
    this.element.addEventListener("close", () => {
      if (document.fullscreenElement) document.exitFullscreen();
      onClose(this.number);
    });
    document.body.append(this.element);
  }

  async open(number) {
    if (!this.element.open) this.element.showModal();
    this.element.focus();
    await this.show(number);
  }

  async show(number) {
    const tile = await this.tileAt(number);
    if (!tile || !this.element.open) return;
    this.number = number;
    const total = this.totalOf();
    this.position.textContent = `${(number + 1).toLocaleString("en")} of ${total.toLocaleString("en")}`;
    this.previous.disabled = number === 0;
    this.next.disabled = number === total - 1;
    this.#showStage(tile);
    this.details.replaceChildren(...this.#makeDetails(tile));
    this.details.scrollTop = 0;
  }

  #showStage(tile) {
    if (tile.kind !== "image") {
      const title = tile.kind === "failure" ? failureTitle(tile) : "Nothing to see";
      this.stage.replaceChildren(
        h("div", { class: "words" }, icon("failure"), h("strong", {}, title), h("p", {}, tile.message ?? "At work.")),
      );
      return;
    }
    const run = this.runOf();
    const whole = imageAddress("image", run, tile);
    const image = h("img", { alt: tileWords(tile), width: tile.width, height: tile.height });
    image.src = imageAddress("thumbnail", run, tile);
    this.stage.replaceChildren(image);
    const sharp = new Image();
    sharp.src = whole;
    sharp.decode().then(
      () => {
        if (image.isConnected) image.src = whole;
        this.#preloadNext();
      },
      async () => {
        const message = await reason(whole);
        if (!image.isConnected) return;
        this.stage.replaceChildren(h("div", { class: "words" }, icon("missing"), h("p", {}, message)));
      },
    );
  }

  // The next image is there when somebody goes on, without asking for more than one ahead.
  async #preloadNext() {
    const tile = await this.tileAt(this.number + 1);
    if (tile?.kind === "image") new Image().src = imageAddress("image", this.runOf(), tile);
  }

  #makeDetails(tile) {
    const run = this.runOf();
    const facts = tile.kind === "image" ? this.#imageFacts(tile) : failureFacts(tile);
    const task = taskPath(run.dag_id, run.run_id, tile.task_id, tile.map_index);
    const actions = h("div", { class: "actions" });
    if (tile.kind === "image") actions.append(this.#download(tile), this.#copy(tile));
    actions.append(h("a", { class: "button", href: task, onclick: follow }, icon("task"), "Open the task"));
    return [
      tile.prompt ? h("p", { class: "whole-prompt" }, tile.prompt) : null,
      h("p", { class: "name" }, tileName(tile)),
      h("dl", {}, ...facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
      actions,
    ].filter((part) => part);
  }

  #imageFacts(tile) {
    const share = tile.images > 1 ? ` for ${tile.images} images` : "";
    const facts = [
      ["Size", `${tile.width} × ${tile.height}, ${bytes(tile.bytes)}`],
      ["Cost", `${money(tile.cost_usd)}${share}${tile.reused ? ", paid for by an earlier attempt" : ""}`],
    ];
    if (tile.model) facts.push(["Model", tile.model]);
    if (tile.request_id) facts.push(["Request", tile.request_id]);
    if (tile.unknown_outcomes) facts.push(["Unknown outcomes", `${tile.unknown_outcomes}: perhaps billed as well`]);
    facts.push(["In S3", tile.uri]);
    return facts;
  }

  #download(tile) {
    const href = imageAddress("image", this.runOf(), tile, { download: "true" });
    return h("a", { class: "button", href, download: true, onclick: download }, icon("download"), "Download");
  }

  #copy(tile) {
    const label = h("span", {}, "Copy s3://");
    const onclick = async () => {
      label.textContent = (await copyText(tile.uri)) ? "Copied" : "Not allowed";
      setTimeout(() => (label.textContent = "Copy s3://"), 1500);
    };
    return h("button", { type: "button", class: "button", onclick }, icon("copy"), label);
  }

  #toggleFullscreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.element.requestFullscreen?.().catch(() => {});
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const to = { ArrowLeft: this.number - 1, ArrowRight: this.number + 1, Home: 0, End: this.totalOf() - 1 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      this.show(to);
    } else if (event.key.toLowerCase() === "f") {
      this.#toggleFullscreen();
    }
  }
}

function failureFacts(tile) {
  const facts = [];
  if (tile.error) facts.push(["Error", tile.error]);
  if (tile.code) facts.push(["Code", tile.code]);
  if (tile.request_id) facts.push(["Request", tile.request_id]);
  if (tile.unknown_outcomes) facts.push(["Unknown outcomes", String(tile.unknown_outcomes)]);
  return facts;
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without https there is no clipboard but this one.
    const area = h("textarea", { class: "offscreen" });
    area.value = text;
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    return isCopied;
  }
}
