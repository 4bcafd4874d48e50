// Times that stay true while a page is open. The server writes the same words (templatetags/wf.py).
const STEPS = [
  [86400 * 365, "y"],
  [86400, "d"],
  [3600, "h"],
  [60, "min"],
  [1, "s"],
];

/** How long `seconds` are, in the largest whole unit: "9 s", "22 min", "3 d". */
export function span(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  for (const [size, unit] of STEPS) if (whole >= size) return `${Math.floor(whole / size)} ${unit}`;
  return "0 s";
}

/** A running time with two units: "1 min 12 s", "2 h 5 min". */
export function longSpan(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return span(whole);
}

export function startTimes() {
  setInterval(tick, 1000);
}

function tick() {
  if (document.hidden) return;
  const now = Date.now();
  for (const element of document.querySelectorAll("time[data-when]")) {
    const seconds = (now - Date.parse(element.dateTime)) / 1000;
    const kind = element.dataset.when;
    const text = kind === "ago" ? agoText(seconds) : kind === "run" ? longSpan(seconds) : span(seconds);
    if (element.textContent !== text) element.textContent = text;
  }
}

function agoText(seconds) {
  return seconds < 1 ? "now" : `${span(seconds)} ago`;
}

/** Bytes as a person reads them, decimal units as registries and disks use them. */
export function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  for (const unit of ["KB", "MB", "GB", "TB"]) {
    bytes /= 1000;
    if (bytes < 999.5 || unit === "TB") return `${bytes < 99.95 ? bytes.toFixed(1) : Math.round(bytes)} ${unit}`;
  }
  return "";
}

/** Memory as a person reads it: binary units, as limits are given. */
export function memory(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  for (const unit of ["KiB", "MiB", "GiB", "TiB"]) {
    bytes /= 1024;
    if (bytes < 1023.5 || unit === "TiB") return `${bytes < 9.95 && bytes % 1 ? bytes.toFixed(1) : Math.round(bytes)} ${unit}`;
  }
  return "";
}
