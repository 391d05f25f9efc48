/** Values as people read them. Pure. */
import type { RingEvent } from '../../ring/events.ts';
import { formatPartitions } from '../../ring/partition.ts';

/** Text that came from elsewhere, made harmless for a terminal: a reason may hold anything. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
export const plain = (text: string): string => text.replace(/[\u0000-\u001f\u007f-\u009f]/g, '?');

export const count = (n: number): string => n.toLocaleString('en-US');
export const plural = (n: number, one: string): string => `${count(n)} ${one}${n === 1 ? '' : 's'}`;
/** Temporal's run ids begin with the time in milliseconds, which is these 13 characters: eight would be the same for a minute. */
export const shortId = (id: string): string => id.slice(0, 13);

/** `850 ms`, `4.2 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`. */
export function duration(ms: number): string {
  if (ms < 1_000) return `${Math.max(0, Math.round(ms))} ms`;
  const seconds = ms / 1_000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const pair = (size: number, unit: string, rest: number, restUnit: string): string => {
    const more = Math.floor((whole % size) / rest);
    return `${Math.floor(whole / size)} ${unit}${more > 0 ? ` ${more} ${restUnit}` : ''}`;
  };
  if (whole < 60) return `${whole} s`;
  if (whole < 3_600) return pair(60, 'min', 1, 's');
  if (whole < 86_400) return pair(3_600, 'h', 60, 'min');
  return pair(86_400, 'd', 3_600, 'h');
}

/** `4.2 s ago`; the clocks of two machines may differ, so what seems to lie ahead is `just now`. */
export function ago(iso: string, now: number): string {
  const ms = now - Date.parse(iso);
  return ms < 1_000 ? 'just now' : `${duration(ms)} ago`;
}

/** `20 MB/s`, `1.5 GB/s`, `800 kB/s`. */
export function rate(bytesPerSecond: number): string {
  const [size, unit] = (
    [
      [1e9, 'GB'],
      [1e6, 'MB'],
      [1e3, 'kB'],
    ] as const
  ).find(([size]) => bytesPerSecond >= size) ?? [1, 'B'];
  return `${Number((bytesPerSecond / size).toPrecision(3))} ${unit}/s`;
}

/** Columns as wide as their widest cell; numbers to the right. */
export function table(head: readonly string[], rows: readonly (readonly (string | number)[])[]): string[] {
  const cells = rows.map((row) => row.map((cell) => (typeof cell === 'number' ? count(cell) : plain(cell))));
  const widths = head.map((title, i) => Math.max(title.length, ...cells.map((row) => row[i]?.length ?? 0)));
  const isNumber = head.map((_title, i) => rows.length > 0 && rows.every((row) => typeof row[i] === 'number'));
  const line = (row: readonly string[]): string =>
    row
      .map((cell, i) => (isNumber[i] ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!)))
      .join('  ')
      .trimEnd();
  return [line(head), ...cells.map(line)];
}

/** One line about an event of the ring's log. */
export function describeEvent(event: RingEvent): string {
  switch (event.type) {
    case 'ring made':
      return `ring made: ${plural(event.partitionCount, 'partition')} on ${event.nodes.map(({ node }) => node).join(', ')}`;
    case 'node joined':
      return `node joined: ${event.node} at ${event.url}`;
    case 'node left':
      return `node left: ${event.node}`;
    case 'node forgotten':
      return `node forgotten: ${event.node}; ${event.by} has accepted the loss of what it held (${event.reason}); its partitions go to ${event.to.map(({ node, partitions }) => `${node}: ${formatPartitions(partitions)}`).join(', ') || 'nobody'}`;
    case 'node drained':
      return `node drained: ${event.node} is given nothing until it is activated`;
    case 'node activated':
      return `node activated: ${event.node}`;
    case 'ring frozen':
      return `ring frozen by operation ${shortId(event.operationId)} (holder ${event.holder})`;
    case 'freeze taken over':
      return `freeze taken over by operation ${shortId(event.operationId)} (holder ${event.holder}): ${event.because}`;
    case 'ring unfrozen':
      return `ring unfrozen (holder ${event.holder})`;
    case 'move started':
      return `${moveName(event.move)} started: partitions ${formatPartitions(event.partitions)} from ${event.from} to ${event.to}`;
    case 'move claimed':
      return `${moveName(event.move)} claimed by ${event.attempt}`;
    case 'partitions handed over':
      return `${moveName(event.move)} handed over: ${plural(event.proof.jobsPending, 'pending job')} proven equal`;
    case 'move aborted':
      return `${moveName(event.move)} aborted: ${event.because}`;
    case 'move completed':
      if (event.accepted) {
        const { by, reason, difference } = event.accepted;
        return `${moveName(event.move)} completed without certificate: ${by} has accepted that its sides differ (${reason}): ${difference}`;
      }
      return `${moveName(event.move)} completed, ${event.certificate ? `${plural(event.certificate.jobs, 'job')} certified` : 'without certificate'}`;
    case 'limits set':
      return `limits set: ${Object.entries(event.change)
        .map(([name, value]) => `${name} ${value ?? 'none'}`)
        .join(', ')}`;
  }
  return `${(event as { type: string }).type} (of a newer version)`;
}

/** `<operationId>/move-3.1` without the long part. */
const moveName = (move: string): string => move.split('/').at(-1) ?? move;
