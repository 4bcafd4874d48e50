// A build's context: a folder or an archive, dropped or chosen; packed here, sent with progress, the page stays usable.
import { h, use } from "./dom.js";
import { csrfToken } from "./htmx.js";
import { tar, likelyMode } from "./tar.js";
import { size, longSpan } from "./times.js";

const ARCHIVE = /\.(?:tar|tar\.gz|tgz|tar\.zst|tar\.xz|tar\.bz2|zip)$/i;
const MANY = 20_000;

export function startContext(form) {
  const drop = form.querySelector("[data-drop]");
  const said = form.querySelector("[data-context-says]");
  const state = { files: [], archive: null, sending: null };

  drop.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.dataset.over = "";
  });
  drop.addEventListener("dragleave", () => delete drop.dataset.over);
  drop.addEventListener("drop", async (event) => {
    event.preventDefault();
    delete drop.dataset.over;
    await take(await dropped(event.dataTransfer));
  });
  for (const input of form.querySelectorAll("input[type=file][data-context]")) {
    input.addEventListener("change", () => take([...input.files].map((file) => ({ path: file.webkitRelativePath ? file.webkitRelativePath.split("/").slice(1).join("/") : file.name, file }))));
  }
  form.querySelector("[data-context-none]")?.addEventListener("click", () => take([]));
  form.addEventListener("submit", send);

  async function take(files) {
    const one = files.length === 1 && ARCHIVE.test(files[0].path) ? files[0].file : null;
    state.archive = one;
    state.files = one ? [] : files;
    const dockerfile = files.find(({ path }) => path === (form.elements.dockerfile_path?.value || "Dockerfile"));
    if (dockerfile && !one) {
      document.dispatchEvent(new CustomEvent("wf:dockerfile", { detail: await dockerfile.file.text() }));
    }
    show();
  }

  function show() {
    const total = state.files.reduce((sum, { file }) => sum + file.size, 0);
    if (state.archive) said.replaceChildren(use("i-file"), ` ${state.archive.name}, ${size(state.archive.size)}`);
    else if (state.files.length) {
      const heavy = heaviest(state.files, total);
      said.replaceChildren(use("i-folder"), ` ${state.files.length.toLocaleString()} files, ${size(total)}`, ...(heavy ? [h("span", { class: "wf-ink-warn" }, ` · ${heavy}`)] : []));
    } else said.replaceChildren("No files yet: a Dockerfile without COPY or ADD needs none");
    drop.dataset.full = state.archive || state.files.length ? "1" : "";
    const none = form.querySelector("[data-context-none]");
    if (none) none.hidden = !drop.dataset.full;
  }

  async function send(event) {
    if (!state.archive && !state.files.length) return; // the form itself is enough
    event.preventDefault();
    if (state.sending) return;
    const body = new FormData(form, event.submitter);
    for (const name of [...body.keys()]) if (name.startsWith("context")) body.delete(name);
    body.delete("context");
    const button = form.querySelector("[data-send]");
    button.disabled = true;
    if (state.archive) body.set("context", state.archive, state.archive.name);
    else body.set("context", await pack(state.files), "context.tar");
    upload(body, button);
  }

  function upload(body, button) {
    const request = new XMLHttpRequest();
    const bar = form.querySelector("[data-upload]");
    const began = performance.now();
    state.sending = request;
    bar.hidden = false;
    request.upload.addEventListener("progress", ({ loaded, total }) => {
      const seconds = (performance.now() - began) / 1000;
      const left = loaded ? ((total - loaded) * seconds) / loaded : 0;
      bar.querySelector("rect").setAttribute("width", `${((100 * loaded) / total).toFixed(1)}%`);
      bar.querySelector("[data-say]").textContent = loaded < total ? `${size(loaded)} of ${size(total)}, ${size(loaded / Math.max(seconds, 0.1))}/s, ${longSpan(left)} left` : "Sent; the node looks at it";
    });
    const over = (words) => {
      state.sending = null;
      button.disabled = false;
      if (words) bar.querySelector("[data-say]").textContent = words;
    };
    request.addEventListener("load", () => {
      const away = request.getResponseHeader("HX-Redirect");
      if (away) location.assign(away);
      else {
        over(problem(request));
        bar.dataset.tone = "fail";
      }
    });
    request.addEventListener("error", () => over("The connection broke; nothing was built. Send it again."));
    request.addEventListener("abort", () => over("Stopped; nothing was built"));
    bar.querySelector("[data-stop]").addEventListener("click", () => request.abort(), { once: true });
    request.open("POST", form.action);
    request.setRequestHeader("X-CSRFToken", csrfToken());
    request.setRequestHeader("HX-Request", "true");
    request.setRequestHeader("Accept", "application/problem+json");
    request.send(body);
  }

  show();
}

function problem(request) {
  try {
    const { detail, hint } = JSON.parse(request.responseText);
    return [detail, hint].filter(Boolean).join(": ");
  } catch {
    return `The server answered ${request.status}; nothing was built`;
  }
}

async function pack(files) {
  const sorted = [...files].sort((a, b) => (a.path < b.path ? -1 : 1));
  const entries = [];
  for (const { path, file } of sorted) {
    entries.push({ path, file, mode: await likelyMode(file), mtime: file.lastModified / 1000 });
  }
  return tar(entries);
}

// the one folder that dominates what would be sent, where a line in .dockerignore would spare it
function heaviest(files, total) {
  if (files.some(({ path }) => path === ".dockerignore")) return "";
  const folders = new Map();
  for (const { path, file } of files) {
    const top = path.includes("/") ? path.split("/")[0] : "";
    if (top) folders.set(top, (folders.get(top) ?? 0) + file.size);
  }
  const [name, bytes] = [...folders].sort((a, b) => b[1] - a[1])[0] ?? ["", 0];
  return bytes > 0.5 * total && bytes > 1e6 ? `${name}/ is ${size(bytes)} of it; a .dockerignore could leave it out` : "";
}

/** The files of a drop, folders walked through; a single dropped folder is the context itself. */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const found = [];
  const root = entries.length === 1 && entries[0].isDirectory ? entries[0].fullPath.length + 1 : 1;
  for (const entry of entries) await walk(entry, root, found);
  return found;
}

async function walk(entry, root, found) {
  if (found.length >= MANY * 10) return;
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    found.push({ path: entry.fullPath.slice(root), file });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const batch = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // at most 100 at a time
    if (!batch.length) return;
    for (const inner of batch) await walk(inner, root, found);
  }
}
