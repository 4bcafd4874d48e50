// Samples of a container's load, as the node takes them: counters and their rates.

/** What a chart shows, from a sample and the one before: rates and the share of a CPU need both. */
export function rates(sample, before) {
  const now = flat(sample);
  const then = before ? flat(before) : null;
  const seconds = then ? Math.max(0.2, now.time - then.time) : 0;
  const rate = (name) => (then && now[name] !== null && then[name] !== null ? Math.max(0, (now[name] - then[name]) / seconds) : null);
  const busy = rate("cpuNs");
  return {
    cpu: sample.cpu_percent == null ? (busy === null ? null : busy / 1e7) : Math.max(0, sample.cpu_percent), // its counter begins anew with each run
    memory: now.memory,
    received: rate("received"),
    sent: rate("sent"),
    read: rate("read"),
    written: rate("written"),
    processes: sample.pids ?? null,
  };
}

/** The counters of a sample, whichever way it nests them. */
export function flat(sample) {
  const sum = (name) => {
    const all = Object.values(sample.networks ?? {});
    return all.length ? all.reduce((total, one) => total + (one[name] ?? 0), 0) : (sample[`network_${name}`] ?? null);
  };
  return {
    time: sampleTime(sample),
    cpuNs: sample.cpu?.usage_ns ?? sample.cpu_usage_ns ?? null,
    memory: sample.memory ? Math.max(0, (sample.memory.usage_bytes ?? 0) - (sample.memory.inactive_file_bytes ?? 0)) : (sample.memory_bytes ?? null),
    memoryLimit: sample.memory?.limit_bytes ?? sample.memory_limit_bytes ?? null,
    received: sum("rx_bytes"),
    sent: sum("tx_bytes"),
    read: sample.block_io?.read_bytes ?? sample.block_read_bytes ?? null,
    written: sample.block_io?.write_bytes ?? sample.block_write_bytes ?? null,
  };
}

/** Seconds since the epoch at which a sample was taken. */
export function sampleTime(sample) {
  const time = sample.time ?? sample.time_s;
  if (typeof time === "string") return Date.parse(time) / 1000;
  if (time > 1e14) return time / 1e9;
  return time ?? Date.now() / 1000;
}
