import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { cutBatch, joinBatch, withMessageId } from '../../router/batch-text.ts';

describe('a batch as text', () => {
  test('any JSON: the events are cut where JSON.parse sees them, and join to the same body', () => {
    const spaced = fc.constantFrom(undefined, 1, '\t');
    const event = fc.dictionary(fc.string(), fc.jsonValue());
    fc.assert(
      fc.property(
        fc.array(event, { minLength: 1 }),
        fc.dictionary(fc.string(), fc.jsonValue()),
        fc.dictionary(fc.string(), fc.jsonValue()),
        spaced,
        (events, before, after, space) => {
          const text = JSON.stringify({ ...before, batch: events, ...after, batch_: 1 }, null, space);
          const parsed = JSON.parse(text) as { batch: unknown };
          if (!Array.isArray(parsed.batch) || parsed.batch.length === 0) return;
          const cut = cutBatch(text);
          expect(cut.events.map((e) => JSON.parse(e))).toEqual(parsed.batch);
          expect(JSON.parse(joinBatch(cut, cut.events))).toEqual(parsed);
        },
      ),
    );
  });

  test('odd forms', () => {
    expect(cutBatch('{"a":{"batch":[9]},"batch":[ 1 , "x,]" ,{"b":"}\\""} ],"z":null}').events).toEqual([
      '1',
      '"x,]"',
      '{"b":"}\\""}',
    ]);
    expect(cutBatch('{"batch":[1],"\\u0062atch":[2]}').events).toEqual(['2']); // the last of two counts
    expect(cutBatch(' {"n":1,"batch":[true]} ').events).toEqual(['true']);
  });

  test('a messageId is given only where there is none', () => {
    const give = (event: string) => withMessageId(event, () => 'new');
    expect(give('{"messageId":"a"}')).toBe('{"messageId":"a"}');
    expect(JSON.parse(give('{"userId":"u"}'))).toEqual({ userId: 'u', messageId: 'new' });
    expect(JSON.parse(give('{"messageId":"","userId":"u" }'))).toEqual({ userId: 'u', messageId: 'new' });
  });
});
