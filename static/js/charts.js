// Charts of a container's load: uPlot, drawn in the tokens' colours, fed by the stats websocket or the page's figures.
//
//   <div data-stats="/ws/containers/x/stats/"> holds <div data-chart="cpu" data-limit="2" data-unit="cores"> …
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { onStarted } from "./live.js";
import { Socket } from "./socket.js";
import { onTheme, token } from "./switch.js";
import { memory, size } from "./times.js";
import { rates, sampleTime } from "./samples.js";

const KEPT = 900;
const UNITS = {
  percent: (value) => `${value.toFixed(value < 10 ? 1 : 0)} %`,
  bytes: (value) => size(Math.max(0, value)),
  rate: (value) => `${size(Math.max(0, value))}/s`,
  count: (value) => String(Math.round(value)),
  memory: (value) => memory(Math.max(0, value)),
};

function stats(place) {
  const charts = [...place.querySelectorAll("[data-chart]")].map((element) => new Chart(element));
  let before = null;
  let socket = null;
  const start = () => {
    if (socket || document.hidden || !place.isConnected) return;
    socket = new Socket(place.dataset.stats, {
      onMessage(data) {
        const sample = JSON.parse(data);
        if (sample.type && sample.type !== "stats") return;
        const values = rates(sample, before);
        before = sample;
        for (const chart of charts) chart.add(sample, values);
        for (const element of document.querySelectorAll("[data-figure]")) figure(element, values);
      },
      onState(state) {
        place.dataset.conn = state;
        if (state === "ended") socket = null;
      },
    });
  };
  const stop = () => {
    socket?.close();
    socket = null;
    before = null;
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : start())); // hidden tabs get no stats
  onStarted(place.dataset.stats, start);
  start();
}

function figure(element, values) {
  const value = values[element.dataset.figure];
  if (value === null || value === undefined) return;
  element.textContent = UNITS[element.dataset.unit](value);
  const bar = document.getElementById(element.dataset.bar ?? "");
  const limit = Number(element.dataset.limit);
  if (bar && limit > 0) bar.setAttribute("width", `${Math.min(100, (100 * value) / limit).toFixed(1)}%`);
}

class Chart {
  constructor(element) {
    this.element = element;
    this.names = element.dataset.chart.split(" ");
    this.unit = UNITS[element.dataset.unit];
    this.limit = Number(element.dataset.limit) || 0;
    this.data = [[], ...this.names.map(() => [])];
    onTheme(() => this.make());
    new ResizeObserver(() => this.plot?.setSize(this.box())).observe(element);
  }

  box() {
    return { width: Math.max(200, this.element.clientWidth), height: 140 };
  }

  make() {
    this.plot?.destroy();
    const axis = { stroke: token("--text-3"), grid: { stroke: token("--line"), width: 1 }, ticks: { show: false }, font: `11px ${token("--font")}` };
    const inks = [token("--data-2"), token("--data-3")];
    this.plot = new uPlot(
      {
        ...this.box(),
        legend: { show: false },
        cursor: { y: false, points: { size: 6 } },
        padding: [8, 8, 6, 0],
        scales: { y: { range: (plot, low, high) => [0, Math.max(this.limit && high > this.limit * 0.5 ? this.limit * 1.05 : high * 1.15, this.element.dataset.unit === "percent" ? 1 : 10)] } },
        axes: [
          { ...axis, size: 22, values: (plot, ticks) => ticks.map((at) => new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false })), space: 90 },
          { ...axis, size: 64, values: (plot, ticks) => ticks.map(this.unit), space: 36 },
        ],
        series: [{}, ...this.names.map((name, at) => ({ stroke: inks[at], width: 1.5, fill: at === 0 ? `${token("--data-5")}` : undefined, points: { show: false } }))],
        hooks: { draw: [(plot) => this.drawLimit(plot)], setCursor: [(plot) => this.say(plot)] },
      },
      this.data,
      this.element,
    );
  }

  add(sample, values) {
    this.data[0].push(sampleTime(sample));
    this.names.forEach((name, at) => this.data[at + 1].push(values[name]));
    for (const column of this.data) if (column.length > KEPT) column.shift();
    this.plot.setData(this.data);
    if (this.plot.cursor.idx === null || this.plot.cursor.idx === undefined) this.say(this.plot);
  }

  // the limit as a dashed amber line, where the scale reaches it
  drawLimit(plot) {
    if (!this.limit || plot.scales.y.max < this.limit) return;
    const y = Math.round(plot.valToPos(this.limit, "y", true)) + 0.5;
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = token("--warn-fill");
    ctx.setLineDash([4, 4]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
    ctx.restore();
  }

  say(plot) {
    const words = document.getElementById(this.element.dataset.says);
    if (!words) return;
    const at = plot.cursor.idx ?? this.data[0].length - 1;
    const shown = this.names.map((name, index) => this.data[index + 1][at]).map((value) => (value === null || value === undefined ? "–" : this.unit(value)));
    words.textContent = shown.join(" / ");
  }
}

// places come and go with what runs: those that a refresh brought are new
const known = new WeakSet();

function look() {
  for (const place of document.querySelectorAll("[data-stats]")) {
    if (!known.has(place)) stats(place);
    known.add(place);
  }
}

document.addEventListener("wf:refreshed", look);
look();
