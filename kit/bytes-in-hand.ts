/** Bytes of bodies that arrive or wait at one process, within a bound. */
export class BytesInHand {
  readonly #max: number;
  #bytes = 0;
  constructor(max: number) {
    this.#max = max;
  }
  get bytes(): number {
    return this.#bytes;
  }
  hasRoomFor(bytes: number): boolean {
    return this.#bytes + bytes <= this.#max;
  }
  /** Whether so many more fit; then they are counted until they are given back. */
  take(bytes: number): boolean {
    if (!this.hasRoomFor(bytes)) return false;
    this.#bytes += bytes;
    return true;
  }
  give(bytes: number): void {
    this.#bytes -= bytes;
  }
}
