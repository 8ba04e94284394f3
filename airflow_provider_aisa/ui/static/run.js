// The page of a run, or of one of its tasks.

import { ask } from "./api.js";
import { address, dagPath, isTab, openWindow, runPath } from "./airflow.js";
import { h, icon, iconButton } from "./dom.js";
import { count, duration, figureParts } from "./format.js";
import { Grid } from "./grid.js";
import { Lightbox } from "./lightbox.js";

const LOOK_EVERY = 4000; // milliseconds, while something is at work
const TRY_AGAIN = 10000; // milliseconds, after the server could not be reached
const PAGE = 60;

const part = { dag_id: address.get("dag_id"), run_id: address.get("run_id"), task_id: address.get("task_id") };
// Airflow leaves "{MAP_INDEX}" in the address of a task that is not mapped.
if (/^\d+$/.test(address.get("map_index") ?? "")) part.map_index = address.get("map_index");
let chosen = { only_task: null, only_failures: "" };

const root = document.getElementById("gallery");
const title = h("div", { class: "title" });
const chips = h("div", { class: "chips", role: "group", "aria-label": "Show" });
const progress = h("div", { class: "progress-list" });
const notices = h("div", { class: "notices", role: "status" });
const empty = h("div", { class: "empty-state" });
let view = null;
let isWorthATry = true;

const grid = new Grid({
  label: "Images",
  fetchPage: (offset, limit) => look(offset, limit),
  onOpen: (number) => lightbox.open(number),
  onError: (error) => say(error.message),
});
const lightbox = new Lightbox({
  tileAt: (number) => grid.tile(number),
  totalOf: () => grid.total,
  runOf: () => view.run,
  onClose: (number) => grid.focus(number),
});

function look(offset = 0, limit = PAGE) {
  return ask("data/run", { ...part, ...chosen, offset, limit });
}

function say(message) {
  notices.replaceChildren(...(message ? [h("p", { class: "notice" }, message)] : []));
}

function drawTitle({ figures }) {
  const list = h("p", { class: "figures" }, h("strong", {}, count(figures.images, "image")));
  for (const { text, kind } of figureParts(figures)) list.append(" · ", h("span", { class: kind }, text));
  const label = "Open in a window of its own";
  const button = isTab ? iconButton("window", label, () => openWindow(location.href)) : null;
  title.replaceChildren(...[list, button].filter((element) => element));
}

// In a window of its own the page says where it belongs.
function wayHere() {
  document.title = `Images of ${part.dag_id}`;
  const way = [h("a", { href: dagPath(part.dag_id) }, part.dag_id), h("a", { href: runPath(part.dag_id, part.run_id) }, part.run_id)];
  if (part.task_id) way.push(h("span", {}, part.task_id));
  return h("nav", { class: "way", "aria-label": "Where this is" }, ...way);
}

function drawChips({ tasks, failures }) {
  const shown = tasks.filter((task) => task.tiles > 0);
  const all = shown.reduce((sum, task) => sum + task.tiles, 0);
  const options = [{ label: "All", number: all, only_task: null, only_failures: "" }];
  if (shown.length > 1) {
    for (const task of shown) {
      options.push({ label: task.task_id, number: task.tiles, only_task: task.task_id, only_failures: "" });
    }
  }
  if (failures) options.push({ label: "Failures", number: failures, only_task: null, only_failures: "true", kind: "failed" });
  chips.replaceChildren(...(options.length > 1 ? options.map(makeChip) : []));
}

function makeChip({ label, number, kind, ...choice }) {
  const isChosen = choice.only_task === chosen.only_task && choice.only_failures === chosen.only_failures;
  const onclick = async () => {
    chosen = choice;
    await start();
    chips.querySelector("[aria-pressed=true]")?.focus();
  };
  return h(
    "button",
    { type: "button", class: `chip ${kind ?? ""}`, "aria-pressed": String(isChosen), onclick },
    label,
    h("span", { class: "number" }, number.toLocaleString("en")),
  );
}

