// CPU and memory in the list of containers, live while somebody looks: one socket a node, drawn once a second.
import { svg, h } from "./dom.js";
import { flat, rates } from "./samples.js";
import { Socket } from "./socket.js";
import { memory } from "./times.js";

export function startListLoad() {
  const list = document.querySelector("[data-load]");
  if (!list || !list.dataset.load) return;
  const samples = new Map();
  const shown = new Map();
  let sockets = [];
  const take = (data) => {
    const sample = JSON.parse(data);
    const id = sample.container ?? sample.id;
    if (!id) return;
    shown.set(id, { ...rates(sample, samples.get(id)), limit: flat(sample).memoryLimit });
    samples.set(id, sample);
  };
  const start = () => {
    if (document.hidden || sockets.length) return;
    sockets = list.dataset.load.split(" ").map((path) => new Socket(path, { onMessage: take }));
  };
  const stop = () => {
    for (const socket of sockets) socket.close();
    sockets = [];
    samples.clear();
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : start())); // hidden tabs get no stats
  document.addEventListener("wf:refreshed", () => show(list, shown));
  setInterval(() => show(list, shown), 1000);
  start();
}

function show(list, shown) {
  if (document.hidden || !shown.size) return;
  for (const row of list.querySelectorAll("tr[data-subject]")) {
    const values = row.dataset.running === undefined ? undefined : shown.get(row.dataset.subject);
    const cpu = row.querySelector("[data-load-cpu]");
    const place = row.querySelector("[data-load-memory]");
    if (!cpu || !place) continue;
    const text = values?.cpu !== undefined && values?.cpu !== null ? `${values.cpu.toFixed(1)} %` : "";
    if (cpu.textContent !== text) cpu.textContent = text;
    place.replaceChildren(...(values?.memory ? [meter(values.memory, values.limit)] : []));
  }
}

function meter(bytes, limit) {
  const share = limit ? Math.min(100, (100 * bytes) / limit) : 0;
  const bar = svg("svg", { class: "wf-bar", "aria-hidden": "true" });
  bar.append(svg("rect", { x: "0%", width: `${share.toFixed(1)}%`, height: "100%", "data-c": share > 90 ? "warn" : "2" }));
  return h("span", { class: "wf-meter", title: limit ? `${memory(bytes)} of ${memory(limit)}` : "" }, bar, h("span", {}, memory(bytes)));
}
