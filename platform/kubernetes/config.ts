/** The environment of the Kubernetes platform. Each error names the variable and what it may be; none prints a value. */
import { z } from 'zod';
import { parseConfig } from '../../kit/config.ts';

const number = (least: number, most: number, fallback: number) =>
  z.coerce
    .number(`must be a whole number from ${least} to ${most}`)
    .int(`must be a whole number from ${least} to ${most}`)
    .min(least, `must be at least ${least}`)
    .max(most, `must be at most ${most}`)
    .default(fallback);

const port = (fallback: number) => number(1, 65_535, fallback);

/** What Kubernetes allows for the name of a namespace or a StatefulSet (a DNS label: its name is part of its pods' host names). */
const name = z.string().regex(/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/, 'must be a name of Kubernetes: a-z, 0-9 and -');

/** Where nodes are found: the placeholders that the address pattern may hold. */
export const PLACEHOLDERS = ['pod', 'service', 'namespace', 'ip', 'ordinal'] as const;
export type Placeholder = (typeof PLACEHOLDERS)[number];

const hostPattern = z
  .string()
  .min(1)
  .refine(
    (text) =>
      [...text.matchAll(/\{([^}]*)\}/g)].every(([, inside]) => PLACEHOLDERS.includes(inside as Placeholder)) &&
      !/[{}]/.test(text.replace(/\{[^{}]*\}/g, '')),
    `may hold only ${PLACEHOLDERS.map((each) => `{${each}}`).join(', ')} in braces`,
  )
  .refine(
    (text) => ['{pod}', '{ip}', '{ordinal}'].some((each) => text.includes(each)),
    'must hold {pod}, {ip} or {ordinal}: else all nodes had one address',
  );

const selector = z.string().min(1, 'must be a label selector such as app=backend');

export const kubernetesEnvironment = z.object({
  RINGMASTER_CLUSTER: z
    .string('must be the cluster’s name')
    .regex(/^[a-z0-9-]{1,40}$/, 'must be 1 to 40 of a-z, 0-9 and -'),
  RINGMASTER_KUBE_NAMESPACE: name.optional(),
  RINGMASTER_KUBE_CONTEXT: z.string().min(1, 'must be the name of a context of the kubeconfig').optional(),
  RINGMASTER_KUBE_BACKEND: name.optional(),
  RINGMASTER_KUBE_POSTGRES: name.optional(),
  RINGMASTER_KUBE_BACKEND_SELECTOR: selector.optional(),
  RINGMASTER_KUBE_POSTGRES_SELECTOR: selector.optional(),
  RINGMASTER_KUBE_HOST: hostPattern.default('{pod}.{service}.{namespace}.svc'),
  RINGMASTER_KUBE_GATEWAY_PORT: port(8080),
  RINGMASTER_KUBE_CONTROL_PORT: port(8081),
  RINGMASTER_KUBE_POSTGRES_PORT: port(5432),
  RINGMASTER_KUBE_DATABASE: z.string().min(1, 'must be a database’s name').default('jobsdb'),
  RINGMASTER_KUBE_DATABASE_USER: z.string().min(1, 'must be a user of the database').default('rudder'),
  RINGMASTER_KUBE_DATABASE_PASSWORD: z
    .string('must be the password of the nodes’ databases')
    .min(1, 'must be the password of the nodes’ databases'),
  RINGMASTER_KUBE_CONTROL_TOKEN: z
    .string('must be the token of the nodes’ control API')
    .min(1, 'must be the token of the nodes’ control API'),
  // A new pod may have to wait for a new machine and a large image: 15 minutes.
  RINGMASTER_KUBE_READY_WITHIN_MS: number(1000, 86_400_000, 900_000),
  // Longer than an image registry's hiccup, or than two restarts of a pod whose database comes up late.
  RINGMASTER_KUBE_TROUBLE_MS: number(0, 86_400_000, 60_000),
  /** As kubectl reads it. */
  KUBECONFIG: z.string().optional(),
});

export interface KubernetesConfig {
  readonly cluster: string;
  /** Undefined: the context's, or the pod's own. */
  readonly namespace: string | undefined;
  readonly context: string | undefined;
  readonly kubeconfig: string | undefined;
  readonly sets: Readonly<Record<SetKind, { readonly name: string | undefined; readonly selector: string }>>;
  readonly host: string;
  readonly ports: { readonly gateway: number; readonly control: number; readonly postgres: number };
  readonly database: { readonly name: string; readonly user: string; readonly password: string };
  readonly controlToken: string;
  readonly readyWithinMs: number;
  readonly troubleMs: number;
}

/** A node is one pod of each. */
export type SetKind = 'backend' | 'postgres';

export function kubernetesConfig(env: Record<string, string | undefined>): KubernetesConfig {
  // A chart sets what is not given as the empty string.
  const given = Object.fromEntries(Object.entries(env).map(([key, value]) => [key, value === '' ? undefined : value]));
  const parsed = parseConfig(kubernetesEnvironment, given);
  const cluster = parsed.RINGMASTER_CLUSTER;
  const labels = (component: string) => `ringmaster.dev/cluster=${cluster},app.kubernetes.io/component=${component}`;
  return {
    cluster,
    namespace: parsed.RINGMASTER_KUBE_NAMESPACE,
    context: parsed.RINGMASTER_KUBE_CONTEXT,
    kubeconfig: parsed.KUBECONFIG,
    sets: {
      backend: {
        name: parsed.RINGMASTER_KUBE_BACKEND,
        selector: parsed.RINGMASTER_KUBE_BACKEND_SELECTOR ?? labels('backend'),
      },
      postgres: {
        name: parsed.RINGMASTER_KUBE_POSTGRES,
        selector: parsed.RINGMASTER_KUBE_POSTGRES_SELECTOR ?? labels('postgresql'),
      },
    },
    host: parsed.RINGMASTER_KUBE_HOST,
    ports: {
      gateway: parsed.RINGMASTER_KUBE_GATEWAY_PORT,
      control: parsed.RINGMASTER_KUBE_CONTROL_PORT,
      postgres: parsed.RINGMASTER_KUBE_POSTGRES_PORT,
    },
    database: {
      name: parsed.RINGMASTER_KUBE_DATABASE,
      user: parsed.RINGMASTER_KUBE_DATABASE_USER,
      password: parsed.RINGMASTER_KUBE_DATABASE_PASSWORD,
    },
    controlToken: parsed.RINGMASTER_KUBE_CONTROL_TOKEN,
    readyWithinMs: parsed.RINGMASTER_KUBE_READY_WITHIN_MS,
    troubleMs: parsed.RINGMASTER_KUBE_TROUBLE_MS,
  };
}
