/** What processes logged, as lines for the report. */
import { readFile } from 'node:fs/promises';
import type { LogLine } from './report.ts';

/** Lines that are no JSON (a crash's stack) and logs that do not exist are nothing to the report. */
export async function readLog(file: string): Promise<LogLine[]> {
  const text = await readFile(file, 'utf8').catch(() => '');
  return text.split('\n').flatMap((line) => {
    if (!line.startsWith('{')) return [];
    try {
      return [JSON.parse(line) as LogLine];
    } catch {
      return [];
    }
  });
}
