// The page of a DAG: what its last runs cost, and a row of images for each.

import { ask } from "./api.js";
import { address, dagPath, follow, isTab, runTabPath } from "./airflow.js";
import { drawChart } from "./chart.js";
import { h, icon, svg } from "./dom.js";
import { count, figureParts, money, when } from "./format.js";
import { loadImage, makeTile } from "./tiles.js";

const IN_A_ROW = 12;
const TRY_AGAIN = 10000; // milliseconds

const dagId = address.get("dag_id");
const root = document.getElementById("gallery");
const title = h("div", { class: "title" });
const list = h("div", { class: "runs" });
const empty = h("div", { class: "empty-state" });
const figure = h("figure", { class: "chart" });
let runs = [];
let byDay = false;

function figuresLine(figures, before = "") {
  const line = h("p", { class: "figures" }, before, h("strong", {}, count(figures.images, "image")));
  for (const { text, kind } of figureParts(figures)) line.append(" · ", h("span", { class: kind }, text));
  return line;
}

function sumOf(some) {
  const sum = {};
  for (const { figures } of some) {
    for (const [name, number] of Object.entries(figures)) sum[name] = (sum[name] ?? 0) + number;
  }
  return sum;
}

function drawTitle() {
  title.replaceChildren(figuresLine(sumOf(runs), runs.length === 1 ? "Last run: " : `Last ${count(runs.length, "run")}: `));
}

// The chart.

function bars() {
  const inOrder = [...runs].reverse();
  if (!byDay) {
    return inOrder.map((run) => ({
      label: when(run.began).slice(5),
      words: `${when(run.began)}: ${money(run.figures.cost_usd)} for ${count(run.figures.images, "image")}`,
      cost: run.figures.cost_usd,
      href: runTabPath(dagId, run.run_id),
    }));
  }
  const days = new Map();
  for (const run of inOrder) {
    const day = when(run.began).slice(0, 10);
    days.set(day, [...(days.get(day) ?? []), run]);
  }
  return [...days].map(([day, some]) => {
    const { cost_usd: cost, images } = sumOf(some);
    const words = `${day}: ${money(cost)} for ${count(images, "image")} of ${count(some.length, "run")}`;
    return { label: day.slice(5), words, cost };
  });
}

const drawing = svg("svg", { class: "bars", role: "group", "aria-label": "What was paid" });

function drawFigure() {
  const choice = (label, value) => {
    const onclick = () => {
      byDay = value;
      drawFigure();
      figure.querySelector("[aria-pressed=true]").focus();
    };
    return h("button", { type: "button", class: "chip", "aria-pressed": String(byDay === value), onclick }, label);
  };
  const head = h("figcaption", {}, h("strong", {}, "Cost"), choice("Per run", false), choice("Per day", true));
  figure.replaceChildren(head, drawing);
  drawBars();
}

function drawBars() {
  if (drawing.clientWidth && runs.length) drawChart(drawing, bars(), drawing.clientWidth);
}

// The rows.

function makeRow(run) {
  const head = h("div", { class: "run-head" });
  const strip = h("div", { class: "strip" }, ...Array.from({ length: IN_A_ROW }, emptyTile));
  const row = h("section", { class: "run", "aria-label": `Run ${run.run_id}` }, head, strip);
  drawHead(head, run);
  row.run = run;
  return row;
}

function emptyTile() {
  return h("div", { class: "cell" }, h("div", { class: "picture empty" }));
}

function drawHead(head, run) {
  const href = runTabPath(dagId, run.run_id);
  const link = h("a", { href, onclick: follow }, when(run.began) || run.run_id);
  head.replaceChildren(link, h("span", { class: `state ${run.state}` }, run.state), figuresLine(run.figures));
}

async function fillRow(row) {
  const [head, strip] = row.children;
  let found;
  try {
    found = await ask("data/run", { dag_id: dagId, run_id: row.run.run_id, limit: IN_A_ROW });
  } catch (error) {
    strip.replaceChildren(h("p", { class: "notice" }, error.message));
    return;
  }
  row.run.figures = found.figures;
  drawHead(head, row.run);
  drawTitle();
  drawBars();
  if (!found.total) {
    strip.replaceChildren(h("p", { class: "nothing" }, found.run.is_over ? "No images." : "Nothing yet."));
    return;
  }
  strip.replaceChildren(...found.tiles.map((tile) => makeLink(tile, found)));
  strip.querySelectorAll(".cell").forEach(loadImage);
}

// A tile of a row leads to the run, where it can be looked at.
function makeLink(tile, { run }) {
  const button = makeTile(tile, run);
  const href = runTabPath(dagId, run.run_id);
  const [picture] = button.children;
  return h("a", { class: "cell tile", href, onclick: follow, title: tile.prompt }, picture);
}

function draw() {
  drawTitle();
  drawFigure();
  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      fillRow(target);
    }
  }, { rootMargin: "200px" });
  const rows = runs.map(makeRow);
  list.replaceChildren(...rows);
  for (const row of rows) watcher.observe(row);
}

function tell(name, heading, words) {
  empty.hidden = false;
  empty.replaceChildren(icon(name), h("h2", {}, heading), h("p", {}, words));
}

async function start() {
  try {
    ({ runs } = await ask("data/dag", { dag_id: dagId }));
  } catch (error) {
    tell("missing", "This cannot be shown.", error.message);
    if (error.status === 0 || error.status >= 500) setTimeout(start, TRY_AGAIN);
    return;
  } finally {
    root.setAttribute("aria-busy", "false");
  }
  if (!runs.length) {
    tell("image", "No runs yet.", "When this DAG has run, its images and what they cost are here.");
    return;
  }
  empty.hidden = true;
  root.append(title, figure, list);
  draw();
}

if (!isTab) {
  document.title = `Images of ${dagId}`;
  root.append(h("nav", { class: "way", "aria-label": "Where this is" }, h("a", { href: dagPath(dagId) }, dagId)));
}
root.append(empty);
empty.hidden = true;
new ResizeObserver(drawBars).observe(figure);
start();
