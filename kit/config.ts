/** Configuration from the environment: documented raw text, one validator that names the bad field, a readonly result. */
import type { z } from 'zod';
import { CodedError } from './errors.ts';

/**
 * Parses `env` by `schema`, whose keys are the variables' names. Throws CONFIG_INVALID, which names each bad variable and what it may be,
 * and never prints a value (it may be a secret).
 */
export function parseConfig<S extends z.ZodType>(
  schema: S,
  env: Record<string, string | undefined>,
): Readonly<z.infer<S>> {
  const parsed = schema.safeParse(env);
  if (parsed.success) return Object.freeze(parsed.data as object) as Readonly<z.infer<S>>;
  const problems = parsed.error.issues.map((issue) => `${issue.path.join('.') || 'configuration'}: ${issue.message}`);
  throw new CodedError('CONFIG_INVALID', problems.join('; '), { problems });
}
