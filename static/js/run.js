// The run form: the equal docker and REST calls are written while one fills it in.

const SECRET = /pass|secret|token|key|credential/i;
const quote = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

const form = globalThis.document?.getElementById("run");
if (form) {
  const docker = document.getElementById("call-docker");
  const rest = document.getElementById("call-rest");
  form.addEventListener("input", write);
  form.addEventListener("change", write);
  form.elements.image.addEventListener("change", () => changeImage());
  document.getElementById("env-file")?.addEventListener("change", fromEnvFile);
  write();

  // another image has other ports, variables and volumes: the server fills the form in again
  function changeImage() {
    const url = new URL(location.href);
    if (url.searchParams.get("image") === form.elements.image.value) return;
    url.searchParams.set("image", form.elements.image.value);
    if (form.elements.name.value) url.searchParams.set("name", form.elements.name.value);
    location.assign(url);
  }

  async function fromEnvFile(event) {
    const text = await event.target.files[0].text();
    for (const row of text.split("\n")) {
      const match = /^\s*(?:export\s+)?([A-Za-z_][\w.-]*)=(.*)$/.exec(row);
      if (!match) continue;
      const known = [...form.querySelectorAll('[name="env_name"]')].find((field) => field.value === match[1]);
      if (!known) document.querySelector('[data-add-row="env"]').click();
      const names = [...form.querySelectorAll('[name="env_name"]')];
      const at = known ? names.indexOf(known) : names.length - 1;
      names[at].value = match[1];
      form.querySelectorAll('[name="env_value"]')[at].value = match[2].replace(/^(["'])(.*)\1$/, "$2");
    }
    event.target.value = "";
    write();
  }

  function write() {
    const spec = read(form);
    docker.textContent = dockerLine(spec);
    rest.textContent = restCall(spec, rest.dataset.base);
    const words = document.querySelector("[data-run-name]");
    if (words) words.textContent = spec.name || spec.image || "it";
  }
}

/** What the form asks for, in the REST API's fields. */
export function read(form) {
  const value = (name) => form.elements.namedItem(name)?.value?.trim() ?? "";
  const columns = (...names) => {
    const lists = names.map((name) => [...form.querySelectorAll(`[name="${name}"]`)].map((field) => field.value.trim()));
    return lists[0].map((_, at) => lists.map((list) => list[at] ?? ""));
  };
  const spec = { image: value("image") };
  if (value("name")) spec.name = value("name");
  if (value("command")) spec.command = words(value("command"));
  const network = value("network");
  if (network && network !== "bridge") spec.networks = [network];
  const aliases = value("aliases").split(/[\s,]+/).filter(Boolean);
  if (aliases.length) spec.aliases = aliases;
  const ports = columns("port_host", "port_container", "port_protocol").filter(([, inner]) => inner);
  const published = ports.filter(([outer]) => outer).map(([outer, inner, protocol]) => `${outer === "auto" ? "" : `${outer}:`}${inner}${protocol === "udp" ? "/udp" : ""}`);
  if (published.length) spec.ports = published;
  const env = columns("env_name", "env_value").filter(([name, text]) => name && text);
  if (env.length) spec.env = Object.fromEntries(env);
  const mounts = columns("mount_kind", "mount_source", "mount_target", "mount_access").filter(([kind, source, target]) => target && (kind === "tmpfs" || source));
  if (mounts.length) spec.mounts = mounts.map(([kind, source, target, access]) => (kind === "tmpfs" ? { type: "tmpfs", target } : `${source}:${target}${access === "read" ? ":ro" : ""}`));
  const memory = Number(value("memory").replace(",", "."));
  if (memory > 0) spec.memory_bytes = Math.round(memory * { MiB: 1024 ** 2, GiB: 1024 ** 3 }[value("memory_unit") || "MiB"]);
  const cpus = Number(value("cpus").replace(",", "."));
  if (cpus > 0) spec.cpus = cpus;
  if (value("restart") && value("restart") !== "no") spec.restart = value("restart");
  for (const name of ["user", "workdir"]) if (value(name)) spec[name] = value(name);
  for (const name of ["tty", "privileged", "auto_remove", "read_only", "init"]) if (form.elements.namedItem(name)?.checked) spec[name] = true;
  return spec;
}

function words(text) {
  return [...text.matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g)].map((match) => match[1] ?? match[2] ?? match[3]);
}

export function dockerLine(spec) {
  const parts = ["docker run -d"];
  const add = (...texts) => parts.push(texts.join(" "));
  if (spec.name) add("--name", quote(spec.name));
  if (spec.networks) add("--network", quote(spec.networks[0]));
  for (const alias of spec.aliases ?? []) add("--network-alias", quote(alias));
  for (const port of spec.ports ?? []) add("-p", port);
  for (const [name, text] of Object.entries(spec.env ?? {})) add("-e", SECRET.test(name) ? name : quote(`${name}=${text}`));
  for (const mount of spec.mounts ?? []) add(...(mount.type ? ["--tmpfs", mount.target] : ["-v", quote(mount)]));
  if (spec.memory_bytes) add("--memory", `${Math.round(spec.memory_bytes / 1024 ** 2)}m`);
  if (spec.cpus) add("--cpus", spec.cpus);
  if (spec.restart) add("--restart", spec.restart);
  if (spec.user) add("--user", quote(spec.user));
  if (spec.workdir) add("--workdir", quote(spec.workdir));
  const flags = { tty: "-t", privileged: "--privileged", auto_remove: "--rm", read_only: "--read-only", init: "--init" };
  for (const [name, flag] of Object.entries(flags)) if (spec[name]) add(flag);
  parts.push([quote(spec.image || "IMAGE"), ...(spec.command ?? []).map(quote)].join(" "));
  return parts.join(" \\\n  ");
}

export function restCall(spec, base) {
  const shown = { ...spec };
  if (spec.env) shown.env = Object.fromEntries(Object.entries(spec.env).map(([name, text]) => [name, SECRET.test(name) ? "…" : text]));
  const body = JSON.stringify(shown, null, 2).replaceAll("'", "'\\''").replaceAll("\n", "\n  ");
  return `curl -H "Authorization: Bearer $TOKEN" \\\n  -H "Idempotency-Key: $(uuidgen)" \\\n  "${base}/api/v1/containers/?wait=30" \\\n  --json '${body}'`;
}
