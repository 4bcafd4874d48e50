// htmx under a strict policy: nothing evaluated, no style element of its own, only our own address.
import htmx from "htmx.org";

Object.assign(htmx.config, {
  allowEval: false,
  allowScriptTags: false,
  includeIndicatorStyles: false,
  selfRequestsOnly: true,
  historyCacheSize: 0,
  defaultSwapStyle: "outerHTML",
  timeout: 30000,
  // a refusal or a mistake comes as a fragment with its own status: show it
  responseHandling: [
    { code: "204", swap: false },
    { code: "[23]..", swap: true },
    { code: "4(09|22)", swap: true },
    { code: "[45]..", swap: false, error: true },
  ],
});

document.addEventListener("htmx:configRequest", (event) => {
  event.detail.headers["X-CSRFToken"] = csrfToken();
});

// what a live refresh put in are buttons and links like those that came with the page
document.addEventListener("wf:refreshed", (event) => htmx.process(event.detail));

/** The token that a changing request has to carry; the server puts it into a meta element. */
export function csrfToken() {
  return document.querySelector('meta[name="csrf-token"]')?.content ?? "";
}

export default htmx;
