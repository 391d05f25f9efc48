import { expect, test } from 'vitest';
import { createLog } from '../../kit/log.ts';
import { onceUp } from '../../kit/starting.ts';

const log = createLog('test');
log.level = 'silent';
const away = (code: string): Error => Object.assign(new Error('away'), { code });

test('what is away at the start is waited for; what is wrong is told at once', async () => {
  const answers = [away('ECONNREFUSED'), away('57P03'), 'up'];
  const open = async () => {
    const next = answers.shift();
    if (next instanceof Error) throw next;
    return next;
  };
  expect(await onceUp('a server', log, open)).toBe('up');
  const wrongPassword = async () => Promise.reject(away('28P01'));
  await expect(onceUp('a server', log, wrongPassword)).rejects.toThrow('away');
});

test('past the deadline the last error is told', async () => {
  let tries = 0;
  const open = async () => {
    tries += 1;
    throw away('ENOTFOUND');
  };
  await expect(onceUp('a server', log, open, 400)).rejects.toMatchObject({ code: 'ENOTFOUND' });
  expect(tries).toBeGreaterThan(1);
});
