import assert from "node:assert/strict";
import { test } from "node:test";
import { plain, spans } from "../ansi.js";
import { Lines, levelOf } from "../lines.js";
import { parseMessage, parseText } from "../logwire.js";

const lines = (...texts) => texts.map((text) => ({ time: "", stream: "", text }));

test("a line's level is told by its words", () => {
  assert.equal(levelOf("ERROR no such file"), "error");
  assert.equal(levelOf('{"level": "error", "msg": "x"}'), "error");
  assert.equal(levelOf("WARNING: deprecated"), "warn");
  assert.equal(levelOf("GET /terror 200"), "info");
});

test("searching finds plain text with dots and brackets in it", () => {
  const held = new Lines();
  held.push(lines("a.b[1]", "axb1", "A.B[1]"));
  held.search("a.b[1]");
  assert.equal(held.hits.length, 2);
});

test("a regular expression that cannot be read is told", () => {
  const held = new Lines();
  assert.equal(held.search("(", { regex: true }), false);
  assert.equal(held.search("a+", { regex: true }), true);
});

test("lines that come later are searched and sifted too", () => {
  const held = new Lines();
  held.showOnly("error");
  held.search("disk");
  held.push(lines("ERROR disk full", "disk fine", "ERROR other"));
  assert.equal(held.shown.length, 2);
  assert.equal(held.hits.length, 1);
});

test("memory is bounded: the oldest lines go first and are counted", () => {
  const held = new Lines();
  for (let part = 0; part < 11; part += 1) held.push(lines(...Array.from({ length: 20_000 }, (_, n) => `${part}.${n}`)));
  assert.equal(held.all.length, 200_000);
  assert.equal(held.dropped, 20_000);
  assert.equal(held.all[0].text, "1.0");
});

test("colours become classes and other controls vanish", () => {
  assert.deepEqual(spans("a\x1b[31mb\x1b[0mc"), [{ text: "a", className: "" }, { text: "b", className: "wf-ansi-r" }, { text: "c", className: "" }]);
  assert.equal(plain("\x1b]0;title\x07x\x1b[2Ky\x07"), "xy");
  assert.equal(plain("10%\r20%\r30%"), "30%");
});

test("a stamped line loses its stamp, another stays whole", () => {
  assert.deepEqual(parseText("2025-01-02T03:04:05.123456789Z hello\nplain\n"), [
    { time: "2025-01-02T03:04:05.123456789Z", stream: "", text: "hello" },
    { time: "", stream: "", text: "plain" },
  ]);
});

test("a message without lines is one without lines", () => {
  assert.deepEqual(parseMessage('{"end": true}'), { lines: [], cursor: undefined, missed: 0, end: true });
});
