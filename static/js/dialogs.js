// Dialogs come from the server as fragments with one <dialog>; links and forms work without this module as pages.
//   <a href="…" data-dialog>            fetches the address and opens the <dialog> in its answer
//   <dialog … data-confirm-name="x">    the red button waits until the name is typed

import htmx, { csrfToken } from "./htmx.js";
import { h } from "./dom.js";
import { size } from "./times.js";
import { problemOf, toast } from "./toasts.js";

let opener = null;

export function startDialogs() {
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-dialog], button[data-dialog]");
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      link.closest("details.wf-menu")?.removeAttribute("open");
      openDialog(dialogUrl(link), link);
    } else if (event.target.closest("[data-close]")) {
      const dialog = event.target.closest("dialog");
      if (dialog) {
        event.preventDefault();
        dialog.close();
      }
    } else if (event.target.tagName === "DIALOG") event.target.close(); // the backdrop
    for (const menu of document.querySelectorAll("details.wf-menu[open]")) if (!menu.contains(event.target)) menu.open = false;
  });
  document.addEventListener("keydown", (event) => {
    const menu = event.key === "Escape" && document.activeElement.closest?.("details.wf-menu[open]");
    if (menu) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });
  document.addEventListener("input", (event) => {
    const field = event.target.closest("[data-type-name]");
    if (field) field.form.querySelector("[data-needs-name]").disabled = field.value.trim() !== field.dataset.typeName;
  });
  document.addEventListener("submit", submitInDialog);
}

function dialogUrl(link) {
  const url = new URL(link.getAttribute("href") ?? link.formAction, location.href);
  const form = link.form ?? document.getElementById(link.getAttribute("form"));
  if (form) for (const [name, value] of new FormData(form)) if (name !== "csrfmiddlewaretoken") url.searchParams.append(name, value);
  return url;
}

/** Fetch a dialog and open it; where the answer holds none, go there as to a page. */
export async function openDialog(url, from = document.activeElement) {
  const answer = await fetch(url, { headers: { "HX-Request": "true", "X-Wharfinger-Dialog": "1" } });
  show(await answer.text(), url, from);
}

function show(html, url, from) {
  const dialog = new DOMParser().parseFromString(html, "text/html").querySelector("dialog");
  if (!dialog) {
    location.assign(url);
    return;
  }
  document.querySelector("dialog[open]")?.close();
  opener = from;
  const own = document.importNode(dialog, true);
  own.removeAttribute("open");
  document.body.append(own);
  htmx.process(own);
  own.showModal();
  (own.querySelector("[autofocus]") ?? own.querySelector("[data-close]"))?.focus();
  own.addEventListener("close", () => {
    own.remove();
    opener?.isConnected && opener.focus();
  });
  document.dispatchEvent(new CustomEvent("wf:dialog", { detail: own }));
}

// A form in a dialog is sent from here: a mistake comes back as the dialog again, a success closes it.
async function submitInDialog(event) {
  const form = event.target;
  const dialog = form.closest("dialog");
  if (!dialog || event.defaultPrevented || form.dataset.whole !== undefined || form.method !== "post") return;
  event.preventDefault();
  const body = new FormData(form, event.submitter);
  const button = event.submitter;
  if (button) button.disabled = true;
  const answer = await post(form.action, body, progressOf(form, body)).catch(() => null);
  if (answer) await settle(answer, dialog, form.action);
  else {
    toast({ text: "Not sent", note: "the server does not answer; nothing was changed", tone: "fail" });
    if (button) button.disabled = false;
  }
}

// a form with a file says how far its sending is
function progressOf(form, body) {
  const bytes = [...body.values()].reduce((sum, value) => sum + (value instanceof File ? value.size : 0), 0);
  if (bytes < 256 * 1024) return () => {};
  const said = h("span", { class: "wf-muted wf-num wf-push", role: "status" }, "Sending");
  form.querySelector("footer").prepend(said);
  return (loaded) => (said.textContent = loaded < bytes ? `${size(loaded)} of ${size(bytes)}` : "Sent; the node reads it");
}

/** POST with progress, which fetch cannot tell; resolves to {status, text, header(name)}. */
function post(url, body, said) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.upload.addEventListener("progress", (event) => said(event.loaded));
    request.addEventListener("load", () => resolve({ status: request.status, text: request.responseText, header: (name) => request.getResponseHeader(name) }));
    request.addEventListener("error", reject);
    request.open("POST", url);
    for (const [name, value] of Object.entries({ "HX-Request": "true", "X-Wharfinger-Dialog": "1", "X-CSRFToken": csrfToken() })) request.setRequestHeader(name, value);
    request.send(body);
  });
}

async function settle({ status, text, header }, dialog, url) {
  const triggers = header("HX-Trigger");
  const away = header("HX-Redirect");
  const ok = status >= 200 && status < 300;
  if (away) location.assign(away);
  else if (text.includes("<dialog") && (ok || status === 409 || status === 422)) show(text, url, opener);
  else if (!ok) toast({ text: "Not done", note: problemText(text, status), tone: "fail" });
  else dialog.close();
  if (triggers) for (const [name, detail] of Object.entries(JSON.parse(triggers))) document.dispatchEvent(new CustomEvent(name, { detail }));
}

function problemText(text, status) {
  const { detail, hint } = problemOf(text);
  return [detail, hint].filter(Boolean).join(": ") || `the server answered ${status}`;
}
