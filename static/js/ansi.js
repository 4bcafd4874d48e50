// Text with terminal colours → spans with classes. Only colour and weight are kept; every other control is dropped.

const CONTROL = /\x1b\[([0-9;:]*)([A-Za-z])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]|[\x00-\x08\x0b-\x1f\x7f]/g;
const COLOURS = ["", "r", "g", "y", "b", "m", "c", ""];

/** Split `text` into [{text, className}]; carriage returns keep what the line ended as. */
export function spans(text) {
  if (!/[\x00-\x08\x0b-\x1f\x7f]/.test(text)) return [{ text, className: "" }];
  const kept = text.replace(/\r+$/, "");
  const shown = kept.slice(kept.lastIndexOf("\r") + 1);
  const out = [];
  const style = { colour: "", bold: false, dim: false };
  let from = 0;
  for (const match of shown.matchAll(CONTROL)) {
    put(out, shown.slice(from, match.index), style);
    if (match[2] === "m") apply(style, match[1]);
    from = match.index + match[0].length;
  }
  put(out, shown.slice(from), style);
  return out;
}

/** `text` without any control sequence, as it is searched and copied. */
export function plain(text) {
  return spans(text).map((span) => span.text).join("");
}

function put(out, text, { colour, bold, dim }) {
  if (!text) return;
  const className = [colour && `wf-ansi-${colour}`, bold && "wf-ansi-bold", dim && "wf-ansi-dim"].filter(Boolean).join(" ");
  out.push({ text, className });
}

function apply(style, codes) {
  const numbers = codes.split(/[;:]/).map(Number);
  for (let at = 0; at < numbers.length; at += 1) {
    const code = numbers[at];
    if (code === 0) Object.assign(style, { colour: "", bold: false, dim: false });
    else if (code === 1) style.bold = true;
    else if (code === 2) style.dim = true;
    else if (code === 22) style.bold = style.dim = false;
    else if (code === 38 || code === 48) at += numbers[at + 1] === 5 ? 2 : 4; // 256 and true colours: too many meanings
    else if (code === 39) style.colour = "";
    else if (code >= 30 && code <= 37) style.colour = COLOURS[code - 30];
    else if (code >= 90 && code <= 97) style.colour = COLOURS[code - 90];
  }
}
