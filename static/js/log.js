// Log pages: live lines over a websocket, older ones and whole-log searches over REST.
//
//   <section data-log data-path="/ws/…" data-rest="/api/v1/…/logs/" data-sources="name=tone …">
//
// Without this module the section shows the last lines that the server sent with the page.
import { Lines } from "./lines.js";
import { onStarted } from "./live.js";
import { LogView } from "./logview.js";
import { Socket } from "./socket.js";
import { firstLines, parseMessage } from "./logwire.js";
import { size } from "./times.js";

const OLDER = 1000;
const STARTED_MS = 3000; // an end that comes this soon after a start is that of the run before

for (const section of document.querySelectorAll("[data-log]")) new LogPage(section);

function LogPage(section) {
  const place = section.querySelector(".wf-log-lines");
  const find = (name) => section.querySelector(`[data-do="${name}"]`);
  const lines = new Lines();
  const view = new LogView(place, lines, { onTop: loadOlder, onLeaveEnd: () => showFollow(), onReachEnd: () => showFollow(), onChoose: choose });
  const paths = section.dataset.path.split(" ");
  const state = { cursors: new Map(), missed: 0, at: -1, older: false, whole: false, complete: false };

  place.setAttribute("tabindex", "0");
  for (const path of paths) watch(path);

  /* ---------- lines come ---------- */

  // a log ends when what wrote it does, and goes on where it was when that starts again
  function watch(path) {
    let started = -Infinity; // in page time, which is small when the page is fresh
    let open_ = false;
    const begin = () => {
      open_ = true;
      open(path, () => {
        open_ = false;
        if (performance.now() - started < STARTED_MS) again();
      });
    };
    const again = () => {
      if (open_) return;
      started = -Infinity;
      begin();
    };
    onStarted(path, () => {
      started = performance.now();
      again();
    });
    begin();
  }

  function open(path, onEnd) {
    const source = sourceOf(path);
    new Socket(
      () => {
        const cursor = state.cursors.get(path);
        const url = new URL(path, location.href); // its fragment says whose lines these are
        if (cursor) url.searchParams.set("cursor", cursor);
        else url.searchParams.set("tail", section.dataset.tail ?? "1000");
        return url.pathname + url.search;
      },
      {
        onMessage: (data) => receive(path, source, data),
        onState: (name, facts) => {
          connection(name, facts);
          if (name === "ended") onEnd();
        },
      },
    );
  }

  function sourceOf(path) {
    const [name, tone] = decodeURIComponent(new URL(path, location.href).hash.slice(1)).split(":");
    return { source: name || undefined, tone };
  }

  function receive(path, source, data) {
    const { lines: fresh, cursor, missed, end } = parseMessage(data);
    if (cursor) state.cursors.set(path, cursor);
    if (missed) lines.push([{ note: `${size(missed)} of lines were not sent here: this browser was reading too slowly. They are stored; Whole log finds them.`, tone: "warn" }]);
    if (fresh.length) {
      if (source.source) for (const line of fresh) Object.assign(line, source);
      if (state.whole) state.missed += fresh.length;
      else {
        lines.push(fresh);
        if (!view.follow) state.missed += fresh.length;
        view.draw();
      }
    }
    if (end) ended(end);
    showFoot();
  }

  function connection(name, { wait, reason } = {}) {
    const foot = find("state");
    section.dataset.conn = name;
    if (name === "live") foot.textContent = "Live";
    else if (name === "ended") foot.textContent = section.dataset.ended ?? "The log ends here";
    else foot.textContent = reason || `Connection lost, trying again${wait ? ` in ${Math.ceil(wait)} s` : ""}`;
  }

  function ended(words) {
    find("state").textContent = words === true ? "The log ends here" : words;
  }

  /* ---------- older lines ---------- */

  async function loadOlder() {
    const first = lines.all.find((line) => line.time);
    if (state.older || state.complete || !first || !section.dataset.rest || paths.length > 1 || state.whole) return;
    state.older = true;
    try {
      const older = await rest({ until: first.time, tail: OLDER });
      const known = new Set(lines.all.slice(0, 50).map((line) => line.time + line.text));
      const fresh = older.filter((line) => !known.has(line.time + line.text));
      state.complete = fresh.length === 0;
      if (fresh.length) {
        lines.unshift(fresh);
        view.grewAbove(fresh.length);
      }
    } finally {
      state.older = false;
    }
    showFoot();
  }

  async function rest(query) {
    const url = new URL(section.dataset.rest, location.href);
    url.searchParams.set("timestamps", "true");
    for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
    const answer = await fetch(url, { headers: { Accept: "text/plain" } });
    if (!answer.ok) {
      find("state").textContent = `The node did not answer (${answer.status}); what is shown is what came before`;
      return [];
    }
    return firstLines(answer, OLDER * 5);
  }

  /* ---------- what one can do ---------- */

  const field = section.querySelector(".wf-log-search input");
  field?.addEventListener("input", search);
  field?.addEventListener("keydown", (event) => {
    if (event.key === "Enter") step(event.shiftKey ? -1 : 1);
  });
  on("regex", () => search());
  on("previous", () => step(-1));
  on("next", () => step(1));
  on("wrap", (button) => place.toggleAttribute("data-nowrap", button.getAttribute("aria-pressed") !== "true"));
  on("follow", follow);
  on("whole", wholeLog);
  section.querySelector('[data-do="seek"]')?.addEventListener("change", seek);
  for (const button of section.querySelectorAll("[data-ago]")) button.addEventListener("click", () => seekAgo(button));
  for (const button of section.querySelectorAll("[data-level]:is(button)")) button.addEventListener("click", () => level(button));
  section.addEventListener("keydown", (event) => {
    if (event.target === field || event.ctrlKey || event.metaKey) return;
    if (event.key === "f") follow();
    else if (event.key === "n") step(1);
    else if (event.key === "N") step(-1);
    else return;
    event.preventDefault();
  });

  function on(name, handler) {
    const button = find(name);
    button?.addEventListener("click", () => {
      if (button.hasAttribute("aria-pressed")) button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
      handler(button);
    });
  }

  function search() {
    const regex = find("regex")?.getAttribute("aria-pressed") === "true";
    const readable = lines.search(field.value, { regex });
    field.parentElement.setAttribute("aria-invalid", !readable);
    state.at = -1;
    if (lines.hits.length) step(-1);
    else {
      view.current = null;
      view.draw();
    }
    showHits();
  }

  function step(by) {
    if (!lines.hits.length) return;
    const count = lines.hits.length;
    state.at = state.at < 0 ? (by > 0 ? 0 : count - 1) : (state.at + by + count) % count;
    view.current = lines.hits[state.at];
    view.show(lines.shown.indexOf(view.current));
    showHits();
  }

  function level(button) {
    for (const other of button.parentElement.children) other.setAttribute("aria-pressed", other === button);
    lines.showOnly(button.dataset.level);
    state.at = -1;
    view.draw();
    showHits();
  }

  function follow() {
    if (state.whole) return leaveWhole();
    view.setFollow(!view.follow);
    showFollow();
    return undefined;
  }

  function choose(line) {
    if (!line || line.note) return;
    if (state.whole) {
      leaveWhole(line.time);
      return;
    }
    view.current = view.current === line ? null : line;
    view.setFollow(false);
    view.draw();
    const link = find("link");
    if (link && line.time) {
      link.hidden = false;
      link.href = `?at=${encodeURIComponent(line.time)}#log`;
    }
  }

  // only the matching lines, of everything that is stored
  async function wholeLog(button) {
    if (button.getAttribute("aria-pressed") !== "true") return leaveWhole();
    if (!field.value) {
      button.setAttribute("aria-pressed", "false");
      field.focus();
      return undefined;
    }
    state.whole = true;
    state.kept = lines.all;
    const found = await rest({ search: field.value, tail: 5000 });
    lines.clear();
    lines.push(found.length ? found : [{ note: "No line of the whole log matches", tone: "" }]);
    lines.push([{ note: `${found.length.toLocaleString()} matching lines of the whole log; choose one to see it among its neighbours`, tone: "" }]);
    search();
    view.setFollow(true);
    view.draw();
    return undefined;
  }

  async function leaveWhole(time = null) {
    find("whole")?.setAttribute("aria-pressed", "false");
    state.whole = false;
    lines.clear();
    lines.push(state.kept ?? []);
    if (time) await around(time);
    else view.setFollow(true);
    view.draw();
    showFollow();
  }

  async function seek(event) {
    if (event.target.value) await around(new Date(event.target.value).toISOString());
  }

  async function seekAgo(button) {
    button.closest("details").open = false;
    await around(new Date(Date.now() - 1000 * button.dataset.ago).toISOString());
  }

  async function around(time) {
    let index = lines.shown.findIndex((line) => line.time >= time);
    const oldest = lines.all.find((line) => line.time)?.time;
    if (index < 0 || (oldest && time < oldest)) {
      const near = [...(await rest({ until: time, tail: 300 })), ...(await rest({ since: time })).slice(0, OLDER)];
      if (near.length) {
        lines.unshift([...near, { note: "Lines between here and the newest ones are stored and not shown", tone: "" }]);
        index = lines.shown.findIndex((line) => line.time >= time);
      }
    }
    if (index < 0) return;
    view.current = lines.shown[index];
    view.show(index);
    showFollow();
  }

  /* ---------- what is said ---------- */

  function showFollow() {
    const button = find("follow");
    if (view.follow) state.missed = 0;
    button?.setAttribute("aria-pressed", view.follow);
    const count = button?.querySelector("[data-count]");
    if (count) count.textContent = view.follow || !state.missed ? "" : ` +${state.missed.toLocaleString()}`;
  }

  function showHits() {
    const words = find("hits");
    const count = lines.hits.length.toLocaleString();
    if (words) words.textContent = !field?.value ? "" : !lines.hits.length ? "none" : state.at < 0 ? `${count} hits` : `${state.at + 1} of ${count}`;
  }

  function showFoot() {
    const amount = find("amount");
    const count = lines.all.length + lines.dropped;
    if (amount) amount.textContent = `${count.toLocaleString()} lines here${lines.dropped ? `, ${lines.dropped.toLocaleString()} of them let go to save memory` : ""}`;
    for (const name of ["error", "warn"]) {
      const place_ = section.querySelector(`button[data-level="${name}"] [data-count]`);
      if (place_) place_.textContent = lines.counts[name] ? ` ${lines.counts[name].toLocaleString()}` : "";
    }
    showFollow();
  }

  const at = new URLSearchParams(location.search).get("at");
  if (at) setTimeout(() => around(at), 600);
}
