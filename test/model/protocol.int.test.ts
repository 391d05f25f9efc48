/**
 * Goal: no interleaving of a move's steps with crashes, retries, zombies, late messages and the dead-man loses, repeats or reorders an event, or gets stuck.
 * Method: all of them are visited, within printed bounds, in a model whose ring is the production code (protocol.ts says what it leaves out, and why that is
 * sound). Each rule is taken out once, and must be missed. `node test/model/main.ts --bug NAME` prints a counterexample, step by step.
 */
import { describe, expect, test } from 'vitest';
import { bugs as ruleNames } from './bounds.ts';
import { Protocol } from './protocol.ts';
import { comparisons, planted, scenarios } from './scenarios.ts';
import { tellBounds, tellExploration } from './tell.ts';
import { compareInThread, exploreInThread } from './thread.ts';

/** Of the largest exploration, several times over, as other tests run beside it. */
const TIMEOUT_MS = 600_000;
/** Such as no scenario comes near: what is wrong then are the bounds. */
const STATES_MAX = 12_000_000;
/** More than any planted bug needs. */
const PLANTED_STATES_MAX = 500_000;

/** `$name` would cut long names, and guards name their tests in full. */
const byName = <T extends { readonly name: string }>(items: readonly T[]): [string, T][] =>
  items.map((item) => [item.name, item]);

const say = (line: string): void => void process.stdout.write(`${line}\n`);

describe('in every state of a move all promises hold, and there is a way out', () => {
  test.each(byName(scenarios))('%s', { timeout: TIMEOUT_MS }, async (name, { bounds }) => {
    const exploration = await exploreInThread(bounds, STATES_MAX);
    say(`${name}: ${tellBounds(bounds)}: ${tellExploration(exploration)}`);
    expect(exploration.counterexample).toBeNull();
    // An exploration in which a step was never taken has not shown what it says.
    expect(new Protocol(bounds).stepsOf(bounds).filter((kind) => !exploration.taken.has(kind))).toEqual([]);
    expect(exploration.taken.get('late message')).toBeUndefined();
  });
});

describe('whole steps leave out no state that fine ones reach', () => {
  test.each(byName(comparisons))('%s', { timeout: TIMEOUT_MS }, async (name, { bounds }) => {
    const { wholeStates, fineStates, missed } = await compareInThread(bounds);
    say(`${name}: ${wholeStates} states by whole steps, ${fineStates} by fine ones`);
    expect(missed).toEqual([]);
  });
});

describe('a rule that is taken out is missed', () => {
  test.each(byName(planted))('%s', { timeout: TIMEOUT_MS }, async (_, { bugs, bounds, breaks }) => {
    const { counterexample } = await exploreInThread(bounds, PLANTED_STATES_MAX, bugs);
    expect(counterexample?.broken.slice(0, breaks.length)).toBe(breaks);
    expect(counterexample!.trace.length).toBeGreaterThan(0);
    // Within the same bounds nothing else is wrong: it is the rule that is missed.
    expect((await exploreInThread(bounds, PLANTED_STATES_MAX)).counterexample).toBeNull();
  });

  test('each rule is taken out by one of these', () => {
    expect([...new Set(planted.flatMap(({ bugs }) => bugs))].sort()).toEqual([...ruleNames].sort());
  });
});
