/**
 * Goal: whatever is killed or stalled while a cluster is scaled under traffic, the promises are kept, and nothing is left over.
 * Method: a short run of `npm run chaos` with a seed of its own, which is printed; long runs are a command away.
 */
import { randomInt } from 'node:crypto';
import path from 'node:path';
import { Writable } from 'node:stream';
import { expect, test } from 'vitest';
import { chaosKinds } from '../../dev/chaos/plan.ts';
import { exitCodeOf, summarizeChaos } from '../../dev/chaos/report.ts';
import { runChaos } from '../../dev/chaos/run.ts';
import { Screen } from '../../dev/demo/screen.ts';
import { dataRoot } from '../../platform/local/places.ts';

const SECONDS = 30;
/** Healing has bounds of its own, each longer than it ever takes. */
const ENDS_WITHIN_MS = 900_000;

test(
  'half a minute of chaos: nothing lost, out of order or repeated without a fault that explains it, and nothing left over',
  async () => {
    const seed = randomInt(2 ** 32 - 1);
    console.log(`chaos: seed ${seed}`);
    const said: string[] = [];
    const out = new Writable({
      write(chunk: Buffer, _encoding, done) {
        said.push(chunk.toString());
        done();
      },
    });
    const dataFolder = path.join(dataRoot(), `chaos-test-${process.pid}`);
    const options = { seed, seconds: SECONDS, kinds: chaosKinds, rate: 100, keep: false };
    const { report } = await runChaos(
      options,
      dataFolder,
      new Screen(out as unknown as NodeJS.WriteStream),
      new AbortController().signal,
    );
    const story = `${said.join('')}${summarizeChaos(report)}`;
    expect(report, story).toMatchObject({ seed, verdict: 'valid', leftovers: [], trouble: null });
    expect(exitCodeOf(report), story).toBe(0);
    expect(report.faultsInsideCutOver, story).toBeGreaterThanOrEqual(1);
    expect(report.struck.length, story).toBeGreaterThanOrEqual(3);
    const { completed, cancelled, undone } = report.operations;
    expect(completed + cancelled + undone, story).toBeGreaterThanOrEqual(1);
    expect(report.events.delivered, story).toBeGreaterThan(1_000);
  },
  ENDS_WITHIN_MS,
);
