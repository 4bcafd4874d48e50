// How log lines come: one JSON message of the websocket may hold many; REST answers plain text, one line each.

/** Returns {lines: [{time, stream, text}], cursor, missed, end}. */
export function parseMessage(data) {
  const message = JSON.parse(data);
  const lines = (message.lines ?? []).map((line) => ({ time: line.time ?? "", stream: line.stream ?? "", text: line.text ?? "" }));
  return { lines, cursor: message.cursor, missed: message.missed ?? 0, end: message.end };
}

const STAMPED = /^(\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:?\d\d))[ \t]?(.*)$/;

/** Lines of a plain-text answer; a leading time is taken off. */
export function parseText(text) {
  const rows = text.split("\n");
  if (rows.at(-1) === "") rows.pop();
  return rows.map((row) => {
    const match = STAMPED.exec(row);
    return match ? { time: match[1], stream: "", text: match[2] } : { time: "", stream: "", text: row };
  });
}

/** The first `most` lines of an answer; the rest of it is not even read. */
export async function firstLines(answer, most) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let count = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return parseText(text);
    text += value;
    count += value.split("\n").length - 1;
    if (count < most) continue;
    await reader.cancel();
    return parseText(text.slice(0, text.lastIndexOf("\n") + 1)).slice(0, most);
  }
}
