/**
 * The transactions of the node's working parts. Each enters the partitions that it is about: it holds their locks until its end, and goes by the states that
 * it reads inside. The steward and a newer process wait for those that are open.
 */
import pg, { type PoolClient } from 'pg';
import type { PartitionState } from '../dataplane/contract.ts';
import { beginAlone, beginEntered } from '../jobsdb/sql/intake.ts';
import { codeOf } from '../kit/errors.ts';
import type { PartitionIndex } from '../ring/partition.ts';
import type { NodeSession } from './work.ts';

export interface EnteredPartition {
  readonly state: PartitionState;
  readonly move: string | null;
}
export type EnteredPartitions = ReadonlyMap<PartitionIndex, EnteredPartition>;

/** The connection was lost at COMMIT: what the transaction wrote is there, or it isn't. */
export class OutcomeUnknown extends Error {
  override readonly name = 'OutcomeUnknown';
}

/** This process is no longer the node: a newer one has raised the instance number. */
export const isSuperseded = (error: unknown): boolean => codeOf(error) === 'RM001';
/** PostgreSQL refuses a value (SQLSTATE classes 22 and 54): trying again does not help. */
export const isDataError = (error: unknown): boolean => /^(22|54)...$/.test(codeOf(error) ?? '');

/** One working part's transactions, one at a time. */
export class PartitionTransactions {
  readonly #session: NodeSession;
  /** Partitions of a transaction whose outcome is unknown. */
  #inDoubt: readonly PartitionIndex[] = [];

  constructor(session: NodeSession) {
    this.#session = session;
  }

  /**
   * Runs `body` inside the locks of `partitions` and commits. Throws OutcomeUnknown where the commit may or may not have happened; after anything else that
   * it throws nothing has. In case of doubt the next run first waits until that transaction has ended at the server: a commit that is still under
   * way would bring ids below a reader's cursor, or let the same job be taken twice.
   */
  async run<T>(
    partitions: readonly PartitionIndex[],
    body: (client: PoolClient, entered: EnteredPartitions) => Promise<T>,
  ): Promise<T> {
    if (this.#inDoubt.length > 0) {
      await this.#transaction(beginAlone(this.#session.instance, this.#inDoubt), [], async () => undefined);
      this.#inDoubt = [];
    }
    return await this.#transaction(beginEntered(this.#session.instance, partitions), partitions, body);
  }

  async #transaction<T>(
    begin: string,
    inDoubt: readonly PartitionIndex[],
    body: (client: PoolClient, entered: EnteredPartitions) => Promise<T>,
  ): Promise<T> {
    const client = await this.#session.pool.connect();
    let broken = false;
    const onError = (): void => {
      broken = true; // the query that is under way fails as well; an error without a listener would end the process
    };
    client.on('error', onError);
    try {
      // Two statements in one message: for a user whose events go one after the other every round trip counts.
      const [, rows] = (await client.query(begin)) as unknown as [
        unknown,
        { rows: ({ partition: number } & EnteredPartition)[] },
      ];
      const result = await body(
        client,
        new Map(rows.rows.map(({ partition, state, move }) => [partition, { state, move }])),
      );
      await this.#commit(client, inDoubt);
      return result;
    } catch (error) {
      if (error instanceof OutcomeUnknown) broken = true;
      else
        await client.query('ROLLBACK').catch(() => {
          broken = true;
        });
      throw error;
    } finally {
      client.off('error', onError);
      client.release(broken);
    }
  }

  async #commit(client: PoolClient, inDoubt: readonly PartitionIndex[]): Promise<void> {
    let command: string;
    try {
      command = (await client.query('COMMIT')).command;
    } catch (error) {
      // With an SQLSTATE outside of "connection" and "shutdown" the server itself says that it did not commit.
      if (error instanceof pg.DatabaseError && !/^(08|57P)/.test(error.code ?? '08')) throw error;
      this.#inDoubt = inDoubt;
      throw new OutcomeUnknown('the connection was lost at COMMIT', { cause: error });
    }
    if (command !== 'COMMIT') throw new Error(`COMMIT answered ${command}`);
  }
}
