/** The states of partitions at a node. */

export const enterAlone = 'SELECT partition, state, move, token::text FROM ringmaster.enter_alone($1, $2::integer[])';

/** `$1` instance, `$2` partitions, `$3` paused or fenced, `$4` token, `$5` move. */
export const obey = 'SELECT partition, state FROM ringmaster.obey($1, $2::integer[], $3, $4, $5)';

/** `$1` instance, `$2` opening, `$3` closing, `$4` moves whose imports are attached, `$5` version, `$6` hash. Gives the attached datasets, ascending. */
export const follow =
  'SELECT prefix, dataset, move FROM ringmaster.follow($1, $2::integer[], $3::integer[], $4::text[], $5, $6)';

/** `$1` instance, `$2` partitions, `$3` move. Changes nothing. */
export const rehearseOpening = 'SELECT ringmaster.rehearse_opening($1, $2::integer[], $3)';

/** What those raise, as the codes of the contract. */
export const refusalOfState: Readonly<Record<string, string>> = {
  RM003: 'STALE_TOKEN',
  RM004: 'MOVE_INVALID',
  RM005: 'NODE_IMPORT_MISSING',
};

/** Those of a process that was the node, or stood in for it; by who takes its place. */
export const endNodeSessions = `
  SELECT pg_terminate_backend(pid) FROM pg_stat_activity
  WHERE application_name = 'ringmaster node' AND datname = current_database() AND pid <> pg_backend_pid()`;

export const selectStates = 'SELECT partition, state, token::text, move FROM ringmaster.partitions ORDER BY partition';

export const setSettled = 'UPDATE ringmaster.node SET settled_version = $1 WHERE settled_version < $1';
export const selectNode = `
  SELECT database_id::text, instance::text, folded_version::text, folded_hash, settled_version::text FROM ringmaster.node`;
