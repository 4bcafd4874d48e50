// A websocket that comes back: says its state, waits longer each time, and starts anew where the caller wants it to.

const WAITS_S = [0.3, 1, 2, 4, 8, 15];
const LOGIN_ENDED = 4401;
const REFUSED = [4403, 4404];
const NODE_GONE = 4500;

export class Socket {
  /**
   * @param path  path or a function that gives it at each try (for a cursor that moves)
   * @param handlers  onMessage(data), onState("live" | "reconnecting" | "lost" | "ended", {wait, code, reason})
   */
  constructor(path, { onMessage, onState = () => {}, binary = false }) {
    this.path = path;
    this.onMessage = onMessage;
    this.onState = onState;
    this.binary = binary;
    this.tries = 0;
    this.closed = false;
    this.open();
    addEventListener("online", () => this.retryNow());
    document.addEventListener("visibilitychange", () => document.hidden || this.retryNow());
    addEventListener("pagehide", () => this.close());
  }

  open() {
    const path = typeof this.path === "function" ? this.path() : this.path;
    const url = new URL(path, location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(url);
    if (this.binary) this.socket.binaryType = "arraybuffer";
    this.socket.addEventListener("open", () => {
      this.tries = 0;
      this.onState("live", {});
    });
    this.socket.addEventListener("message", (event) => this.onMessage(event.data));
    this.socket.addEventListener("close", (event) => this.ended(event));
  }

  ended({ code, reason }) {
    if (this.closed) return;
    if (code === 1000 || code === LOGIN_ENDED || REFUSED.includes(code)) {
      this.closed = true;
      this.onState(code === 1000 ? "ended" : "lost", { code, reason });
      return;
    }
    const wait = WAITS_S[Math.min(this.tries, WAITS_S.length - 1)] * (0.8 + Math.random() * 0.4);
    this.tries += 1;
    const words = code === NODE_GONE ? "The node does not answer; trying again" : reason;
    this.onState(this.tries > WAITS_S.length ? "lost" : "reconnecting", { wait, code, reason: words });
    this.timer = setTimeout(() => this.open(), wait * 1000);
  }

  retryNow() {
    if (this.closed || this.socket.readyState < WebSocket.CLOSING) return;
    clearTimeout(this.timer);
    this.open();
  }

  send(data) {
    if (this.socket.readyState !== WebSocket.OPEN) return false;
    this.socket.send(typeof data === "string" || data instanceof ArrayBuffer || ArrayBuffer.isView(data) ? data : JSON.stringify(data));
    return true;
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    this.socket.close(1000);
  }
}
