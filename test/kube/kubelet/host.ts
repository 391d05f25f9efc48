/** What a pod's runner needs of the kubelet stand-in around it. */
import type { Api } from './api.ts';
import type { EventWriter } from './events.ts';

export interface Failing {
  image?: string;
  unschedulable?: RegExp;
  volumes?: boolean;
  crash?: RegExp;
  unready?: RegExp;
}

export interface Host {
  readonly api: Api;
  readonly node: string;
  readonly address: string;
  /** Of pods: <folder>/<uid>. */
  readonly podsFolder: string;
  readonly caFile: string;
  readonly server: URL;
  readonly events: EventWriter;
  readonly failing: Failing;
  /** Ends all calls to the API server. */
  readonly signal: AbortSignal;
  log(line: string): void;
  logFile(namespace: string, pod: string, container: string): string;
  /** The environment that makes a process ask the stand-in's DNS. */
  dnsEnvironment(namespace: string): Record<string, string>;
  takeAddress(): string;
  giveBack(address: string): void;
}
