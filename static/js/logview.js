// A log on the screen: only the lines around the eye are elements, so a million lines scroll like a hundred.
//
// Lines may wrap, so heights differ: the part above and the part below are spacers of an average height, and when the
// window moves, the line that was at the top of the view stays where it was.
import { spans } from "./ansi.js";
import { h, use } from "./dom.js";

const LINE_PX = 19;

export class LogView {
  /** `place` is the scrolling element; `onTop()` is called when the first line comes into view. */
  constructor(place, lines, { onTop = () => {}, onLeaveEnd = () => {}, onReachEnd = () => {}, onChoose = () => {} } = {}) {
    Object.assign(this, { place, lines, onTop, onLeaveEnd, onReachEnd });
    this.above = h("div", { "aria-hidden": "true" });
    this.rows = h("div");
    this.below = h("div", { "aria-hidden": "true" });
    place.replaceChildren(this.above, this.rows, this.below);
    this.from = 0;
    this.to = 0;
    this.follow = true;
    this.current = null;
    this.average = LINE_PX;
    this.drawn = false;
    place.addEventListener("scroll", () => this.scrolled(), { passive: true });
    place.addEventListener("click", (event) => {
      const row = event.target.closest(".wf-line");
      if (row && String(getSelection()) === "") onChoose(this.lines.shown[this.from + [...this.rows.children].indexOf(row)]);
    });
    new ResizeObserver(() => this.draw()).observe(place);
  }

  get size() {
    return Math.max(120, Math.ceil((this.place.clientHeight || 600) / LINE_PX) * 3);
  }

  /** Draw on the next frame, however often it is asked for. */
  draw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      if (this.follow) this.toEnd();
      else this.window(this.anchor());
    });
  }

  toEnd() {
    const total = this.lines.shown.length;
    this.render(Math.max(0, total - this.size), total);
    this.ours = true;
    this.place.scrollTop = this.place.scrollHeight;
  }

  /** Bring line `index` to the middle of the view. */
  show(index) {
    this.setFollow(false);
    this.render(Math.max(0, index - Math.floor(this.size / 2)), index + Math.ceil(this.size / 2));
    const row = this.rows.children[index - this.from];
    if (!row) return;
    this.ours = true;
    this.place.scrollTop = row.offsetTop - this.place.clientHeight / 2;
  }

  setFollow(on) {
    if (this.follow === on) return;
    this.follow = on;
    if (on) {
      this.toEnd();
      this.onReachEnd();
    } else this.onLeaveEnd();
  }

  scrolled() {
    if (this.ours) {
      this.ours = false;
      return;
    }
    const { scrollTop, scrollHeight, clientHeight } = this.place;
    if (scrollHeight - scrollTop - clientHeight < 4) this.setFollow(true);
    else if (this.follow) this.setFollow(false);
    if (this.follow) return;
    if (scrollTop < 200 && this.from === 0) this.onTop();
    const top = this.rows.offsetTop;
    const bottom = top + this.rows.offsetHeight;
    const near = clientHeight / 2;
    if ((scrollTop < top + near && this.from > 0) || (scrollTop + clientHeight > bottom - near && this.to < this.lines.shown.length)) {
      this.window(this.anchor());
    }
  }

  // the line at the top of the view, and how far it is above the edge
  anchor() {
    const top = this.place.scrollTop;
    const start = this.rows.offsetTop;
    if (top < start || top > start + this.rows.offsetHeight) return { index: Math.floor(top / this.average), offset: 0 };
    for (const [at, row] of [...this.rows.children].entries()) {
      if (row.offsetTop + row.offsetHeight > top) return { index: this.from + at, offset: row.offsetTop - top, line: this.lines.shown[this.from + at] };
    }
    return { index: this.to, offset: 0 };
  }

  window({ index, offset }) {
    this.render(Math.max(0, index - Math.floor(this.size / 3)), index + this.size);
    const row = this.rows.children[Math.min(index, this.to - 1) - this.from];
    if (!row) return;
    this.ours = true;
    const wanted = row.offsetTop - offset;
    if (Math.abs(this.place.scrollTop - wanted) < 1) this.ours = false;
    this.place.scrollTop = wanted;
  }

  /** Lines were put before the first: keep what the eye is on. */
  grewAbove(count) {
    const { index, offset } = this.anchor();
    this.window({ index: index + count, offset });
  }

  render(from, to) {
    const shown = this.lines.shown;
    this.to = Math.min(shown.length, to);
    this.from = Math.max(0, Math.min(from, this.to - 1));
    const rows = [];
    for (let at = this.from; at < this.to; at += 1) rows.push(this.row(shown[at]));
    this.rows.replaceChildren(...rows);
    if (this.to > this.from && this.rows.offsetHeight) this.average = Math.max(LINE_PX, this.rows.offsetHeight / (this.to - this.from));
    this.above.style.height = `${this.from * this.average}px`;
    this.below.style.height = `${(shown.length - this.to) * this.average}px`;
  }

  row(line) {
    if (line.note) return h("div", { class: "wf-log-note", "data-tone": line.tone }, use(line.tone === "warn" ? "i-gap" : "i-info"), h("span", {}, line.note));
    const text = h("p");
    for (const span of spans(line.text)) this.put(text, span, line);
    const row = h("div", { class: "wf-line", "data-level": line.level, "data-stream": line.stream || null }, stamp(line), h("span", {}, line.source ?? (line.level === "info" ? "" : line.level)), text);
    if (line.tone) row.dataset.source = line.tone;
    if (line === this.current) row.setAttribute("aria-current", "true");
    return row;
  }

  put(parent, { text, className }, line) {
    const place = className ? h("span", { class: className }) : parent;
    const pattern = this.lines.pattern;
    let from = 0;
    if (pattern) {
      pattern.lastIndex = 0;
      for (const match of text.matchAll(pattern)) {
        if (!match[0]) continue;
        place.append(text.slice(from, match.index), h("mark", { "data-now": line === this.current }, match[0]));
        from = match.index + match[0].length;
      }
    }
    place.append(text.slice(from));
    if (place !== parent) parent.append(place);
  }
}

function stamp(line) {
  if (!line.time) return h("time", {}, line.clock ?? "");
  const date = new Date(line.time);
  if (Number.isNaN(date.getTime())) return h("time");
  const two = (value) => String(value).padStart(2, "0");
  const clock = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return h("time", { datetime: line.time, title: date.toISOString() }, clock, h("b", {}, `.${String(date.getMilliseconds()).padStart(3, "0")}`));
}
