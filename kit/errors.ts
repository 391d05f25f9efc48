/**
 * Errors that people and programs meet, each with a stable code (docs/errors.md). Anything else that is thrown is weather or a bug.
 */
export class CodedError extends Error {
  override readonly name: string = 'CodedError';
  readonly code: string;
  /** Facts for programs; never secrets or payloads. */
  readonly details: Readonly<Record<string, unknown>>;
  constructor(code: string, message: string, details: Readonly<Record<string, unknown>> = {}, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.details = details;
  }
}

/** The code of anything thrown: ours, Node's, PostgreSQL's; `null` where it has none. */
export function codeOf(error: unknown): string | null {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' ? code : null;
}

/** One line for people: `RING_BUSY: frozen by …`. */
export function describeError(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  const code = codeOf(error);
  return code && !message.startsWith(code) ? `${code}: ${message}` : message;
}