function drawProgress({ progress: batches }) {
  progress.replaceChildren(...batches.map((batch) => {
    const name = [batch.task_id, batch.label].filter((word) => word).join(" · ");
    const words = [`${batch.stored.toLocaleString("en")} of ${count(batch.items, "item")} stored`];
    if (batch.in_flight) words.push(`${batch.in_flight} under way`);
    if (batch.per_minute) words.push(`${batch.per_minute < 10 ? batch.per_minute : Math.round(batch.per_minute)} per minute`);
    if (batch.seconds_left !== null) words.push(`${duration(batch.seconds_left)} left`);
    if (batch.unread) words.push(`${batch.unread.toLocaleString("en")} more are being looked up`);
    const bar = h("progress", { max: batch.items || 1, value: batch.stored, "aria-label": `Progress of ${name}` });
    return h("div", { class: "progress" }, h("strong", {}, name), bar, h("span", {}, words.join(" · ")));
  }));
}

function drawProblems({ problems }) {
  say(null);
  for (const problem of problems) {
    const name = problem.map_index >= 0 ? `${problem.task_id} [${problem.map_index}]` : problem.task_id;
    notices.append(h("p", { class: "notice failed" }, h("strong", {}, `${name}: `), problem.message));
  }
}

function emptyWords({ run, tasks, total }) {
  if (total > 0) return null;
  if (chosen.only_failures) return ["No failures.", "Every image that was asked for is here."];
  const areOurs = tasks.some((task) => task.is_ours);
  const isAtWork = (!part.task_id && !run.is_over) || tasks.some((task) => task.is_at_work);
  if (areOurs && isAtWork) return ["Nothing yet.", "Images appear here as soon as they are stored."];
  if (areOurs) return ["No images.", "The tasks of this run have stored none: the log of each says why."];
  if (part.task_id && !tasks.length) return ["No such task in this run.", "It may not have been scheduled yet."];
  const what = part.task_id ? "This task does not make" : "No task of this run makes";
  const then = isAtWork ? "If one begins to, its images appear here." : "What other tasks make is not shown here.";
  return [`${what} images with airflow-provider-aisa.`, then];
}

function draw(found) {
  view = found;
  root.setAttribute("aria-busy", "false");
  drawTitle(found);
  drawChips(found);
  drawProgress(found);
  drawProblems(found);
  const words = emptyWords(found);
  empty.hidden = words === null;
  if (words) empty.replaceChildren(icon("image"), h("h2", {}, words[0]), h("p", {}, words[1]));
}

async function start() {
  try {
    const found = await look();
    draw(found);
    grid.reset(found.run, found);
  } catch (error) {
    refuse(error);
  }
}

function refuse(error) {
  isWorthATry = error.status === 0 || error.status >= 500;
  if (view) {
    say(error.message);
    return;
  }
  root.setAttribute("aria-busy", "false");
  empty.hidden = false;
  empty.replaceChildren(icon("missing"), h("h2", {}, "This cannot be shown."), h("p", {}, error.message));
}

async function lookAgain() {
  if (document.hidden) return;
  const pages = grid.pagesInView();
  for (const page of pages.length ? pages : [0]) {
    const found = await look(page * PAGE);
    draw(found);
    grid.update(found.run, found);
  }
  grid.forgetOthers(pages);
}

async function keepLooking() {
  for (;;) {
    await new Promise((done) => setTimeout(done, view ? LOOK_EVERY : TRY_AGAIN));
    const isLive = view && (!view.run.is_over || view.tasks.some((task) => task.is_at_work));
    try {
      if (isLive) await lookAgain();
      else if (!view && isWorthATry) await start();
    } catch (error) {
      refuse(error);
    }
  }
}

if (!isTab) root.append(wayHere());
root.append(title, progress, chips, notices, empty, grid.element);
empty.hidden = true;
await start();
keepLooking();
