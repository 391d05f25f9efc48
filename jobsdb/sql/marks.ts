/** How far this database has come: numbers that only grow, and so are smaller in one that was restored from an older backup. */

export const selectJobIds = `
  SELECT replace(sequencename, '_job_id', '') AS prefix, coalesce(last_value, 0)::float8 AS last
  FROM pg_sequences WHERE schemaname = 'ringmaster' AND right(sequencename, 7) = '_job_id'`;

/** Its commit makes durable all that was written before it: a crash must not take back what is told. */
export const flushLog = `
  SELECT set_config('synchronous_commit', 'on', true), pg_logical_emit_message(true, 'ringmaster', 'mark')`;

export const selectLogEnd = `
  SELECT (SELECT system_identifier::text FROM pg_control_system()) AS server,
         pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::float8 AS log_bytes`;
