/**
 * Goal: the documents that people look things up in say what the source says. Method: both are read as text. What the source has and a document lacks is
 * named by the failure, and the other way round.
 */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { defaultLimits, limitVariable } from '../../node/config.ts';
import { routerLimits } from '../../router/limits.ts';
import { actions, actionTable } from '../../workflows/actions.ts';
import { nextActionFor } from '../../workflows/next-action.ts';

const PROJECT = fileURLToPath(new URL('../..', import.meta.url));
const read = (file: string): string => readFileSync(path.join(PROJECT, file), 'utf8');

const FOLDERS = [
  ...[
    'activities',
    'api',
    'bench',
    'client',
    'dataplane',
    'dev',
    'jobsdb',
    'kit',
    'node',
    'operator',
    'platform',
    'ring',
    'ringstore',
  ],
  ...['router', 'workers', 'workflows'],
];
const sourceFiles = FOLDERS.flatMap((folder) =>
  readdirSync(path.join(PROJECT, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts'))
    .map((file) => path.join(folder, file)),
).sort();
const source = new Map(sourceFiles.map((file) => [file, read(file)]));
const allSource = [...source.values()].join('\n');

const [errors, limits, api, commands, operations] = ['errors', 'limits', 'api', 'commands', 'operations'].map((name) =>
  read(`docs/${name}.md`),
) as [string, string, string, string, string];

/** The first group of every match. */
const allOf = (text: string, pattern: RegExp): string[] => [...text.matchAll(pattern)].map((match) => match[1]!);
/** What stands between two texts; the test fails where they are not there any more. */
function between(text: string, start: string, end: string): string {
  const from = text.indexOf(start);
  expect(from, `${start} is not in the source any more: teach this test where it went`).toBeGreaterThanOrEqual(0);
  return text.slice(from + start.length, text.indexOf(end, from + start.length));
}
const sorted = (texts: Iterable<string>): string[] => [...new Set(texts)].sort();
const missing = (wanted: Iterable<string>, present: Iterable<string>): string[] => {
  const known = new Set(present);
  return sorted(wanted).filter((one) => !known.has(one));
};
/** Rows of a document's tables, by the code in their first cell. */
const rowsOf = (document: string): Map<string, string> =>
  new Map([...document.matchAll(/^\| `([^`]+)`[^|\n]*\|.*$/gm)].map((match) => [match[1]!, match[0]]));

/** Where codes are written in the source, and how. */
const WRITTEN: readonly (readonly [where: string, pattern: RegExp])[] = [
  ['a coded error', /new CodedError\(\s*'([A-Z][A-Z0-9_]+)'/g],
  ['a refusal of the ring', /new RingRefusal\(\s*'([A-Z][A-Z0-9_]+)'/g],
  ['an error of the platform', /new PlatformError\(\s*\d+,\s*'([A-Z][A-Z0-9_]+)'/g],
  ['a refused hold', /new HoldRefused\(\s*'([A-Z][A-Z0-9_]+)'/g],
  ['an error class of its own', /\bsuper\(\s*'([A-Z][A-Z0-9_]+)'/g],
  ['refuse(…)', /\brefuse\(\s*(?:reply,\s*\w+,\s*)?'([A-Z][A-Z0-9_]+)'/g],
  ['a 503 of the router', /\bunavailable\(\s*'([A-Z][A-Z0-9_]+)'/g],
  ['a move that is aborted', /\babort\(\s*input,\s*'([A-Z][A-Z0-9_]+)'/g],
  ['a request that is parsed', /\bparse\(\s*'([A-Z][A-Z0-9_]+)'/g],
  ['a field', /\b(?:code|error|type): '([A-Z][A-Z0-9_]+)'/g],
  ['what is taken where there is none', /[cC]ode(?:Of\(\w+\))? \?\? '([A-Z][A-Z0-9_]+)'/g],
  ['a choice of two', /\bcode = [^;]*?\? '([A-Z][A-Z0-9_]+)' :/g],
  ['a code for a failed update', /\bconst code = [^;]*? : '([A-Z][A-Z0-9_]+)';/g],
  ['an SQLSTATE of ours', /ERRCODE = '([A-Z][A-Z0-9]{4})'/g],
  ['what an SQLSTATE becomes', /\bRM\d{3}: '([A-Z][A-Z0-9_]+)'/g],
];
const QUOTED = /'([A-Z][A-Z0-9_]+)'/g;
const KEY = /^\s*([A-Z][A-Z0-9_]+):/gm;
const permanent = () => allOf(between(read('activities/errors.ts'), 'const PERMANENT', ']);'), QUOTED);
const statuses = () =>
  [...between(read('api/errors.ts'), 'const statusOf', '};').matchAll(/^\s*([A-Z0-9_]+): (\d{3}),/gm)].map(
    (match) => [match[1]!, match[2]!] as const,
  );
const listed = (): string[] => [
  ...permanent(),
  ...statuses().map(([code]) => code),
  ...allOf(between(read('ring/decide.ts'), 'type RingRefusalCode =', ';'), QUOTED),
  ...allOf(between(read('router/gates.ts'), 'type HoldRefusalCode =', ';'), QUOTED),
  ...allOf(between(read('client/cli/exit-codes.ts'), 'const usageCodes', ']);'), QUOTED),
  ...allOf(between(read('api/errors.ts'), 'const fastifyCodes', '};'), QUOTED),
];

describe('docs/errors.md', () => {
  const rows = rowsOf(between(errors, '## All codes', '\n## '));

  test.each(WRITTEN)('this way of writing a code is still found in the source: %s', (_where, pattern) => {
    expect(allOf(allSource, pattern)).not.toEqual([]);
  });

  test('has a row for every code of the source', () => {
    const written = WRITTEN.flatMap(([, pattern]) => allOf(allSource, pattern));
    expect(missing([...written, ...listed()], rows.keys())).toEqual([]);
  });

  test('names no code that the source does not have', () => {
    expect(missing(rows.keys(), [...allOf(allSource, QUOTED), ...allOf(allSource, KEY)])).toEqual([]);
  });

  test('has its rows in order, each code once and with all its cells', () => {
    const codes = allOf(between(errors, '## All codes', '\n## '), /^\| `([A-Z][A-Z0-9_]+)` \|/gm);
    // As people look things up: the underscore before letters.
    const key = (code: string): string => code.replaceAll('_', ' ');
    expect(codes).toEqual([...new Set(codes)].sort((a, b) => (key(a) < key(b) ? -1 : 1)));
    for (const row of rows.values()) expect(row.split(' | '), row).toHaveLength(4);
  });

  test('gives every code of the API its status', () => {
    const wrong = statuses().filter(([code, status]) => !rows.get(code)?.includes(`API ${status}`));
    expect(wrong).toEqual([]);
  });

  test('says of every refusal that ends an activity for good that it blocks an operation', () => {
    expect(permanent().filter((code) => !rows.get(code)?.split(' | ')[1]?.includes('blocked'))).toEqual([]);
  });

  test("has every answer of a node's gateway, and no other", () => {
    const node = [...source].flatMap(([file, text]) => (file.startsWith('node') ? [text] : [])).join('\n');
    const answers = [
      ...allOf(node, /\b[45]\d\d,\s*'([^']+)'/g),
      ...allOf(node, /\bunavailable\('([^']+)'/g),
      ...allOf(node, /decompress \? '([^']+)'/g),
      ...allOf(node, /decompress \? '[^']+' : '([^']+)'/g),
      ...allOf(node, /new HttpRefusal\(\d+, `([^`]+)`/g).map((text) => text.replace(/\$\{[^}]*\}/g, '…')),
    ];
    const told = allOf(between(errors, "## Answers of a node's gateway", '\n## '), /^\| [\d, ]+ \| `([^`]+)` \|/gm);
    expect(sorted(told)).toEqual(sorted([...answers, 'OK']));
  });

  test('has both answers of a node that is not the one', () => {
    const contract = between(read('dataplane/contract.ts'), '`{ "error": ', ', "partitions"');
    const states = allOf(contract, /"([a-z-]+)"/g);
    expect(missing(states, rowsOf(between(errors, '## 421', '\n## ')).keys())).toEqual([]);
    expect(states).toHaveLength(2);
  });
});

