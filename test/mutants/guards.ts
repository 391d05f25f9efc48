/**
 * The guards: lines that keep a promise (README.md, P1 to P6) or one of the rules without which a move is wrong, each with the test that must fail without it.
 * `npm run test:mutants` takes them out, one by one. `test/house/mutants.unit.test.ts` keeps the list true to the source.
 *
 * A mutant is valid TypeScript (or SQL), changes nothing but the guard, and leaves the rest to run: what fails must be the promise and not the program.
 */

// biome-ignore-all lint/suspicious/noTemplateCurlyInString: source text, as it stands there

export interface Guard {
  /** What holds, as a sentence. */
  readonly name: string;
  /** Which promise or rule. */
  readonly because: string;
  readonly file: string;
  /** Exact text of the source, which occurs once. */
  readonly find: string;
  readonly replace: string;
  readonly tests: readonly string[];
  /** Part of the full name of the tests that must fail: suites and test, with a space between. */
  readonly only: string;
  /** Why no test can fail: another guard stands behind this one. */
  readonly knownSurvivor?: string;
}

/** Guards of one source file, told by the same tests. */
const of = (
  file: string,
  tests: string | readonly string[],
  guards: readonly (Omit<Guard, 'file' | 'tests'> & { readonly tests?: readonly string[] })[],
): Guard[] => guards.map((guard) => ({ file, tests: typeof tests === 'string' ? [tests] : tests, ...guard }));

const HELD_HERE = ['test/mutants/held-here.int.test.ts'];
const OVERTAKEN = ['test/jobsdb/overtaken.int.test.ts'];
const ADOPT = ['test/jobsdb/adopt.int.test.ts'];
const DATASETS = ['test/node/datasets.int.test.ts'];
const PUT_AWAY = ['test/jobsdb/put-away.int.test.ts'];
const HELD_HERE_UNIT = ['test/mutants/held-here.unit.test.ts'];

