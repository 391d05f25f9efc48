/** From the body of a request to the events that are stored, as RudderStack's gateway reads it. Pure. */
import { createHash, randomUUID } from 'node:crypto';
import { userKeyOfEvent } from '../ring/partition.ts';
import { HttpRefusal } from './refusal.ts';

export interface IncomingEvent {
  /** JobsDB's `user_id`: what orders events. */
  readonly userKey: string;
  /** What the window of messageIds knows it by, and what the destination is told: short, printable. */
  readonly messageId: string;
  /** JSON that PostgreSQL takes. */
  readonly payload: string;
}

export const eventTypes = ['track', 'identify', 'page', 'screen', 'group', 'alias', 'merge'] as const;

type JsonObject = Record<string, unknown>;

/** `type`: of the path, or `batch`. `anonymousId`: the header. Throws HttpRefusal 400; an event that cannot be taken refuses its whole request. */
export function parseEvents(type: string, anonymousId: string | undefined, body: string): IncomingEvent[] {
  let parsed: unknown;
  try {
    parsed = parseExact(body);
  } catch {
    throw new HttpRefusal(400, 'Invalid JSON');
  }
  if (!isObject(parsed)) throw new HttpRefusal(400, 'Invalid JSON');
  if (type !== 'batch') {
    parsed['type'] = type;
    return [toEvent(parsed, anonymousId)];
  }
  const batch = parsed['batch'];
  if (batch !== undefined && !Array.isArray(batch)) throw new HttpRefusal(400, 'Invalid JSON');
  if (!batch || batch.length === 0) throw new HttpRefusal(400, 'Empty batch payload');
  return batch.map((event) => {
    if (!isObject(event)) throw new HttpRefusal(400, 'Invalid JSON');
    return toEvent(event, anonymousId);
  });
}

function toEvent(event: JsonObject, anonymousIdHeader: string | undefined): IncomingEvent {
  const ids = { anonymousId: asParsed(event['anonymousId']), userId: asParsed(event['userId']) };
  const userKey = userKeyOfEvent(ids, anonymousIdHeader);
  if (userKey === null) throw new HttpRefusal(400, 'Request neither has anonymousId nor userId');
  const messageId = asParsed(event['messageId']);
  const given = typeof messageId === 'object' || messageId === undefined ? '' : String(messageId).trim();
  if (given === '') event['messageId'] = randomUUID();
  return {
    userKey,
    messageId: messageKey(given === '' ? (event['messageId'] as string) : given),
    payload: printStorable(event),
  };
}

/** A number that is kept as its client wrote it, as everybody else's JSON parser reads it. */
const asParsed = (value: unknown): unknown =>
  isRawJson(value) ? Number((value as { rawJSON: string }).rawJSON) : value;

/** It stands in an index and in an HTTP header: what is long or not printable is known by its hash. */
function messageKey(messageId: string): string {
  if (/^[\x21-\x7e]{1,200}$/.test(messageId)) return messageId;
  return `sha256:${createHash('sha256').update(messageId).digest('hex')}`;
}

const isObject = (value: unknown): value is JsonObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

// ---- JSON as it was written

/** May hold a number that a double cannot. Rarely true; then it is only slower. */
const mayHoldLongNumber = /[\d.]{16,}|\d[eE][+-]?\d{3}/;

/** JSON.parse, but numbers that a double would change stay as their client wrote them. */
function parseExact(text: string): unknown {
  if (!mayHoldLongNumber.test(text)) return JSON.parse(text);
  return parseWithSource(text, (_key, value, context) => {
    if (typeof value !== 'number' || context.source === undefined || String(value) === context.source) return value;
    return rawJson(context.source);
  });
}

// Of ES2026, in Node 24, not in TypeScript's library yet.
type Reviver = (key: string, value: unknown, context: { source?: string }) => unknown;
const parseWithSource = JSON.parse as (text: string, reviver: Reviver) => unknown;
const rawJson = (JSON as unknown as { rawJSON(text: string): unknown }).rawJSON;
const isRawJson = (JSON as unknown as { isRawJSON(value: unknown): boolean }).isRawJSON;

// ---- what PostgreSQL's text and jsonb cannot hold: NUL and lone surrogates

const storable = (text: string): string => text.replaceAll('\0', '').toWellFormed();

function printStorable(event: JsonObject): string {
  let text: string;
  try {
    text = JSON.stringify(event);
    // JSON.stringify escapes exactly those two kinds this way (and other control characters, which are fine).
    if (/\\u(0000|d[89a-f])/i.test(text)) text = JSON.stringify(cleaned(event));
  } catch {
    throw new HttpRefusal(400, 'Invalid JSON'); // nested deeper than the stack
  }
  return text;
}

function cleaned(value: unknown): unknown {
  if (typeof value === 'string') return storable(value);
  if (Array.isArray(value)) return value.map(cleaned);
  if (typeof value !== 'object' || value === null || isRawJson(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [storable(key), cleaned(item)]));
}
