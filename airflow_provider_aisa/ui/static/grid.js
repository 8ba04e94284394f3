// A grid of any length: only the rows in view exist. Every tile has the same size, so nothing ever moves.

import { h } from "./dom.js";
import { loadImage, makeTile } from "./tiles.js";

const GAP = 16;
const CAPTION = 62; // pixels under a picture; gallery.css has the same number
const PAGE = 60; // tiles that are asked for at once
const SPARE_ROWS = 2; // above and below what is in view
const REST = 90; // milliseconds that a tile has to stay in view before its image is asked for

export class Grid {
  // fetchPage(offset, limit) returns {total, tiles}; onOpen(number) is told which tile was chosen.
  constructor({ label, fetchPage, onOpen, onError }) {
    this.element = h("div", { class: "grid", role: "list", "aria-label": label });
    this.fetchPage = fetchPage;
    this.onOpen = onOpen;
    this.onError = onError;
    this.total = 0;
    this.pages = new Map();
    this.shown = new Map();
    this.active = 0;
    this.element.addEventListener("keydown", (event) => this.#move(event));
    addEventListener("scroll", () => this.#schedule(), { passive: true });
    new ResizeObserver(() => this.#schedule()).observe(this.element);
  }

  // Begin anew with a first page that has been fetched already.
  reset(run, first) {
    this.run = run;
    this.pages.clear();
    this.#clear();
    this.active = 0;
    this.update(run, first);
    this.#loadImages(); // Nobody is scrolling yet.
  }

  // Take what a later look at the same run has found.
  update(run, { total, offset, tiles }) {
    this.run = run;
    this.total = total;
    this.pages.set(Math.floor(offset / PAGE), tiles);
    this.active = Math.min(this.active, Math.max(0, total - 1));
    this.#draw();
  }

  // The numbers of the pages that are in view, for whoever looks again.
  pagesInView() {
    const { first, last } = this.#range();
    const pages = [];
    for (let page = Math.floor(first / PAGE); page <= Math.floor(Math.max(first, last - 1) / PAGE); page++) pages.push(page);
    return pages;
  }

  // Drop what was fetched of the pages that are not in view: they may have changed.
  forgetOthers(pages) {
    for (const page of [...this.pages.keys()]) if (!pages.includes(page)) this.pages.delete(page);
  }

  // Return a tile, fetching its page when it is not here; null when there is none.
  async tile(number) {
    if (number < 0 || number >= this.total) return null;
    const page = Math.floor(number / PAGE);
    if (!this.pages.get(page)) await this.#fetch(page);
    return this.pages.get(page)?.[number % PAGE] ?? null;
  }

  focus(number) {
    this.#activate(number);
    this.shown.get(number)?.element.querySelector("button")?.focus({ preventScroll: true });
  }

  #measure() {
    const width = this.element.clientWidth;
    const wanted = this.total <= 8 ? 236 : 196;
    const columns = Math.max(width < 480 ? 2 : 1, Math.floor((width + GAP) / (wanted + GAP)));
    const side = Math.floor((width - GAP * (columns - 1)) / columns);
    return { columns, side, row: side + CAPTION + GAP };
  }

  #range() {
    const { columns, row } = this.#measure();
    const top = this.element.getBoundingClientRect().top;
    const firstRow = Math.max(0, Math.floor(-top / row) - SPARE_ROWS);
    const lastRow = Math.ceil((innerHeight - top) / row) + SPARE_ROWS;
    return { first: Math.min(firstRow * columns, this.total), last: Math.min(Math.max(0, lastRow * columns), this.total) };
  }

  #schedule() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      this.#draw();
    });
  }

  #draw() {
    const { columns, side, row } = this.#measure();
    const { first, last } = this.#range();
    this.element.style.height = `${Math.max(0, Math.ceil(this.total / columns) * row - GAP)}px`;
    this.element.style.setProperty("--side", `${side}px`);
    const wanted = new Set();
    for (let number = first; number < last; number++) wanted.add(number);
    if (this.total) wanted.add(this.active); // the place of the keyboard stays
    for (const number of [...this.shown.keys()]) if (!wanted.has(number)) this.#remove(number);
    for (const number of wanted) this.#place(number, { columns, side, row });
    for (const page of this.pagesInView()) if (this.total && !this.pages.has(page)) this.#fetch(page);
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.#loadImages(), REST);
  }

  #place(number, { columns, side, row }) {
    const tile = this.pages.get(Math.floor(number / PAGE))?.[number % PAGE];
    const state = tile ? JSON.stringify(tile) : "";
    let shown = this.shown.get(number);
    if (!shown || shown.state !== state) {
      const hadFocus = shown?.element.contains(document.activeElement);
      shown?.element.remove();
      shown = { state, element: this.#make(number, tile) };
      this.shown.set(number, shown);
      this.element.append(shown.element);
      if (hadFocus) shown.element.querySelector("button")?.focus({ preventScroll: true });
    }
    const { style } = shown.element;
    style.transform = `translate(${(number % columns) * (side + GAP)}px, ${Math.floor(number / columns) * row}px)`;
    shown.element.setAttribute("aria-setsize", this.total);
    const button = shown.element.querySelector("button");
    if (button) button.tabIndex = number === this.active ? 0 : -1;
  }

  #make(number, tile) {
    const item = h("div", { class: "cell", role: "listitem", "aria-posinset": number + 1 });
    if (!tile) {
      item.append(h("div", { class: "tile" }, h("div", { class: "picture empty" })));
      return item;
    }
    const button = makeTile(tile, this.run);
    button.addEventListener("click", () => {
      this.#activate(number);
      this.onOpen(number);
    });
    item.append(button);
    return item;
  }

  #loadImages() {
    const { first, last } = this.#range();
    for (const [number, { element }] of [...this.shown].sort(([a], [b]) => a - b)) {
      if (number >= first && number < last) loadImage(element);
    }
  }

  async #fetch(page) {
    if (this.pages.has(page)) return this.pages.get(page);
    this.pages.set(page, undefined);
    const { run } = this;
    try {
      const found = await this.fetchPage(page * PAGE, PAGE);
      if (run.run_id === this.run.run_id && found) this.update(found.run, found);
    } catch (error) {
      this.pages.delete(page);
      this.onError(error);
    }
    return undefined;
  }

  #remove(number) {
    const { element } = this.shown.get(number);
    element.querySelector("img")?.removeAttribute("src"); // The browser need not go on loading it.
    element.remove();
    this.shown.delete(number);
  }

  #clear() {
    for (const number of [...this.shown.keys()]) this.#remove(number);
  }

  #activate(number) {
    if (number < 0 || number >= this.total) return;
    this.active = number;
    const { columns, row } = this.#measure();
    const top = this.element.getBoundingClientRect().top + Math.floor(number / columns) * row;
    if (top < 0 || top + row > innerHeight) scrollBy({ top: top < 0 ? top - GAP : top + row - innerHeight });
    this.#draw();
  }

  #move(event) {
    const { columns } = this.#measure();
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    let to = this.active + (steps[event.key] ?? 0);
    if (event.key === "Home") to = 0;
    if (event.key === "End") to = this.total - 1;
    if (to === this.active || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.focus(Math.max(0, Math.min(this.total - 1, to)));
  }
}
