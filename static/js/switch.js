// The half-moon: light or dark, kept for this browser.
export function startTheme() {
  const root = document.documentElement;
  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-theme-toggle]")) return;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try {
      localStorage.setItem("theme", root.dataset.theme);
    } catch {
      // the choice then lasts for this page
    }
    document.dispatchEvent(new CustomEvent("wf:theme"));
  });
}

/** Call `draw` now and whenever the theme changes, by the person or by the system. */
export function onTheme(draw) {
  draw();
  document.addEventListener("wf:theme", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

/** The value of a design token as it is now. */
export function token(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
