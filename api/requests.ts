/** What requests may contain. Field names are checked strictly: a misspelt `dryrun` must not start an operation. */
import { z } from 'zod';
import { TARGET_NODES_MAX } from '../client/operations.ts';
import { VERIFY_SAMPLES_MAX } from '../client/verifications.ts';
import { CodedError } from '../kit/errors.ts';
import { type LimitName, limitNames } from '../ring/limits.ts';
import type { Ring } from '../ring/ring.ts';

const words = (max: number) => z.string().max(max, `must be at most ${max} characters`);
const planHash = z.string().regex(/^[0-9a-f]{16}$/, 'must be 16 hex digits, as a plan shows them');
// Any value: whether it is a number of nodes that this cluster can have is told with its own code (targetNodesFor).
const targetNodes = z.unknown().refine((value) => value !== undefined, 'is needed');

export const operationBody = z.strictObject({
  targetNodes,
  reason: words(500).optional(),
  dryRun: z.boolean('must be true or false').optional(),
  planHash: planHash.optional(),
  actor: words(100).optional(),
  deleteVolumes: z.boolean('must be true or false').optional(),
});
/** Of `undo` and `drain`. */
export const plannedBody = z.strictObject({
  reason: words(500).optional(),
  dryRun: z.boolean('must be true or false').optional(),
  planHash: planHash.optional(),
  actor: words(100).optional(),
});
export const forgetBody = z.strictObject({
  acceptLoss: z.literal(true, 'must be true: what the node holds is lost'),
  reason: words(500).refine((text) => text.trim() !== '', 'is needed'),
  actor: words(100).optional(),
  dryRun: z.boolean('must be true or false').optional(),
  planHash: planHash.optional(),
});
export const planBody = z.strictObject({ targetNodes, planHash: planHash.optional() });
export const retryBody = z
  .strictObject({
    reason: words(500).optional(),
    actor: words(100).optional(),
    acceptDifference: z.boolean('must be true or false').optional(),
  })
  .refine(({ acceptDifference, reason }) => !acceptDifference || (reason ?? '').trim() !== '', {
    path: ['reason'],
    message: 'is needed where a difference is accepted',
  });
export const operatorBody = z.strictObject({ reason: words(500).optional(), actor: words(100).optional() });

/** Any values: what a limit may be is told with its own code (LIMITS_INVALID). */
export const limitsBody = z.strictObject({
  ...(Object.fromEntries(limitNames.map((name) => [name, z.unknown().optional()])) as Record<
    LimitName,
    z.ZodOptional<z.ZodUnknown>
  >),
  reason: words(500).optional(),
  actor: words(100).optional(),
});
export const repairBody = z.strictObject({
  hash: z.string().regex(/^[0-9a-f]{64}$/, 'must be the hash that the repair was shown with'),
  setAside: z.boolean('must be true or false').optional(),
  without: z.array(words(40)).max(TARGET_NODES_MAX).optional(),
  reason: words(500).optional(),
  actor: words(100).optional(),
});
export const verifyBody = z.strictObject({
  full: z.boolean('must be true or false').optional(),
  operation: z
    .string()
    .regex(/^[0-9a-f-]{1,36}$/, "must be an operation's id, or its beginning")
    .optional(),
  samples: z.number().int().min(1).max(VERIFY_SAMPLES_MAX).optional(),
  resume: z.boolean('must be true or false').optional(),
  reason: words(500).optional(),
  actor: words(100).optional(),
});
const flag = z.enum(['true', 'false'], 'must be true or false').transform((text) => text === 'true');
export const verifyQuery = z.strictObject({ full: flag.default(false) });
export const certificatesQuery = z.strictObject({
  operation: z
    .string("an operation's id is needed")
    .regex(/^[0-9a-f-]{1,36}$/, "must be an operation's id, or its beginning"),
  partitions: flag.default(false),
});

const whole = (from: number, to: number) => {
  const error = `must be a whole number from ${from} to ${to}`;
  return z
    .string()
    .regex(/^\d{1,15}$/, error)
    .transform(Number)
    .pipe(z.number().min(from, error).max(to, error));
};
const VERSION_MAX = 999_999_999_999_999;
/** How long a request for the log may wait for more: below the idle limits of common proxies. */
export const LOG_WAIT_MAX_MS = 25_000;

export const logQuery = z.strictObject({
  after: whole(0, VERSION_MAX).default(0),
  limit: whole(1, 1_000).default(100),
  waitMs: whole(0, LOG_WAIT_MAX_MS).default(0),
});
export const ringQuery = z.strictObject({ at: whole(1, VERSION_MAX).optional() });
export const operationsQuery = z.strictObject({ limit: whole(1, 200).default(20) });
/** As Stripe and others have it: any text, of a length that can be stored. */
const idempotencyKey = z.string().regex(/^[\x21-\x7e]{1,200}$/, 'must be 1 to 200 printable characters');

/** Throws BODY_INVALID, naming every bad field. */
export function parseBody<S extends z.ZodType>(schema: S, body: unknown): z.output<S> {
  return parse('BODY_INVALID', 'body', schema, body);
}

/** Throws QUERY_INVALID, naming every bad field. */
export function parseQuery<S extends z.ZodType>(schema: S, query: unknown): z.output<S> {
  return parse('QUERY_INVALID', 'query', schema, query);
}

/** The header `Idempotency-Key`. Throws BODY_INVALID. */
export function parseIdempotencyKey(header: unknown): string | undefined {
  return header === undefined ? undefined : parse('BODY_INVALID', 'Idempotency-Key', idempotencyKey, header);
}

function parse<S extends z.ZodType>(code: string, what: string, schema: S, value: unknown): z.output<S> {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map((issue) => `${issue.path.join('.') || what}: ${issue.message}`);
  throw new CodedError(code, problems.join('; '), { problems });
}

/** The number of nodes, if this cluster can have so many. Throws TARGET_NODES_INVALID, which says how many it can. */
export function targetNodesFor(ring: Ring, value: unknown): number {
  const max = Math.min(TARGET_NODES_MAX, ring.partitionCount);
  if (typeof value === 'number' && Number.isInteger(value) && value >= 1 && value <= max) return value;
  const given = typeof value === 'number' ? String(value) : (JSON.stringify(value) ?? 'nothing').slice(0, 50);
  throw new CodedError(
    'TARGET_NODES_INVALID',
    `targetNodes must be a whole number from 1 to ${max} (cluster ${ring.clusterId} has ${ring.partitionCount} partitions), not ${given}`,
    { min: 1, max },
  );
}
