/** Which errors end an activity for good (the operation is blocked by that code), and which are weather (Temporal tries again). */
import { heartbeat } from '@temporalio/activity';
import { ApplicationFailure } from '@temporalio/common';
import { CodedError } from '../kit/errors.ts';
import { RingRefusal } from '../ring/decide.ts';

/** A person, or another try of the move, has to change something first: asking again gives the same answer. */
const PERMANENT: ReadonlySet<string> = new Set([
  'CONFIG_INVALID',
  'WORKER_OTHER_CLUSTER',
  // ring store
  'RING_STORE_TOO_NEW',
  'RING_STORE_NOT_MIGRATED',
  'RING_STORE_BEHIND',
  'RING_LOG_BROKEN',
  'RING_TOO_NEW',
  // nodes and their databases
  'NODE_BLOCKED',
  'NODE_ABSENT',
  'NODE_DATABASE_OLDER',
  'NODE_ANSWERS',
  'NODE_DISK_FULL',
  'NODE_HAS_JOBS',
  'NODE_LOST',
  'NODE_NOT_ADOPTED',
  'NODE_OTHER_DATABASE',
  'NODE_NOT_EMPTY',
  'CERTIFICATE_MISSING',
  'NODE_OWNS_PARTITION',
  'JOBSDB_TOO_NEW',
  'POSTGRES_TOO_OLD',
  'DATABASE_RIGHTS',
  'DATABASE_EXHAUSTED',
  'DATABASE_TIMEOUT',
  'SCHEMA_DIFFERS',
  // where nodes run
  'KUBE_CONFIG_INVALID',
  'KUBE_CONTEXT_UNKNOWN',
  'KUBE_FORBIDDEN',
  'KUBE_REFUSED',
  'NODE_NAME',
  'NODE_NOT_SERVING',
  'POD_NOT_GONE',
  'POD_NOT_READY',
  'REPLICAS_CHANGED',
  'REPLICAS_LOWERED',
  'REPLICAS_RAISED',
  'STATEFULSET_DELETING',
  'STATEFULSET_ROLLING',
  'STATEFULSET_STRATEGY',
  'STATEFULSET_UNEQUAL',
  'STATEFULSET_UNKNOWN',
  'VOLUME_NOT_GONE',
  // moves
  'CERTIFICATE_MISMATCH',
  'STALE_TOKEN',
  'MOVE_INVALID',
  'IMPORT_NOT_EMPTY',
  'MOVE_ABORTED',
  'MOVE_HANDED_OVER',
  'QUIESCE_TIMEOUT',
  'HOLD_DEADLINE',
  'VERIFY_MISMATCH',
  'COPY_DIFFERS',
  'ARRIVALS_OUTRUN_COPY',
  'COPY_REFUSED',
]);

/** A node refuses to serve, by a code of its own; whichever it is, somebody has to look. */
export class NodeBlocked extends CodedError {}

export const isPermanent = (error: unknown): error is RingRefusal | CodedError =>
  error instanceof RingRefusal ||
  error instanceof NodeBlocked ||
  (error instanceof CodedError && PERMANENT.has(error.code));

/** What `error` must be thrown as from an activity. */
export function asFailure(error: unknown): unknown {
  if (!isPermanent(error)) return error;
  return ApplicationFailure.create({
    type: error.code,
    message: error.message,
    nonRetryable: true,
    details: error instanceof CodedError ? [error.details] : [],
    cause: error,
  });
}

type Activity = (...args: never[]) => Promise<unknown>;

/** Every activity of a factory, with its refusals as failures by type. */
export function refusingByType<T extends Record<keyof T, Activity>>(activities: T): T {
  const wrapped = Object.entries<Activity>(activities).map(([name, activity]) => [
    name,
    async (...args: never[]) => {
      try {
        return await activity(...args);
      } catch (error) {
        throw asFailure(error);
      }
    },
  ]);
  return Object.fromEntries(wrapped) as T;
}

const HEARTBEAT_EVERY_MS = 3_000; // a fifth of the shortest heartbeat timeout: one lost beat, or a busy event loop, is no dead worker

/**
 * Beats while `run` goes on: without it a cancellation never reaches an activity. It says that this process lives, not that there is progress; `details`, if
 * any, are for people.
 */
export async function beating<T>(
  run: () => Promise<T>,
  details: () => object | undefined = () => undefined,
): Promise<T> {
  heartbeat(details());
  const timer = setInterval(() => heartbeat(details()), HEARTBEAT_EVERY_MS);
  try {
    return await run();
  } finally {
    clearInterval(timer);
  }
}
