/** Where `npm start` leaves the API's address and token for the command line: a file that only its user can read. */
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import path from 'node:path';
import { z } from 'zod';
import { CodedError } from '../kit/errors.ts';

const connection = z.object({ url: z.url(), token: z.string().min(1) });
export type ApiConnection = z.infer<typeof connection>;

/** `$XDG_STATE_HOME/ringmaster/api.json`, by default below `~/.local/state`. */
export function connectionFilePath(env: Record<string, string | undefined> = process.env): string {
  const named = env['XDG_STATE_HOME'];
  // The XDG specification: a relative path is invalid and to be ignored.
  const state = named && path.isAbsolute(named) ? named : path.join(env['HOME'] ?? homedir(), '.local', 'state');
  return path.join(state, 'ringmaster', 'api.json');
}

/** Replaces what is there at once (rename): a reader never sees half of it. The mode is set at the making: at no moment can others read it. */
export function writeConnectionFile(content: ApiConnection, file: string = connectionFilePath()): void {
  mkdirSync(path.dirname(file), { recursive: true, mode: 0o700 });
  const scratch = `${file}.${process.pid}.tmp`;
  rmSync(scratch, { force: true });
  writeFileSync(scratch, `${JSON.stringify(content)}\n`, { mode: 0o600, flag: 'wx' });
  renameSync(scratch, file);
}

/** Takes the file away, if it still speaks of `url` (another `npm start` may have replaced it). */
export function removeConnectionFile(url: string, file: string = connectionFilePath()): void {
  if (readConnectionFile(file)?.url === url) rmSync(file, { force: true });
}

/** Null where there is none. Throws CONNECTION_FILE_INVALID. */
export function readConnectionFile(file: string = connectionFilePath()): ApiConnection | null {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw new CodedError('CONNECTION_FILE_INVALID', `${file} cannot be read`, { file }, { cause: error });
  }
  try {
    return connection.parse(JSON.parse(text));
  } catch (error) {
    throw new CodedError('CONNECTION_FILE_INVALID', `${file} holds no { url, token }`, { file }, { cause: error });
  }
}
