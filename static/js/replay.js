// Recorded terminal sessions (asciicast, version 2): a header line, then [seconds, "o" | "i" | "r", data] a line.
import { longSpan } from "./times.js";

const LONGEST_PAUSE_S = 2;
const SPEEDS = [1, 2, 4, 8];

export class Recording {
  constructor(text) {
    const rows = text.split("\n").filter(Boolean);
    const header = JSON.parse(rows[0]);
    this.cols = header.width || 80;
    this.rows = header.height || 24;
    this.events = [];
    let shift = 0;
    let before = 0;
    for (const row of rows.slice(1)) {
      let event;
      try {
        event = JSON.parse(row);
      } catch {
        break; // a recording that was cut ends with half a line
      }
      const [at, kind, data] = event;
      shift += Math.max(0, at - before - LONGEST_PAUSE_S);
      before = at;
      this.events.push({ at: at - shift, real: at, kind, data });
    }
    this.length = this.events.at(-1)?.at ?? 0;
  }
}

export class Player {
  /** `terminal` needs write(), reset() and resize(); `bar` holds the controls. */
  constructor({ recording, terminal, bar }) {
    Object.assign(this, { recording, terminal });
    this.next = 0;
    this.now = 0;
    this.speed = 1;
    this.playing = false;
    const find = (name) => bar.querySelector(`[data-do="${name}"]`);
    this.play = find("play");
    this.slider = find("position");
    this.words = bar.querySelector('[data-say="state"]');
    this.play.addEventListener("click", () => this.toggle());
    find("speed")?.addEventListener("click", (event) => this.faster(event.currentTarget));
    this.slider.max = String(Math.ceil(recording.length * 10));
    this.slider.addEventListener("input", () => this.seek(this.slider.value / 10));
    this.toggle();
  }

  toggle() {
    if (!this.playing && this.next >= this.recording.events.length) this.seek(0);
    this.playing = !this.playing;
    this.last = performance.now();
    this.play.setAttribute("aria-pressed", this.playing);
    this.play.querySelector("[data-label]").textContent = this.playing ? "Pause" : "Play";
    if (this.playing) this.frame();
  }

  faster(button) {
    this.speed = SPEEDS[(SPEEDS.indexOf(this.speed) + 1) % SPEEDS.length];
    button.textContent = `${this.speed}×`;
  }

  frame() {
    if (!this.playing) return;
    const moment = performance.now();
    this.now += ((moment - this.last) / 1000) * this.speed;
    this.last = moment;
    this.write();
    if (this.next >= this.recording.events.length) this.toggle();
    else requestAnimationFrame(() => this.frame());
  }

  seek(seconds) {
    this.terminal.reset();
    this.next = 0;
    this.now = seconds;
    this.last = performance.now();
    this.write();
  }

  write() {
    const { events } = this.recording;
    while (this.next < events.length && events[this.next].at <= this.now) {
      const { kind, data } = events[this.next];
      if (kind === "o") this.terminal.write(data);
      if (kind === "r") this.terminal.resize(...data.split("x").map(Number));
      this.next += 1;
    }
    const real = events[Math.max(0, this.next - 1)]?.real ?? 0;
    this.slider.value = String(Math.round(this.now * 10));
    this.words.textContent = `${longSpan(real)} of ${longSpan(events.at(-1)?.real ?? 0)}`;
  }
}