export const guards: readonly Guard[] = [
  ...of('ringstore/postgres.ts', 'test/ringstore/repair.int.test.ts', [
    {
      name: 'nobody appends to a ring store that lacks what he has seen',
      because: 'history is not rewritten',
      find: 'if (known) await this.#seen.assertThere(client, clusterId, known, seen);',
      replace: '',
      only: 'a process that has seen more decides nothing on a store that was restored',
    },
    {
      name: 'nobody decides on what such a ring store holds',
      because: 'a dead-man that finds no move in it would think it aborted',
      find: 'await this.#seen.assertThere(client, clusterId, seen, hash);',
      replace: '',
      only: 'a process that has seen more decides nothing on a store that was restored',
    },
    {
      name: 'what a repair has set aside was never part of the log',
      because: 'P4: workers go on after a repair',
      find: 'if (found?.rows[0]?.aside) this.#seen.delete(clusterId);',
      replace: 'if (found?.rows[0]?.aside && clusterId === "") this.#seen.delete(clusterId);',
      only: 'and whom a process of that time has followed',
    },
  ]),
  ...of('ringstore/repair.ts', 'test/ringstore/repair.int.test.ts', [
    {
      name: 'a repair needs nodes that agree',
      because: 'two histories are two owners',
      find: 'if (disagreeing.length > 0) {',
      replace: 'if (disagreeing.length > 1_000) {',
      only: 'and that a node has followed: nothing is done, and both are named',
    },
    {
      name: 'a repair needs every member',
      because: 'who is down may have seen a hand-over that nobody else has',
      find: 'if (unheard.length > 0)',
      replace: 'if (unheard.length > 1_000)',
      only: 'a member that does not answer may have seen more',
    },
    {
      name: 'nothing is taken out of a log unasked',
      because: 'an event that was acknowledged was promised',
      find: 'if (repair.setAside.length > 0 && !setAside)',
      replace: 'if (repair.setAside.length > 1_000 && !setAside)',
      only: 'is left as it is, until somebody wants what came since set aside',
    },
    {
      name: 'what a repair appends was checked by its hashes',
      because: 'a copy is a table that somebody can edit',
      find: 'if (agreesTo !== null) assertChain(events, hashAt(agreesTo));',
      replace: ';',
      only: 'a copy that somebody has edited is refused',
    },
    {
      name: 'what was approved is what is done',
      because: 'a person has looked at it',
      find: 'if (repair.hash !== hash)',
      replace: "if (repair.hash !== hash && hash === '')",
      only: 'what was approved is done, or nothing',
    },
  ]),
  ...of('node/steward.ts', 'test/node/ring-log.int.test.ts', [
    {
      name: 'a node obeys nobody while its ring store lacks what it has seen',
      because: 'a token of another history is a number, too',
      find: "number.\n    if (this.#storeTrouble) refuse('RING_STORE_BEHIND', this.#storeTrouble.message);",
      replace: 'number.',
      only: 'a store with less is not followed',
    },
    {
      name: 'a node that starts goes on with its own copy of the log',
      because: 'an older log would open what was handed over since',
      find: 'if (!seen || there === seen.hash) {',
      replace: 'if (!seen || there === seen.hash || events.length > 0) {',
      only: 'one that starts then goes on with its own copy of the log',
    },
  ]),
  ...of('node/steward.ts', 'test/node/newer-events.int.test.ts', [
    {
      name: 'a node that does not understand the log obeys nobody',
      because: 'versions N and N-1 work together',
      find: `    if (notUnderstood.length > 0)
      refuse(
        'RING_TOO_NEW',`,
      replace: `    if (notUnderstood.length > 1_000)
      refuse(
        'RING_TOO_NEW',`,
      only: 'it goes on with what it owns, obeys no command',
    },
    {
      name: 'a node that starts in the middle of an upgrade serves what it had',
      because: 'P6',
      find: "this.#serveOwnRows('the log has events of a newer version');",
      replace: '{}',
      only: 'one that starts then serves what its rows say',
    },
    {
      name: 'a node derives nothing from a log that it does not understand',
      because: 'what it does not know may have changed who owns what',
      find: 'if (ring.notUnderstood.length > 0) {',
      replace: 'if (ring.notUnderstood.length < 0) {',
      only: 'one that starts then serves what its rows say',
    },
  ]),
  ...of('node/steward.ts', 'test/node/older-database.int.test.ts', [
    {
      name: 'a node compares its database with what it has told of it',
      because: 'P1: what an older one lacks was acknowledged',
      find: "if (because === null) {\n      if (this.#blocked?.code === 'NODE_DATABASE_OLDER')",
      replace: "if (because !== '') {\n      if (this.#blocked?.code === 'NODE_DATABASE_OLDER')",
      only: 'that comes back with a database from before some events opens nothing',
    },
    {
      name: 'the rows of an older database are closed',
      because: 'the gateway asks the rows: it would take in',
      find: 'await this.#inTurn(() => this.#closeAll());',
      replace: '',
      only: 'that comes back with a database from before some events opens nothing',
    },
  ]),
  ...of('router/ring-file.ts', 'test/router/router.unit.test.ts', [
    {
      name: 'the first ring that a router sees is kept, too',
      because: 'P6: it starts and serves while the ring store is down',
      find: 'isWriting = true; // before: where there is nothing to write yet it ends at once\n    writing = write();',
      replace: 'writing = write();\n    isWriting = true;',
      only: 'a router that is started before there is a ring keeps the first one that it sees',
    },
    {
      name: 'the ring file ends before what was not understood',
      because: 'an upgraded router would never read it',
      find: 'while (written < view.ring.version && view.ring.notUnderstood.length === 0) {',
      replace: 'while (written < view.ring.version) {',
      only: 'the ring file ends before an event of a newer version',
    },
  ]),

  // ---- the ring: who may do what, decided on the log

  ...of('ring/decide.ts', 'test/ring/decide.unit.test.ts', [
    {
      name: 'a difference is accepted by somebody, for a reason',
      because: 'what is given up is told in every later report, with who and why',
      find: "if (by === '' || reason.trim() === '')",
      replace: "if (by === 'nobody')",
      only: 'is completed where somebody accepts the difference',
    },
  ]),
  ...of('ring/decide.ts', 'test/ring/drain.unit.test.ts', [
    {
      name: 'a drained node is given nothing',
      because: 'a node out of service, or half dead, must not become an owner',
      find: "if (isDrained(ring, to)) refuse('NODE_DRAINED'",
      replace: "if (to === '') refuse('NODE_DRAINED'",
      only: 'stays a member, with what it has until that is moved away, and is given nothing',
    },
    {
      name: 'the last node that takes partitions is not drained',
      because: 'R6: somebody has to take what the others give',
      find: 'if (!ring.nodes.some(({ node }) => node !== leaving && !isDrained(ring, node)))',
      replace: 'if (ring.nodes.length === 0)',
      only: 'leaves others that take what it had',
    },
  ]),
  ...of('ring/undo.ts', 'test/ring/undo.unit.test.ts', [
    {
      name: 'what later operations have moved on is not moved back over their heads',
      because: 'P4: an undo takes back its own operation, and nothing of another',
      find: 'if (movedOn.length > 0) refuse(',
      replace: 'if (movedOn.length < 0) refuse(',
      only: 'is refused where a later operation has moved a partition on',
    },
    {
      name: 'a node that owns something of a later operation is not removed by an undo',
      because: 'P5: nothing is removed while it holds data',
      find: '!added.includes(node) || owned(node) > 0)',
      replace: '!added.includes(node))',
      only: 'a node that it added and that owns something of a later operation stays',
    },
    {
      name: 'an undo removes the highest nodes only',
      because: 'a StatefulSet drops its highest ordinals: another node would go instead',
      find: 'added.filter((node) => !staying.includes(node) && ordinalOf(node) > highestStaying)',
      replace: 'added.filter((node) => !staying.includes(node))',
      only: 'a node below another that a later operation added stays',
    },
  ]),
  ...of('workflows/operation.ts', 'test/workflows/accept-difference.int.test.ts', [
    {
      name: 'an accepted difference is about one move',
      because: 'nothing else is accepted, and nothing in silence',
      find: 'if (this.#accepted?.move !== move) return {};',
      replace: 'if (!this.#accepted) return {};',
      only: 'with an accepted difference the move is completed without certificate',
    },
  ]),
  ...of('activities/pods.ts', 'test/workflows/half-dead.int.test.ts', [
    {
      name: 'a node that answers is not forgotten',
      because: 'P1: what it holds is not lost',
      find: '        if (alive) {\n',
      replace: '        if (!alive) {\n',
      only: 'a node whose database answers is not forgotten',
    },
  ]),
  ...of('node/steward.ts', 'test/workflows/half-dead.int.test.ts', [
    {
      name: 'what is stale is put away before a partition is owned without a move',
      because: 'S4: pending rows of a partition that was given away are gone before it can be owned again',
      find: 'if (unprepared.length > 0 && isMember(ring, this.#session.node))',
      replace: 'if (unprepared.length < 0 && isMember(ring, this.#session.node))',
      only: 'what is stale at a node is put away before it becomes the owner without a move',
    },
  ]),
  ...of('activities/caretakers.ts', 'test/workflows/half-dead.int.test.ts', [
    {
      name: 'a node of which nothing answers blocks by name',
      because: 'P4, P5: nothing is skipped in silence, and what is at risk is told',
      find: 'else if (silentMs >= deps.limits.lostAfterMs) throw',
      replace: 'else if (silentMs < 0) throw',
      only: 'its database gone too the operation is blocked',
    },
  ]),

  ...of('jobsdb/throttle.ts', 'test/jobsdb/throttle.unit.test.ts', [
    {
      name: 'the brake is on above the threshold',
      because: 'a move is gentle on live traffic',
      find: 'if (worst && share > 1) this.#halve(worst, at);',
      replace: 'if (worst && share > 1_000) this.#halve(worst, at);',
      only: 'halves the rate where commits are slow',
    },
    {
      name: 'a braked move goes on',
      because: 'P4: no state is without an exit; a move helps a node that has too much',
      find: 'rate: isFelt ? Math.max(floor, rate / 2) : rate,',
      replace: 'rate: isFelt ? rate / 2 : rate,',
      only: 'never goes below a quarter of what the copy can do',
    },
    {
      name: 'the brake lets go',
      because: 'a move ends',
      find: 'if (braking.rate >= most * LET_GO_AT) this.#braking = null;',
      replace: 'if (braking.rate >= most * LET_GO_AT) braking.rate = most;',
      only: 'lets go in steps once it does not hurt any more',
    },
    {
      name: 'who waits for a limit is let go when the copy is aborted',
      because: 'P4: an abort is not kept waiting by a limit',
      find: 'undefined, { signal: this.#signal })',
      replace: 'undefined)',
      only: 'the wait ends with the reason of the abort',
    },
  ]),
  ...of('workflows/run-moves.ts', 'test/workflows/scale-cluster.int.test.ts', [
    {
      name: 'moves at a node wait for each other',
      because: "a node's disk and its users feel one move at a time, unless told otherwise",
      find: "if (move.state !== 'waiting' || running.has(move) || !isFree(move.from) || !isFree(move.to)) return false;",
      replace: "if (move.state !== 'waiting' || running.has(move)) return false;",
      only: 'moves never more than one batch at a node at a time',
    },
  ]),
  ...of('node/processor.ts', 'test/node/delivery.int.test.ts', [
    {
      name: 'a processing whose COMMIT was lost wakes the delivery',
      because: 'P1: an event that was acknowledged is delivered, without waiting for the next one',
      find: 'if (error instanceof OutcomeUnknown) this.#deps.onProcessed(',
      replace: 'if (isSuperseded(error)) this.#deps.onProcessed(',
      only: 'whose processing was committed although its COMMIT was lost',
    },
  ]),
  ...of('node/delivery.ts', 'test/node/load.int.test.ts', [
    {
      name: 'what waits for a slow destination is no load of the node',
      because: 'a brake must not hold up a move for what the move does not cause',
      find: '    const since = this.#wantedSince;\n    this.#wantedSince = null;',
      replace: '    const since = this.#wantedSince;',
      only: 'does not feel a destination that is slow',
    },
  ]),
  ...of('ring/decide.ts', 'test/ring/limits.unit.test.ts', [
    {
      name: 'a limit outside its range is refused',
      because: 'a move must neither stand still nor take more of a node than it has',
      find: "if (trouble !== null) refuse('LIMITS_INVALID'",
      replace: "if (trouble === '') refuse('LIMITS_INVALID'",
      only: 'is refused, and the refusal names field and range',
    },
  ]),
  ...of('ring/decide.ts', 'test/model/protocol.int.test.ts', [
    {
      name: 'a hand-over by an attempt that was overtaken loses an event somewhere',
      because: 'P1, P3: the claim is in the log, and the hand-over is conditional on it',
      find: 'if (started.token !== command.token) {',
      replace: 'if (started.token < 0) {',
      only: 'one move in steps as fine as they are in the code',
    },
    {
      name: 'two attempts with one token lose an event somewhere',
      because: 'P1, P3: the claim is in the log',
      find: 'if (open.attempt === command.attempt) return [];',
      replace: 'if (open.attempt !== null) return [];',
      only: 'one move in steps as fine as they are in the code',
    },
  ]),
  ...of('ring/decide.ts', 'test/ring/decide.unit.test.ts', [
    {
      name: 'a hand-over is refused to an attempt that was overtaken',
      because: 'P1, P3: the claim is in the log, and the hand-over is conditional on it',
      find: 'if (started.token !== command.token) {',
      replace: 'if (started.token < 0) {',
      only: 'is not handed over by an attempt that was overtaken',
    },
    {
      name: 'each newer attempt gets a token of its own',
      because: 'P1, P3: the claim is in the log',
      find: 'if (open.attempt === command.attempt) return [];',
      replace: 'if (open.attempt !== null) return [];',
      only: 'is not handed over by an attempt that was overtaken',
    },
    {
      name: 'a move that was handed over is not aborted',
      because: 'P1: of hand-over and abort exactly one wins',
      find: "if (open.state === 'handed over')\n        refuse('MOVE_HANDED_OVER'",
      replace: "if (open.token < 0)\n        refuse('MOVE_HANDED_OVER'",
      only: 'once handed over it is not aborted',
    },
    {
      name: 'a move that was handed over is not claimed again',
      because: 'P3: a second hand-over would change owners twice',
      find: "if (open.state === 'handed over')\n    refuse('MOVE_HANDED_OVER'",
      replace: "if (open.token < 0)\n    refuse('MOVE_HANDED_OVER'",
      tests: HELD_HERE_UNIT,
      only: 'a move that was handed over is not claimed again',
    },
    {
      name: 'an operation whose freeze was taken over starts no more moves',
      because: 'one operation holds the topology',
      find: '  if (moveOf(ring, move)) return [];\n  assertHeld(ring, command.holder);',
      replace: '  if (moveOf(ring, move)) return [];',
      only: 'appends of the old holder are refused after a take-over',
    },
    {
      name: 'a freeze is taken over only from the holder that was seen dead',
      because: 'one operation holds the topology: a take-over is conditional',
      find: 'if (command.takeOverFrom === ring.freeze.holder) {',
      replace: 'if (command.takeOverFrom !== undefined) {',
      only: 'is not taken over from a holder that has changed since it was seen',
    },
    {
      name: 'a ring that is held is not frozen by another run',
      because: 'one operation holds the topology',
      find: "if (!ring.freeze) return [{ type: 'ring frozen'",
      replace: "if (!ring.freeze || command.by.runId) return [{ type: 'ring frozen'",
      only: 'freezing is refused to another run',
    },
    {
      name: 'a freeze does not end while a move is started',
      because: 'P4: no move is left without an operation that ends it',
      find: "if (started.length > 0) refuse('MOVES_OPEN'",
      replace: "if (started.length < 0) refuse('MOVES_OPEN'",
      only: 'freezing does not end while a move is started',
    },
    {
      name: 'a node does not leave while it owns a partition',
      because: 'P5',
      find: "if (owned.length > 0)\n        refuse('NODE_NOT_EMPTY'",
      replace: "if (owned.length < 0)\n        refuse('NODE_NOT_EMPTY'",
      only: 'a node does not leave while it owns a partition',
    },
    {
      name: 'a node does not leave while a move names it',
      because: 'P5',
      find: "if (open) refuse('NODE_NOT_EMPTY'",
      replace: "if (open && open.token < 0) refuse('NODE_NOT_EMPTY'",
      only: 'a node does not leave while a move names it',
    },
    {
      name: 'a node does not come back with another database',
      because: 'P1: an empty, another or an older database never opens anything',
      find: 'if (known && known.databaseId !== command.facts.databaseId) {',
      replace: "if (known && known.databaseId === '') {",
      only: 'a node does not come back with another database',
    },
    {
      name: 'a move starts from the owner',
      because: 'R4',
      find: 'if (ring.owners[partition] !== from) {',
      replace: "if (ring.owners[partition] === '') {",
      only: 'a move starts from the owner',
    },
    {
      name: 'a move goes to a member',
      because: 'R4',
      find: "if (!isMember(ring, to)) refuse('NODE_UNKNOWN'",
      replace: "if (to === '') refuse('NODE_UNKNOWN'",
      only: 'a move starts to a member',
    },
    {
      name: 'no partition is in two moves',
      because: 'R4',
      find: "if (other) refuse('MOVE_INVALID'",
      replace: "if (other && other.token < 0) refuse('MOVE_INVALID'",
      only: 'starts with partitions that no other move names',
    },
    {
      name: 'a partition does not leave its new owner before the former one has put away what it held',
      because: 'P3: stale rows are gone before a node can own the partition again',
      find: "if (uncleaned) refuse('MOVES_OPEN'",
      replace: "if (uncleaned && uncleaned.token < 0) refuse('MOVES_OPEN'",
      only: 'is not started for a partition whose last move is not cleaned up',
    },
    {
      name: 'a move is completed only after its hand-over',
      because: 'P1',
      find: "if (open.state !== 'handed over') refuse('MOVE_INVALID'",
      replace: "if (open.token < 0) refuse('MOVE_INVALID'",
      only: 'is completed only after its hand-over',
    },
    {
      name: 'nothing is decided on a log that is not understood',
      because: 'versions N and N−1 work together',
      find: "if (ring.notUnderstood.length > 0) {\n    refuse(\n      'RING_TOO_NEW'",
      replace: "if (ring.notUnderstood.length < 0) {\n    refuse(\n      'RING_TOO_NEW'",
      only: 'is folded, and then nothing is decided',
    },
  ]),

  ...of('ring/partition.ts', 'test/ring/hash.unit.test.ts', [
    {
      name: 'a key beyond ASCII is hashed as UTF-8',
      because: 'P3: routers and nodes would find another partition for it than RudderStack',
      find: 'if (c > 0x7f) return murmur3(utf8.encode(text));',
      replace: '',
      only: 'a key is hashed as its UTF-8 bytes',
    },
  ]),
  ...of('ring/ring.ts', HELD_HERE_UNIT, [
    {
      name: 'R1: every partition has an owner',
      because: 'R1',
      find: 'if (ring.owners.length !== ring.partitionCount)',
      replace: 'if (ring.owners.length < 0)',
      only: 'the ring refuses R1: a partition without an owner',
    },
    {
      name: 'R1: owners are members',
      because: 'R1',
      find: 'if (!members.has(owner))',
      replace: "if (owner === '')",
      only: 'the ring refuses R1: an owner that is no member',
    },
    {
      name: 'R2: the epoch lies between one and the version',
      because: 'R2',
      find: 'if (ring.epoch < 1 || ring.epoch > ring.version)',
      replace: 'if (ring.epoch < 0)',
      only: 'the ring refuses R2: an epoch above the version',
    },
    {
      name: 'R3: a move is started only while somebody holds the ring',
      because: 'R3',
      find: "if (!ring.freeze) fail('R3'",
      replace: "if (ring.version < 0) fail('R3'",
      only: 'the ring refuses R3: a started move and no freeze',
    },
    {
      name: 'R4: no partition is in two started moves',
      because: 'R4',
      find: "if (other !== undefined) fail('R4'",
      replace: "if (other === '') fail('R4'",
      only: 'the ring refuses R4: a partition in two started moves',
    },
    {
      name: 'R4: a started move goes from the owner',
      because: 'R4',
      find: 'if (ring.owners[partition] !== open.from) {',
      replace: "if (ring.owners[partition] === '') {",
      only: 'the ring refuses R4: a started move of a partition that its source does not own',
    },
    {
      name: 'R4: a started move goes to a member',
      because: 'R4',
      find: "if (!members.has(open.to)) fail('R4'",
      replace: "if (open.to === '') fail('R4'",
      only: 'the ring refuses R4: a started move to no member',
    },
    {
      name: 'R5: nobody holds the ring under an old number',
      because: 'R5',
      find: 'if (ring.freeze && ring.freeze.holder !== ring.lastHolder) {',
      replace: 'if (ring.freeze && ring.freeze.holder < 0) {',
      only: 'the ring refuses R5: a freeze under an old holder number',
    },
    {
      name: 'R5: a token is not above the version',
      because: 'R5',
      find: "if (open.token > ring.version) fail('R5'",
      replace: "if (open.token < 0) fail('R5'",
      only: 'the ring refuses R5: a token above the version',
    },
    {
      name: 'a log with a gap is not folded',
      because: 'state is the fold of all events',
      find: 'if (recorded.version !== next.version + 1) {',
      replace: 'if (recorded.version < 0) {',
      tests: ['test/ring/decide.unit.test.ts'],
      only: 'a gap in the log is not folded',
    },
  ]),

  // ---- the log itself

  ...of('ringstore/postgres.ts', 'test/ringstore/postgres.int.test.ts', [
    {
      name: 'of two appends at one version one is refused',
      because: 'the ring store is the arbiter',
      find: 'if (codeOf(error) === UNIQUE_VIOLATION) return false;',
      replace: 'if (codeOf(error) === UNIQUE_VIOLATION) return true;',
      only: 'of many who append at the same version exactly one wins',
    },
    {
      name: 'an append that was answered survives a crash of the store',
      because: 'P4: the store acknowledges only what is durable',
      find: "await client.query('SET synchronous_commit = on');",
      replace: '',
      only: 'an append is synchronous',
    },
  ]),
  ...of('ringstore/cursor.ts', 'test/ringstore/memory.unit.test.ts', [
    {
      name: 'a store with another history is not followed',
      because: 'P6: one from an older backup must not rewrite history',
      find: 'if (this.#hash !== null && last.hash !== this.#hash) {',
      replace: "if (this.#hash === '') {",
      only: 'a watcher that knows another event at its version does not follow',
    },
  ]),

  ...of('ringstore/ringstore.ts', 'test/ringstore/memory.unit.test.ts', [
    {
      name: 'what is refused by a ring that may be old is decided by the latest',
      because: 'P4: a move is not blocked by what was true a moment ago',
      find: 'if (options.from && !isAppending(ring, command))',
      replace: 'if (false)',
      only: 'who decides from a ring that is no longer the latest appends behind the latest all the same',
    },
  ]),

  // ---- a partition's row in the node's own database decides

  ...of('jobsdb/sql/schema.ts', 'test/jobsdb/move.int.test.ts', [
    {
      name: 'a command older than one that the row has obeyed is refused',
      because: 'P1: a node keeps the token with the state, and refuses an older one',
      find: 'IF r.token > p_token THEN',
      replace: 'IF false THEN',
      only: 'a command older than one that the partition has obeyed is refused by its row',
    },
    {
      name: 'nothing is fenced that was not quiesced for the same move',
      because: 'P3: what is in flight has ended before the last rows are copied',
      find: "(p_state = 'fenced' AND r.state = 'open')",
      replace: 'false',
      tests: HELD_HERE,
      only: 'a fence without its quiesce is refused',
    },
    {
      name: 'a quiesce that is repeated does not lift the fence',
      because: 'P1: what is fenced stays fenced until the log ends the move',
      find: "SET state = CASE WHEN t.state = 'fenced' THEN 'fenced' ELSE p_state END",
      replace: 'SET state = p_state',
      only: 'a retry does not get more time for a fence that is there',
    },
    {
      name: 'intake, processing and statuses take the partition’s lock',
      because: 'P1: the partition’s row decides, inside the transaction',
      find: 'PERFORM pg_advisory_xact_lock_shared(${lockClass.partition}, p);',
      replace: 'PERFORM 1;',
      tests: ['test/node/intake.int.test.ts'],
      only: 'an event is acknowledged only after its commit',
    },
    {
      name: 'quiesce, fence and opening wait for the transactions that are inside',
      because: 'P1: an intake that checked before the fence would commit after the last read',
      find: 'PERFORM pg_advisory_xact_lock(${lockClass.partition}, p);',
      replace: 'PERFORM pg_advisory_xact_lock_shared(${lockClass.partition}, p);',
      tests: HELD_HERE,
      only: 'a fence waits for an intake that is inside',
    },
    {
      name: 'a process that is no longer the node stores nothing (RM001)',
      because: 'P1: every transaction checks the instance number',
      find: 'PERFORM pg_advisory_xact_lock_shared(${lockClass.partition}, p);\n  END LOOP;\n  SELECT n.instance INTO current_instance FROM ringmaster.node AS n;\n  IF current_instance IS DISTINCT FROM p_instance THEN',
      replace:
        'PERFORM pg_advisory_xact_lock_shared(${lockClass.partition}, p);\n  END LOOP;\n  SELECT n.instance INTO current_instance FROM ringmaster.node AS n;\n  IF false THEN',
      tests: ['test/node/intake.int.test.ts'],
      only: 'a process that is no longer the node stores and delivers nothing more',
    },
    {
      name: 'a process that is no longer the node changes no state (RM001)',
      because: 'P1: every transaction checks the instance number',
      find: 'PERFORM pg_advisory_xact_lock(${lockClass.partition}, p);\n  END LOOP;\n  SELECT n.instance INTO current_instance FROM ringmaster.node AS n;\n  IF current_instance IS DISTINCT FROM p_instance THEN',
      replace:
        'PERFORM pg_advisory_xact_lock(${lockClass.partition}, p);\n  END LOOP;\n  SELECT n.instance INTO current_instance FROM ringmaster.node AS n;\n  IF false THEN',
      only: 'a process that is no longer the node changes nothing',
    },
    {
      name: 'a new process waits for the open transactions of the former one',
      because: 'P1: what the former one still commits must not come behind the new one’s cursors',
      find: 'PERFORM pg_advisory_xact_lock(${lockClass.instance}, 0);',
      replace: 'PERFORM 1;',
      tests: HELD_HERE,
      only: 'a new process of the node waits for the open transaction of the former one',
    },
    {
      name: 'a partition whose copy is not here is not opened (RM005)',
      because: 'P1: a target that has lost its database owns nothing silently',
      find: 'WHERE NOT EXISTS (SELECT FROM ringmaster.datasets AS i WHERE i.move = m) LOOP',
      replace: 'WHERE false LOOP',
      tests: HELD_HERE,
      only: 'a partition that was handed over without a copy here is not opened',
    },
    {
      name: 'the rows of an import are invisible until the hand-over',
      because: 'P3: nobody opens before the log says so',
      find: 'VALUES (p_prefix, n, p_move, p_move IS NULL);',
      replace: 'VALUES (p_prefix, n, p_move, true);',
      tests: HELD_HERE,
      only: 'what is imported is not seen before the hand-over',
    },
    {
      name: 'an opening that is rehearsed is undone',
      because: 'P3: nobody opens before the log says so',
      find: "RAISE EXCEPTION 'undone' USING ERRCODE = 'RM000';",
      replace: 'NULL;',
      tests: HELD_HERE,
      only: 'what is imported is not seen before the hand-over',
    },
    {
      name: 'statuses of the new owner lie above the imported ones',
      because: 'P3: the highest id is a job’s state',
      find: 'coalesce(max(id), 0) + 1, false) AS next FROM %1$s',
      replace: '1, false) AS next FROM %1$s LIMIT 1',
      only: 'a status written at the new owner outranks every status that came along',
    },
    {
      name: 'an older attempt reserves no ids',
      because: 'P1: a write at the target holds the token row',
      find: 'IF held IS DISTINCT FROM p_token THEN',
      replace: 'IF false THEN',
      tests: HELD_HERE,
      only: 'an older attempt begins no pass once a newer one has prepared',
    },
    {
      name: 'ids are reserved while nobody draws any',
      because: 'P2: nothing that the target takes in falls into a block',
      find: 'PERFORM pg_advisory_xact_lock(${lockClass.jobIds}, 0);',
      replace: 'PERFORM 1;',
      tests: HELD_HERE,
      only: 'a reservation waits for whoever draws ids at the target',
    },
    {
      name: 'ids of later passes, and of what the target takes in, lie above',
      because: 'P2: order within a user is the order of ids',
      find: "IF length > 0 THEN PERFORM setval(format('ringmaster.%I', prefix || '_job_id')::regclass, given + length); END IF;",
      replace: '',
      only: 'there and back and there again',
    },
  ]),

  // ---- writes at the target hold the token row

  ...of('jobsdb/imports.ts', 'test/jobsdb/move.int.test.ts', [
    {
      name: 'an older attempt writes no row',
      because: 'P1, P3: every write at the target checks the token',
      find: 'if (Number(held.rows[0]?.token) !== token)',
      replace: 'if (held.rows.length < 0)',
      tests: HELD_HERE,
      only: 'an older attempt writes no row, also in a pass that it has begun',
    },
    {
      name: 'the token row is held until the commit',
      because: 'P3: a chunk in flight would land after the retry has prepared',
      find: 'WHERE move = ${quoteLiteral(move)} FOR SHARE`;',
      replace: 'WHERE move = ${quoteLiteral(move)}`;',
      tests: HELD_HERE,
      only: 'a newer attempt waits for a write that the older one has begun',
    },
    {
      name: 'prepare raises the token',
      because: 'P3: the older attempt is refused from then on',
      find: "await client.query('UPDATE ringmaster.imports SET token = $2 WHERE move = $1', [move, token]);",
      replace: '',
      only: 'an older attempt cannot write at the target once a newer one has prepared',
    },
    {
      name: 'an older attempt does not lower the token',
      because: 'P3: the token only grows',
      find: 'if (held > token) throw',
      replace: 'if (held < 0) throw',
      tests: HELD_HERE,
      only: 'an older attempt does not lower the token of an import',
    },
    {
      name: 'a newer attempt ends an older one’s open write',
      because: 'P4: a worker that stands still keeps its target from nothing',
      find: 'await takeImport(client, aside, move);',
      replace: '',
      tests: OVERTAKEN,
      only: 'is ended for a newer attempt',
    },
    {
      name: 'no session of the current token is ended',
      because: 'P4: a command that is asked again costs nothing',
      find: 'if (held < token) {',
      replace: 'if (held <= token) {',
      tests: OVERTAKEN,
      only: 'is not ended under the current token',
    },
  ]),
  ...of('jobsdb/stale.ts', OVERTAKEN, [
    {
      name: 'who forgets a copy ends a write that is open',
      because: 'P4: a worker that stands still keeps its target from nothing',
      find: 'await takeImport(client, aside, move);',
      replace: '',
      only: 'is ended once its move is aborted',
    },
  ]),
  ...of('jobsdb/overtaken.ts', OVERTAKEN, [
    {
      name: 'an overtaken session is ended, not only waited for',
      because: 'P4: in the middle of a COPY no timeout is looked at',
      find: 'pg_terminate_backend(b.pid)',
      replace: 'false',
      only: 'is ended for a newer attempt',
    },
    {
      name: 'an overtaken session that cannot be ended is not waited for for ever',
      because: 'P4: also the session of a process that is gone would wait, with its locks',
      find: 'SET LOCAL lock_timeout = ${LOCK_MS_MAX};',
      replace: 'SET LOCAL lock_timeout = 0;',
      only: 'a session that a node has no right to end is told',
    },
  ]),

  // ---- what is asked before a move

  ...of('jobsdb/preflight.ts', 'test/jobsdb/preflight.int.test.ts', [
    {
      name: 'the list of datasets and their tables are read as they were at one moment',
      because: 'a node drops a dataset when its jobs are done, and no operation is blocked for that',
      find: "'BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY'",
      replace: "'BEGIN TRANSACTION READ ONLY'",
      only: 'a dataset that its node drops while it is looked at is not missing',
    },
    {
      name: 'a table whose columns differ between source and target is refused',
      because: 'a move that cannot work is refused by name, before it begins',
      find: 'if (differences.length === 0) return;',
      replace: 'if (differences.length >= 0) return;',
      only: 'a schema that differs is refused, with each column',
    },
    {
      name: 'rights that are missing are refused',
      because: 'a move that cannot work is refused by name, before it begins',
      find: 'if (missing.length === 0) return;',
      replace: 'if (missing.length >= 0) return;',
      only: 'missing rights are named with role, right and object',
    },
    {
      name: 'a PostgreSQL that is too old is refused',
      because: 'statements of the copy are tested from version 15 on',
      find: 'if (servers.every(({ version_num }) => version_num >= oldest)) return;',
      replace: 'if (servers.length > 0) return;',
      tests: ['test/jobsdb/versions.int.test.ts'],
      only: 'a PostgreSQL that is too old is refused by a node at its start',
    },
  ]),
  ...of('jobsdb/trouble.ts', 'test/jobsdb/trouble.int.test.ts', [
    {
      name: 'of a refused row nothing is told that it holds',
      because: 'no payload stands in a message, a history or a log',
      find: "const words = quotes ? '' :",
      replace: "const words = quotes && trouble.message === '' ? '' :",
      only: 'a value that PostgreSQL quotes in its own words',
    },
    {
      name: 'nor is what PostgreSQL said of it handed on as the cause',
      because: 'no payload stands in a message, a history or a log',
      find: 'quotes ? {} : { cause: error },',
      replace: 'quotes && trouble.message === "" ? {} : { cause: error },',
      only: 'a value that PostgreSQL quotes in its own words',
    },
    {
      name: 'a full disk is told by name, and not tried again',
      because: 'more attempts would fill it again',
      find: 'if (!means) return error;',
      replace: "if (!means || sqlstate === '53100') return error;",
      only: 'a disk that fills up',
    },
    {
      name: 'a timeout is tried again before a person is asked',
      because: 'weather passes by itself',
      find: "if (kind === 'patient' && attempt < PATIENT_ATTEMPTS) return error;",
      replace: '',
      only: 'a statement that takes too long is tried again for a while',
    },
  ]),
  ...of('kit/pool.ts', 'test/ringstore/postgres.int.test.ts', [
    {
      name: 'a connection that is lost while it is in use ends no process',
      because: 'an outage of the ring store stops nobody (P6)',
      find: "pool.on('connect', (client) => client.on('error', () => undefined));",
      replace: '',
      only: 'in the middle of an append fails that append, and not the process',
    },
  ]),
  ...of('jobsdb/pool.ts', 'test/jobsdb/trouble.int.test.ts', [
    {
      name: 'a statement that has been silent for too long is ended',
      because: 'P4: a server that is stopped holds no move for ever',
      find: 'performance.now() - since > silenceMsMax',
      replace: 'performance.now() - since > silenceMsMax * 1_000',
      only: 'a server that is stopped in the middle does not hold the copy for ever',
    },
  ]),
  ...of('jobsdb/room.ts', 'test/jobsdb/room.int.test.ts', [
    {
      name: 'a move that has no room at its target is refused',
      because: 'a full disk ends the server, with all that its users wait for',
      find: 'if (need <= 0 || free - need >= reserve) return;',
      replace: 'if (need <= 0 || free + need >= reserve) return;',
      only: 'a move that would leave less than a tenth of the volume is refused',
    },
    {
      name: 'a part of the volume stays free',
      because: 'live traffic goes on while jobs arrive',
      find: 'if (need <= 0 || free - need >= reserve) return;',
      replace: 'if (need <= 0 || free >= need) return;',
      only: 'a move that would leave less than a tenth of the volume is refused',
    },
  ]),
  ...of('activities/move.ts', 'test/jobsdb/preflight.int.test.ts', [
    {
      name: 'it is asked before anything is prepared',
      because: 'a refused move leaves nothing at the target',
      find: 'await check(input, await roomOf(input.to)); // before anything of it is at the target',
      replace: '',
      only: 'the pre-copy asks before anything is prepared',
    },
  ]),
  ...of('jobsdb/imports.ts', 'test/jobsdb/preflight.int.test.ts', [
    {
      name: 'rows in the tables of an import that its ledger does not know refuse the copy',
      because: 'P3: they would be attached with those of the move',
      find: 'if (rows.length === 0) return;',
      replace: 'if (rows.length >= 0) return;',
      only: 'of the import that its ledger does not know refuse the copy',
    },
  ]),

  // ---- the copy

  ...of('activities/arrivals.ts', 'test/activities/arrivals.unit.test.ts', [
    {
      name: 'arrivals that outrun the copy are no cut-over',
      because: 'clients are held for a moment only',
      find: 'if (rates.restMs <= REST_MS_MAX) return',
      replace: 'if (rates.restMs >= 0) return',
      only: 'passes that grow and grow are refused',
    },
    {
      name: 'a burst is let through',
      because: 'a move that would end by itself is not refused',
      find: 'growing(passes) >= GROWING_PASSES_MAX',
      replace: 'growing(passes) >= 1',
      only: 'a burst is let through',
    },
  ]),
  ...of('activities/move.ts', 'test/activities/arrivals.int.test.ts', [
    {
      name: 'a move whose arrivals outrun its copy is refused',
      because: 'P4: it ends, by name, instead of copying for ever or holding clients for long',
      find: "if (next !== 'next pass') throw arrivalsOutrunCopy(input.move, next, pace?.state() ?? UNTHROTTLED);",
      replace: "if (next !== 'next pass') return { jobsCopied, passes: passes.length };",
      only: 'arrivals that go on outrunning a throttled copy end it by name',
    },
  ]),
  ...of('activities/move.ts', 'test/activities/cut-over.int.test.ts', [
    {
      name: 'the copy of a cut-over has no throttle',
      because: 'clients wait there',
      find: 'const copy = await openCopy(await copyJob(input, command, await target.prepare(command, signal)));',
      replace: `const { throttle } = createPace({ ringStore: deps.ringStore, ring, source, target, move: input.move, signal, log: deps.log });
    const copy = await openCopy(await copyJob(input, command, await target.prepare(command, signal), { throttle }));`,
      only: 'a cut-over under the lowest limit asks no throttle',
    },
  ]),
  ...of('jobsdb/copy-stream.ts', 'test/jobsdb/memory.int.test.ts', [
    {
      name: 'rows are passed on as they come',
      because: 'bounded memory: it does not grow with the rows',
      find: 'await pipeline([reading, ...between, writing], signal ? { signal } : {});',
      replace: 'await pipeline([await reading.toArray(), ...between, writing] as never, signal ? { signal } : {});',
      only: 'takes no more memory',
    },
  ]),
  ...of('jobsdb/copy.ts', 'test/jobsdb/move.int.test.ts', [
    {
      name: 'the first pass waits for the transactions that were writing when it took its marks',
      because: 'P1 (C3): a row with a lower id that commits late is in the pass',
      find: 'await waitForWriters(this.#source, taken, job.signal);\n    const wanted',
      replace: 'const wanted',
      only: 'is in the pass: the copy waits for transactions that were writing',
    },
    {
      name: 'later passes wait as well',
      because: 'P1 (C3): statuses and jobs that commit late',
      find: 'if (!fenced) await waitForWriters(this.#source, taken, job.signal);',
      replace: '',
      only: 'holds for statuses as well',
    },
    {
      name: 'what came in beyond the reserved ids goes as a pass of its own',
      because: 'P1',
      find: 'return isPast ? this.pass({ fenced }) : result;',
      replace: 'return result;',
      only: 'what comes in after the last ids were reserved is brought as well',
    },
    {
      name: 'an attempt that takes over ends a reserved pass at what the source has given',
      because: 'P1: ids of the block that are given later are the next pass’s',
      find: 'marks: marksNow(begun, taken, fenced) };',
      replace: 'marks: marksNow(begun, taken, true) };',
      only: 'goes on with a pass that was reserved ahead',
    },
    {
      name: 'the pending sets are compared at the cut-over',
      because: 'P1, P2: a move that cannot prove its copy aborts (VERIFY_MISMATCH)',
      find: 'if (sent.pending !== imported.pending || sent.digest !== imported.digest) {',
      replace: 'if (sent.pending < 0) {',
      only: 'after the fence finds a job below the last marks that no pass has seen',
    },
    {
      name: 'the source is asked anew, one pass further back than the copy looks',
      because: 'P1: what the last pass could not see is not missed twice',
      find: 'before.slice(0, Math.max(1, before.length - 1))',
      replace: 'before',
      only: 'after the fence finds a job below the last marks that no pass has seen',
    },
    {
      name: 'passes whose ids do not follow each other are not handed over',
      because: 'P2 (C2)',
      find: 'if (next.after < before.upTo || next.after + next.constant < before.upTo + before.constant) {',
      replace: 'if (next.after < 0) {',
      tests: HELD_HERE,
      only: 'passes whose ids do not lie above each other are found',
    },
    {
      name: 'the window of messageIds goes along',
      because: 'P3: what a client sends again is not stored again',
      find: 'if (sent > 0) await client.query(sql.takeMessageIds);',
      replace: '',
      only: 'brings the window of messageIds',
    },
  ]),
  ...of('jobsdb/copy-first.ts', 'test/jobsdb/move.int.test.ts', [
    {
      name: 'a retry goes on after the chunks that were committed',
      because: 'P4 (C1)',
      find: 'for (const chunk of done.rows) {',
      replace: 'for (const chunk of done.rows.slice(0, 0)) {',
      only: 'copies in chunks, and a retry goes on after the last one',
    },
    {
      name: 'the first pass is compared with all that is pending at its marks',
      because: 'P1: that the chunks were all of it does not rest on how they were dealt out',
      find: 'if (all !== some) throw',
      replace: 'if (all < 0) throw',
      only: 'and a range that nobody has copied is found by asking for the whole',
    },
    {
      name: 'chunks are compared by digest (COPY_DIFFERS)',
      because: 'P1 (C4): content is verified chunk by chunk',
      find: "for (const field of ['row_count', 'status_count', 'digest', 'state_digest'] as const) {",
      replace: "for (const field of ['row_count', 'status_count', 'state_digest'] as const) {",
      only: 'of the first pass finds a byte of a payload that changed',
    },
    {
      name: 'states are compared chunk by chunk',
      because: 'P1, P2 (C4): attempts and retry times travel with the jobs',
      find: "for (const field of ['row_count', 'status_count', 'digest', 'state_digest'] as const) {",
      replace: "for (const field of ['row_count', 'status_count', 'digest'] as const) {",
      only: 'of the first pass finds an attempt that differs',
    },
  ]),
  ...of('jobsdb/copy-later.ts', 'test/jobsdb/move.int.test.ts', [
    {
      name: 'what a later pass brings is compared in both databases',
      because: 'P1 (C4)',
      find: 'for (const [nth, { window, of }] of some.entries()) assertSame(job, window, of, came[nth]!);',
      replace: '',
      only: 'of a later pass finds a byte of a payload that changed',
    },
  ]),
  ...of('jobsdb/copy-marks.ts', 'test/jobsdb/move.int.test.ts', [
    {
      name: 'a copy does not go on without a dataset that it was reading (SOURCE_DATASET_GONE)',
      because: 'P3: what became of its jobs could not be told',
      find: 'if (datasets.get(prefix)?.includes(dataset)) continue;',
      replace: 'if (dataset > 0) continue;',
      only: 'finds that a dataset which it was reading has gone',
    },
  ]),

  // ---- the steward

  ...of('node/steward.ts', 'test/jobsdb/move.int.test.ts', [
    {
      name: 'a ring counts as folded only when all that follows from it is done',
      because:
        'P4: what failed for a lost database is tried again with the same events; after a ring that has them already they could never be folded',
      find: '    for (const { move, partitions } of aborted) {\n      await this.#alone(',
      replace: '    this.#ring = ring;\n    for (const { move, partitions } of aborted) {\n      await this.#alone(',
      only: 'an aborted move is forgotten at a target whose database is away just then',
    },
    {
      name: 'a command is obeyed only after the log is folded to its token (S2)',
      because: 'P1: a node that lags would lift the fence of the next move, seeing the abort of the last',
      find: 'while (this.#ring.version < token) {',
      replace: 'while (token < 0) {',
      tests: HELD_HERE,
      only: 'a node that lags obeys only after it has folded the command’s token',
    },
    {
      name: 'a command is obeyed only under the move’s latest claim (S2)',
      because: 'P1: an older one is refused',
      find: "if (move.token !== command.token)\n      refuse('STALE_TOKEN'",
      replace: "if (move.token < 0)\n      refuse('STALE_TOKEN'",
      only: 'an older attempt cannot command source or target once a newer one has claimed',
    },
    {
      name: 'prepare is refused for partitions that the node owns',
      because: 'P1: prepare touches nothing that this node owns',
      find: "if (row.state !== 'closed' || this.#ring.owners[partition] === this.#session.node) {",
      replace: 'if (row.token < -1 && partition < 0) {',
      only: 'prepare is refused for partitions that the node owns',
    },
    {
      name: 'nobody opens before the log says so (S3)',
      because: 'P2, P3: two owners',
      find: 'if (ring.owners[partition] !== this.#session.node)\n      return row === undefined',
      replace:
        'if (ring.owners[partition] !== this.#session.node && !ring.moves.some((open) => open.to === this.#session.node && open.partitions.includes(partition)))\n      return row === undefined',
      tests: HELD_HERE,
      only: 'what is imported is not seen before the hand-over',
    },
    {
      name: 'no state is derived from a position below the row’s token (S3)',
      because: 'P1: a row was set under what the node saw then',
      find: 'if (row && row.token > ring.version) return null;',
      replace: '',
      tests: HELD_HERE,
      only: 'a row that was set under a later position than the log’s stays as it is',
    },
    {
      name: 'a fence is lifted only when its move is over',
      because: 'P1: quiesce and fence survive a restart',
      find: "return moveOf(ring, row.move!)?.state === 'started' ? null : 'open';",
      replace: "return 'open';",
      only: 'a restart finds its fence as it was',
    },
    {
      name: 'a node that starts folds the whole log before it concludes anything',
      because: 'P1: from a part of the log a move that goes on looks like one that is over',
      find: '      return events;\n    }\n    const trouble = storeBehind(',
      replace: '      return events.slice(0, 100);\n    }\n    const trouble = storeBehind(',
      only: 'over a long log does not take a move that goes on for one that is over',
    },
    {
      name: 'a node with another database opens nothing',
      because: 'P1: it says so by name (NODE_OTHER_DATABASE)',
      find: 'if (!facts || facts.databaseId === this.#session.databaseId) {',
      replace: "if (!facts || facts.databaseId !== '') {",
      only: 'with another database: it opens nothing and says why',
    },
    {
      name: 'nothing starts from the moment of a quiesce',
      because: 'P3: memory first, then the locks',
      find: 'this.#work.stop(commanded.partitions);',
      replace: '',
      only: 'a command older than one that the partition has obeyed is refused by its row',
    },
    {
      name: 'a quiesce waits for what is in flight, and not for ever',
      because: 'P3: what is in flight finishes before the delta is copied',
      find: 'await this.#waitIdle(move, command.limitMs, signal);',
      replace: '',
      only: 'QUIESCE_TIMEOUT names the destination',
    },
    {
      name: 'the source aborts by itself when nobody ends the move (dead-man)',
      because: 'P4: no state is without an exit',
      find: 'const timer = setTimeout(() => void this.#abortOverdue(move, afterMs), afterMs);',
      replace: 'const timer = setTimeout(() => undefined, afterMs);',
      only: 'the source aborts by itself when nobody ends the move',
    },
    {
      name: 'a retry gets no more time for a fence that is there',
      because: 'clients are waiting',
      find: 'if (armed && (armed.fenced || !fenced)) return;',
      replace: 'if (armed && !fenced) return;',
      only: 'a retry does not get more time for a fence that is there',
    },
    {
      name: 'the copy of an aborted move is forgotten',
      because: 'P3: what it left must not be there when the partition comes again',
      find: 'await this.#alone([], (client) => dropImport(client, this.#aside, move));',
      replace: 'void move;',
      only: 'lifts the fence at the source and is forgotten at the target',
    },
    {
      name: 'the source puts away what it moved (S4)',
      because: 'P3: stale rows are never delivered',
      find: 'putAwayNext(client, begun?.rest ?? (await planPutAway(client, this.#leavers(partitions))), this.#putAwayRows),',
      replace: 'putAwayNext(client, { todo: [], after: 0 }, partitions.length),',
      only: 'brings every pending job, in order',
    },
    {
      name: 'stale pending rows are gone before a copy is made',
      because: 'P3: what a node holds of partitions that it does not own is stale',
      find: 'if (!(await isImporting(client, move.move))) {',
      replace: 'if (move.token < 0) {',
      tests: HELD_HERE,
      only: 'stale rows at the target are put away before it can own the partition',
    },
    {
      name: 'all of them: the copy is made after the last batch',
      because: 'P3: what a node holds of partitions that it does not own is stale',
      find: 'if (next.rest.todo.length > 0) return next;',
      replace: '',
      tests: PUT_AWAY,
      only: 'complete before the import is made',
    },
    {
      name: 'what a copy has brought is not stale',
      because: 'P1, P3: a retry must not forget the window of messageIds that came along',
      find: 'if (!(await isImporting(client, move.move))) {',
      replace: 'if (move.token > 0) {',
      tests: PUT_AWAY,
      only: 'a retry of the same move puts nothing away of what its copy has brought',
    },
    {
      name: 'a node has settled only when nothing is left',
      because: 'P3: stale rows are gone before a node can own the partition again',
      find: 'if (rest.todo.length > 0) {\n        this.#away',
      replace: 'if (rest.todo.length < 0) {\n        this.#away',
      tests: PUT_AWAY,
      only: 'holds up no command, and settles only when nothing is left',
    },
    {
      name: 'what is about to be received is not put away (S4)',
      because: 'P3: the copy of a move that goes on stays',
      find: '.filter((candidate) => !incoming.has(candidate))',
      replace: '',
      only: 'over a long log does not take a move that goes on for one that is over',
    },
    {
      name: 'a node that is no member puts nothing away (S4)',
      because: 'P1: nobody knows whether its pending jobs were moved',
      find: 'if (!isMember(ring, this.#session.node)) return false;',
      replace: '',
      only: 'and comes back with pending jobs, as from an older volume',
    },
  ]),

  // ---- jobs older than the ring

  ...of('jobsdb/adopt.ts', ADOPT, [
    {
      name: 'only jobs of partitions that the node owns are adopted (S5)',
      because: 'P1: those of others would count as moved away, and be put away',
      find: 'if (!pending || !owned.has(partition)) continue;',
      replace: 'if (!pending) continue;',
      only: 'adopts the pending jobs of its partitions, in place',
    },
  ]),
  ...of('node/steward.ts', ADOPT, [
    {
      name: 'jobs are adopted before anything is opened (S5)',
      because: 'P2: they come before newer ones of the same user',
      find: 'if (first && isMember(ring, this.#session.node)) await this.#adopt(ring.partitionCount);',
      replace:
        'if (first && isMember(ring, this.#session.node)) void this.#adopt(ring.partitionCount).catch(() => undefined);',
      only: 'opens nothing before all are adopted',
    },
    {
      name: 'a move whose copy has read over jobs that are adopted is aborted (S5)',
      because: 'P1: they would be handed over without having been copied',
      find: "const taking = ring.moves.find((move) => move.from === node && move.state === 'started');",
      replace: "const taking = ring.moves.find((move) => move.from === '' && move.state === 'started');",
      only: 'aborts a move that was taking their partition away',
    },
    {
      name: 'what waits to be adopted is not overtaken while the ring is not known (S5)',
      because: 'P2',
      find: 'if (this.#unadopted > 0) {\n      // Their',
      replace: 'if (this.#unadopted < 0) {\n      // Their',
      only: 'and does not reach the ring store delivers nothing until it has adopted them',
    },
  ]),
  ...of('activities/pods.ts', 'test/workflows/scale-cluster.int.test.ts', [
    {
      name: 'a ring is made of a node with jobs only where none of them has a partition',
      because: 'P1: jobs of an earlier ring would be put away',
      find: 'if (pendingJobs > 0 && ownsAll && pendingJobs === unadopted) {',
      replace: 'if (pendingJobs > 0 && ownsAll) {',
      only: 'of one node whose jobs have partitions of an earlier ring gets none',
    },
    {
      name: 'a ring is made of a node with jobs only where it will own all partitions',
      because: 'P1: they may be another’s',
      find: 'if (pendingJobs > 0 && ownsAll && pendingJobs === unadopted) {',
      replace: 'if (pendingJobs > 0 && pendingJobs === unadopted) {',
      only: 'of two nodes, one with jobs without a partition',
    },
  ]),

  // ---- datasets that come and go

  ...of('jobsdb/sql/schema.ts', DATASETS, [
    {
      name: 'a dataset with a pending job is not dropped (K1)',
      because: 'P1',
      find: "IF is_pending THEN RETURN 'pending'; END IF;",
      replace: '',
      only: 'is for a dataset without pending jobs, not for the live one',
    },
    {
      name: 'the live dataset is not dropped (K1)',
      because: 'P1: new jobs go there',
      find: 't.move IS NULL AND t.dataset > p_dataset)',
      replace: 't.move IS NULL AND t.dataset > 0)',
      only: 'is for a dataset without pending jobs, not for the live one',
    },
    {
      name: 'what was moved away is kept for the grace (K1)',
      because: 'a certificate can be made, and looked into',
      find: 'SELECT coalesce(greatest(d.migrated_at, CASE',
      replace: 'SELECT coalesce(greatest(CASE',
      only: 'waits for the grace after the last job was moved away',
    },
    {
      name: 'an import that is not attached is not dropped by the keeper',
      because: 'P1: it is the copy of a move that goes on',
      find: 't.dataset = p_dataset AND t.attached FOR UPDATE;',
      replace: 't.dataset = p_dataset FOR UPDATE;',
      only: 'waits for the grace after an import was attached',
    },
    {
      name: 'dropping a dataset queues in front of nobody (K3)',
      because: 'live traffic would wait behind it',
      find: "RETURNS text LANGUAGE plpgsql SET lock_timeout = '100ms'",
      replace: "RETURNS text LANGUAGE plpgsql SET lock_timeout = '10s'",
      only: 'gives up at once where somebody still reads',
    },
  ]),
  ...of('node/dataset-keeper.ts', DATASETS, [
    {
      name: 'nothing is dropped while a move that names the node is open (K2)',
      because: 'P1: source and target can still be compared',
      find: '!ring.moves.some((move) => move.from === session.node || move.to === session.node)',
      replace: 'ring.moves.length >= 0',
      only: 'stays while a move that names the node is open',
    },
    {
      name: 'what a dataset still holds is not looked over',
      because: 'P1: a job that is pending is where the next look begins',
      find: 'look.upTo = Number(row.pending) - 1;',
      replace: 'look.upTo = Number(row.upTo);',
      only: 'a dataset with one job that waits stays',
    },
  ]),
  ...of('node/dataset-list.ts', DATASETS, [
    {
      name: 'a dataset is out of the list before it is dropped (K3)',
      because: 'whoever asks anew must not meet a missing table',
      find: 'this.#datasets = this.#datasets.filter((other) => keyOf(other) !== key);',
      replace: '',
      only: 'a statement that was built with an older list is run again with the newer one',
    },
    {
      name: 'a statement that met a missing table is run again with the newer list',
      because: 'a dataset that goes is no trouble',
      find: 'if (!isMissingTable(error) || topology.datasets() === datasets) throw error;',
      replace: 'throw error;',
      only: 'a statement that was built with an older list is run again with the newer one',
    },
  ]),

  // ---- the node's working parts

  ...of('node/intake.ts', 'test/node/intake.int.test.ts', [
    {
      name: 'a partition is taken in only where its row says so',
      because: 'P1, P2: nodes, not routers, enforce ownership',
      find: "return state !== 'open' && state !== 'paused';",
      replace: 'return state.length === 0;',
      only: 'a partition that is not taken in',
    },
    {
      name: 'a messageId that comes twice in one group is stored once',
      because: 'P3 (I4)',
      find: 'if (seen.has(key)) return;',
      replace: '',
      only: 'a messageId that comes again is acknowledged, stored once',
    },
  ]),
  ...of('node/transaction.ts', 'test/node/intake.int.test.ts', [
    {
      name: 'what is acknowledged is committed',
      because: 'P1 (I1)',
      find: 'await this.#commit(client, inDoubt);',
      replace: 'this.#commit(client, inDoubt).catch(() => undefined);',
      only: 'a COMMIT whose answer is lost is answered 500',
    },
    {
      name: 'a commit in doubt is waited for before the next transaction',
      because: 'P1, P3: it would bring ids below a reader’s cursor',
      find: 'await this.#transaction(beginAlone(this.#session.instance, this.#inDoubt), [], async () => undefined);',
      replace: '',
      tests: HELD_HERE,
      only: 'after a commit in doubt the next transaction waits until that one has ended',
    },
  ]),
  ...of('node/processor.ts', HELD_HERE, [
    {
      name: 'only partitions whose row says open are processed',
      because: 'P3: the row decides, never memory',
      find: "const isOpen = ({ partition }: Cursor): boolean => entered.get(partition)?.state === 'open';",
      replace: 'const isOpen = ({ partition }: Cursor): boolean => entered.has(partition);',
      only: 'a partition that its row says is paused is not processed',
    },
  ]),
  ...of('node/delivery.ts', HELD_HERE, [
    {
      name: 'nothing is delivered unless the partition’s row says open (D1)',
      because: 'P3: the row decides, never memory',
      find: "const isOpen = (entered: EnteredPartitions, { place }: Lane): boolean => entered.get(place.partition)?.state === 'open';",
      replace: 'const isOpen = (entered: EnteredPartitions, { place }: Lane): boolean => entered.has(place.partition);',
      only: 'of a partition that its row says is paused nothing more is delivered',
    },
    {
      name: 'a result is written only while the partition is this node’s',
      because: 'P3: after the fence nothing changes what was copied',
      find: "isOpen(entered, lane) || entered.get(lane.place.partition)?.state === 'paused'",
      replace: 'entered.has(lane.place.partition)',
      only: 'the result of a delivery that ends after the fence is not written',
    },
  ]),
  ...of('node/lanes.ts', 'test/node/lanes.unit.test.ts', [
    {
      name: 'a job that is in flight is not started again by an opening (L3)',
      because: 'P3',
      find: 'if (row.id <= lane.lastId) continue;\n      // Of one that waits',
      replace: '// Of one that waits',
      only: 'random steps keep order, repeat nothing and forget nothing',
    },
    {
      name: 'what did not fit into memory is not overtaken (L2)',
      because: 'P2',
      find: 'if (lane.spilled || isFull) this.#setSpilled',
      replace: 'if (isFull) this.#setSpilled',
      only: 'random steps keep order, repeat nothing and forget nothing',
    },
    {
      name: 'of a user who waits for a retry one job is remembered',
      because: 'P1: many blocked users do not fill the memory, so others are delivered',
      find: 'const isFull = lane.backoff !== null || ',
      replace: 'const isFull = ',
      tests: ['test/node/delivery.int.test.ts'],
      only: 'a long queue of users who wait for a retry keeps nobody else waiting, and is delivered in order when its time comes',
    },
    {
      name: 'while rows are being read no lane is forgotten (L4)',
      because: 'P3',
      find: 'if (this.#reading) this.#leftovers.push(lane);\n    else this.#remove(lane);',
      replace: 'this.#remove(lane);',
      only: 'random steps keep order, repeat nothing and forget nothing',
    },
    {
      name: 'the next job of a user waits until the one before has ended for good (L1)',
      because: 'P2',
      find: "return lane.outcome.state === 'failed' ? undefined : lane.jobs[1];",
      replace: 'return lane.jobs[1];',
      only: 'random steps keep order, repeat nothing and forget nothing',
      knownSurvivor: '`finish` does not queue a lane whose job has failed: this is the second of two guards',
    },
  ]),

  // ---- what the orchestrator asks

  ...of('activities/move.ts', HELD_HERE, [
    {
      name: 'nothing is handed over that was not verified',
      because: 'P1: or the move aborts',
      find: 'const proof = await copy.verify();',
      replace: 'const proof = { jobsPending: 0, jobsCopied: 0, prefixes: [] };',
      only: 'a copy that differs is not handed over',
    },
    {
      name: 'trouble after the quiesce aborts the move at once',
      because: 'P4: clients are waiting',
      find: 'if (signal.aborted || isPastAborting(error)) throw error;',
      replace: 'if (signal.aborted || error) throw error;',
      only: 'trouble inside the fence aborts the move',
    },
    {
      name: 'an attempt that was overtaken aborts nothing',
      because: 'P4: the move is another attempt’s by now',
      find: 'if (signal.aborted || isPastAborting(error)) throw error;',
      replace: 'if (signal.aborted) throw error;',
      only: 'an attempt that was overtaken in its cut-over leaves the move alone',
    },
  ]),
  ...of('jobsdb/certificate.ts', 'test/jobsdb/certificate.int.test.ts', [
    {
      name: 'a certificate compares how many jobs there are',
      because: 'P5: nothing is deleted before it is proven to have arrived',
      find: 'if (!sent || !taken || from !== to)',
      replace: 'if (!sent || !taken)',
      only: 'a job that the source never put away',
    },
    {
      name: 'a certificate compares the content',
      because: 'P1',
      find: 'if (sent.digest !== taken.digest)',
      replace: "if (sent.digest === '')",
      only: 'one payload byte at the target: there is none',
    },
    {
      name: 'a certificate compares with what was proven at the hand-over',
      because: 'P5: the same jobs, not only as many on both sides',
      find: 'if (differs.length === 0 && table.jobs !== proven)',
      replace: 'if (differs.length < 0 && table.jobs !== proven)',
      only: 'other counts than were proven at the hand-over',
    },
  ]),
  ...of('jobsdb/sql/certificate.ts', 'test/jobsdb/certificate.int.test.ts', [
    {
      name: 'a certificate has an order check that does not rest on ids',
      because: 'P2',
      find: 'lag(p.uuid) OVER (PARTITION BY p.user_hash ORDER BY p.job_id)',
      replace: 'lag(p.uuid) OVER (PARTITION BY p.user_hash ORDER BY p.uuid)',
      only: 'two jobs of a user in changed places',
    },
  ]),
  ...of('activities/move.ts', 'test/activities/clean-up.int.test.ts', [
    {
      name: 'a clean-up whose answer was lost is over',
      because: 'P4: no state is without an exit',
      find: 'if (!move) return; // completed by an earlier attempt',
      replace: "if (!move) throw new Error('it is not open');",
      only: 'again it changes nothing',
    },
    {
      name: 'a move is not over before it is certified',
      because: 'P5: only then may anything of it be deleted',
      find: 'const tables = await certify({ source, target, move: record.move, partitions, proof: proof! });',
      replace:
        "const tables = proof!.prefixes.map(({ prefix, pending: jobs }) => ({ prefix, jobs, digest: '', order: '', partitions: jobs > 0 ? [[partitions[0]!, jobs, '', '', 0, 0, 0, 0] as const] : [] }));",
      only: 'where a row differs the move stays open',
    },
  ]),
  ...of('activities/verify.ts', HELD_HERE, [
    {
      name: 'a cluster whose moves lack their proof is not good',
      because: 'P5: nothing is removed before',
      find: "if (state !== 'completed' || !proof) {",
      replace: "if (state === 'aborted' && !proof) {",
      only: 'a move without its proof fails the verification of the cluster',
    },
  ]),
  ...of('activities/pods.ts', 'test/workflows/scale-cluster.int.test.ts', [
    {
      name: 'a node with pending jobs of an earlier life does not join (NODE_HAS_JOBS)',
      because: 'P1: as a member it would put them away',
      find: 'if (pendingJobs > 0) {\n      // As a member',
      replace: 'if (pendingJobs < 0) {\n      // As a member',
      only: 'a node that comes back with pending jobs in its database does not join',
    },
    {
      name: 'a node that holds pending jobs is not removed (NODE_NOT_EMPTY)',
      because: 'P5: looked at right before',
      find: "if (pendingJobs > 0)\n      throw new CodedError('NODE_NOT_EMPTY'",
      replace: "if (pendingJobs < 0)\n      throw new CodedError('NODE_NOT_EMPTY'",
      only: 'a node that still holds jobs is not removed',
    },
    {
      name: 'a node whose hand-overs are not certified is not removed (CERTIFICATE_MISSING)',
      because: 'P5: proven to have arrived, not only gone from here',
      find: 'if (uncertified.length === 0) return;',
      replace: 'if (uncertified.length >= 0) return;',
      tests: HELD_HERE,
      only: 'a node is not removed while a hand-over away from it has no certificate',
    },
    {
      name: 'a node that owns a partition is not removed (NODE_NOT_EMPTY)',
      because: 'P5',
      find: "if (owned > 0)\n      throw new RingRefusal('NODE_NOT_EMPTY'",
      replace: "if (owned < 0)\n      throw new RingRefusal('NODE_NOT_EMPTY'",
      tests: HELD_HERE,
      only: 'a node that owns a partition is not removed',
      knownSurvivor:
        'the ring refuses `leave node` by the same code right behind it (ring/decide.ts), before anything is touched',
    },
    {
      name: 'the database of a node is looked into once more before it goes',
      because: 'P5: the last look',
      find: '...(left ? { lastLook } : {}),',
      replace: '',
      tests: HELD_HERE,
      only: 'the platform is given a last look into the database of a member that leaves',
    },
    {
      name: 'the data of a node that was never looked into stays',
      because: 'P5',
      find: 'deleteData: left !== undefined && input.deleteVolumes === true,',
      replace: 'deleteData: input.deleteVolumes === true,',
      tests: HELD_HERE,
      only: 'the data of a node that never joined stays, whatever was asked',
    },
    {
      name: 'strangers above go with their data kept',
      because: 'P5: nobody has looked into them',
      find: 'deleteData: false,',
      replace: 'deleteData: true,',
      only: 'nodes that somebody added by hand above the one that leaves are removed first',
    },
    {
      name: 'a member above the node that leaves is not removed',
      because: 'P5',
      find: 'if (above.some((node) => isMember(ring, node))) throw changed;',
      replace: '',
      tests: HELD_HERE,
      only: 'a member above the node that leaves stays',
    },
  ]),
  ...of('activities/last-look.ts', HELD_HERE, [
    {
      name: 'the last look finds pending jobs',
      because: 'P5',
      find: 'if (pendingJobs > 0) {',
      replace: 'if (pendingJobs < 0) {',
      only: 'the last look finds a pending job, and lets an empty database go',
    },
  ]),
  ...of('activities/index.ts', 'test/activities/other-cluster.unit.test.ts', [
    {
      name: 'a worker of one cluster does nothing for another (WORKER_OTHER_CLUSTER)',
      because: 'P5: node-2 of one cluster must not be taken for the other’s',
      find: 'if (input.clusterId === only) return',
      replace: "if (input.clusterId !== '') return",
      only: 'a worker of one cluster refuses what its task queue brings for another',
    },
  ]),
  ...of('activities/pods.ts', 'test/activities/pods.unit.test.ts', [
    {
      name: 'a node that has left the ring goes, also where its operation is cancelled',
      because: 'P4: a cancelled operation leaves no pod behind that nobody looks for',
      find: 'platform.removeNode(node, removal);',
      replace: 'platform.removeNode(node, removal, cancellationSignal());',
      only: 'it goes all the same',
    },
  ]),
  ...of('activities/index.ts', 'test/steps/points.unit.test.ts', [
    {
      name: 'every activity of a worker comes by its fault points',
      because: 'P4: a test kills at each',
      find: 'ofCluster(deps.onlyCluster, withFaultPoints(activities))',
      replace: 'ofCluster(deps.onlyCluster, activities)',
      only: 'of a worker has its points',
    },
  ]),
  ...of('activities/fault-points.ts', 'test/steps/points.unit.test.ts', [
    {
      name: 'an activity stops also after its effect, before its answer',
      because: 'P4: the answer that is lost is the one that matters',
      find: 'await at(`${name}: after its effect`);',
      replace: '',
      only: 'comes by the one before its effect and by the one after it',
    },
  ]),
  ...of('kit/fault-points.ts', 'test/steps/points.unit.test.ts', [
    {
      name: 'what was built takes no fault points (CONFIG_INVALID)',
      because: 'no test hook in production',
      find: "if (!source.endsWith('.ts'))",
      replace: "if (source === '')",
      only: 'what was built refuses them',
    },
    {
      name: 'fault points ask a test of this machine only (CONFIG_INVALID)',
      because: 'no test hook in production',
      find: "if (at?.protocol !== 'http:' || !LOCAL.has(at.hostname))",
      replace: 'if (at === null)',
      only: 'an address of another machine is refused',
    },
    {
      name: 'a worker that was let go where it is cancelled waits for that',
      because: 'P4: a cancellation is tested where it is heard, not near it',
      find: "if (go === 'on when cancelled' && !cancelled.aborted)",
      replace: "if (go === 'on when cancelled' && cancelled.aborted)",
      only: 'goes on when its activity hears that it is cancelled',
    },
  ]),
  ...of('workers/config.ts', 'test/steps/points.unit.test.ts', [
    {
      name: 'a worker of nodes on Kubernetes takes no fault points (CONFIG_INVALID)',
      because: 'no test hook in production',
      find: 'RINGMASTER_FAULT_POINTS: z.never(NO_FAULTS).optional()',
      replace: 'RINGMASTER_FAULT_POINTS: z.string().optional()',
      only: 'a worker of nodes on Kubernetes does not start with them',
    },
  ]),
  ...of('activities/ring.ts', 'test/activities/ring.int.test.ts', [
    {
      name: 'a freeze is taken over only where its run was seen to have ended',
      because: 'one operation holds the topology',
      find: 'const takeOver = before && ended !== null ? { takeOverFrom: before.holder, because: ended } : {};',
      replace: "const takeOver = before ? { takeOverFrom: before.holder, because: ended ?? '' } : {};",
      tests: HELD_HERE,
      only: 'the freeze of a run that goes on is not taken over',
    },
    {
      name: 'where Temporal cannot be asked nobody takes over',
      because: 'one operation holds the topology',
      find: 'await deps.holders.endOf(before) : null;',
      replace: "await deps.holders.endOf(before).catch(() => 'unknown') : null;",
      only: 'where Temporal cannot be asked nobody takes over',
    },
    {
      name: 'an aborted try is never taken up again',
      because: 'P3: its copy is being forgotten',
      find: 'const nextTry = Math.max(input.tryFrom, lastTry + 1);',
      replace: 'const nextTry = input.tryFrom;',
      only: 'never takes up an aborted try again',
    },
  ]),
  ...of('workflows/scale-cluster.ts', 'test/workflows/scale-cluster.int.test.ts', [
    {
      name: 'the highest ordinals go first',
      because: 'P5: a StatefulSet drops its highest',
      find: 'ordinalOf(b) - ordinalOf(a)',
      replace: 'ordinalOf(a) - ordinalOf(b)',
      only: 'scales down: the highest ordinals are emptied, verified empty, and removed',
    },
  ]),

  // ---- the router

  ...of('router/gates.ts', 'test/router/gates.unit.test.ts', [
    {
      name: 'at a gate and in a lane requests go in the order of their arrival',
      because: 'P2',
      find: 'while (at > 0 && tickets[at - 1]!.seq > ticket.seq) at -= 1;',
      replace: '',
      tests: HELD_HERE_UNIT,
      only: 'a request that is refused late goes before the ones that came after it',
    },
    {
      name: 'of the held requests of a user one is on its way at a time',
      because: 'P2: they never overtake each other while held',
      find: 'if (lanes.some((lane) => lane.sending !== null || lane.tickets[0] !== ticket)) return;',
      replace: '',
      only: '200 seeds of requests, refusals, losses and clients that leave',
    },
    {
      name: 'one request tries at a gate, the others wait for what becomes of it',
      because: 'a node that is behind is not stormed',
      find: "if (gates.some((gate) => gate.state !== 'ready')) {",
      replace: "if (gates.some((gate) => gate.state === 'shut')) {",
      tests: HELD_HERE_UNIT,
      only: 'a request that comes while another one tries waits for what becomes of it',
    },
    {
      name: 'not-owner from a node that is ahead: its version is waited for',
      because: '421 from a node that has seen more makes the router refresh its ring',
      find: '} else if (why.version > ring.version) {',
      replace: '} else if (why.version < 0) {',
      tests: HELD_HERE_UNIT,
      only: 'a version that a node has seen and the router has not is waited for',
    },
    {
      name: 'a router holds so many requests and bytes and no more',
      because: 'bounded memory',
      find: 'if (this.#held >= heldRequestsMax || this.#heldBytes + ticket.bytes > heldBytesMax) {',
      replace: 'if (this.#held < 0) {',
      tests: ['test/router/router.unit.test.ts'],
      only: 'has a bound on requests: one more gets 503',
    },
    {
      name: 'a held request whose client has gone is dropped',
      because: 'P3: the client sends it again',
      find: "if (ticket.state === 'waiting') this.#refuseTicket(ticket, new HoldRefused('CLIENT_GONE'",
      replace: "if (ticket.seq < 0) this.#refuseTicket(ticket, new HoldRefused('CLIENT_GONE'",
      tests: HELD_HERE_UNIT,
      only: 'a held request is dropped as soon as its client has gone',
    },
  ]),
  ...of('router/gates.ts', 'test/router/gates.unit.test.ts', [
    {
      name: 'the bound on held requests is exact',
      because: 'bounded memory',
      find: 'if (this.#held >= heldRequestsMax || this.#heldBytes + ticket.bytes > heldBytesMax) {',
      replace: 'if (this.#held > heldRequestsMax || this.#heldBytes + ticket.bytes > heldBytesMax) {',
      only: 'as many requests are held as the bound says',
    },
    {
      name: 'the bound on held bytes is exact',
      because: 'bounded memory',
      find: 'if (this.#held >= heldRequestsMax || this.#heldBytes + ticket.bytes > heldBytesMax) {',
      replace: 'if (this.#held >= heldRequestsMax || this.#heldBytes + ticket.bytes > heldBytesMax + 1) {',
      only: 'as many bytes are held as the bound says',
    },
  ]),
  ...of('router/gates.ts', 'test/router/circuits.unit.test.ts', [
    {
      name: 'a dead node has half of the hold at most',
      because: 'others are held as ever',
      find: 'this.#held * 2 >= limits.heldRequestsMax ||',
      replace: '',
      only: 'a dead node never has more than half of the hold',
    },
    {
      name: 'nobody waits for a node that has not answered for as long as anybody is held',
      because: '503 at once: its users hear it, and the hold stays free',
      find: 'if (longest < limits.holdMs && !isHalfFull) return null;',
      replace: 'if (!isHalfFull) return null;',
      only: 'its requests are held, then refused at once',
    },
  ]),
  ...of('router/circuits.ts', 'test/router/circuits.unit.test.ts', [
    {
      name: 'a node that answers has no open circuit, whatever its requests fail of',
      because: 'no client can take a node away from others',
      find: '    if (answers) {',
      replace: '    if (answers && circuit.failures < 0) {',
      only: 'own sake opens no circuit',
    },
    {
      name: 'nothing is sent to a node whose circuit is open',
      because: 'no request waits for a node that is not there',
      find: "this.#circuits.get(url)?.state === 'open') {",
      replace: "url === '') {",
      only: 'a node that takes connections and says nothing',
    },
  ]),
  ...of('router/leave.ts', 'test/router/leave.unit.test.ts', [
    {
      name: 'whoever stands in the queue of the port is let in before it is closed',
      because: 'a rolling restart shows no client an error',
      find: '  await queueServed(server);',
      replace: '',
      only: 'lets in whoever stands in the queue of its port',
    },
    {
      name: 'a client that speaks while its router leaves gets its answer',
      because: 'a rolling restart shows no client an error',
      find: 'NetServer.prototype.close.call(server, () => resolve());',
      replace: 'server.close(() => resolve());',
      only: 'answers a client that speaks once more',
    },
  ]),
  ...of('router/server.ts', 'test/router/leave.unit.test.ts', [
    {
      name: 'a router that ends is not ready from then on',
      because: 'balancers send nobody new',
      find: 'ready: version > 0 && !inHand.stopping,',
      replace: 'ready: version > 0,',
      only: 'is not ready at once',
    },
  ]),
  ...of('ringstore/watch.ts', 'test/router/lease.unit.test.ts', [
    {
      name: 'a ring is confirmed only by a store that has it',
      because: 'who looks at a router must not think that its ring is the latest',
      find: 'if (fresh && rows.length < WATCH_BATCH) watcher.onLooked?.();',
      replace: 'if (rows.length < WATCH_BATCH) watcher.onLooked?.();',
      only: 'a ring is confirmed as long as the store is heard from',
    },
  ]),
  ...of('ringstore/postgres.ts', 'test/ringstore/postgres.int.test.ts', [
    {
      name: 'a router whose lease is over is not listed',
      because: 'status shows routers that live',
      find: 'WHERE cluster_id = $1 AND expires_at >= now() ORDER BY router`;',
      replace: 'WHERE cluster_id = $1 ORDER BY router`;',
      only: 'a router is listed until it ends its lease, or lets it run out',
    },
  ]),
  ...of('router/fast-path.ts', 'test/router/one-buffer.unit.test.ts', [
    {
      name: 'what came behind a request stays as it came',
      because: 'P1: the next socket reads into the same place',
      find: 'this.#behind = Buffer.from(bytes.subarray(length));',
      replace: 'this.#behind = bytes.subarray(length);',
      only: 'a request behind another one is its own',
    },
  ]),
  ...of('router/one-buffer.ts', 'test/router/one-buffer.unit.test.ts', [
    {
      name: 'a socket that is a stream again keeps what it reads',
      because: 'P1: the next socket reads into the same place',
      find: 'socket.push(Buffer.from(shared.subarray(0, length)))',
      replace: 'socket.push(shared.subarray(0, length))',
      only: 'is a stream again: what comes stays as it came',
    },
  ]),
  ...of('router/upstream.ts', 'test/router/router.unit.test.ts', [
    {
      name: 'a 421 of a node is understood, and no client sees it',
      because: 'P2: what is fenced is held',
      find: "if (outcome.kind !== 'answered' || outcome.answer.status !== 421) done(outcome);",
      replace: "if (outcome.kind !== 'answered' || outcome.answer.status !== 0) done(outcome);",
      only: 'lasts until the hand-over, keeps the order of each user',
    },
  ]),
  ...of('router/node-pool.ts', 'test/router/node-pool.unit.test.ts', [
    {
      name: 'only what a node has provably not stored is sent again',
      because: 'P3',
      find: "job?.done({ kind: 'unknown', because });",
      replace: "job?.done({ kind: 'not sent', because });",
      tests: ['test/router/router.unit.test.ts'],
      only: 'a connection that breaks after the request was sent: 502, and never again',
    },
    {
      name: 'a connection with bytes of another answer or request on it is not used again',
      because: 'an answer would be taken for another one',
      find: 'if (head.keepAlive && isClean) this.#pool.released(this);',
      replace: 'if (head.keepAlive) this.#pool.released(this);',
      only: 'that is answered before all was taken is not used again',
    },
    {
      name: 'the text of a large body is written as the bytes that it stands for',
      because: 'P1: another encoding makes other bytes of it, and more than Content-Length says',
      find: "this.#socket.write(body, 'latin1');",
      replace: 'this.#socket.write(body);',
      only: 'whose body has 40000 bytes of every kind',
    },
    {
      name: 'a connection that the node is about to close is not used again',
      because: 'P3: a request that meets the close has an unknown outcome',
      find: 'if (connection === undefined || connection.isFresh(now)) return connection;',
      replace: 'if (connection === undefined || connection.isFresh(0)) return connection;',
      only: 'that the node is about to close is not used again',
    },
  ]),
  ...of('router/answer.ts', 'test/router/node-pool.unit.test.ts', [
    {
      name: 'an answer whose end two headers tell is not read',
      because: 'what is read wrongly is taken for the next answer',
      find: "if (coding !== undefined || typeof length !== 'string'",
      replace: "if (typeof length !== 'string'",
      only: 'with a length and in chunks has an unknown outcome',
    },
  ]),
  ...of('router/plain.ts', 'test/router/plain.unit.test.ts', [
    {
      name: 'no plain request has a header twice',
      because: 'no request is smuggled in',
      find: 'for (let nth = 0; nth < count; nth += 1) if (seen[nth] === hash) return null;',
      replace: '',
      only: 'is none with: two lengths',
    },
    {
      name: 'no plain request has a header that changes where it ends',
      because: 'no request is smuggled in',
      find: "      case 'odd':\n        return null;",
      replace: "      case 'odd':\n        continue;",
      only: 'is none with: chunks',
    },
    {
      name: 'lines of a plain request end with CRLF',
      because: 'no request is smuggled in',
      find: 'if (c !== CR || text.charCodeAt(at + 1) !== LF) return null;',
      replace: 'if (c !== CR) return null;',
      only: 'is none with: a bare CR',
    },
    {
      name: 'the length of a plain request is plain digits',
      because: 'no request is smuggled in',
      find: 'if (!plainLength.test(value)) return null;',
      replace: '',
      only: 'is none with: a length with a sign',
    },
    {
      name: 'names of a plain request are letters, digits and hyphens',
      because: 'some servers read others as these',
      find: 'charTable(/[A-Za-z0-9-]/)',
      replace: 'charTable(/[A-Za-z0-9_-]/)',
      only: 'is none with: an underscore in a name',
    },
  ]),
  ...of('router/user-key.ts', 'test/router/plain.unit.test.ts', [
    {
      name: 'a text with escapes is parsed',
      because: 'P2: the user is the one that a node reads',
      find: 'if (c === BACKSLASH || c < 0x20) return -1;',
      replace: 'if (c < 0x20) return -1;',
      only: 'of 20,000 odd but valid bodies is that of the full parse',
    },
    {
      name: 'a user is read as the UTF-8 that it is',
      because: 'P2: the user is the one that a node reads',
      find: 'if (latin1.charCodeAt(at) > 0x7f) return',
      replace: 'if (latin1.charCodeAt(at) > 0xff) return',
      only: 'of 20,000 odd but valid bodies is that of the full parse',
    },
  ]),
  ...of('router/forward.ts', 'test/router/router.unit.test.ts', [
    {
      name: '2xx is answered only when every part is stored',
      because: 'P1',
      find: 'if (failed.length === 0) return answers[0]!;',
      replace: 'if (failed.length < answers.length) return answers[0]!;',
      only: 'is answered with an error that tells which events, when one part is not stored',
    },
  ]),

  // ---- the operator

  ...of('operator/decide.ts', 'test/operator/decide.unit.test.ts', [
    {
      name: 'a wish whose status was lost starts nothing twice (O1)',
      because: 'one operation for each generation',
      find: 'const isDecided = wish.decided || seen.startedForWish !== null;',
      replace: 'const isDecided = wish.decided;',
      only: 'nor where the status was lost',
    },
    {
      name: 'a wish that was decided on starts nothing (O1)',
      because: 'what others change by hand is told and never fought',
      find: 'const isDecided = wish.decided || seen.startedForWish !== null;',
      replace: 'const isDecided = seen.startedForWish !== null;',
      only: 'a ring that somebody scaled by hand',
    },
    {
      name: 'an operation of somebody else is never steered (O2)',
      because: 'O2',
      find: '  if (!isOurs) {',
      replace: "  if (actor === '') {",
      only: 'operation is never c',
    },
    {
      name: 'nothing is started on what is not known (O3)',
      because: 'O3',
      find: 'const verdict = trouble ? whileAway(trouble, wish, seen) : judge(wish, seen);',
      replace: 'const verdict = judge(wish, seen);',
      only: 'while Temporal is away nothing',
    },
    {
      name: 'the status never loses the number of nodes (O4)',
      because: 'O4: autoscalers read it',
      find: 'nodes: ring?.nodes.length ?? before.nodes ?? 0,',
      replace: 'nodes: ring?.nodes.length ?? 0,',
      only: 'while the ring store is away keeps the last number of nodes',
    },
  ]),
  ...of('operator/claims.ts', 'test/operator/decide.unit.test.ts', [
    {
      name: 'the volume of a member is not cleaned up',
      because: 'P5',
      find: 'isMember(seen.ring, `node-${Number(ordinal)}`)',
      replace: "ordinal === ''",
      only: 'its node is a member again',
    },
    {
      name: 'a volume that a pod has is not cleaned up',
      because: 'P5',
      find: 'seen.inUse.has(claim.name)',
      replace: "claim.name === ''",
      only: 'volumes of nodes that left a pod has it',
    },
  ]),

  // ---- Kubernetes

  ...of('platform/kubernetes/sets.ts', 'test/platform/kubernetes.int.test.ts', [
    {
      name: 'replicas are set once, conditional on what was read',
      because: 'two workers, or a person, never undo each other',
      find: 'body: { ...scale, spec: { replicas: wanted } },',
      replace: 'body: { ...scale, metadata: { name, namespace }, spec: { replicas: wanted } },',
      tests: ['test/mutants/held-here-kube.int.test.ts'],
      only: 'replicas that somebody changes in between are decided on again',
    },
    {
      name: 'volumes that would go with the replicas are refused (STATEFULSET_STRATEGY)',
      because: 'P5: nobody has looked whether they are empty',
      find: "if (retention?.whenScaled === 'Delete')",
      replace: "if (retention?.whenScaled === '')",
      only: 'spec.persistentVolumeClaimRetentionPolicy.whenScaled',
    },
  ]),
  ...of('platform/kubernetes/index.ts', 'test/platform/kubernetes.int.test.ts', [
    {
      name: 'only the highest ordinal is taken away (REPLICAS_CHANGED)',
      because: 'P5: a StatefulSet can only lose its highest pod',
      find: 'if (above.length === 0) return;',
      replace: 'if (above.length >= 0) return;',
      only: 'down only the highest goes',
    },
    {
      name: 'replicas that were lowered by hand are told and not put back',
      because: 'what others change by hand is never fought',
      find: 'if (replicasOf(now) <= highest) throw this.#sets.lowered(now, highest);',
      replace: '',
      only: 'replicas lowered by hand in the middle are told',
    },
    {
      name: 'the last look comes before the database goes',
      because: 'P5',
      find: 'if (there) await removal.lastLook(await this.#database(ordinal));',
      replace: '',
      only: 'what the last look finds is what it is refused with, and the database stays',
    },
    {
      name: 'only volumes that were looked into are deleted',
      because: 'P5',
      find: 'before.filter((claim) => looked || isLeft(claim))',
      replace: 'before.filter((claim) => claim)',
      only: 'with its data, but the database went before anybody looked: the claim is kept',
    },
    {
      name: 'no backend is started before its database',
      because: 'never more backends than databases',
      find: "await this.#waitReady('postgres', databases, patience);",
      replace: '',
      only: 'a node comes up with its database first',
    },
  ]),
  ...of('platform/kubernetes/claims.ts', 'test/platform/kubernetes.int.test.ts', [
    {
      name: 'a volume that is taken into use again no longer says that it was left',
      because: 'P5: a clean-up must not take it',
      find: 'return { [LEFT_EPOCH_LABEL]: null, [LEFT_AT_LABEL]: null };',
      replace: 'return null;',
      only: 'its claim says so, and a later node takes it over',
    },
  ]),
  ...of('deploy/helm/ringmaster/templates/guard.yaml', 'test/deploy/guard.int.test.ts', [
    {
      name: 'the API server refuses fewer replicas to everyone but the worker',
      because: 'P5: it holds while all of Ringmaster is down',
      find: 'variables.worker || variables.wanted >= variables.now',
      replace: 'variables.worker || variables.wanted >= 0',
      only: 'fewer replicas are refused to everyone but the worker',
    },
  ]),
];
