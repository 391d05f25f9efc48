/**
 * Goal: a dead node costs its own users what it must and nobody else anything; the router finds out by itself, both ways.
 * Method: a real router and real HTTP nodes in this process; circuits alone where a node cannot be made to say so.
 */
import { pino } from 'pino';
import { afterEach, describe, expect, test } from 'vitest';
import { noRing, type Ring } from '../../ring/ring.ts';
import { Circuits } from '../../router/circuits.ts';
import { Gates, type HoldRefused } from '../../router/gates.ts';
import { type RouterLimits, routerLimits } from '../../router/limits.ts';
import type { Fate } from '../../router/upstream.ts';
import { until } from '../support/wait.ts';
import { startWorld, type World } from './harness.ts';

let world: World;
const HOLD_MS = 1_500;
const make = async (limits: Partial<RouterLimits> = {}): Promise<World> => {
  world = await startWorld({ limits: { holdMs: HOLD_MS, askEveryMs: 50, ...limits } });
  return world;
};
afterEach(() => world?.end());
const down = async (): Promise<string[]> =>
  ((await (await fetch(`${world.router.url}/ready`)).json()) as { down: string[] }).down;
const isDown = (...nodes: string[]) =>
  until(async () => (await down()).join() === nodes.join(), { deadlineMs: 8_000, what: `down: ${nodes.join()}` });
const metrics = async (): Promise<string> => (await fetch(`${world.router.url}/metrics`)).text();

describe('a node that is gone', () => {
  test('its requests are held, then refused at once; others and those without a user never notice; it serves as soon as it is back', async () => {
    const w = await make();
    await w.nodes[0]!.stop();
    const held = [0, 1, 2, 3].map((nth) => w.track(w.userOf('node-0', nth), `held-${nth}`));
    await isDown('node-0');
    expect(await metrics()).toContain('ringmaster_router_circuit_open{node="node-0"} 1');
    expect((await w.track(w.userOf('node-1'), 'm')).status).toBe(200);
    for (let n = 0; n < 4; n += 1) expect((await w.post('/v1/track', '{ not json')).status).toBe(400);
    const codes = await Promise.all(held.map(async (answer) => [(await answer).status, await (await answer).json()]));
    expect(codes.map(([status, body]) => [status, (body as { error: string }).error])).toEqual(
      held.map(() => [503, 'HOLD_TIMEOUT']),
    );
    const askedAt = performance.now();
    const refused = await w.track(w.userOf('node-0'), 'late');
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '1']);
    expect(await refused.json()).toMatchObject({ error: 'NODE_DOWN' });
    expect(performance.now() - askedAt).toBeLessThan(HOLD_MS / 2);
    await w.nodes[0]!.start();
    await isDown();
    expect((await w.track(w.userOf('node-0'), 'back')).status).toBe(200);
    expect(w.nodes[0]!.stored.map(({ messageId }) => messageId)).toEqual(['back']);
  });

  test('comes back within the hold: what was held arrives, in order', async () => {
    const w = await make({ holdMs: 8_000 });
    const user = w.userOf('node-0');
    await w.nodes[0]!.stop();
    const first = w.track(user, 'a');
    await until(() => w.router.held() === 1, { deadlineMs: 3_000, what: 'the first is held' });
    const second = w.track(user, 'b');
    const others = [1, 2, 3].map((nth) => w.track(w.userOf('node-0', nth), 'o'));
    await isDown('node-0');
    await w.nodes[0]!.start();
    expect((await Promise.all([first, second, ...others])).map(({ status }) => status)).toEqual(Array(5).fill(200));
    const own = w.nodes[0]!.stored.filter(({ messageId }) => messageId !== 'o');
    expect(own.map(({ messageId }) => messageId)).toEqual(['a', 'b']);
  });

  test('its partitions are served as soon as another node has them', async () => {
    const w = await make({ holdMs: 300 });
    await w.nodes[0]!.stop();
    await Promise.all([0, 1, 2, 3].map((nth) => w.track(w.userOf('node-0', nth), 'm')));
    await isDown('node-0');
    const user = w.userOf('node-0');
    await until(async () => ((await (await w.track(user, 'm')).json()) as { error: string }).error === 'NODE_DOWN', {
      deadlineMs: 3_000,
      what: 'refused at once',
    });
    await w.startMove('op-1/move-1.1', 'node-0', 'node-1', [w.partitionOfUser(user)]);
    await w.handOver('op-1/move-1.1');
    await w.view.waitFor((ring) => ring.version === w.ring().version, { deadlineMs: 2_000 });
    expect((await w.track(user, 'moved')).status).toBe(200);
  });
});

