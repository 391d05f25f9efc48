/**
 * Taking a batch body apart and putting parts of it together as text. Not by parsing and printing: that would change numbers that a double cannot hold,
 * and an event must arrive as its client wrote it.
 */
import { endOfValue, skipSpace } from './json-text.ts';

/** A batch body: what stands before the first event, each event, what stands after the last. */
export interface BatchText {
  readonly before: string;
  readonly events: readonly string[];
  readonly after: string;
}

/** Cuts `text`, which JSON.parse has accepted as an object with a non-empty array `batch`. Of two such fields the last counts, as in JSON.parse. */
export function cutBatch(text: string): BatchText {
  let found: BatchText | null = null;
  let at = skipSpace(text, 0) + 1; // past the {
  for (;;) {
    at = skipSpace(text, at);
    if (text[at] === '}') break;
    if (text[at] === ',') at = skipSpace(text, at + 1);
    const keyEnd = endOfValue(text, at);
    const key: unknown = JSON.parse(text.slice(at, keyEnd));
    const start = skipSpace(text, skipSpace(text, keyEnd) + 1); // past the :
    const end = endOfValue(text, start);
    if (key === 'batch' && text[start] === '[')
      found = { before: text.slice(0, start + 1), events: cutArray(text, start), after: text.slice(end - 1) };
    at = end;
  }
  if (!found) throw new Error('no array named batch');
  return found;
}

/** The same body with these events only. */
export function joinBatch(batch: BatchText, events: readonly string[]): string {
  return batch.before + events.join(',') + batch.after;
}

/**
 * The event with a messageId of its own where it has none: a request that is sent in parts may be sent again in part, and a node knows a resent event by its
 * messageId. Appended, so that it counts over an empty one before it.
 */
export function withMessageId(event: string, newId: () => string): string {
  const { messageId } = JSON.parse(event) as { messageId?: unknown };
  if (typeof messageId === 'string' ? messageId.trim() !== '' : messageId !== undefined && messageId !== null)
    return event;
  const end = event.lastIndexOf('}');
  return `${event.slice(0, end)},"messageId":${JSON.stringify(newId())}}`;
}

function cutArray(text: string, start: number): string[] {
  const events: string[] = [];
  let at = skipSpace(text, start + 1);
  while (text[at] !== ']') {
    const end = endOfValue(text, at);
    events.push(text.slice(at, end));
    at = skipSpace(text, end);
    if (text[at] === ',') at = skipSpace(text, at + 1);
  }
  return events;
}
