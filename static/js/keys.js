// Keyboard: Ctrl K finds, / filters, J K move, X chooses, Enter opens, Esc closes or chooses none, ? shows the keys.
import { openDialog } from "./dialogs.js";
import { chooseNone } from "./tables.js";

export function startKeys() {
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
      event.preventDefault();
      document.querySelector(".wf-search input")?.focus();
      return;
    }
    if (event.key === "Escape") return escape(event);
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target) || document.querySelector("dialog[open]")) return;
    const handler = { "/": filter, j: () => move(1), k: () => move(-1), x: choose, Enter: open, "?": () => openDialog("/keys/") }[event.key];
    if (handler && handler(event) !== false) event.preventDefault();
  });
}

function isTyping(target) {
  return target.closest?.("input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable], .xterm, .cm-editor, [data-own-keys]");
}

function escape(event) {
  if (location.hash === "#nav") location.hash = "_";
  if (document.querySelector("dialog[open]")) return;
  if (isTyping(event.target)) event.target.blur();
  else chooseNone();
}

function filter() {
  const field = document.querySelector(".wf-filter-input input, .wf-log-search input");
  if (!field) return false;
  field.focus();
  field.select();
  return true;
}

const rows = () => [...document.querySelectorAll(".wf-main .wf-table tbody tr:not(.wf-group):not([data-gone])")];
const current = () => document.querySelector("tr[data-cursor]");

function move(step) {
  const all = rows();
  if (!all.length) return false;
  const at = all.indexOf(current());
  const next = all[Math.min(all.length - 1, Math.max(0, at < 0 ? (step > 0 ? 0 : all.length - 1) : at + step))];
  current()?.removeAttribute("data-cursor");
  next.setAttribute("data-cursor", "");
  next.scrollIntoView({ block: "nearest" });
  return true;
}

function choose() {
  const box = current()?.querySelector(".wf-check");
  if (!box) return false;
  box.click();
  return true;
}

function open(event) {
  if (event.target !== document.body) return false; // a focused link or button acts by itself
  const link = current()?.querySelector(".wf-first a, a");
  if (!link) return false;
  link.click();
  return true;
}
