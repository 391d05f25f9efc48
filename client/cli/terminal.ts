/**
 * Where output goes. With `--json` the standard output carries one value (or one a line) and nothing else; what is said to people then goes to standard error.
 */
import type { Surroundings } from './surroundings.ts';

export class Terminal {
  readonly json: boolean;
  /** Whether cursor and colours may be used: a real terminal, and nobody has set NO_COLOR. */
  readonly rich: boolean;
  readonly surroundings: Surroundings;

  constructor(surroundings: Surroundings, json: boolean) {
    this.surroundings = surroundings;
    this.json = json;
    const { env, stdout } = surroundings;
    this.rich = stdout.isTTY === true && !env['NO_COLOR'] && env['TERM'] !== 'dumb';
  }

  /** To people. */
  say(...lines: string[]): void {
    const stream = this.json ? this.surroundings.stderr : this.surroundings.stdout;
    stream.write(lines.map((line) => `${line}\n`).join(''));
  }

  /** The result: `data` for programs, or `lines` for people. */
  result(data: unknown, lines: readonly string[]): void {
    if (this.json) this.surroundings.stdout.write(`${JSON.stringify(data, null, 2)}\n`);
    else this.say(...lines);
  }

  /** One of many results, one a line. */
  item(data: unknown, line: string): void {
    this.surroundings.stdout.write(`${this.json ? JSON.stringify(data) : line}\n`);
  }

  /** Asks a person, who has to say yes; `no` is said where they do not. */
  async agrees(question: string, no = 'nothing was started'): Promise<boolean> {
    const answer = await this.surroundings.ask(`${question} [y/N] `);
    if (/^y(es)?$/i.test(answer.trim())) return true;
    this.say(no);
    return false;
  }

  bold(text: string): string {
    return this.#styled(1, text);
  }
  dim(text: string): string {
    return this.#styled(2, text);
  }
  /** By what it means: good, bad, or wants attention. */
  state(text: string): string {
    if (['completed', 'nothing to do', 'running'].includes(text)) return this.#styled(32, text);
    if (['blocked', 'failed'].includes(text)) return this.#styled(31, text);
    return this.#styled(33, text);
  }

  #styled(style: number, text: string): string {
    return this.rich && !this.json ? `\u001b[${style}m${text}\u001b[0m` : text;
  }
}
