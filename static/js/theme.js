// Runs before the first paint: the theme that the person chose, or none, and then the system decides.
let chosen = null;
try {
  chosen = localStorage.getItem("theme");
} catch {
  // storage may be closed to us: the system's theme counts
}
if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
document.documentElement.dataset.js = "";
