import assert from "node:assert/strict";
import { test } from "node:test";
import { likelyMode, tar } from "../tar.js";

const bytes = async (blob) => new Uint8Array(await blob.arrayBuffer());
const text = (block, from, length) => new TextDecoder().decode(block.slice(from, from + length)).replace(/\0.*$/s, "");

test("a file becomes a header, its bytes and padding", async () => {
  const archive = await bytes(tar([{ path: "a/b.txt", file: new Blob(["hello"]), mode: 0o755, mtime: 1.9 }]));
  assert.equal(archive.length, 512 + 512 + 1024);
  assert.equal(text(archive, 0, 100), "a/b.txt");
  assert.equal(text(archive, 100, 8), "0000755");
  assert.equal(text(archive, 124, 12), "00000000005");
  assert.equal(text(archive, 136, 12), "00000000001");
  assert.equal(text(archive, 512, 5), "hello");
});

test("the checksum is that of the header with spaces in its place", async () => {
  const header = (await bytes(tar([{ path: "x", file: new Blob([""]) }]))).slice(0, 512);
  const said = Number.parseInt(text(header, 148, 6), 8);
  header.fill(0x20, 148, 156);
  assert.equal(said, header.reduce((sum, byte) => sum + byte, 0));
});

test("a long name gets a PAX header whose length counts itself", async () => {
  const path = `${"folder/".repeat(20)}ünïcode.txt`;
  const archive = await bytes(tar([{ path, file: new Blob(["x"]) }]));
  assert.equal(text(archive, 156, 1), "x");
  const size = Number.parseInt(text(archive, 124, 11), 8);
  const record = new TextDecoder().decode(archive.slice(512, 512 + size)).split("\n")[0] + "\n";
  assert.match(record, /^\d+ path=folder/);
  assert.equal(Number.parseInt(record, 10), new TextEncoder().encode(record).length);
});

test("programs are known by their first bytes", async () => {
  assert.equal(await likelyMode(new Blob(["#!/bin/sh\n"])), 0o755);
  assert.equal(await likelyMode(new Blob([new Uint8Array([0x7f, 0x45, 0x4c, 0x46, 2])])), 0o755);
  assert.equal(await likelyMode(new Blob(["words"])), 0o644);
});
