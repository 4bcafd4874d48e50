// The lines of a log that this page holds: a list with a bounded length, levels, and the places that match a search.
import { plain } from "./ansi.js";

const MAX_LINES = 200_000;
const DROP = 20_000;
const LEVELS = [
  ["error", /\b(?:error|fatal|panic|critical|severe|exception|traceback)\b|"level":\s*"(?:error|fatal)"|\bE\d{4}\b/i],
  ["warn", /\bwarn(?:ing)?\b/i],
  ["debug", /\b(?:debug|trace)\b/i],
];

/** What a line says about itself by its words: "error", "warn", "debug" or "info". */
export function levelOf(text) {
  const start = text.length > 400 ? text.slice(0, 400) : text;
  for (const [level, pattern] of LEVELS) if (pattern.test(start)) return level;
  return "info";
}

export class Lines {
  constructor() {
    this.all = [];
    this.dropped = 0; // lines let go at the front; they are still stored on the node
    this.counts = { error: 0, warn: 0 };
    this.only = ""; // "", "error" or "warn"
    this.shown = this.all;
    this.pattern = null;
    this.hits = [];
  }

  /** Add lines at the end. A line is {time, stream, text} or {note, tone}. */
  push(lines) {
    for (const line of lines) {
      this.prepare(line);
      this.all.push(line);
      if (this.only && this.matchesLevel(line)) this.shown.push(line);
      if (this.pattern && this.isHit(line) && (!this.only || this.matchesLevel(line))) this.hits.push(line);
    }
    if (this.all.length > MAX_LINES) this.drop();
  }

  /** Put older lines before the first. */
  unshift(lines) {
    for (const line of lines) this.prepare(line);
    this.all = lines.concat(this.all);
    this.dropped = Math.max(0, this.dropped - lines.length);
    this.sift();
  }

  clear() {
    this.all = [];
    this.dropped = 0;
    this.counts = { error: 0, warn: 0 };
    this.sift();
  }

  showOnly(level) {
    this.only = level;
    this.sift();
  }

  /** Look for `text`, or a regular expression; returns false where the expression cannot be read. */
  search(text, { regex = false } = {}) {
    this.pattern = null;
    if (text) {
      try {
        this.pattern = new RegExp(regex ? text : text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "gi");
      } catch {
        this.hits = [];
        return false;
      }
      if ("".match(this.pattern)) this.pattern = null; // would match everywhere
    }
    this.find();
    return true;
  }

  prepare(line) {
    if (line.level !== undefined || line.note) return;
    line.plain = plain(line.text);
    line.level = levelOf(line.plain);
    if (line.level in this.counts) this.counts[line.level] += 1;
  }

  matchesLevel(line) {
    return line.note || line.level === this.only;
  }

  isHit(line) {
    this.pattern.lastIndex = 0;
    return !line.note && this.pattern.test(line.plain);
  }

  sift() {
    this.shown = this.only ? this.all.filter((line) => this.matchesLevel(line)) : this.all;
    this.find();
  }

  find() {
    this.hits = this.pattern ? this.shown.filter((line) => this.isHit(line)) : [];
  }

  drop() {
    this.all.splice(0, DROP);
    this.dropped += DROP;
    this.sift();
  }
}
