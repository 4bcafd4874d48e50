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
