// A lock between processes: a folder, because mkdir either makes it or fails.
// The holder touches it every second. It is stale when its holder's process is gone (same machine), or was not touched for STALE_MS
// (another machine or container on a shared file system, where a process number tells nothing).
import { mkdir, readFile, rename, rm, rmdir, stat, utimes, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const STALE_MS = 20_000;
const LOOK_AGAIN_MS = 100;
const OWNER = 'owner.json';

/**
 * Runs `work` while holding the lock `folder`; waits as long as another one holds it.
 * @template T
 * @param {string} folder
 * @param {() => Promise<T>} work
 * @param {{ onWait?: () => void }} [options] `onWait` is called once, if the lock is not free at once
 * @returns {Promise<T>}
 */
export async function withLock(folder, work, options = {}) {
  await mkdir(path.dirname(folder), { recursive: true });
  let waited = false;
  while (!(await tryTake(folder))) {
    if (!waited) options.onWait?.();
    waited = true;
    await breakIfStale(folder);
    await sleep(LOOK_AGAIN_MS);
  }
  const touching = setInterval(() => {
    const now = new Date();
    utimes(folder, now, now).catch(() => {});
  }, 1000);
  touching.unref();
  try {
    return await work();
  } finally {
    clearInterval(touching);
    await rm(folder, { recursive: true, force: true });
  }
}

/** @param {string} folder */
async function tryTake(folder) {
  try {
    await mkdir(folder);
  } catch (err) {
    if (/** @type {NodeJS.ErrnoException} */ (err).code === 'EEXIST') return false;
    throw err;
  }
  await writeFile(path.join(folder, OWNER), JSON.stringify({ pid: process.pid, host: hostname() }));
  return true;
}

/**
 * Two processes may both find the lock stale; only the one that makes the `.breaking` folder looks again and removes it, so that none
 * removes a lock which the other has just taken.
 * @param {string} folder
 */
async function breakIfStale(folder) {
  if (!(await isStale(folder))) return;
  const breaking = `${folder}.breaking`;
  try {
    await mkdir(breaking);
  } catch {
    const age = await ageMs(breaking);
    if (age !== null && age > STALE_MS) await rmdir(breaking).catch(() => {});
    return;
  }
  try {
    if (await isStale(folder)) {
      const gone = `${folder}.stale-${process.pid}`;
      await rename(folder, gone);
      await rm(gone, { recursive: true, force: true });
    }
  } catch {
    // It vanished meanwhile: fine.
  } finally {
    await rmdir(breaking).catch(() => {});
  }
}

/** @param {string} folder */
async function isStale(folder) {
  const age = await ageMs(folder);
  if (age === null) return false;
  if (age > STALE_MS) return true;
  try {
    const owner = JSON.parse(await readFile(path.join(folder, OWNER), 'utf8'));
    return owner.host === hostname() && !isAlive(owner.pid);
  } catch {
    return false; // just made, its owner not written yet; if never, then it ages
  }
}

/** @param {string} folder */
async function ageMs(folder) {
  try {
    return Date.now() - (await stat(folder)).mtimeMs;
  } catch {
    return null;
  }
}

/** @param {number} pid */
function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (err) {
    return /** @type {NodeJS.ErrnoException} */ (err).code === 'EPERM';
  }
}
