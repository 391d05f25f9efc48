/** Forgets messageIds that are older than the window, a few at a time, so that it is never in the way. */
import { pruneMessageIds } from '../jobsdb/sql/intake.ts';
import { describeError } from '../kit/errors.ts';
import type { Logger } from '../kit/log.ts';
import type { NodeLimits } from './config.ts';
import { isSuperseded, PartitionTransactions } from './transaction.ts';
import type { NodeSession } from './work.ts';

export interface MessageWindowDeps {
  readonly session: NodeSession;
  readonly limits: NodeLimits;
  readonly log: Logger;
  readonly onSuperseded: (error: unknown) => void;
}

export class MessageWindow {
  readonly #deps: MessageWindowDeps;
  readonly #transactions: PartitionTransactions;
  #timer: NodeJS.Timeout | null = null;
  #pruning: Promise<void> = Promise.resolve();
  #stopped = false;

  constructor(deps: MessageWindowDeps) {
    this.#deps = deps;
    this.#transactions = new PartitionTransactions(deps.session);
  }

  start(): void {
    this.#timer = setTimeout(() => {
      this.#pruning = this.#prune().finally(() => {
        if (!this.#stopped) this.start();
      });
    }, this.#deps.limits.pruneEveryMs).unref();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    if (this.#timer) clearTimeout(this.#timer);
    await this.#pruning;
  }

  async #prune(): Promise<void> {
    const { limits, log, onSuperseded } = this.#deps;
    try {
      let pruned: number;
      do {
        const done = await this.#transactions.run([], (client) =>
          client.query(pruneMessageIds, [limits.messageWindowMs, limits.pruneRows]),
        );
        pruned = done.rowCount ?? 0;
      } while (pruned === limits.pruneRows && !this.#stopped);
    } catch (error) {
      if (isSuperseded(error)) onSuperseded(error);
      else log.warn({ error: describeError(error) }, 'old messageIds not pruned yet');
    }
  }
}
