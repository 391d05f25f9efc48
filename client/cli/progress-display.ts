/** How an operation's progress is shown while it runs: a bar on a terminal, a line for each change elsewhere, nothing with `--json`. */
import cliProgress from 'cli-progress';
import type { ProgressAnswer } from '../api-types.ts';
import type { Terminal } from './terminal.ts';
import { count, duration, plain } from './text.ts';

export interface ProgressDisplay {
  show(progress: ProgressAnswer): void;
  /** Something that passes: no contact, for now. */
  trouble(message: string): void;
  stop(): void;
}

export function createProgressDisplay(terminal: Terminal): ProgressDisplay {
  if (terminal.json) return { show() {}, trouble() {}, stop() {} };
  return terminal.rich ? bar(terminal) : changes(terminal);
}

function bar(terminal: Terminal): ProgressDisplay {
  const speed = createSpeed(() => performance.now());
  const single = new cliProgress.SingleBar({
    format: '{what} [{bar}] {moved} partitions | {jobs} jobs, {rate}/s | {left} left',
    stream: terminal.surroundings.stdout as NodeJS.WritableStream,
    barsize: 20,
    hideCursor: true,
    noTTYOutput: false,
  });
  let running = false;
  const draw = (what: string, progress: ProgressAnswer | null): void => {
    const value = progress?.partitionsMoved ?? 0;
    // Before there is a plan nothing is done, which must not look like all of nothing.
    const total = progress?.partitionsToMove || 1;
    const { perSecond, leftMs } = speed.of(progress);
    const payload = {
      what: what.padEnd(18),
      moved: `${value}/${progress?.partitionsToMove || '–'}`,
      jobs: count(progress?.jobsCopied ?? 0),
      rate: perSecond === null ? '–' : count(Math.round(perSecond)),
      left: leftMs === null ? '–' : duration(leftMs),
    };
    if (!running) single.start(total, value, payload);
    else {
      single.setTotal(total);
      single.update(value, payload);
    }
    running = true;
  };
  let last: ProgressAnswer | null = null;
  return {
    show(progress) {
      last = progress;
      draw(phaseText(progress), progress);
    },
    trouble: () => draw('no contact …', last),
    stop() {
      if (running) single.stop();
      running = false;
    },
  };
}

function changes(terminal: Terminal): ProgressDisplay {
  let told = '';
  const tell = (key: string, line: string): void => {
    if (key !== told) terminal.say(line);
    told = key;
  };
  return {
    show(progress) {
      const what = phaseText(progress);
      const { partitionsMoved, partitionsToMove, jobsMoved } = progress;
      const moved =
        partitionsToMove > 0 ? `: ${partitionsMoved} of ${partitionsToMove} partitions, ${count(jobsMoved)} jobs` : '';
      tell(`${what}${partitionsMoved}`, `${what}${moved}`);
    },
    trouble: (message) => tell(message, plain(message)),
    stop() {},
  };
}

const phaseText = ({ state, phase }: ProgressAnswer): string =>
  state === 'running' || state === 'completed' ? (phase ?? state) : phase ? `${phase} (${state})` : state;

const SPEED_WINDOW_MS = 10_000;

/** Jobs a second over the last seconds, and the time left if partitions go on as they did since the first look. */
export function createSpeed(now: () => number) {
  let samples: { at: number; jobs: number }[] = [];
  let first: { at: number; moved: number } | null = null;
  return {
    of(progress: ProgressAnswer | null): { perSecond: number | null; leftMs: number | null } {
      if (!progress) return { perSecond: null, leftMs: null };
      const at = now();
      samples = [...samples.filter((sample) => at - sample.at <= SPEED_WINDOW_MS), { at, jobs: progress.jobsCopied }];
      const oldest = samples[0]!;
      first ??= { at, moved: progress.partitionsMoved };
      const moved = progress.partitionsMoved - first.moved;
      const rest = progress.partitionsToMove - progress.partitionsMoved;
      return {
        perSecond: at > oldest.at ? ((progress.jobsCopied - oldest.jobs) / (at - oldest.at)) * 1_000 : null,
        leftMs: rest === 0 || moved <= 0 ? null : ((at - first.at) / moved) * rest,
      };
    },
  };
}