/** `4_000 * 1_024` and the like. */
const productOf = (expression: string): number =>
  expression
    .split('*')
    .map((factor) => Number(factor.trim().replaceAll('_', '')))
    .reduce((product, factor) => product * factor);
const firstNumber = (cell: string | undefined): number =>
  Number((/^[\d,]+/.exec(cell ?? '')?.[0] ?? '').replaceAll(',', '') || Number.NaN);

describe('docs/limits.md', () => {
  const sectionRows = (title: string) => rowsOf(between(limits, `## ${title}\n`, '\n## '));

  test.each(Object.entries(routerLimits))('has the limit %s of the router, with its default %d', (name, value) => {
    expect(firstNumber(sectionRows('Router').get(name)?.split(' | ')[1])).toBe(value);
  });

  test('names the variable of every limit that the router process takes, and its greatest value', () => {
    const taken = [
      ...read('router/main.ts').matchAll(
        /(RINGMASTER_ROUTER_\w+): limit(?:OrNone)?\(routerLimits\.(\w+), ([\d_* ]+)\)/g,
      ),
    ];
    expect(taken.length).toBeGreaterThan(0);
    for (const [, variable, name, max] of taken) {
      const [base, power] = max!.split('**');
      const greatest = power ? Number(base) ** Number(power) : productOf(max!);
      expect(sectionRows('Router').get(name!)).toContain(`\`${variable}\`, to ${greatest.toLocaleString('en-US')} |`);
    }
  });

  test.each(Object.entries(defaultLimits))(
    'has the limit %s of the node, with its default %d and its variable',
    (name, value) => {
      const row = sectionRows('Node').get(name);
      expect(firstNumber(row?.split(' | ')[1])).toBe(value);
      expect(row).toContain(`\`${limitVariable(name)}\``);
    },
  );

  test.each([
    ['Router', routerLimits],
    ['Node', defaultLimits],
  ])('%s: names no limit that is not there', (title, own) => {
    const firstTable = between(limits, `## ${title}\n`, '\n## ')
      .split('\n\n')
      .find((block) => block.startsWith('| '));
    expect(missing(rowsOf(firstTable!).keys(), Object.keys(own))).toEqual([]);
  });

  const constants = [...limits.matchAll(/^\| `([A-Z_]+)` \(`([\w./-]+)`\) \| ([\d,]+)/gm)].map((match) =>
    match.slice(1),
  );
  test.each(constants)('%s of %s is %s', (name, file, value) => {
    const written = new RegExp(`\\bconst ${name} = ([\\d_* ]+);`).exec(read(file!))?.[1];
    expect(written, `${file} has no number of this name`).toBeDefined();
    expect(firstNumber(value)).toBe(productOf(written!));
  });

  test('has the timeouts of every kind of activity', () => {
    const rows = rowsOf(limits);
    const profiles = [...read('workflows/activities.ts').matchAll(/const (\w+Options) = \{([\s\S]*?)\} satisfies/g)];
    expect(profiles.length).toBeGreaterThan(0);
    for (const [, name, body] of profiles) {
      for (const timeout of allOf(body!, /ToCloseTimeout: '(\w+)'/g))
        expect(rows.get(name!), name).toContain(`| ${timeout} |`);
    }
  });
});

