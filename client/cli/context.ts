/** What every command gets: the terminal, the API, the cluster. */
import { CodedError } from '../../kit/errors.ts';
import type { ClustersAnswer } from '../api-types.ts';
import { ApiClient, findApi } from './api-client.ts';
import type { Surroundings } from './surroundings.ts';
import { Terminal } from './terminal.ts';

export interface GlobalOptions {
  readonly cluster?: string;
  readonly json?: boolean;
  readonly yes?: boolean;
  readonly reason?: string;
}

export interface Context {
  readonly terminal: Terminal;
  readonly api: ApiClient;
  readonly options: GlobalOptions;
  readonly clusterId: string;
  /** `v1/clusters/<id>`, followed by the given parts, each made safe for a URL. */
  path(...parts: string[]): string;
}

/** Throws CLUSTER_NOT_NAMED where there are several and none was named. */
export async function openContext(surroundings: Surroundings, options: GlobalOptions): Promise<Context> {
  const terminal = new Terminal(surroundings, options.json === true);
  const api = new ApiClient(findApi(surroundings.env));
  const clusterId = options.cluster ?? (await theOnlyCluster(api));
  const path = (...parts: string[]): string =>
    ['v1/clusters', ...[clusterId, ...parts].map(encodeURIComponent)].join('/');
  return { terminal, api, options, clusterId, path };
}

async function theOnlyCluster(api: ApiClient): Promise<string> {
  const { clusters } = await api.get<ClustersAnswer>('v1/clusters');
  const [only, another] = clusters;
  if (!only) throw new CodedError('CLUSTER_UNKNOWN', 'there is no cluster yet');
  if (!another) return only.clusterId;
  const names = clusters.map(({ clusterId }) => clusterId).join(', ');
  throw new CodedError('CLUSTER_NOT_NAMED', `there are several clusters: name one by --cluster (${names})`);
}
