// Which folder may import from which: the table in ARCHITECTURE.md, as code. Checked by `npm run lint`.
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';

/**
 * `ours`: what may be imported; an entry is a folder, or a file (a folder's one public file); `types:` before it: by `import type` only.
 * `packages`: null means any package and any Node builtin; a list means only these.
 * @typedef {{ ours: string[] | null, packages: string[] | null }} Rule
 */
const CONTRACT = ['dataplane/contract.ts', 'dataplane/contract/'];
/** @type {Record<string, Rule>} */
export const RULES = {
  ring: { ours: [], packages: [] },
  kit: { ours: [], packages: null },
  workflows: { ours: ['ring/', 'types:activities/'], packages: ['@temporalio/workflow', '@temporalio/common'] },
  activities: {
    ours: [
      'ring/',
      'kit/',
      'ringstore/',
      'jobsdb/',
      'dataplane/',
      'platform/',
      'workflows/messages.ts',
      'router/',
      'node/',
    ],
    packages: null,
  },
  workers: {
    ours: [
      'ring/',
      'kit/',
      'ringstore/',
      'jobsdb/',
      'dataplane/',
      'platform/',
      'activities/',
      'workflows/messages.ts',
      'types:workflows/',
    ],
    packages: null,
  },
  client: { ours: ['workflows/messages.ts', 'ring/', 'kit/'], packages: null },
  api: { ours: ['client/', 'ring/', 'ringstore/', 'jobsdb/', 'dataplane/', 'platform/', 'kit/'], packages: null },
  operator: {
    ours: ['client/', 'workflows/messages.ts', 'ring/', 'ringstore/', 'dataplane/', 'platform/', 'kit/'],
    packages: null,
  },
  ringstore: { ours: ['ring/', 'kit/'], packages: null },
  jobsdb: { ours: ['ring/', 'kit/'], packages: null },
  dataplane: { ours: ['jobsdb/', 'ring/', 'ringstore/', 'platform/', 'kit/'], packages: null },
  platform: { ours: ['kit/'], packages: null },
  router: { ours: ['ring/', 'ringstore/', ...CONTRACT, 'kit/'], packages: null },
  node: { ours: ['ring/', 'ringstore/', 'jobsdb/', ...CONTRACT, 'kit/'], packages: null },
};

const SOURCE = /\.(ts|mts|mjs|js)$/;
// `import … from 'x'`, `export … from 'x'`, `import 'x'`, `import('x')`, `require('x')`; one statement never holds a quote or a semicolon before its `from`.
const STATEMENT = /\b(import|export)\s+(type\s+(?!from\b|,))?([^'"`;()]*?)\bfrom\s*(['"])([^'"]+)\4/g;
const BARE = /\bimport\s*(['"])([^'"]+)\1/g;
const CALL = /\b(?:import|require)\s*\(\s*(['"`])([^'"`]+)\1/g;

/**
 * @param {string} source
 * @returns {{ specifier: string, typeOnly: boolean, line: number }[]}
 */
export function importsOf(source) {
  const text = withoutComments(source);
  /** @param {number} at */
  const lineOf = (at) => text.slice(0, at).split('\n').length;
  const found = [];
  for (const match of text.matchAll(STATEMENT)) {
    found.push({
      specifier: match[5] ?? '',
      typeOnly: match[2] !== undefined,
      line: lineOf(match.index + match[0].length),
    });
  }
  for (const match of text.matchAll(BARE))
    found.push({ specifier: match[2] ?? '', typeOnly: false, line: lineOf(match.index) });
  for (const match of text.matchAll(CALL))
    found.push({ specifier: match[2] ?? '', typeOnly: false, line: lineOf(match.index) });
  return found;
}

/**
 * Comments become spaces (lines stay where they are), so that an import in prose is none. Strings are skipped as they are.
 * @param {string} source
 */
function withoutComments(source) {
  return source.replace(
    /("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`(?:[^`\\]|\\[\s\S])*`)|(\/\/[^\n]*|\/\*[\s\S]*?\*\/)/g,
    (_all, string, comment) => string ?? comment.replace(/[^\n]/g, ' '),
  );
}

/**
 * What is wrong with the imports of one file.
 * @param {string} file relative to the project, with forward slashes
 * @param {string} source
 * @returns {string[]} one line each: file:line: message
 */
export function checkImports(file, source) {
  const folder = file.split('/')[0] ?? '';
  const rule = Object.hasOwn(RULES, folder) ? RULES[folder] : undefined;
  if (!rule) return [];
  /** @type {string[]} */
  const problems = [];
  for (const { specifier, typeOnly, line } of importsOf(source)) {
    const refuse = (/** @type {string} */ why) =>
      problems.push(`${file}:${line}: ${folder}/ must not import '${specifier}': ${why}`);
    if (!specifier.startsWith('.')) {
      if (rule.packages && !rule.packages.some((name) => specifier === name || specifier.startsWith(`${name}/`))) {
        refuse(
          rule.packages.length === 0
            ? 'it imports no package and no Node builtin'
            : `of packages only ${rule.packages.join(', ')}`,
        );
      }
      continue;
    }
    const target = path.posix.normalize(path.posix.join(path.posix.dirname(file), specifier));
    if (target.startsWith(`${folder}/`) || rule.ours === null) continue;
    const matching = rule.ours.filter((allowed) => {
      const where = allowed.replace(/^types:/, '');
      return where.endsWith('/') ? target.startsWith(where) : target === where;
    });
    if (matching.length === 0)
      refuse(rule.ours.length === 0 ? 'it depends on nothing of ours' : `it may depend on ${rule.ours.join(', ')}`);
    else if (!typeOnly && matching.every((allowed) => allowed.startsWith('types:')))
      refuse('only its types (import type)');
  }
  return problems;
}

/**
 * @param {string} project
 * @returns {string[]}
 */
export function checkFolders(project) {
  const problems = [];
  for (const folder of Object.keys(RULES)) {
    for (const file of sourcesBelow(project, folder))
      problems.push(...checkImports(file, readFileSync(path.join(project, file), 'utf8')));
  }
  return problems;
}

/**
 * @param {string} project
 * @param {string} folder
 * @returns {string[]}
 */
function sourcesBelow(project, folder) {
  let entries;
  try {
    entries = readdirSync(path.join(project, folder), { withFileTypes: true });
  } catch {
    return [];
  }
  return entries.flatMap((entry) => {
    const name = `${folder}/${entry.name}`;
    if (entry.isDirectory()) return entry.name === 'node_modules' ? [] : sourcesBelow(project, name);
    return SOURCE.test(entry.name) ? [name] : [];
  });
}
