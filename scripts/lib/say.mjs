// One short line for a person, on stderr: stdout belongs to the command that runs afterwards.

/** @param {string} line */
export function say(line) {
  process.stderr.write(`${line}\n`);
}

/** An error whose message is all that the person needs: printed without a stack. */
export class Plain extends Error {
  /**
   * @param {string} message
   * @param {number} [exitCode]
   */
  constructor(message, exitCode = 1) {
    super(message);
    this.exitCode = exitCode;
  }
}

/** @param {unknown} err */
export function messageOf(err) {
  return err instanceof Error ? err.message : String(err);
}
