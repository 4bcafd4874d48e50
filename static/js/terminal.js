// The terminal tab and the replay of recorded sessions: xterm under a policy without inline styles.
import "./ownstyle.js";
import { Terminal } from "@xterm/xterm";
import { FitAddon } from "@xterm/addon-fit";
import { SearchAddon } from "@xterm/addon-search";
import "@xterm/xterm/css/xterm.css";
import { Socket } from "./socket.js";
import { copyText } from "./copy.js";
import { token, onTheme } from "./switch.js";
import { longSpan } from "./times.js";
import { Recording, Player } from "./replay.js";

for (const place of document.querySelectorAll("[data-terminal]")) session(place);
for (const place of document.querySelectorAll("[data-replay]")) replay(place);

function makeTerminal(screen, options = {}) {
  const terminal = new Terminal({
    cursorBlink: false,
    fontFamily: token("--mono"),
    fontSize: innerWidth < 720 ? 11 : 13,
    lineHeight: 1.35,
    scrollback: 10000,
    allowProposedApi: true,
    ...options,
  });
  const fit = new FitAddon();
  terminal.loadAddon(fit);
  terminal.loadAddon(new SearchAddon());
  terminal.open(screen);
  onTheme(() => {
    terminal.options.theme = palette();
  });
  return { terminal, fit };
}

function palette() {
  const names = { black: "term-line", red: "term-red", green: "term-green", yellow: "term-yellow", blue: "term-blue", magenta: "term-magenta", cyan: "term-cyan", white: "term-text", brightBlack: "term-dim" };
  const theme = { background: token("--term-bg"), foreground: token("--term-text"), cursor: token("--term-text"), cursorAccent: token("--term-bg"), selectionBackground: token("--term-line") };
  for (const [name, source] of Object.entries(names)) theme[name] = token(`--${source}`);
  for (const name of ["Red", "Green", "Yellow", "Blue", "Magenta", "Cyan"]) theme[`bright${name}`] = theme[name.toLowerCase()];
  theme.brightWhite = theme.white;
  return theme;
}

/* ---------- a live session ---------- */

function session(place) {
  const screen = place.querySelector("[data-screen]");
  const says = (name, text) => {
    const element = place.querySelector(`[data-say="${name}"]`);
    if (element) element.textContent = text;
  };
  const form = document.getElementById(place.dataset.form);
  let running = null;
  place.querySelector('[data-do="end"]')?.addEventListener("click", () => running?.socket.close());
  place.querySelector('[data-do="copy"]')?.addEventListener("click", () => running && copyAll(running.terminal));
  form?.addEventListener("submit", (event) => {
    event.preventDefault();
    start();
  });
  if (place.dataset.terminal === "now") start();

  function start() {
    running?.socket.close();
    running?.terminal.dispose();
    screen.replaceChildren();
    place.hidden = false;
    const { terminal, fit } = makeTerminal(screen);
    fit.fit();
    const began = Date.now();
    let cursor = "";
    let id = "";
    let over = false;
    const socket = new Socket(
      () => {
        const url = new URL(place.dataset.path, location.href);
        const query = id ? { session: id, cursor } : { ...Object.fromEntries(form ? new FormData(form) : []), cols: terminal.cols, rows: terminal.rows };
        for (const [name, value] of Object.entries(query)) if (value && name !== "csrfmiddlewaretoken") url.searchParams.set(name, value);
        return url.pathname + url.search;
      },
      { binary: true, onMessage: receive, onState: state },
    );
    const clock = setInterval(() => over || says("length", longSpan((Date.now() - began) / 1000)), 1000);
    terminal.onData((text) => socket.send(new TextEncoder().encode(text)));
    terminal.onBinary((text) => socket.send(Uint8Array.from(text, (character) => character.charCodeAt(0))));
    terminal.onResize(({ cols, rows }) => {
      socket.send({ type: "resize", cols, rows });
      says("size", `${cols} × ${rows}`);
    });
    terminal.attachCustomKeyEventHandler((event) => keys(event, terminal));
    new ResizeObserver(() => fit.fit()).observe(screen);
    says("size", `${terminal.cols} × ${terminal.rows}`);
    running = { terminal, socket };
    terminal.focus();

    function receive(data) {
      if (typeof data !== "string") {
        terminal.write(new Uint8Array(data));
        return;
      }
      const message = JSON.parse(data);
      if (message.session) id = message.session;
      if (message.cursor) cursor = message.cursor;
      if (message.type === "exit") finish(message.code === undefined ? "Ended" : `Ended with code ${message.code}`);
      if (message.type === "error") {
        terminal.write(`\r\n\x1b[31m${message.detail}\x1b[0m${message.hint ? `\r\n\x1b[2m${message.hint}\x1b[0m` : ""}\r\n`);
        finish("Not started");
      }
    }

    function state(name, { wait, reason } = {}) {
      if (over) return;
      place.dataset.conn = name;
      if (name === "live") {
        says("state", "Live");
        if (id) terminal.write("\r\n\x1b[2m-- connection is back; nothing was lost --\x1b[0m\r\n");
        socket.send({ type: "resize", cols: terminal.cols, rows: terminal.rows });
      } else if (name === "ended") finish("Ended");
      else says("state", name === "lost" && !wait ? reason || "Closed" : `Connection lost, again in ${Math.ceil(wait ?? 1)} s`);
    }

    function finish(words) {
      over = true;
      clearInterval(clock);
      says("state", words);
      terminal.options.disableStdin = true;
      terminal.write(`\r\n\x1b[2m-- ${words.toLowerCase()} --\x1b[0m`);
      socket.close();
    }
  }
}

function keys(event, terminal) {
  if (event.type !== "keydown" || !event.ctrlKey || !event.shiftKey) return true;
  if (event.code === "KeyC") {
    event.preventDefault();
    copyText(terminal.getSelection());
    terminal.focus();
    return false;
  }
  return event.code !== "KeyV"; // the browser pastes
}

async function copyAll(terminal) {
  terminal.selectAll();
  await copyText(terminal.getSelection());
  terminal.clearSelection();
}

/* ---------- a recorded session ---------- */

async function replay(place) {
  const answer = await fetch(place.dataset.replay);
  const says = place.querySelector('[data-say="state"]');
  if (!answer.ok) {
    says.textContent = `The recording could not be read (${answer.status})`;
    return;
  }
  const recording = new Recording(await answer.text());
  const { terminal } = makeTerminal(place.querySelector("[data-screen]"), { cols: recording.cols, rows: recording.rows, disableStdin: true });
  new Player({ recording, terminal, bar: place });
}
