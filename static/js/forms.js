// Small helps for forms: filters that apply while typing, rows that can be added, one sending only.
import { refreshRegion } from "./live.js";

export function startForms() {
  document.addEventListener("submit", once);
  document.addEventListener("input", later);
  document.addEventListener("change", (event) => event.target.closest("form[data-filter]") && apply(event.target.form));
  document.addEventListener("click", (event) => {
    const add = event.target.closest("[data-add-row]");
    if (add) addRow(add);
    const drop = event.target.closest("[data-drop-row]");
    if (drop) dropRow(drop);
    const seen = event.target.closest("[data-print]");
    if (seen) print();
  });
}

// a second click on a button that sends must not send again
function once(event) {
  const form = event.target;
  if (event.defaultPrevented || form.method !== "post" || form.closest("dialog")) return;
  if (form.dataset.sent !== undefined) event.preventDefault();
  else if (!form.hasAttribute("hx-post")) {
    form.dataset.sent = "";
    setTimeout(() => delete form.dataset.sent, 4000);
  }
}

let timer = 0;

function later(event) {
  const form = event.target.closest("form[data-filter]");
  if (!form || event.target.type !== "search") return;
  clearTimeout(timer);
  timer = setTimeout(() => apply(form), 200);
}

// The filtered list is a region of this page: change the address, fetch it again, morph it.
async function apply(form) {
  const url = new URL(location.href);
  for (const name of [...url.searchParams.keys()]) if (form.elements.namedItem(name) || name === "after") url.searchParams.delete(name);
  for (const [name, value] of new FormData(form)) if (value) url.searchParams.append(name, value);
  history.replaceState(null, "", url);
  for (const id of form.dataset.filter.split(" ")) {
    const region = document.getElementById(id);
    if (region) await refreshRegion(region);
  }
}

// `data-add-row="ports"` copies the <template id="row-ports"> to the end of #rows-ports
function addRow(button) {
  const name = button.dataset.addRow;
  const template = document.getElementById(`row-${name}`);
  const place = document.getElementById(`rows-${name}`);
  const copy = template.content.cloneNode(true);
  const first = copy.querySelector("input, select");
  place.append(copy);
  first?.focus();
  place.dispatchEvent(new Event("input", { bubbles: true }));
}

function dropRow(button) {
  const row = button.closest("[data-row]");
  const place = row.parentElement;
  row.remove();
  place.dispatchEvent(new Event("input", { bubbles: true }));
}
