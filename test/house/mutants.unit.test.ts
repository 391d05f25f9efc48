/** Goal: the list of guards cannot rot. Method: each is looked for in the source and among the tests; nothing is run (`npm run test:mutants` does that). */
import { existsSync, readFileSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { guards } from '../mutants/guards.ts';

const PROJECT = fileURLToPath(new URL('../..', import.meta.url));
const read = (file: string): string => readFileSync(path.join(PROJECT, file), 'utf8');

describe('the list of guards', () => {
  test('names each once', () => {
    const names = guards.map(({ name }) => name);
    expect(names.filter((name, index) => names.indexOf(name) !== index)).toEqual([]);
  });

  test.each(guards)('$name: its text is in $file, once, and the mutant parses', ({ file, find, replace }) => {
    const parts = read(file).split(find);
    expect(parts.length - 1, `times that the text occurs in ${file}`).toBe(1);
    const mutant = parts.join(replace);
    expect(mutant).not.toBe(parts.join(find));
    if (file.endsWith('.ts')) expect(() => stripTypeScriptTypes(mutant)).not.toThrow();
  });

  test.each(guards)('$name: its tests are there', ({ tests, only, because }) => {
    expect(tests.filter((file) => !existsSync(path.join(PROJECT, file)))).toEqual([]);
    expect(tests.length * only.length * because.length).toBeGreaterThan(0);
  });
});
