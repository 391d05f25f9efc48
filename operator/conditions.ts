/** Conditions of a RingCluster: the time of a transition stands until the status (True, False, Unknown) changes. */
import type { Condition, ConditionType, RingClusterStatus } from './resource.ts';

export interface Finding {
  readonly status: Condition['status'];
  readonly reason: string;
  readonly message: string;
}

/** Far below what the schema allows: what is longer is in the operation's progress. */
const MESSAGE_LENGTH_MAX = 1_000;

export const conditionOf = (
  status: Partial<RingClusterStatus> | undefined,
  type: ConditionType,
): Condition | undefined => status?.conditions?.find((condition) => condition.type === type);

/** Conditions of other types, such as another controller's, stay as they are. */
export function conditionsWith(
  before: readonly Condition[],
  findings: Readonly<Record<ConditionType, Finding>>,
  generation: number,
  now: string,
): Condition[] {
  const ours = Object.entries(findings).map(([type, { status, reason, message }]): Condition => {
    const was = before.find((condition) => condition.type === type);
    return {
      type: type as ConditionType,
      status,
      reason,
      message: message.length > MESSAGE_LENGTH_MAX ? `${message.slice(0, MESSAGE_LENGTH_MAX - 1)}…` : message,
      lastTransitionTime: was?.status === status ? was.lastTransitionTime : now,
      observedGeneration: generation,
    };
  });
  return [...ours, ...before.filter((condition) => !Object.hasOwn(findings, condition.type))];
}
