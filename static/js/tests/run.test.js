import assert from "node:assert/strict";
import { test } from "node:test";
import { dockerLine, restCall } from "../run.js";
import { rates } from "../samples.js";
import { longSpan, memory, size, span } from "../times.js";

test("the docker line quotes what a shell would break", () => {
  const line = dockerLine({ image: "nginx", name: "web", env: { GREETING: "it's here" }, mounts: ["data:/var/www html:ro"] });
  assert.match(line, /-e 'GREETING=it'\\''s here'/);
  assert.match(line, /-v 'data:\/var\/www html:ro'/);
  assert.match(line, /nginx$/);
});

test("secrets are in neither call", () => {
  const spec = { image: "postgres", env: { POSTGRES_PASSWORD: "hunter2" } };
  assert.doesNotMatch(dockerLine(spec), /hunter2/);
  assert.doesNotMatch(restCall(spec, "http://x"), /hunter2/);
});

test("the share of a CPU is worked out from two samples", () => {
  const before = { time: 10, cpu: { usage_ns: 1e9 } };
  assert.equal(rates({ time: 12, cpu: { usage_ns: 2e9 } }, before).cpu, 50);
  assert.equal(rates(before, null).cpu, null);
});

test("amounts and times are said as the server says them", () => {
  assert.deepEqual([size(0), size(999), size(4100), size(187_000_000)], ["0 B", "999 B", "4.1 KB", "187 MB"]);
  assert.deepEqual([memory(536_870_912), memory(1_610_612_736)], ["512 MiB", "1.5 GiB"]);
  assert.deepEqual([span(9), span(3600 * 26), longSpan(72), longSpan(7500)], ["9 s", "1 d", "1 min 12 s", "2 h 5 min"]);
});
