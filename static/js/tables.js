// Choosing rows: each box belongs to the form of the bulk bar, which shows only the verbs that the chosen rows allow.
// A row says them in `data-can="stop restart"`; a verb's button is `data-verb="stop"` with a <span data-count>.

export function startTables() {
  document.addEventListener("change", (event) => {
    const box = event.target.closest(".wf-table .wf-check");
    if (!box) return;
    if (box.hasAttribute("data-all")) {
      for (const one of boxes(box.closest("table"))) one.checked = box.checked;
    }
    sync(box.closest("table"));
  });
  document.addEventListener("wf:refreshed", () => document.querySelectorAll(".wf-table[data-choose]").forEach(sync));
  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-choose-none]")) return;
    chooseNone();
  });
  document.querySelectorAll(".wf-table[data-choose]").forEach(sync); // the browser may have kept ticks
}

/** Untick everything; true where something was ticked. */
export function chooseNone() {
  let any = false;
  for (const table of document.querySelectorAll(".wf-table[data-choose]")) {
    for (const box of boxes(table)) {
      any ||= box.checked;
      box.checked = false;
    }
    sync(table);
  }
  return any;
}

function boxes(table) {
  return [...table.querySelectorAll("tbody .wf-check")].filter((box) => !box.closest("[data-gone]"));
}

function sync(table) {
  const all = boxes(table);
  const chosen = all.filter((box) => box.checked);
  for (const box of all) box.closest("tr").setAttribute("aria-selected", box.checked);
  const head = table.querySelector("[data-all]");
  if (head) {
    head.checked = chosen.length > 0 && chosen.length === all.length;
    head.toggleAttribute("data-some", chosen.length > 0 && chosen.length < all.length);
  }
  const bar = document.getElementById(table.dataset.choose);
  if (!bar) return;
  bar.hidden = chosen.length === 0;
  bar.querySelector("[data-chosen]").textContent = `${chosen.length} chosen`;
  for (const button of bar.querySelectorAll("[data-verb]")) {
    const fits = chosen.filter((box) => (box.closest("tr").dataset.can ?? "").split(" ").includes(button.dataset.verb)).length;
    button.hidden = fits === 0;
    button.querySelector("[data-count]").textContent = fits;
  }
}
