// Find anything: answers appear while typing; arrows choose, Enter goes. Without this, Enter shows the search page.
const DELAY_MS = 120;

export function startSearch() {
  const box = document.querySelector(".wf-search");
  const input = box?.querySelector("input");
  const list = document.getElementById("found");
  if (!input || !list) return;
  let timer = 0;
  let asked = 0;
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(ask, DELAY_MS);
  });
  input.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const links = [...list.querySelectorAll("a")];
    const at = links.findIndex((link) => link.hasAttribute("aria-current"));
    if (step && links.length) {
      event.preventDefault();
      links[at]?.removeAttribute("aria-current");
      const next = links[(at + step + links.length) % links.length];
      next.setAttribute("aria-current", "true");
      next.scrollIntoView({ block: "nearest" });
    } else if (event.key === "Enter" && links[at]) {
      event.preventDefault();
      links[at].click();
    } else if (event.key === "Escape") close();
  });
  document.addEventListener("click", (event) => box.parentElement.contains(event.target) || close());

  async function ask() {
    const text = input.value.trim();
    if (!text) return close();
    const mine = ++asked;
    const answer = await fetch(`${input.form.getAttribute("action")}?q=${encodeURIComponent(text)}`, { headers: { "HX-Request": "true" } });
    if (!answer.ok || mine !== asked) return undefined;
    const found = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("#found-list");
    if (!found) return undefined;
    list.replaceChildren(document.importNode(found, true));
    list.hidden = false;
    list.querySelector("a")?.setAttribute("aria-current", "true");
    return undefined;
  }

  function close() {
    asked += 1;
    list.hidden = true;
  }
}
