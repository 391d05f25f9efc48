/** What works and what doesn't, as the working parts found it last. Nothing is decided by it: it is told to people, load balancers and metrics. */

export type Part = 'database' | 'processor' | 'loading' | 'delivery' | `destination ${string}` | `source ${string}`;

/** One failure is weather; a part that fails this often without a success between is in trouble. */
const TROUBLE_AFTER = { database: 1, processor: 2, loading: 2, delivery: 2, destination: 10, source: 1 } as const;

export class Health {
  readonly #failures = new Map<Part, { count: number; message: string }>();

  succeeded(part: Part): void {
    if (this.#failures.size > 0) this.#failures.delete(part);
  }

  failed(part: Part, message: string): void {
    const known = this.#failures.get(part);
    if (known) Object.assign(known, { count: known.count + 1, message });
    else this.#failures.set(part, { count: 1, message });
  }

  /** Parts in trouble, with the latest message. */
  troubles(): { part: Part; message: string }[] {
    return [...this.#failures]
      .filter(([part, { count }]) => count >= TROUBLE_AFTER[part.split(' ')[0] as keyof typeof TROUBLE_AFTER])
      .map(([part, { message }]) => ({ part, message }));
  }

  /** Degraded: events are taken in and kept, but not all of them can be processed or delivered at present. */
  delivery(): 'ok' | 'degraded' {
    return this.troubles().some(({ part }) => part !== 'database') ? 'degraded' : 'ok';
  }
}
