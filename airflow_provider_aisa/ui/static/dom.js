// Elements are made here and nowhere from text: what a prompt or an id holds is never read as HTML.

const SVG = "http://www.w3.org/2000/svg";

// Lines of icons on a grid of 24, drawn like those of Airflow.
const ICONS = {
  close: ["M18 6 6 18", "m6 6 12 12"],
  previous: ["m15 18-6-6 6-6"],
  next: ["m9 18 6-6-6-6"],
  download: ["M12 3v12", "m7 10 5 5 5-5", "M5 21h14"],
  copy: ["M9 9h11v11H9z", "M5 15H4V4h11v1"],
  task: ["M15 3h6v6", "M10 14 21 3", "M18 13v8H3V6h8"],
  window: ["M3 5h18v14H3z", "M3 9h18"],
  fullscreen: ["M8 3H3v5", "M16 3h5v5", "M8 21H3v-5", "M16 21h5v-5"],
  failure: ["M12 3 2 20h20z", "M12 10v4", "M12 17v.5"],
  image: ["M3 4h18v16H3z", "m3 17 6-6 5 5 3-3 4 4", "M8.5 9.5h.01"],
  missing: ["m3 3 18 18", "M7 4h14v13", "M17.5 20H3V5.500", "m3 17 6-6 3 3"],
};

// Make an element: h("a", {href: "…", class: "link"}, "text", another).
export function h(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function svg(name, properties = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(properties)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

export function icon(name) {
  const lines = ICONS[name].map((d) => svg("path", { d }));
  return svg("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" }, ...lines);
}

// A button that shows an icon; its label is read aloud and shown as a tooltip.
export function iconButton(name, label, onclick) {
  return h("button", { type: "button", class: "icon-button", "aria-label": label, title: label, onclick }, icon(name));
}
