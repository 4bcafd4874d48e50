// The one build step: bundles what lies in static/js and static/css into static/dist, under names that carry the
// hash of their content, and writes dist/manifest.json, which maps "app.js" to its hashed name for the templates.
import { build } from "esbuild";
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { basename, dirname, extname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = join(here, "dist");
const KEPT_MS = 24 * 3600 * 1000;
const scripts = ["theme", "app", "log", "terminal", "charts", "editor", "run", "build", "operation"];

mkdirSync(out, { recursive: true });

const common = {
  bundle: true,
  minify: true,
  outdir: out,
  entryNames: "[name]-[hash]",
  assetNames: "[name]-[hash]",
  chunkNames: "chunk-[hash]",
  loader: { ".woff2": "file", ".woff": "empty" },
  metafile: true,
  legalComments: "none",
  target: ["chrome110", "firefox110", "safari16.4"],
  logLevel: "warning",
};

const modules = await build({
  ...common,
  entryPoints: scripts.filter((name) => name !== "theme").map((name) => join(here, "js", `${name}.js`)),
  format: "esm",
  splitting: true,
});
// theme.js runs before the first paint, so it is a classic script
const theme = await build({ ...common, entryPoints: [join(here, "js", "theme.js")], format: "iife" });
const styles = await build({ ...common, entryPoints: [join(here, "css", "app.css")] });

const manifest = {};
for (const result of [modules, theme, styles]) {
  for (const [path, { entryPoint, cssBundle }] of Object.entries(result.metafile.outputs)) {
    if (!entryPoint) continue;
    manifest[basename(entryPoint)] = `dist/${basename(path)}`;
    if (cssBundle) manifest[basename(entryPoint, extname(entryPoint)) + ".css"] = `dist/${basename(cssBundle)}`;
  }
}
for (const name of ["sprite.svg", "icon.svg"]) {
  const source = join(here, "img", name);
  const hash = createHash("sha256").update(readFileSync(source)).digest("hex").slice(0, 8).toUpperCase();
  const hashed = `${basename(name, ".svg")}-${hash}.svg`;
  cpSync(source, join(out, hashed));
  manifest[name] = `dist/${hashed}`;
}
writeFileSync(join(out, "manifest.json.new"), JSON.stringify(manifest, null, 1) + "\n");
renameSync(join(out, "manifest.json.new"), join(out, "manifest.json"));

// files of earlier builds stay for a day: servers that run and pages that are open still ask for them
const made = new Set(["manifest.json", ...Object.values(manifest).map((path) => basename(path))]);
for (const result of [modules, theme, styles]) for (const path of Object.keys(result.metafile.outputs)) made.add(basename(path));
for (const name of readdirSync(out)) {
  if (name === ".built") rmSync(join(out, name)); // what script/lib/setup.sh noted of the build before this
  else if (!made.has(name) && Date.now() - statSync(join(out, name)).mtimeMs > KEPT_MS) rmSync(join(out, name));
}
console.log(`static/dist: ${Object.keys(manifest).length} bundles`);
