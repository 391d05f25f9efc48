/** `ring repair`: gives a ring store that came back from an older backup what nodes and routers have seen. */
import type { RepairAnswer, RepairRequest } from '../../api-types.ts';
import type { Context } from '../context.ts';
import { type ExitCode, exitCodes } from '../exit-codes.ts';
import { describeEvent, plain, plural, table } from '../text.ts';

export interface RepairOptions {
  readonly setAside?: boolean;
  readonly without?: readonly string[];
}

/** The API asks everybody, and waits for who is down. */
const LOOK_TIMEOUT_MS = 60_000;

export async function repairRing(context: Context, { setAside, without }: RepairOptions): Promise<ExitCode> {
  const { terminal, api, options } = context;
  const { user } = terminal.surroundings;
  terminal.say('asking nodes and routers what they have seen …');
  const seen = await api.get<RepairAnswer>(context.path('ring', 'copies'), { timeoutMs: LOOK_TIMEOUT_MS });
  if (!seen.repair) {
    terminal.result(seen, [...copiesLines(seen), 'nothing to repair: the ring store has all that they have seen']);
    return exitCodes.done;
  }
  terminal.say(...copiesLines(seen), ...repairLines(seen, seen.repair));
  if (!options.yes && terminal.surroundings.asksPeople) {
    const question = `Repair the log of ${seen.clusterId}?`;
    if (!(await terminal.agrees(question, 'nothing was changed'))) return exitCodes.failed;
  }
  const body: RepairRequest = {
    hash: seen.repair.hash,
    ...(setAside ? { setAside } : {}),
    ...(without ? { without } : {}),
    ...(options.reason === undefined ? {} : { reason: options.reason }),
    ...(user === undefined ? {} : { actor: user }),
  };
  const done = await api.post<RepairAnswer>(context.path('ring', 'repair'), { body, timeoutMs: LOOK_TIMEOUT_MS });
  terminal.result(done, done.repaired ? repairedLines(done) : ['nothing to repair any more']);
  return exitCodes.done;
}

function copiesLines({ clusterId, store, copies, missing }: RepairAnswer): string[] {
  const short = (hash: string): string => hash.slice(0, 8);
  const rows = copies.map(({ source, version, hash, agreesTo }) => [
    plain(source),
    version,
    short(hash),
    agreesTo === version ? 'all of it' : agreesTo === null ? 'it does not go back so far' : `up to version ${agreesTo}`,
  ]);
  return [
    `${clusterId}: the log in the ring store ends at version ${store.version} (${short(store.hash)})`,
    ...table(['WHO', 'HAS SEEN', 'HASH', 'THE STORE HAS'], rows),
    ...(missing.length > 0 ? [`no answer from ${missing.join(', ')}`] : []),
  ];
}

function repairLines(
  { astray }: RepairAnswer,
  { source, keepTo, append, setAside }: NonNullable<RepairAnswer['repair']>,
): string[] {
  const lines = (events: typeof append): string[] =>
    events.map(({ version, event, actor, at }) => plain(`  ${version}  ${at}  ${describeEvent(event)} (${actor})`));
  return [
    '',
    `after version ${keepTo} comes what ${plain(source)} has seen, ${plural(append.length, 'event')}:`,
    ...lines(append),
    ...(setAside.length > 0
      ? [`instead of what the ring store has there, ${plural(setAside.length, 'event')}:`, ...lines(setAside)]
      : []),
    ...(astray.length > 0
      ? [`to be started again, without their ring file: ${astray.map((router) => plain(router)).join(', ')}`]
      : []),
    '',
  ];
}

const repairedLines = ({ repair, store }: RepairAnswer): string[] => [
  `the log was repaired: ${plural(repair!.append.length, 'event')} given back, ${repair!.setAside.length} set aside`,
  ...(repair!.setAside.length > 0
    ? [`start the API again: it has followed the log as far as version ${store.version}`]
    : []),
];
