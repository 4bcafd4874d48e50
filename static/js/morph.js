// Make an element equal to a newer copy of itself, touching only what differs.
//
// Children are matched by `id` or `data-key`, the others by their place. What a person does survives: focus, values
// typed, boxes ticked, opened details, and everything inside [data-keep]. A cell whose text changed is marked once.

/**
 * @param calm  true while the pointer or focus is in the list: new rows are counted and not put in, order stays
 * @returns how many rows were held back
 */
export function morph(old, fresh, { calm = false } = {}) {
  const state = { held: 0, calm };
  node(old, fresh, state);
  return state.held;
}

function node(old, fresh, state) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) {
      const meaningful = old.data.trim() !== fresh.data.trim();
      old.data = fresh.data;
      if (meaningful) mark(old.parentElement);
    }
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE || old.hasAttribute("data-keep")) return;
  attributes(old, fresh);
  children(old, fresh, state);
}

function attributes(old, fresh) {
  for (const { name, value } of [...fresh.attributes]) {
    if (old.getAttribute(name) !== value && !ours(old, name)) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !ours(old, name)) old.removeAttribute(name);
  }
}

// attributes that this page sets by itself
function ours(element, name) {
  return (
    (name === "open" && element.tagName === "DETAILS") ||
    (name === "aria-selected" && element.tagName === "TR") ||
    (name === "class" && element.classList.contains("wf-changed")) ||
    (name === "aria-current" && element.closest(".wf-nav, .wf-bottom")) || // the copy comes from another address
    name === "data-cursor" ||
    name === "data-gone" ||
    (name === "value" && element === document.activeElement)
  );
}

function children(old, fresh, state) {
  const keyed = new Map();
  for (const child of old.children) if (keyOf(child)) keyed.set(keyOf(child), child);
  const list = keyed.size > 0 && state.calm;
  let cursor = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    const key = keyOf(wanted);
    let match = key ? keyed.get(key) : alike(cursor, wanted, keyed);
    if (key) keyed.delete(key);
    if (!match && key && list) {
      state.held += 1;
      continue;
    }
    if (!match) {
      old.insertBefore(document.importNode(wanted, true), cursor);
      continue;
    }
    if (match === cursor) cursor = next(cursor, keyed, list);
    else if (!list) old.insertBefore(match, cursor);
    node(match, wanted, state);
  }
  for (const gone of keyed.values()) remove(gone);
  while (cursor) {
    const after = cursor.nextSibling;
    if (!keyOf(cursor)) cursor.remove();
    cursor = after;
  }
}

function next(cursor) {
  return cursor.nextSibling;
}

function alike(cursor, wanted, keyed) {
  while (cursor && cursor.nodeType === Node.ELEMENT_NODE && cursor.hasAttribute("data-gone")) cursor = cursor.nextSibling;
  if (!cursor || cursor.nodeType !== wanted.nodeType) return null;
  if (cursor.nodeType === Node.TEXT_NODE) return cursor;
  return cursor.nodeName === wanted.nodeName && !keyed.has(keyOf(cursor)) ? cursor : null;
}

function keyOf(element) {
  return element.nodeType === Node.ELEMENT_NODE ? element.id || element.dataset?.key || "" : "";
}

// a removed row stays three seconds, struck through, so that the eye can follow
function remove(element) {
  if (element.tagName !== "TR" || element.dataset.gone !== undefined) {
    if (element.dataset.gone === undefined) element.remove();
    return;
  }
  element.dataset.gone = "";
  setTimeout(() => element.remove(), 3000);
}

function mark(element) {
  const cell = element?.closest("td, [data-cell]");
  if (!cell || element.closest("[data-quiet-change]")) return;
  cell.classList.remove("wf-changed");
  void cell.offsetWidth; // restarts the animation
  cell.classList.add("wf-changed");
  cell.addEventListener("animationend", () => cell.classList.remove("wf-changed"), { once: true });
}
