// New build: the Dockerfile editor with problems at their lines, the context dropped or chosen, sending with progress.
//
// The editor stands in a shadow root: there it uses constructed style sheets, which the strict policy allows.
import { EditorState, StateEffect, StateField } from "@codemirror/state";
import { Decoration, EditorView, WidgetType, drawSelection, highlightActiveLine, keymap, lineNumbers } from "@codemirror/view";
import { defaultKeymap, history, historyKeymap } from "@codemirror/commands";
import { HighlightStyle, StreamLanguage, syntaxHighlighting } from "@codemirror/language";
import { dockerFile } from "@codemirror/legacy-modes/mode/dockerfile";
import { tags } from "@lezer/highlight";
import { csrfToken } from "./htmx.js";
import { h } from "./dom.js";

// Syntax is weight and grey, not a rainbow: colours stay free for what is wrong.
const style = HighlightStyle.define([
  { tag: tags.keyword, fontWeight: "700" },
  { tag: tags.comment, color: "var(--text-3)" },
  { tag: [tags.string, tags.variableName], color: "var(--text)" },
  { tag: tags.invalid, color: "inherit" },
]);

const theme = EditorView.theme({
  "&": { backgroundColor: "transparent", color: "var(--text)", fontSize: "12.5px" },
  "&.cm-focused": { outline: "none" },
  ".cm-content": { fontFamily: "var(--mono)", lineHeight: "20px", padding: "8px 0", caretColor: "var(--text)" },
  ".cm-scroller": { fontFamily: "var(--mono)", lineHeight: "20px" },
  ".cm-gutters": { backgroundColor: "transparent", color: "var(--text-3)", border: "none" },
  ".cm-lineNumbers .cm-gutterElement": { minWidth: "36px", padding: "0 12px 0 0" },
  ".cm-activeLine": { backgroundColor: "var(--hover)" },
  ".cm-cursor": { borderLeftColor: "var(--text)" },
  "&.cm-focused .cm-selectionBackground, .cm-selectionBackground": { backgroundColor: "var(--accent-soft) !important" },
  ".wf-line-fail": { backgroundColor: "var(--fail-soft)", boxShadow: "inset 2px 0 0 var(--fail-fill)" },
  ".wf-line-warn": { boxShadow: "inset 2px 0 0 var(--warn-fill)" },
  ".wf-messageplace": { padding: "0 12px 4px 0" }, // no margins: the editor would measure them wrongly
  ".wf-message": { padding: "4px 8px", font: "12px/16px var(--font)", borderRadius: "0 0 5px 5px", whiteSpace: "normal" },
  ".wf-message[data-tone=fail]": { color: "var(--fail-ink)", backgroundColor: "var(--fail-soft)" },
  ".wf-message[data-tone=warn]": { color: "var(--warn-ink)", backgroundColor: "var(--warn-soft)", borderRadius: "5px" },
});

const setProblems = StateEffect.define();

class Message extends WidgetType {
  constructor(problem) {
    super();
    this.problem = problem;
  }

  eq(other) {
    return other.problem.message === this.problem.message && other.problem.tone === this.problem.tone;
  }

  toDOM() {
    const { line, message, hint, tone } = this.problem;
    return h("div", { class: "wf-messageplace" }, h("div", { class: "wf-message", "data-tone": tone, role: tone === "fail" ? "alert" : null }, `line ${line}: ${message}${hint ? `; ${hint}` : ""}`));
  }
}

const problemField = StateField.define({
  create: () => Decoration.none,
  update(marks, transaction) {
    let now = marks.map(transaction.changes);
    for (const effect of transaction.effects) if (effect.is(setProblems)) now = decorate(transaction.state.doc, effect.value);
    return now;
  },
  provide: (field) => EditorView.decorations.from(field),
});

function decorate(doc, problems) {
  const marks = [];
  for (const problem of problems) {
    const line = doc.line(Math.min(Math.max(problem.line, 1), doc.lines));
    marks.push(Decoration.line({ class: `wf-line-${problem.tone}` }).range(line.from));
    marks.push(Decoration.widget({ widget: new Message(problem), block: true, side: 1 }).range(line.to));
  }
  return Decoration.set(marks, true);
}

/** Turn the textarea into an editor; what is typed stays in the textarea too, which is what the form sends. */
export function makeEditor(area, { readOnly = false, onChange = () => {} } = {}) {
  const host = h("div", { class: "wf-codehost" });
  area.after(host);
  area.hidden = true;
  const shadow = host.attachShadow({ mode: "open" });
  const view = new EditorView({
    root: shadow,
    parent: shadow,
    state: EditorState.create({
      doc: area.value,
      extensions: [
        lineNumbers(),
        history(),
        drawSelection(),
        EditorView.lineWrapping,
        readOnly ? [] : highlightActiveLine(),
        StreamLanguage.define(dockerFile),
        syntaxHighlighting(style),
        theme,
        problemField,
        EditorState.readOnly.of(readOnly),
        EditorState.tabSize.of(4),
        EditorView.contentAttributes.of({ "aria-label": area.getAttribute("aria-label") ?? "Dockerfile" }),
        keymap.of([...defaultKeymap, ...historyKeymap]),
        EditorView.updateListener.of((update) => {
          if (!update.docChanged) return;
          area.value = update.state.doc.toString();
          onChange();
        }),
      ],
    }),
  });
  return {
    view,
    set(text) {
      view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: text } });
    },
    problems(list) {
      view.dispatch({ effects: setProblems.of(list) });
    },
  };
}

/* ---------- the page ---------- */

const form = document.querySelector("form[data-build]");
const area = document.querySelector("textarea[data-dockerfile]");

if (area) {
  const editor = makeEditor(area, { readOnly: area.readOnly, onChange: later });
  const given = document.getElementById("problems");
  if (given) editor.problems(JSON.parse(given.textContent));
  if (area.dataset.check) check();
  let timer = 0;

  function later() {
    clearTimeout(timer);
    timer = setTimeout(check, 350);
    document.querySelector("[data-edited]")?.removeAttribute("hidden");
  }

  async function check() {
    if (!area.dataset.check) return;
    const body = new FormData();
    body.set("dockerfile", area.value);
    const answer = await fetch(area.dataset.check, { method: "POST", body, headers: { "X-CSRFToken": csrfToken() } });
    if (!answer.ok) return;
    const { problems } = await answer.json();
    editor.problems(problems);
    say(problems);
  }

  function say(problems) {
    const place = document.querySelector("[data-problems]");
    if (!place) return;
    const wrong = problems.filter((problem) => problem.tone === "fail").length;
    const advice = problems.length - wrong;
    const parts = [wrong && `${wrong} ${wrong === 1 ? "error" : "errors"}`, advice && `${advice} advice`].filter(Boolean);
    place.textContent = parts.join(", ");
    place.className = wrong ? "wf-push wf-ink-fail" : "wf-push";
    const send = form?.querySelector("[data-send]");
    const why = form?.querySelector("[data-why]");
    if (send && why) {
      send.disabled = wrong > 0;
      why.textContent = wrong ? `Line ${problems.find((problem) => problem.tone === "fail").line} has to be mended first` : "";
    }
  }

  document.addEventListener("wf:dockerfile", (event) => {
    editor.set(event.detail);
    check();
  });
}

if (form) import("./context.js").then(({ startContext }) => startContext(form));
