/** The thread of thread.ts: one question, one answer. */
import { parentPort, workerData } from 'node:worker_threads';
import { compareSteps } from './compare.ts';
import { explore } from './explore.ts';
import { Protocol } from './protocol.ts';
import type { Question } from './thread.ts';

const question = workerData as Question;
parentPort!.postMessage(
  question.what === 'compare'
    ? compareSteps(question.bounds)
    : explore(new Protocol(question.bounds, question.bugs), { statesMax: question.statesMax }),
);
