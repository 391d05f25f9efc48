/** The states of partitions at a node. Each of these runs inside a transaction that has called `ringmaster.enter_alone`. */

export const enterAlone = 'SELECT partition, state, move, token::text FROM ringmaster.enter_alone($1, $2::integer[])';

/** `$1` partitions, `$2` state, `$3` token, `$4` move or null. */
export const setStates = `
  INSERT INTO ringmaster.partitions (partition, state, token, move)
  SELECT p, $2, $3, $4 FROM unnest($1::integer[]) AS p
  ON CONFLICT (partition) DO UPDATE SET state = excluded.state, token = excluded.token, move = excluded.move`;

export const selectStates = 'SELECT partition, state, token::text, move FROM ringmaster.partitions ORDER BY partition';

/** Never backwards: `$1` version, `$2` hash of the event there. */
export const setFolded = 'UPDATE ringmaster.node SET folded_version = $1, folded_hash = $2 WHERE folded_version <= $1';
export const setSettled = 'UPDATE ringmaster.node SET settled_version = $1 WHERE settled_version < $1';
export const selectNode = `
  SELECT database_id::text, instance::text, folded_version::text, folded_hash, settled_version::text FROM ringmaster.node`;
