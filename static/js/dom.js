// Small helpers to make elements without ever parsing text as HTML.
const SVG = "http://www.w3.org/2000/svg";

/** An icon of the sprite; its address is on <html data-sprite>. */
export function use(name, className = "wf-i") {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", className);
  svg.setAttribute("aria-hidden", "true");
  const inner = document.createElementNS(SVG, "use");
  inner.setAttribute("href", `${document.documentElement.dataset.sprite}#${name}`);
  svg.append(inner);
  return svg;
}

/** An SVG element with attributes. */
export function svg(name, attributes = {}) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

/** `h("p", {class: "x", title: "y"}, "text", child)`; text is text, whatever is in it. */
export function h(name, attributes = {}, ...inner) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...inner.filter((item) => item !== null && item !== undefined));
  return element;
}
