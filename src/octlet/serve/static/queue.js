// Sends files one by one. Nothing is lost: what is not sent waits, what failed can be sent again.

import { Fault, predict } from "./api.js";

const PAUSING = new Set(["offline", "no-token", "stopping"]); // no file's fault: the next would fare the same

export class Queue {
  /** `tell(item)` is called after every change of an item; item.state is waiting, sending, done or failed. */
  constructor(tell) {
    this.items = [];
    this.note = "";
    this.paused = false;
    this.limit = Infinity; // bytes of a file
    this.tell = tell;
    this.running = false;
    this.stop = null;
  }

  get waiting() {
    return this.items.filter((item) => item.state === "waiting" || item.state === "sending");
  }

  add(items) {
    this.items.push(...items);
    this.resume();
  }

  /** Send what waits, or one item again. */
  resume(item) {
    if (item) item.state = "waiting";
    this.paused = false;
    this.note = "";
    if (!this.running) this.run();
  }

  /** Stop at once; what was being sent waits again. */
  pause(note = "") {
    this.paused = true;
    this.note = note;
    this.stop?.abort();
  }

  clear() {
    this.pause();
    this.items = [];
    this.tell();
  }

  async run() {
    this.running = true;
    let item;
    while (!this.paused && (item = this.items.find((each) => each.state === "waiting"))) await this.send(item);
    this.running = false;
    this.tell();
  }

  async send(item) {
    item.state = "sending";
    this.stop = new AbortController();
    this.tell(item);
    try {
      if (item.file.size > this.limit) throw tooLarge(this.limit);
      take(item, await predict(item.file, this.stop.signal));
      item.state = "done";
      this.note = "";
    } catch (error) {
      await this.failed(item, error);
    }
    this.tell(item);
  }

  async failed(item, error) {
    item.state = "waiting";
    if (error.name === "AbortError") return;
    if (!(error instanceof Fault)) throw error;
    if (error.code === "busy") {
      await this.rest(item, error.wait || 1);
    } else if (PAUSING.has(error.code)) {
      this.pause(`${error.message} ${error.remedy}`);
      this.fault?.(error);
    } else {
      item.state = "failed";
      item.error = { message: error.message, remedy: error.remedy };
    }
  }

  /** Wait as the server said, or until the queue is stopped. */
  async rest(item, seconds) {
    this.note = `The server is busy. Trying again in ${seconds} s.`;
    this.tell(item);
    const { signal } = this.stop;
    await new Promise((done) => {
      setTimeout(done, 1000 * seconds);
      signal.addEventListener("abort", done);
    });
  }
}

function tooLarge(limit) {
  const message = `The file is over the server's limit of ${Math.floor(limit / 1e6)} MB.`;
  return new Fault({ code: "too-large", message, remedy: "Send a smaller file, or start the server with --max-upload." });
}

/** Keep what the server said: a volume has several slices, a scan one. */
export function take(item, answer) {
  item.model = answer.model;
  item.slices = answer.predictions.map((prediction) => ({ prediction, map: prediction.map, png: prediction.scan }));
  item.eyes = answer.eyes ?? [];
  item.faults = answer.errors;
  item.slice = 0;
}