test('a node that takes connections and says nothing gets no more requests than it takes to find out', async () => {
  const w = await make({ nodeTimeoutMs: 200, connectTimeoutMs: 200, holdMs: 400 });
  w.nodes[0]!.misbehave = () => true; // no answer, to anything
  const user = w.userOf('node-0');
  for (let n = 0; n < routerLimits.circuitFailures; n += 1) expect((await w.track(user, 'lost')).status).toBe(502);
  await isDown('node-0');
  const sent = (): number => w.nodes[0]!.requests.filter(({ method }) => method === 'POST').length;
  const before = sent();
  expect((await w.track(user, 'm')).status).toBe(503);
  expect(sent()).toBe(before);
  w.nodes[0]!.misbehave = null;
  await isDown();
  expect((await w.track(user, 'm')).status).toBe(200);
});

test('what fails for the request’s own sake opens no circuit: the node is asked, and answers', async () => {
  const ring: Ring = {
    ...noRing('demo'),
    version: 1,
    nodes: [{ node: 'node-0', databaseId: 'd', url: 'http://node-0' }],
    partitionCount: 1,
    owners: ['node-0'],
  };
  let fate: Fate = { kind: 'not sent', because: 'invalid header' };
  let answers = true;
  let asked = 0;
  const circuits = new Circuits({
    sender: { send: (_url, _request, done) => done(fate) },
    limits: { ...routerLimits, askEveryMs: 10 },
    now: () => performance.now(),
    log: pino({ level: 'silent' }),
    ask: async () => {
      asked += 1;
      return answers;
    },
  });
  const request = { method: 'POST', target: '/', headers: '', body: null };
  const send = () => new Promise<Fate>((done) => circuits.send('http://node-0', request, done));
  for (let n = 0; n < 20; n += 1) await send();
  expect([asked > 0, circuits.open(ring), circuits.downMs(ring, 0)]).toEqual([true, [], 0]);
  answers = false;
  for (let n = 0; n < routerLimits.circuitFailures; n += 1) await send();
  await until(() => circuits.open(ring).length === 1, { deadlineMs: 1_000, what: 'open' });
  fate = { kind: 'answered', answer: { status: 200, headers: {}, body: Buffer.alloc(0) } };
  expect(await send()).toMatchObject({ kind: 'not sent' }); // no client is used to find out
  answers = true;
  await until(() => circuits.open(ring).length === 0, { deadlineMs: 1_000, what: 'closed' });
  expect((await send()).kind).toBe('answered');
  circuits.close();
});

test('a dead node never has more than half of the hold: the other half is for the living', async () => {
  const ring: Ring = { ...noRing('demo'), version: 1, partitionCount: 2, owners: ['node-0', 'node-1'] };
  const gates = new Gates({
    ring: () => ring,
    limits: { ...routerLimits, heldRequestsMax: 4 },
    now: () => performance.now(),
    onHoldEnded: () => undefined,
    downMs: (partition) => (partition === 0 ? 1_000 : 0),
  });
  let users = 0;
  const refusedAt = (partition: number): Promise<string> | undefined => {
    users += 1;
    const ticket = gates.ticket({ bytes: 1, partitions: [partition], users: [`u${users}`] });
    gates.refused(ticket, { kind: 'unreachable', node: `node-${partition}` });
    ticket.sentAt = performance.now();
    const turn = gates.turn(ticket);
    return Promise.race([
      turn!.then(
        () => 'sent',
        (error: HoldRefused) => error.code,
      ),
      new Promise<string>((resolve) => setTimeout(resolve, 5, 'held')),
    ]);
  };
  expect([await refusedAt(0), await refusedAt(0), await refusedAt(0)]).toEqual(['held', 'held', 'NODE_DOWN']);
  expect([await refusedAt(1), await refusedAt(1), await refusedAt(1)]).toEqual(['held', 'held', 'HOLD_FULL']);
  gates.close();
});
