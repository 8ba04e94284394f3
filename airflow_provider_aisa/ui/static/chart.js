// A bar chart of what was paid. Every bar is a link or a label that a screen reader and the keyboard reach.

import { follow } from "./airflow.js";
import { svg } from "./dom.js";
import { money } from "./format.js";

const HEIGHT = 150;
const LEFT = 52; // for the amounts
const BOTTOM = 20; // for the dates
const TOP = 8;
const WIDEST = 40;
const WIDEST_SLOT = 120; // a few bars stand together on the left

// Draw bars {label, words, cost, href} into an <svg>, the first one on the left.
export function drawChart(chart, bars, width) {
  const top = roundUp(Math.max(...bars.map((bar) => bar.cost), 0));
  const scale = (cost) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - cost / top);
  const slot = Math.min(WIDEST_SLOT, (width - LEFT) / bars.length);
  const thickness = Math.min(WIDEST, slot * 0.72);
  chart.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  chart.setAttribute("height", HEIGHT);
  const lines = [0, top / 2, top].flatMap((cost) => [
    svg("line", { x1: LEFT, x2: width, y1: scale(cost), y2: scale(cost), class: "line" }),
    text(LEFT - 8, scale(cost) + 4, money(cost), "end"),
  ]);
  const every = Math.ceil(76 / slot); // labels that do not touch each other
  const drawn = bars.map((bar, number) => {
    const x = LEFT + slot * number + (slot - thickness) / 2;
    const y = scale(bar.cost);
    const column = svg("rect", { x, y, width: thickness, height: Math.max(0, scale(0) - y), rx: 2, class: "bar" });
    const target = svg("rect", { x: LEFT + slot * number, y: TOP, width: slot, height: HEIGHT - TOP - BOTTOM, class: "target" });
    const title = svg("title", {});
    title.textContent = bar.words;
    const parts = [title, target, column];
    if (number % every === 0) parts.push(text(x + thickness / 2, HEIGHT - 4, bar.label, "middle"));
    if (!bar.href) return svg("g", { role: "img", "aria-label": bar.words }, ...parts);
    const link = svg("a", { href: bar.href, "aria-label": bar.words }, ...parts);
    link.addEventListener("click", follow);
    return link;
  });
  chart.replaceChildren(...lines, ...drawn);
}

function text(x, y, words, anchor) {
  const element = svg("text", { x, y, "text-anchor": anchor });
  element.textContent = words;
  return element;
}

// The least of 1, 2 and 5 times a power of ten that is not below.
function roundUp(number) {
  if (number <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(number));
  return [1, 2, 5, 10].find((factor) => factor * power >= number - 1e-9) * power;
}
