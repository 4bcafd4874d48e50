// Live pages: events wake the parts of the page that they concern, and those are fetched again and morphed.
//
// A region is any element with an id and `data-live="container image …"` (types of events that concern it).
//   data-live-url   where its fresh copy is; without it, this page's own address
//   data-live-id    only events about this subject (or with this id among their related ones)
//   data-live-rows  address that answers `?id=a&id=b` with fresh rows only; used when few rows changed
// Everything works without this module: the server sent the first state with the page.

import { h } from "./dom.js";
import { morph } from "./morph.js";
import { Socket } from "./socket.js";
import { longSpan } from "./times.js";

const GAP_MS = 250; // between two refreshes of one region (`data-live-gap` says otherwise); the first comes at once
const MANY_ROWS = 40;

const listeners = new Set();

/** Call `listener(event)` for each event: {type, action, subject, node, seq, attributes}. */
export function onEvent(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Call `again()` when the container that a stream's path names starts: streams end with what runs in it. */
export function onStarted(path, again) {
  return onEvent((event) => event.type === "container" && event.action === "start" && path.includes(event.subject) && again());
}

export function startLive() {
  const shown = document.querySelector(".wf-conn");
  if (!shown) return;
  const connection = new Connection(shown);
  let first = true;
  new Socket(shown.dataset.path, {
    onMessage: (data) => receive(JSON.parse(data)),
    onState(state, facts) {
      connection.show(state, facts);
      if (state !== "live") return;
      document.dispatchEvent(new Event("wf:live"));
      if (!first) refreshAll(); // what happened meanwhile was missed: ask again
      else if (document.querySelector("#ops a")) refreshAll("operation"); // their events are not told twice
      first = false;
    },
  });
  document.addEventListener("visibilitychange", () => document.hidden || flush());
  document.addEventListener("pointerout", () => setTimeout(releaseHeld, 400));
  document.addEventListener("focusout", () => setTimeout(releaseHeld, 400));
  document.addEventListener("click", (event) => event.target.closest("[data-held]") && releaseHeld(true));
}

let received = 0; // messages so far

function receive(message) {
  received += 1;
  const events = Array.isArray(message.events) ? message.events : [message.event ?? message];
  for (const event of events) {
    if (!event?.type) continue;
    if (event.type === "missed") {
      refreshAll();
      continue;
    }
    for (const listener of listeners) listener(event);
    for (const region of document.querySelectorAll("[data-live]")) if (concerns(region, event)) dirty(region, event);
  }
  flush();
}

function concerns(region, event) {
  const types = region.dataset.live.split(" ");
  if (!types.includes("any") && !types.includes(event.type)) return false;
  const only = region.dataset.liveId;
  return !only || only === event.subject || Object.values(event.attributes ?? {}).includes(only);
}

/* ---------- refreshing ---------- */

const waiting = new Map(); // region id → {ids: Set | null for "all", last, timer}

function dirty(region, event) {
  const entry = waiting.get(region.id) ?? { ids: new Set(), last: 0, timer: 0, wanted: false };
  entry.wanted = true;
  if (entry.ids && region.dataset.liveRows && event?.subject) entry.ids.add(event.subject);
  else entry.ids = null;
  waiting.set(region.id, entry);
}

function refreshAll(type = "") {
  for (const region of document.querySelectorAll("[data-live]")) {
    if (!type || region.dataset.live.split(" ").includes(type)) dirty(region, null);
  }
  flush();
}

function flush() {
  if (document.hidden) return;
  for (const [id, entry] of waiting) {
    if (!entry.wanted || entry.timer) continue;
    const gap = Number(document.getElementById(id)?.dataset.liveGap ?? GAP_MS);
    const wait = Math.max(0, entry.last + gap - performance.now());
    entry.timer = setTimeout(() => refresh(id, entry), wait);
  }
}

async function refresh(id, entry) {
  const region = document.getElementById(id);
  const ids = entry.ids;
  entry.wanted = false;
  entry.ids = new Set();
  entry.last = performance.now();
  if (region) {
    try {
      if (ids && ids.size && ids.size < MANY_ROWS) await refreshRows(region, [...ids]);
      else await refreshRegion(region);
    } catch (error) {
      if (!(error instanceof TypeError)) console.error(error); // no network: the socket says so already
    }
  }
  entry.timer = 0;
  if (entry.wanted) flush();
}

/** Fetch the region's fresh copy and morph it into the page. */
export async function refreshRegion(region) {
  const fresh = (await page(region.dataset.liveUrl || location.href, region.id)).getElementById(region.id);
  if (!fresh) return;
  const held = morph(region, fresh, { calm: isBusy(region) });
  region.dataset.live && hold(region, held);
  document.dispatchEvent(new CustomEvent("wf:refreshed", { detail: region }));
}

async function refreshRows(region, ids) {
  const url = new URL(region.dataset.liveRows, location.href);
  for (const id of ids) url.searchParams.append("id", id);
  const fresh = await page(url, region.id);
  let unknown = false;
  for (const id of ids) {
    const row = region.querySelector(`[data-subject="${CSS.escape(id)}"]`);
    const wanted = fresh.querySelector(`[data-subject="${CSS.escape(id)}"]`);
    if (row && wanted) morph(row, wanted);
    else if (row || wanted) unknown = true; // a row came or went: its place is the server's to say
  }
  if (unknown) await refreshRegion(region);
  document.dispatchEvent(new CustomEvent("wf:refreshed", { detail: region }));
}

// regions that one message woke share one fetch; after a later message each asks anew
const asked = new Map();

function page(url, region) {
  const key = String(url);
  const recent = asked.get(key);
  if (recent?.after === received) return recent.answer;
  const answer = ask(url, region);
  asked.set(key, { after: received, answer });
  answer.finally(() => asked.get(key)?.answer === answer && asked.delete(key)).catch(() => {});
  return answer;
}

async function ask(url, region) {
  const answer = await fetch(url, { headers: { "X-Wharfinger-Region": region }, credentials: "same-origin" });
  if (answer.redirected && new URL(answer.url).pathname.startsWith("/login")) location.reload();
  // what is gone has a page too: it says what became of it
  if (!answer.ok && answer.status !== 404) throw new TypeError(`refresh answered ${answer.status}`);
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

function isBusy(region) {
  return region.matches(":hover") || (region.contains(document.activeElement) && document.activeElement !== document.body);
}

function hold(region, held) {
  const note = document.querySelector(`[data-held="${region.id}"]`);
  if (!note) return;
  note.hidden = held === 0;
  if (held) note.textContent = `${held} new, show`;
}

function releaseHeld(always = false) {
  for (const note of document.querySelectorAll("[data-held]:not([hidden])")) {
    const region = document.getElementById(note.dataset.held);
    if (region && (always === true || !isBusy(region))) refreshRegion(region);
  }
}

/* ---------- what the top bar says ---------- */

class Connection {
  constructor(element) {
    this.element = element;
    this.since = null;
    setInterval(() => this.count(), 1000);
  }

  show(state, { code, reason } = {}) {
    if (state === "live") this.since = null;
    else this.since ??= new Date();
    this.state = state === "ended" ? "reconnecting" : state;
    this.element.dataset.state = this.state;
    document.documentElement.dataset.conn = this.state;
    this.reason = code === 4401 ? "signed out elsewhere" : reason;
    this.count();
  }

  count() {
    if (this.state === "live") return this.say("Live", "Connected: this page changes by itself");
    if (!this.since) return undefined;
    const clock = this.since.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    if (this.state === "lost") return this.say(`Lost at ${clock}`, `${this.reason || "the server does not answer"}; what you see is the state as of ${clock}`);
    const ago = longSpan((Date.now() - this.since) / 1000);
    return this.say("Reconnecting", `What you see is the state as of ${clock}`, `, ${ago}`);
  }

  // the seconds are not read aloud each time they change
  say(text, title, seconds = "") {
    if (this.element.textContent !== text + seconds) this.element.replaceChildren(text, ...(seconds ? [h("span", { "aria-hidden": "true" }, seconds)] : []));
    this.element.title = title;
  }
}