describe('docs/api.md', () => {
  const routes = (): string[] => {
    const found = [...allSource.matchAll(/\bapi\.(get|post|patch)(?:<\w+>)?\(\s*'(\/v1\/[^']*)'/g)].map(
      (match) => `${match[1]!.toUpperCase()} ${match[2]}`,
    );
    const steering = allOf(between(read('api/routes-operations.ts'), 'const steering = [', ']'), /'(\w+)'/g);
    return [...found, ...steering.map((action) => `POST /v1/clusters/:cluster/operations/:operation/${action}`)];
  };

  test('has every route of the API, and no other', () => {
    const told = allOf(between(api, '## Routes', '\n### '), /^\| `((?:GET|POST|PATCH) [^`]+)` \|/gm);
    expect(sorted(told)).toEqual(sorted(routes()));
  });

  test('has every type of event in the log', () => {
    const types = allOf(
      between(read('ring/events.ts'), 'type RingEvent =', 'type RingEventType'),
      /readonly type: '([^']+)'/g,
    );
    expect(types.length).toBeGreaterThan(0);
    expect(types.filter((type) => !api.includes(`\`${type}\``))).toEqual([]);
  });

  test('has examples that are JSON', () => {
    for (const example of allOf(api, /```json\n([\s\S]*?)```/g))
      expect(() => JSON.parse(example), example).not.toThrow();
  });

  test("has all fields of an operation's progress in its example", () => {
    const fields = allOf(
      between(read('workflows/messages.ts'), 'interface OperationProgress {', '\n}'),
      /readonly (\w+)\??:/g,
    );
    const example = allOf(api, /```json\n([\s\S]*?)```/g).map((text) => JSON.parse(text) as Record<string, unknown>);
    const progress = example.find((value) => 'phasesMs' in value) ?? {};
    expect(sorted(Object.keys(progress))).toEqual(sorted(fields));
  });
});

describe('docs/operations.md', () => {
  const cells = (line: string): string[] =>
    allOf(line, /\| ([^|]+?) (?=\|)/g).map((cell) => cell.replace(/^[`*]|[`*]$/g, ''));
  const linesOf = (title: string): string[][] =>
    between(operations, `## ${title}\n`, '\n## ')
      .split('\n')
      .filter((line) => line.startsWith('| '))
      .slice(1)
      .map(cells);

  test('has the table state × action as the workflow has it', () => {
    const wanted = Object.entries(actionTable).map(([state, row]) => [state, ...actions.map((action) => row[action])]);
    expect(linesOf('What can be done in which state')).toEqual(wanted);
  });

  test('has every code that an operation can be blocked on, and the command that goes on from there', () => {
    const codes = [...rowsOf(between(errors, '## All codes', '\n## '))].flatMap(([code, row]) =>
      row.split(' | ')[1]?.includes('blocked') ? [code] : [],
    );
    expect(linesOf('Blocked: what goes on from there')).toEqual(
      codes.map((code) => [code, nextActionFor(code, '<operation>')]),
    );
  });
});

