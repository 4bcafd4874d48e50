// Libraries that make <style> elements would need "unsafe-inline". Their rules go into constructed sheets instead,
// which a strict policy allows: an element that looks like a style element and hands its text to a CSSStyleSheet.

const make = document.createElement.bind(document);

document.createElement = (name, options) => (String(name).toLowerCase() === "style" ? sheetElement() : make(name, options));

function sheetElement() {
  const element = make("wf-style");
  const sheet = new CSSStyleSheet();
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  let text = "";
  const set = (value) => {
    text = String(value);
    sheet.replaceSync(text);
  };
  Object.defineProperties(element, {
    textContent: { get: () => text, set },
    innerHTML: { get: () => text, set },
    sheet: { get: () => sheet },
  });
  element.append = (...parts) => set(text + parts.map((part) => part.data ?? part).join(""));
  element.appendChild = (node) => {
    set(text + (node.data ?? ""));
    return node;
  };
  element.remove = () => {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((other) => other !== sheet);
    if (element.parentNode) element.parentNode.removeChild(element);
  };
  element.hidden = true;
  return element;
}
