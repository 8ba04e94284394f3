// Light or dark as Airflow is, which is not what the operating system prefers, and in Airflow's own colours.
// Not a module: it runs before anything is drawn, so that a dark page never flashes white.
"use strict";
(() => {
  const NAMES = [
    "bg", "bg-subtle", "bg-muted", "bg-emphasized", "bg-panel", "fg", "fg-muted", "fg-subtle", "fg-info",
    "fg-error", "fg-warning", "border", "border-emphasized", "brand-solid", "brand-contrast", "brand-muted",
    "brand-fg", "brand-focus-ring", "blue-focus-ring", "failed-solid", "failed-fg",
    "success-solid", "running-solid", "bg-warning", "bg-error",
  ];

  // Airflow's page, when this one is a tab of it; null in a window of its own.
  function outerRoot() {
    try {
      return window.parent === window ? null : window.parent.document.documentElement;
    } catch {
      return null;
    }
  }

  function chosenTheme() {
    const outer = outerRoot();
    if (outer) return outer.classList.contains("dark") ? "dark" : "light";
    let chosen = "system";
    try {
      chosen = localStorage.getItem("theme") || "system";
    } catch {
      // Without storage there is no choice to follow.
    }
    if (chosen !== "system") return chosen === "dark" ? "dark" : "light";
    return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  }

  function apply() {
    const root = document.documentElement;
    const theme = chosenTheme();
    root.classList.toggle("dark", theme === "dark");
    root.style.colorScheme = theme;
    const outer = outerRoot();
    if (!outer) return;
    const styles = getComputedStyle(outer);
    for (const name of NAMES) {
      const colour = styles.getPropertyValue(`--chakra-colors-${name}`).trim();
      if (colour) root.style.setProperty(`--${name}`, colour);
      else root.style.removeProperty(`--${name}`);
    }
  }

  apply();
  const outer = outerRoot();
  if (outer) {
    new MutationObserver(apply).observe(outer, { attributes: true, attributeFilter: ["class", "style"] });
  } else {
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
    addEventListener("storage", apply);
  }
})();
