// Copy buttons: `data-copy` is the id of an element whose text is copied, or the text itself.
export function startCopy() {
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    event.preventDefault();
    const source = document.getElementById(button.dataset.copy);
    if (!(await copyText(source ? source.textContent : button.dataset.copy))) return;
    button.dataset.done = "";
    setTimeout(() => delete button.dataset.done, 1500);
  });
}

/** Put text on the clipboard; on plain HTTP, where browsers withhold the clipboard, through a hidden field. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = document.createElement("textarea");
    field.value = text;
    field.className = "wf-sr";
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}
