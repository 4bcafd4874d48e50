// Toasts point to an operation and end with it; an error stays until it is closed.
// The server names one in the header HX-Trigger: {"wf:toast": {text, note, tone, operation, url}}.

import { onEvent } from "./live.js";
import { use } from "./dom.js";

const STAY_MS = 5000;
const LOOK_MS = 1500; // an operation may have ended before its toast was there to hear of it
const following = new Map(); // operation id → toast element

export function startToasts() {
  document.addEventListener("wf:toast", (event) => toast(event.detail));
  document.addEventListener("click", (event) => event.target.closest("[data-toast-close]")?.closest(".wf-toast")?.remove());
  for (const element of document.querySelectorAll(".wf-toast[data-operation]")) following.set(element.dataset.operation, element);
  for (const element of document.querySelectorAll('.wf-toast[role="status"]:not([data-operation])')) leave(element);
  document.addEventListener("htmx:responseError", ({ detail }) => failed(detail.xhr));
  document.addEventListener("htmx:sendError", () => toast({ text: "Not sent", note: "the server does not answer; nothing was changed", tone: "fail" }));
  onEvent(finish);
  document.addEventListener("wf:live", () => [...following.keys()].forEach(look)); // ends are not told twice
}

/** Show a toast: tone is "work", "ok", "warn" or "fail". */
export function toast({ text, note = "", tone = "ok", operation = "", url = "" }) {
  const element = document.createElement("div");
  element.className = "wf-toast";
  element.setAttribute("role", tone === "fail" ? "alert" : "status");
  fill(element, { text, note, tone, url });
  document.querySelector(".wf-toasts").append(element);
  if (operation && tone === "work") {
    element.dataset.operation = operation;
    following.set(operation, element);
    setTimeout(look, LOOK_MS, operation);
  } else if (tone !== "fail") leave(element);
  return element;
}

function fill(element, { text, note, tone, url }) {
  const glyph = { work: "g-creating", ok: "g-done", warn: "g-unhealthy", fail: "g-exited-failed" }[tone];
  const mark = document.createElement("span");
  mark.className = `wf-tone-${tone}`;
  mark.append(use(glyph, tone === "work" ? "wf-g wf-spin" : "wf-g"));
  const words = document.createElement("span");
  words.append(text);
  if (note) words.append(Object.assign(document.createElement("small"), { textContent: note }));
  const side = document.createElement("span");
  side.className = "wf-row";
  if (url) side.append(Object.assign(document.createElement("a"), { href: url, textContent: tone === "fail" ? "Why" : "Operation" }));
  if (tone === "fail") {
    const close = Object.assign(document.createElement("button"), { type: "button", className: "wf-copy", title: "Close" });
    close.setAttribute("aria-label", "Close");
    close.dataset.toastClose = "";
    close.append(use("i-x"));
    side.append(close);
  }
  element.replaceChildren(mark, words, side);
}

async function finish(event) {
  if (event.type !== "operation") return;
  const element = following.get(event.subject);
  const status = event.action;
  if (!element || !["succeeded", "failed", "cancelled"].includes(status)) return;
  following.delete(event.subject);
  delete element.dataset.operation;
  const url = element.querySelector("a")?.getAttribute("href") ?? "";
  const text = element.children[1].firstChild.textContent;
  if (status === "failed") {
    element.setAttribute("role", "alert");
    fill(element, { text: `${text}: not done`, note: await reason(event.subject), tone: "fail", url });
  } else {
    fill(element, { text, note: status === "succeeded" ? "done" : "cancelled", tone: status === "succeeded" ? "ok" : "warn", url });
    leave(element);
  }
}

async function look(operation) {
  if (!following.has(operation)) return;
  const { status } = await asked(operation);
  if (status) await finish({ type: "operation", subject: operation, action: status });
}

async function reason(operation) {
  const { error } = await asked(operation);
  return [error?.detail, error?.hint].filter(Boolean).join("; ");
}

async function asked(operation) {
  try {
    const answer = await fetch(`/api/v1/operations/${encodeURIComponent(operation)}/`);
    return answer.ok ? await answer.json() : {};
  } catch {
    return {};
  }
}

function leave(element) {
  setTimeout(() => (element.matches(":hover, :focus-within") ? leave(element) : element.remove()), STAY_MS);
}

function failed(answer) {
  const problem = problemOf(answer.responseText);
  const text = problem.detail || { 403: "Refused", 404: "It is not there any more", 429: "Too many requests" }[answer.status] || `The server answered ${answer.status}`;
  toast({ text, note: problem.hint ?? "", tone: "fail", url: problem.url ?? "" });
}

/** What went wrong, from a problem document or from an error page. */
export function problemOf(text) {
  try {
    return JSON.parse(text);
  } catch {
    const page = new DOMParser().parseFromString(text, "text/html").querySelector("[data-problem]");
    return page ? { detail: page.textContent.trim(), hint: page.dataset.hint } : {};
  }
}