describe('docs/commands.md', () => {
  test('has every npm script, and no other', () => {
    const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };
    const short = new Set(['start', 'test']);
    const wanted = Object.keys(scripts).map((name) => (short.has(name) ? `npm ${name}` : `npm run ${name}`));
    const told = allOf(between(commands, '## npm scripts', '\n## '), /^\| `(npm [^`]+)` \|/gm);
    expect(sorted(told)).toEqual(sorted(wanted));
  });

  test.each([
    ['dev/demo/options.ts', '## npm run demo'],
    ['dev/chaos/options.ts', '## npm run chaos'],
    ['dev/start.ts', '## npm start'],
    ['bench/main.ts', '## npm run bench'],
    ['client/cli/program.ts', '## ringmaster'],
  ])('has every option of %s', (file, title) => {
    const section = between(`${commands}\n## `, `${title}\n`, '\n## ');
    const options = allOf(read(file), /(?:option|Option)\(\s*'(--[a-z-]+)/g);
    expect(options.length).toBeGreaterThan(0);
    expect(options.filter((option) => !new RegExp(`${option}(?![a-z-])`).test(section))).toEqual([]);
  });

  test('has every command of `ringmaster`', () => {
    const section = between(`${commands}\n## `, '## ringmaster\n', '\n## ');
    const named = allOf(read('client/cli/program.ts'), /\.command\('(\w+)'\)/g);
    const steering = allOf(between(read('client/cli/commands/steer.ts'), 'const steering = {', '}'), /^\s*(\w+):/gm);
    const told = allOf(section, /^\| `([a-z ]+?)[ `]/gm).concat(
      allOf(section, /^\| `(?:cluster|limits|node|ring) ([a-z]+)/gm),
    );
    expect(missing([...named, ...steering], told)).toEqual([]);
  });

  test('has every exit code of `ringmaster`', () => {
    const section = between(`${commands}\n## `, '## ringmaster\n', '\n## ');
    const codes = allOf(between(read('client/cli/exit-codes.ts'), 'const exitCodes = {', '}'), /\w+: (\d)/g);
    expect(allOf(section, /^\| (\d) \|/gm)).toEqual(codes);
  });

  test("has every field of the demo's report", () => {
    const report = read('dev/demo/report.ts');
    const checker = read('dev/checker/checker.ts');
    const fieldsOf = (text: string, name: string): string[] =>
      allOf(between(text, `interface ${name} {`, '\n}'), /^ {2}readonly (\w+)\??:/gm);
    const wanted = [
      ...fieldsOf(report, 'DemoReport').map((field) => `\`${field}`),
      ...fieldsOf(report, 'OperationReport').map((field) => `\`operations[].${field}\``),
      ...fieldsOf(report, 'Quantiles').map((field) => `\`${field}\``),
      ...fieldsOf(checker, 'EventCounts').map((field) => `\`events.${field}\``),
      ...allOf(between(report, 'readonly throughput: {', '}'), /readonly (\w+):/g).map(
        (field) => `\`throughput.${field}\``,
      ),
    ];
    const section = between(commands, '### The report', '\n## ');
    expect(wanted.filter((field) => !section.includes(field))).toEqual([]);
  });

  test("has every field of chaos' report, and every kind of fault", () => {
    const report = read('dev/chaos/report.ts');
    const fieldsOf = (text: string, name: string): string[] =>
      allOf(between(text, `interface ${name} {`, '\n}'), /^ {2}(?:readonly )?(\w+)\??:/gm);
    const wanted = [
      ...fieldsOf(report, 'ChaosReport'),
      ...fieldsOf(report, 'ChaosFault'),
      ...fieldsOf(read('dev/chaos/operator.ts'), 'OperationsSeen'),
      ...allOf(between(read('dev/chaos/plan.ts'), 'chaosKinds = [', ']'), /'(\w+)'/g),
      ...allOf(between(read('dev/chaos/plan.ts'), 'type ChaosBlow =', ';'), /'([^']+)'/g),
    ];
    const section = between(commands, '## npm run chaos\n', '\n## ');
    expect(wanted.filter((field) => !section.includes(`\`${field}\``))).toEqual([]);
  });
});
