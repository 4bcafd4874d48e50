// A build's page while the build runs: the log of each step arrives under that step.
//
// The parts that the server renders (graph, steps, head, advice) are live regions; this module only adds log lines.
import { spans } from "./ansi.js";
import { h } from "./dom.js";
import { refreshRegion } from "./live.js";
import { Socket } from "./socket.js";

const SHOWN = 400; // lines of a step that stay on the page; the whole log is a click away

const page = document.querySelector("[data-build-log]");
if (page) watch(page);

function watch(page) {
  const waiting = new Map();
  let cursor = "";
  let first = true;
  let frame = 0;
  new Socket(
    () => {
      const url = new URL(page.dataset.buildLog, location.href);
      if (cursor) url.searchParams.set("cursor", cursor);
      return url.pathname + url.search;
    },
    { onMessage: (data) => receive(JSON.parse(data)), onState: (state) => (page.dataset.conn = state) },
  );
  document.addEventListener("wf:refreshed", () => later());

  function receive(message) {
    if (message.cursor) cursor = message.cursor;
    if (first && message.lines?.length) {
      first = false; // the whole log comes again, from its start: what the page brought along goes
      for (const log of document.querySelectorAll("[data-step-log]")) log.replaceChildren();
    }
    for (const line of message.lines ?? []) {
      const step = line.step ?? "";
      if (!waiting.has(step)) waiting.set(step, []);
      waiting.get(step).push(line);
    }
    if (message.progress || (message.status && !message.kind)) refresh();
    later();
  }

  let timer = 0;
  function refresh() {
    timer ||= setTimeout(() => {
      timer = 0;
      for (const region of document.querySelectorAll("[data-live]")) if (region.dataset.liveId === page.dataset.id) refreshRegion(region);
    }, 200);
  }

  function later() {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      for (const [step, lines] of waiting) if (put(step, lines)) waiting.delete(step);
    });
  }
}

// true where the step's place is on the page and took them
function put(step, lines) {
  const log = document.querySelector(`[data-step-log="${CSS.escape(String(step))}"]`);
  if (!log) return false;
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 24;
  log.hidden = false;
  for (const { at, text } of lines.slice(-SHOWN).flatMap(split)) {
    const row = h("span", { class: "wf-steplog-line" });
    if (typeof at === "number") {
      log.dataset.began ??= at;
      row.append(h("span", { class: "wf-muted" }, `${Math.max(0, at - log.dataset.began).toFixed(1).padStart(6)} `));
    }
    for (const span of spans(text)) row.append(span.className ? h("span", { class: span.className }, span.text) : span.text);
    row.append("\n");
    log.append(row);
  }
  while (log.childElementCount > SHOWN) log.firstElementChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
  return true;
}

// one entry may hold several lines
function split({ at, text }) {
  return text.replace(/\n$/, "").split("\n").map((one) => ({ at, text: one }));
}
