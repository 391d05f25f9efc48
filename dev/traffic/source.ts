/** Where events come from: a file of JSON lines, or users made up from a seed. Both never end. */
import { createReadStream } from 'node:fs';
import { access, constants } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { createGunzip } from 'node:zlib';
import { CodedError, describeError } from '../../kit/errors.ts';
import { seededRandom, zipf } from './random.ts';

/** An event before it becomes a call: who did what. */
export interface SourceEvent {
  readonly userId: string;
  readonly anonymousId?: string;
  readonly event: string;
  readonly properties: unknown;
  readonly originalTimestamp: string;
}

export interface EventSource {
  next(): Promise<SourceEvent>;
  /** How often the input has been read to its end; a generator has no end. */
  readonly rounds: number;
  close(): void;
}

/** Lines of `file` (`.gz` too), `userField` the field that becomes `userId`; the first `events` lines only, then again from the start. Throws INPUT_INVALID. */
export async function fileSource(options: {
  readonly file: string;
  readonly userField: string;
  readonly events?: number;
}): Promise<EventSource> {
  const { file, userField } = options;
  await access(file, constants.R_OK).catch((error: unknown) => {
    throw new CodedError('INPUT_INVALID', `--input ${file}: ${describeError(error)}`);
  });
  const state = { rounds: 0 };
  const lines = endlessEvents(file, userField, options.events ?? Number.POSITIVE_INFINITY, state);
  const first = await lines.next();
  let pending: SourceEvent | null = first.value ?? null;
  return {
    get rounds() {
      return state.rounds;
    },
    async next() {
      if (pending) {
        const event = pending;
        pending = null;
        return event;
      }
      return (await lines.next()).value!;
    },
    close: () => void lines.return(undefined),
  };
}

async function* endlessEvents(
  file: string,
  userField: string,
  max: number,
  state: { rounds: number },
): AsyncGenerator<SourceEvent, undefined> {
  for (;;) {
    let number = 0;
    let used = 0;
    const raw = createReadStream(file);
    const input = file.endsWith('.gz') ? raw.pipe(createGunzip()) : raw;
    raw.on('error', (error) => input.destroy(error));
    try {
      for await (const line of createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY })) {
        if (used >= max) break;
        number += 1;
        if (line.trim() === '') continue;
        yield eventOf(file, line, number, userField);
        used += 1;
      }
    } finally {
      raw.destroy();
      input.destroy();
    }
    if (used === 0) throw new CodedError('INPUT_INVALID', `--input ${file}: no line in it`);
    state.rounds += 1;
  }
}

function eventOf(file: string, line: string, number: number, userField: string): SourceEvent {
  const refuse = (what: string): never => {
    throw new CodedError('INPUT_INVALID', `--input ${file}, line ${number}: ${what}`);
  };
  let properties: Record<string, unknown>;
  try {
    properties = JSON.parse(line) as Record<string, unknown>;
  } catch {
    return refuse('not JSON');
  }
  const user = properties?.[userField];
  if ((typeof user !== 'string' && typeof user !== 'number') || user === '')
    return refuse(`no user in field '${userField}' (--user-field)`);
  const time = properties['time'] ?? properties['timestamp'];
  return {
    userId: String(user),
    event: 'Line Read',
    properties,
    originalTimestamp: typeof time === 'string' ? time : new Date().toISOString(),
  };
}

const pages = ['home', 'search', 'product', 'basket', 'checkout', 'account', 'help'];
const acts = [
  'Product Viewed',
  'Product Added',
  'Search Made',
  'Basket Viewed',
  'Order Completed',
  'Coupon Applied',
  'Video Played',
];
/** About one in eight events by the busiest user of 5,000, half of all by the busiest 150: heavy-tailed, as real users are. */
const usersMade = 5_000;
const zipfExponent = 1;

/** Users made up from `seed`: what they do, and how unevenly. */
export function seededSource(seed: number): EventSource {
  const random = seededRandom(seed);
  const pickUser = zipf(usersMade, zipfExponent, random);
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)]!;
  return {
    rounds: 0,
    close: () => {},
    next: async () => {
      const user = pickUser();
      const event = pick(acts);
      const price = Math.round(random() * 20_000) / 100;
      return {
        userId: `user-${user}`,
        ...(user % 3 === 0 ? { anonymousId: `device-${user}` } : {}), // those who were seen before they signed in
        event,
        originalTimestamp: new Date().toISOString(),
        properties: {
          page: pick(pages),
          product: `sku-${Math.floor(random() * 10_000)}`,
          price,
          currency: pick(['EUR', 'USD', 'GBP', 'JPY']),
          quantity: 1 + Math.floor(random() * 4),
          referrer: `https://example.com/${pick(pages)}?campaign=${Math.floor(random() * 50)}`,
          note: 'é日本🙂'.slice(0, 1 + Math.floor(random() * 3)),
        },
      };
    },
  };
}
