// Numbers as people read them.

export function count(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

// Amounts below a cent keep their first digits: $0.004.
export function money(usd) {
  if (usd === null) return "unknown";
  const digits = usd > 0 && usd < 0.1 ? 3 : 2;
  return `$${usd.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: digits })}`;
}

export function bytes(number) {
  if (number < 1024) return `${number} bytes`;
  if (number < 1024 * 1024) return `${Math.round(number / 1024)} KiB`;
  return `${(number / 1024 / 1024).toFixed(1)} MiB`;
}

export function duration(seconds) {
  if (seconds < 60) return "less than a minute";
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `about ${count(minutes, "minute")}`;
  const hours = Math.floor(minutes / 60);
  return `about ${count(hours, "hour")}${minutes % 60 ? ` ${minutes % 60} min` : ""}`;
}

// What a header says after the number of images; only what there is.
export function figureParts(figures) {
  const parts = [];
  const unpriced = figures.unpriced ? ` + ${figures.unpriced.toLocaleString("en")} of unknown price` : "";
  if (figures.images || figures.cost_usd) parts.push({ text: `${money(figures.cost_usd)}${unpriced}`, kind: "cost" });
  if (figures.reused) parts.push({ text: `${figures.reused.toLocaleString("en")} reused`, kind: "plain" });
  if (figures.refused) parts.push({ text: `${figures.refused.toLocaleString("en")} refused`, kind: "failed" });
  const failed = figures.failed - figures.refused;
  if (failed > 0) parts.push({ text: `${failed.toLocaleString("en")} failed`, kind: "failed" });
  if (figures.not_sent) parts.push({ text: `${figures.not_sent.toLocaleString("en")} not sent`, kind: "plain" });
  if (figures.unknown_outcomes) {
    parts.push({ text: count(figures.unknown_outcomes, "unknown outcome"), kind: "warning" });
  }
  return parts;
}

export function when(iso) {
  if (!iso) return "";
  return new Date(iso).toISOString().slice(0, 16).replace("T", " ");
}
