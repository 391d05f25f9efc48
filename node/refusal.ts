/** An answer of the gateway other than 200: nothing of the request was stored, except where the status is 500 (then it is not known). */
export class HttpRefusal extends Error {
  override readonly name = 'HttpRefusal';
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  /** The message is the body; JSON where it begins with a brace. */
  constructor(status: number, message: string, headers: Readonly<Record<string, string>> = {}) {
    super(message);
    this.status = status;
    this.headers = headers;
  }
}

/** Nothing is stored, and it is worth asking again. */
export const unavailable = (message: string): HttpRefusal => new HttpRefusal(503, message, { 'retry-after': '1' });
