// CPU and memory in the list of containers: asked for every few seconds while somebody looks.
import { svg, h } from "./dom.js";
import { size } from "./times.js";

const EVERY_MS = 5000;

export function startListLoad() {
  const list = document.querySelector("[data-load]");
  if (!list) return;
  let last = {};
  const ask = async () => {
    if (!document.hidden && list.querySelector("[data-load-cpu]")) {
      const answer = await fetch(list.dataset.load).catch(() => null);
      if (answer?.ok) {
        last = await answer.json();
        show(list, last);
      }
    }
    setTimeout(ask, EVERY_MS);
  };
  document.addEventListener("wf:refreshed", () => show(list, last));
  ask();
}

function show(list, samples) {
  for (const row of list.querySelectorAll("tr[data-subject]")) {
    const sample = samples[row.dataset.subject];
    const cpu = row.querySelector("[data-load-cpu]");
    const memory = row.querySelector("[data-load-memory]");
    if (!cpu || !memory) continue;
    cpu.textContent = sample?.cpu_percent !== undefined && sample?.cpu_percent !== null ? `${sample.cpu_percent.toFixed(1)} %` : "";
    memory.replaceChildren(...(sample?.memory_bytes ? [meter(sample.memory_bytes, sample.memory_limit_bytes)] : []));
  }
}

function meter(bytes, limit) {
  const bar = svg("svg", { class: "wf-bar", "aria-hidden": "true" });
  const share = limit ? Math.min(100, (100 * bytes) / limit) : 0;
  bar.append(svg("rect", { x: "0%", width: `${share.toFixed(1)}%`, height: "100%", "data-c": share > 90 ? "warn" : "2" }));
  return h("span", { class: "wf-meter", title: limit ? `${size(bytes)} of ${size(limit)}` : "" }, bar, h("span", {}, size(bytes)));
}
