// An operation's page while it runs: layers and lines as the node says them.
import { plain } from "./ansi.js";
import { h, svg } from "./dom.js";
import { Socket } from "./socket.js";
import { size } from "./times.js";

const SHOWN = 2000;
const AT_REST = ["exists", "mounted"];
const WORDS = { exists: "was here already", mounted: "taken from another repository", waiting: "waits", verifying: "checking", extracting: "unpacking", retrying: "trying again", done: "done" };

const page = document.querySelector("[data-operation-log]");
if (page) watch(page);

function watch(page) {
  const layers = new Map();
  let cursor = "";
  let first = true;
  const said = page.querySelector("[data-lines]");
  new Socket(
    () => {
      const url = new URL(page.dataset.operationLog, location.href);
      if (cursor) url.searchParams.set("cursor", cursor);
      return url.pathname + url.search;
    },
    {
      onMessage(data) {
        const message = JSON.parse(data);
        if (message.cursor) cursor = message.cursor;
        if (first && message.lines?.length) said.replaceChildren(); // the whole log comes again, from its start
        if (message.lines?.length) {
          first = false;
          lines(said, message.lines);
        }
        for (const entry of message.progress ?? []) if (entry.type === "layerprogress") layers.set(entry.id, entry);
        if (message.progress) draw(page, layers);
      },
    },
  );
}

function lines(said, fresh) {
  said.hidden = false;
  said.parentElement.querySelector("[data-no-lines]")?.remove();
  const atEnd = said.scrollHeight - said.scrollTop - said.clientHeight < 24;
  for (const { text } of fresh) said.append(h("span", {}, `${plain(text).replace(/\n$/, "")}\n`));
  while (said.childNodes.length > SHOWN) said.firstChild.remove();
  if (atEnd) said.scrollTop = said.scrollHeight;
}

function draw(page, layers) {
  const section = page.querySelector("#layers");
  section.hidden = layers.size === 0;
  const all = [...layers.values()];
  section.querySelector("[data-layers]").replaceChildren(...all.map(row));
  const total = all.reduce((sum, layer) => sum + (AT_REST.includes(layer.status) ? 0 : layer.total), 0);
  const current = all.reduce((sum, layer) => sum + (AT_REST.includes(layer.status) ? 0 : ["done", "extracting", "verifying"].includes(layer.status) ? layer.total : layer.current), 0);
  const finished = all.filter((layer) => layer.status === "done" || AT_REST.includes(layer.status)).length;
  section.querySelector("[data-progress-words]").textContent = total ? `${size(current)} of ${size(total)}, ${finished} of ${all.length} layers` : `${finished} of ${all.length} layers`;
  section.querySelector("[data-progress-bar]").setAttribute("width", `${total ? Math.min(100, (100 * current) / total).toFixed(1) : 0}%`);
}

function row({ id, status, current, total }) {
  const moving = status === "downloading" || status === "uploading";
  const share = !moving && status !== "waiting" && status !== "retrying" ? 100 : total ? (100 * current) / total : 0;
  const words = moving ? (total ? `${size(current)} of ${size(total)}` : size(current)) : status === "done" && total ? `done, ${size(total)}` : (WORDS[status] ?? status);
  const bar = svg("svg", { class: "wf-bar", "aria-hidden": "true" });
  bar.append(svg("rect", { x: "0%", width: `${share.toFixed(1)}%`, height: "100%", "data-c": AT_REST.includes(status) ? "rest" : "work" }));
  return h("li", { "data-key": `l-${id}` }, h("span", { class: "wf-id", title: id }, id.replace("sha256:", "").slice(0, 12)), bar, h("span", {}, words));
}
