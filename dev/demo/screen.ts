/** What the demo says while it runs: steps, and one progress line that is redrawn on a terminal. */
export class Screen {
  readonly #out: NodeJS.WriteStream;
  readonly #everyMs: number;
  #drawn = false;
  #lastAt = 0;

  constructor(out: NodeJS.WriteStream) {
    this.#out = out;
    this.#everyMs = out.isTTY ? 100 : 5_000; // in a file or a CI log a line now and then
  }

  say(line: string): void {
    this.#clear();
    this.#out.write(`${line}\n`);
    this.#lastAt = 0;
  }

  progress(line: string): void {
    const at = performance.now();
    if (this.#lastAt !== 0 && at - this.#lastAt < this.#everyMs) return;
    this.#lastAt = at;
    this.#clear();
    this.#drawn = this.#out.isTTY;
    this.#out.write(this.#out.isTTY ? line.slice(0, (this.#out.columns ?? 120) - 1) : `${line}\n`);
  }

  #clear(): void {
    if (this.#drawn) this.#out.write('\r\x1b[2K');
    this.#drawn = false;
  }
}
