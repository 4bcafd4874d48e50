// Makes a tar archive of chosen files without reading them: a Blob of headers and files, which the browser streams.
const BLOCK = 512;
const encoder = new TextEncoder();

/**
 * @param files  [{path, file (a Blob), mode?, mtime?}]
 * @returns a Blob; names beyond ustar's limits get a PAX header
 */
export function tar(files) {
  const parts = [];
  for (const { path, file, mode = 0o644, mtime = 0 } of files) {
    const name = encoder.encode(path);
    if (name.length > 100 || file.size >= 8 ** 11) parts.push(...pax(path, file.size));
    parts.push(header(name.slice(0, 100), { size: file.size, mode, mtime, type: "0" }), file, padding(file.size));
  }
  parts.push(new Uint8Array(2 * BLOCK));
  return new Blob(parts, { type: "application/x-tar" });
}

function pax(path, size) {
  const body = encoder.encode(record("path", path) + record("size", String(size)));
  return [header(encoder.encode("pax"), { size: body.length, mode: 0o644, mtime: 0, type: "x" }), body, padding(body.length)];
}

// "LENGTH key=value\n", where LENGTH counts itself
function record(key, value) {
  const rest = encoder.encode(` ${key}=${value}\n`).length;
  let length = rest + String(rest).length;
  if (String(length).length > String(rest).length) length = rest + String(length).length;
  return `${length} ${key}=${value}\n`;
}

function header(name, { size, mode, mtime, type }) {
  const block = new Uint8Array(BLOCK);
  const text = (at, value) => block.set(encoder.encode(value), at);
  const octal = (at, digits, value) => text(at, value.toString(8).padStart(digits, "0"));
  block.set(name, 0);
  octal(100, 7, mode);
  octal(108, 7, 0);
  octal(116, 7, 0);
  octal(124, 11, Math.min(size, 8 ** 11 - 1));
  octal(136, 11, Math.max(0, Math.floor(mtime)));
  text(148, "        ");
  text(156, type);
  text(257, "ustar\x0000");
  const sum = block.reduce((total, byte) => total + byte, 0);
  text(148, `${sum.toString(8).padStart(6, "0")}\0 `);
  return block;
}

function padding(size) {
  return new Uint8Array((BLOCK - (size % BLOCK)) % BLOCK);
}

const EXECUTABLE = [[0x23, 0x21], [0x7f, 0x45, 0x4c, 0x46]]; // "#!" and ELF

/** The mode that a file most likely has: browsers do not tell, so programs are known by their first bytes. */
export async function likelyMode(file) {
  const head = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  return EXECUTABLE.some((magic) => magic.every((byte, at) => head[at] === byte)) ? 0o755 : 0o644;
}
