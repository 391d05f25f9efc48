/**
 * RudderStack's JobsDB layout (tables `<prefix>_jobs_<n>` and `<prefix>_job_status_<n>` in `public`), and beside it, in the schema `ringmaster`,
 * what our node keeps: its identity, the state of each partition, which datasets are attached, what is being imported, the window of messageIds.
 * Numbered; a migration that has been released is never edited.
 */

/** Job types of a node, in the order in which a user's events pass them. The reference node fills `gw` and `rt`; what lies in `batch_rt` moves all the same. */
export const prefixes = ['gw', 'rt', 'batch_rt'] as const;
export type Prefix = (typeof prefixes)[number];

/** Terminal states end a job; anything else, or no status at all, is pending. */
export const terminalStates = ['succeeded', 'aborted', 'filtered', 'migrated'] as const;

/** Columns of a jobs table in the order in which they are copied. */
export const jobColumns = [
  'job_id',
  'workspace_id',
  'uuid',
  'user_id',
  'partition_id',
  'parameters',
  'custom_val',
  'event_payload',
  'event_count',
  'created_at',
  'expire_at',
  'consumers',
] as const;

/** Columns of a status table in the order in which they are copied. */
export const statusColumns = [
  'id',
  'job_id',
  'job_state',
  'attempt',
  'exec_time',
  'retry_time',
  'error_code',
  'error_response',
  'parameters',
  'consumer',
] as const;

/** Keys of the advisory locks that all transactions of a node share: `pg_advisory_xact_lock(classId, objectId)`. */
export const lockClass = {
  /** objectId = partition. Shared: intake, processing, statuses. Exclusive: quiesce, fence, opening, closing. */
  partition: 0x52_4d_01,
  /** objectId 0. Shared: every transaction of the node's process. Exclusive: a new process that raises the instance number. */
  instance: 0x52_4d_02,
  /** objectId 0. Shared: whoever draws job ids. Exclusive: reserving a block of ids for an import. */
  jobIds: 0x52_4d_03,
} as const;

const initial = `
CREATE SCHEMA ringmaster;

CREATE TABLE ringmaster.node (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  database_id uuid NOT NULL DEFAULT gen_random_uuid(),
  instance bigint NOT NULL DEFAULT 0,
  folded_version bigint NOT NULL DEFAULT 0,
  folded_hash text NOT NULL DEFAULT '',
  settled_version bigint NOT NULL DEFAULT 0
);
INSERT INTO ringmaster.node DEFAULT VALUES;
COMMENT ON COLUMN ringmaster.node.instance IS 'raised by each process at its start; every transaction checks it';

CREATE TABLE ringmaster.partitions (
  partition integer PRIMARY KEY,
  state text NOT NULL CHECK (state IN ('closed', 'open', 'paused', 'fenced')),
  token bigint NOT NULL,
  move text,
  CHECK ((state IN ('paused', 'fenced')) = (move IS NOT NULL))
);
COMMENT ON COLUMN ringmaster.partitions.token IS 'log position at which this state was set: nothing is derived from an earlier one';

CREATE SEQUENCE ringmaster.gw_job_id;
CREATE SEQUENCE ringmaster.rt_job_id;

CREATE TABLE ringmaster.datasets (
  prefix text NOT NULL,
  dataset integer NOT NULL,
  -- NULL: what this node took in. Otherwise: the import of that move, invisible until it is attached.
  move text,
  attached boolean NOT NULL,
  PRIMARY KEY (prefix, dataset)
);
CREATE INDEX ON ringmaster.datasets (move) WHERE move IS NOT NULL;

CREATE TABLE ringmaster.imports (
  move text PRIMARY KEY,
  -- Every write of the import locks this row until its commit: a newer attempt waits for an older one's open write, an older one is refused.
  token bigint NOT NULL,
  partitions integer[] NOT NULL,
  prepared_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE ringmaster.import_passes (
  move text NOT NULL REFERENCES ringmaster.imports ON DELETE CASCADE,
  pass integer NOT NULL,
  -- { "gw": { "after", "upTo", "constant", "statusUpTo": { "<dataset>": id } }, …, "messageIds": { "upTo" } }: new id = old id + constant
  marks jsonb NOT NULL,
  done boolean NOT NULL DEFAULT false,
  PRIMARY KEY (move, pass)
);

CREATE TABLE ringmaster.import_chunks (
  move text NOT NULL REFERENCES ringmaster.imports ON DELETE CASCADE,
  prefix text NOT NULL,
  pass integer NOT NULL,
  after_id bigint NOT NULL,
  up_to_id bigint NOT NULL,
  row_count bigint NOT NULL,
  digest numeric NOT NULL,
  PRIMARY KEY (move, prefix, after_id)
);

CREATE TABLE ringmaster.message_ids (
  partition integer NOT NULL,
  message_id text NOT NULL,
  seq bigserial NOT NULL,
  received_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (partition, message_id)
);
CREATE INDEX ON ringmaster.message_ids (partition, seq);
CREATE INDEX ON ringmaster.message_ids (received_at);

-- Makes dataset n of a prefix. Ids of all datasets of a prefix come from one sequence, so they are unique in the node.
CREATE FUNCTION ringmaster.add_dataset(p_prefix text, p_move text) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE n integer;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('ringmaster.add_dataset.' || p_prefix, 0));
  SELECT coalesce(max(dataset), 0) + 1 INTO n FROM ringmaster.datasets WHERE prefix = p_prefix;
  EXECUTE format($ddl$
    CREATE TABLE public.%1$I (
      job_id bigint NOT NULL DEFAULT nextval(%4$L::regclass) PRIMARY KEY,
      workspace_id text NOT NULL DEFAULT '',
      uuid uuid NOT NULL,
      user_id text NOT NULL,
      partition_id text NOT NULL DEFAULT '',
      parameters jsonb NOT NULL,
      custom_val varchar(64) NOT NULL,
      event_payload jsonb NOT NULL,
      event_count integer NOT NULL DEFAULT 1,
      created_at timestamptz NOT NULL DEFAULT now(),
      expire_at timestamptz NOT NULL DEFAULT now(),
      consumers text[]
    );
    CREATE INDEX %3$I ON public.%1$I (partition_id, job_id);
    CREATE TABLE public.%2$I (
      id bigserial NOT NULL,
      job_id bigint NOT NULL,
      job_state varchar(64) NOT NULL,
      attempt smallint NOT NULL,
      exec_time timestamptz,
      retry_time timestamptz,
      error_code varchar(32),
      error_response jsonb NOT NULL DEFAULT '{}',
      parameters jsonb NOT NULL DEFAULT '{}',
      consumer text NOT NULL DEFAULT '',
      PRIMARY KEY (job_id, id)
    );
    CREATE INDEX ON public.%2$I (id);
  $ddl$, p_prefix || '_jobs_' || n, p_prefix || '_job_status_' || n, p_prefix || '_jobs_' || n || '_partition', 'ringmaster.' || p_prefix || '_job_id');
  INSERT INTO ringmaster.datasets (prefix, dataset, move, attached) VALUES (p_prefix, n, p_move, p_move IS NULL);
  RETURN n;
END $$;

SELECT ringmaster.add_dataset('gw', NULL), ringmaster.add_dataset('rt', NULL);

-- What every intake, processing and status transaction calls first: takes the locks, and only then, in a statement with a snapshot of its own,
-- reads what holds. Raises RM001 in a process that is no longer the node.
CREATE FUNCTION ringmaster.enter(p_instance bigint, p_partitions integer[])
RETURNS TABLE (partition integer, state text, move text) LANGUAGE plpgsql AS $$
DECLARE p integer; current_instance bigint;
BEGIN
  PERFORM pg_advisory_xact_lock_shared(${lockClass.instance}, 0);
  PERFORM pg_advisory_xact_lock_shared(${lockClass.jobIds}, 0);
  FOR p IN SELECT DISTINCT u FROM unnest(p_partitions) AS u ORDER BY u LOOP
    PERFORM pg_advisory_xact_lock_shared(${lockClass.partition}, p);
  END LOOP;
  SELECT n.instance INTO current_instance FROM ringmaster.node AS n;
  IF current_instance IS DISTINCT FROM p_instance THEN
    RAISE EXCEPTION 'instance % is no longer the node, % is', p_instance, current_instance USING ERRCODE = 'RM001';
  END IF;
  RETURN QUERY
    SELECT u.u, coalesce(r.state, 'closed'), r.move
    FROM (SELECT DISTINCT unnest(p_partitions) AS u) AS u LEFT JOIN ringmaster.partitions AS r ON r.partition = u.u;
END $$;

-- As enter, but alone: what quiesce, fence, opening and closing call. Waits for all transactions that are inside.
CREATE FUNCTION ringmaster.enter_alone(p_instance bigint, p_partitions integer[])
RETURNS TABLE (partition integer, state text, move text, token bigint) LANGUAGE plpgsql AS $$
DECLARE p integer; current_instance bigint;
BEGIN
  PERFORM pg_advisory_xact_lock_shared(${lockClass.instance}, 0);
  FOR p IN SELECT DISTINCT u FROM unnest(p_partitions) AS u ORDER BY u LOOP
    PERFORM pg_advisory_xact_lock(${lockClass.partition}, p);
  END LOOP;
  SELECT n.instance INTO current_instance FROM ringmaster.node AS n;
  IF current_instance IS DISTINCT FROM p_instance THEN
    RAISE EXCEPTION 'instance % is no longer the node, % is', p_instance, current_instance USING ERRCODE = 'RM001';
  END IF;
  RETURN QUERY
    SELECT u.u, coalesce(r.state, 'closed'), r.move, coalesce(r.token, 0)
    FROM (SELECT DISTINCT unnest(p_partitions) AS u) AS u LEFT JOIN ringmaster.partitions AS r ON r.partition = u.u;
END $$;

-- Quiesce (p_state 'paused') and fence ('fenced'), in one round trip: clients may be waiting. What is fenced stays fenced.
-- Raises RM003 for a token older than one that was obeyed, RM004 where the partitions are not this move's to stop.
CREATE FUNCTION ringmaster.obey(p_instance bigint, p_partitions integer[], p_state text, p_token bigint, p_move text)
RETURNS TABLE (partition integer, state text) LANGUAGE plpgsql AS $$
DECLARE r record;
BEGIN
  FOR r IN SELECT * FROM ringmaster.enter_alone(p_instance, p_partitions) LOOP
    IF r.token > p_token THEN
      RAISE EXCEPTION 'partition % has obeyed token %, not %', r.partition, r.token, p_token USING ERRCODE = 'RM003';
    ELSIF r.state = 'closed' OR (r.move IS NOT NULL AND r.move <> p_move) OR (p_state = 'fenced' AND r.state = 'open') THEN
      RAISE EXCEPTION 'partition % is %, and cannot be % by %', r.partition, r.state || coalesce(' by ' || r.move, ''), p_state, p_move USING ERRCODE = 'RM004';
    END IF;
  END LOOP;
  RETURN QUERY
    UPDATE ringmaster.partitions AS t
    SET state = CASE WHEN t.state = 'fenced' THEN 'fenced' ELSE p_state END, token = p_token, move = p_move
    WHERE t.partition = ANY (p_partitions) RETURNING t.partition, t.state;
END $$;

-- What the log says at p_version, in one round trip: partitions are opened (with the imports that they came by) and closed.
-- Raises RM005 where a partition was handed over and its copy is not here.
CREATE FUNCTION ringmaster.follow(p_instance bigint, p_opening integer[], p_closing integer[], p_imports text[], p_version bigint, p_hash text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE m text; d record;
BEGIN
  PERFORM ringmaster.enter_alone(p_instance, p_opening || p_closing);
  FOREACH m IN ARRAY p_imports LOOP
    IF NOT EXISTS (SELECT FROM ringmaster.datasets WHERE move = m) THEN
      RAISE EXCEPTION '% was handed over to this node, whose database has no copy of it', m USING ERRCODE = 'RM005';
    END IF;
    FOR d IN UPDATE ringmaster.datasets SET attached = true WHERE move = m AND NOT attached RETURNING prefix, dataset LOOP
      -- Imported statuses keep their source ids; what this node adds must come after them, as the highest id is a job's state.
      EXECUTE format('SELECT setval(pg_get_serial_sequence(%1$L, %2$L), coalesce(max(id), 0) + 1, false) FROM %1$s',
        format('public.%I', d.prefix || '_job_status_' || d.dataset), 'id');
    END LOOP;
  END LOOP;
  INSERT INTO ringmaster.partitions (partition, state, token, move)
  SELECT p, 'open', p_version, NULL FROM unnest(p_opening) AS p
  UNION ALL SELECT p, 'closed', p_version, NULL FROM unnest(p_closing) AS p
  ON CONFLICT ON CONSTRAINT partitions_pkey DO UPDATE SET state = excluded.state, token = excluded.token, move = NULL;
  UPDATE ringmaster.node SET folded_version = p_version, folded_hash = p_hash WHERE folded_version <= p_version;
END $$;

-- Writes down the next pass of an import and reserves its blocks of ids. p_spans: { "<prefix>": { "after", "upTo", "statusUpTo" } }.
-- Whoever draws job ids holds the lock shared until its commit, so nothing falls into a block; it is held alone only for this one statement.
-- Raises RM003 where the import is not held by this token.
CREATE FUNCTION ringmaster.begin_pass(p_move text, p_token bigint, p_pass integer, p_spans jsonb, p_message_ids_up_to bigint)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE held bigint; prefix text; span jsonb; given bigint; length bigint; marks jsonb := '{}';
BEGIN
  SELECT i.token INTO held FROM ringmaster.imports AS i WHERE i.move = p_move FOR SHARE;
  IF held IS DISTINCT FROM p_token THEN
    RAISE EXCEPTION 'the import of % is held by token %, not %', p_move, coalesce(held::text, 'of nobody'), p_token USING ERRCODE = 'RM003';
  END IF;
  PERFORM pg_advisory_xact_lock(${lockClass.jobIds}, 0);
  FOR prefix, span IN SELECT * FROM jsonb_each(p_spans) LOOP
    EXECUTE format('SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM ringmaster.%I', prefix || '_job_id') INTO given;
    length := (span->>'upTo')::bigint - (span->>'after')::bigint;
    IF length > 0 THEN PERFORM setval(format('ringmaster.%I', prefix || '_job_id')::regclass, given + length); END IF;
    marks := marks || jsonb_build_object(prefix, span || jsonb_build_object('constant', given - (span->>'after')::bigint));
  END LOOP;
  marks := jsonb_build_object('prefixes', marks, 'messageIdsUpTo', p_message_ids_up_to);
  INSERT INTO ringmaster.import_passes (move, pass, marks) VALUES (p_move, p_pass, marks);
  RETURN marks;
END $$;

-- A new process of the node: waits for the open transactions of the former one, whose later ones are then refused.
CREATE FUNCTION ringmaster.raise_instance() RETURNS TABLE (instance bigint, database_id uuid) LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(${lockClass.instance}, 0);
  RETURN QUERY UPDATE ringmaster.node AS n SET instance = n.instance + 1 RETURNING n.instance, n.database_id;
END $$;
`;

/** Batch jobs; when a dataset was made and attached, and up to which status id it was imported. */
const migrator = `
CREATE SEQUENCE ringmaster.batch_rt_job_id;

ALTER TABLE ringmaster.datasets ADD COLUMN made_at timestamptz NOT NULL DEFAULT now();
ALTER TABLE ringmaster.datasets ADD COLUMN attached_at timestamptz;
ALTER TABLE ringmaster.datasets ADD COLUMN imported_status_id bigint;
ALTER TABLE ringmaster.datasets ADD COLUMN migrated_at timestamptz;
COMMENT ON COLUMN ringmaster.datasets.attached_at IS 'of an import: when its partitions opened here';
COMMENT ON COLUMN ringmaster.datasets.imported_status_id IS 'of an import: the highest status id that came with it; what this node writes lies above';
COMMENT ON COLUMN ringmaster.datasets.migrated_at IS 'when a job in it was last marked migrated: it was moved away, or stale';

SELECT ringmaster.add_dataset('batch_rt', NULL);

-- A dataset for what a move brings. Its index by partition is made by index_import, once its first pass is there: built at once it costs a fraction of row by row.
CREATE FUNCTION ringmaster.add_import(p_prefix text, p_move text) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE n integer := ringmaster.add_dataset(p_prefix, p_move);
BEGIN
  EXECUTE format('DROP INDEX public.%I', p_prefix || '_jobs_' || n || '_partition');
  RETURN n;
END $$;

-- By one process: whatever else the node does goes on. With its owner's rights: a table's index is its owner's to make, and who copies may be another role.
CREATE FUNCTION ringmaster.index_import(p_move text) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET max_parallel_maintenance_workers = 0 AS $$
DECLARE jobs text;
BEGIN
  FOR jobs IN SELECT d.prefix || '_jobs_' || d.dataset FROM ringmaster.datasets AS d WHERE d.move = p_move AND NOT d.attached LOOP
    EXECUTE format('CREATE INDEX %I ON public.%I (partition_id, job_id)', jobs || '_partition', jobs);
  END LOOP;
END $$;

ALTER TABLE ringmaster.import_chunks ADD COLUMN state_digest numeric NOT NULL DEFAULT 0;
ALTER TABLE ringmaster.import_passes ADD COLUMN sums jsonb;
COMMENT ON COLUMN ringmaster.import_passes.sums IS 'of a pass that is done: { "<prefix>": { "pending", "digest" } }, the pending set at its marks as sums';

-- How far ids have been given: { "statuses": { "<prefix>": { "<dataset>": id } }, "imports": { "<prefix>": [dataset] }, "jobs": { "<prefix>": id }, "messageIds": id }.
-- Sequences are read as they are at that moment, statuses before jobs. No new job is ever written to an import.
CREATE FUNCTION ringmaster.marks(p_prefixes text[]) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE d record; p text; given bigint; statuses jsonb := '{}'; imports jsonb := '{}'; jobs jsonb := '{}';
  last_given text := 'SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM %s';
BEGIN
  FOR d IN SELECT prefix, dataset, move FROM ringmaster.datasets WHERE attached AND prefix = ANY (p_prefixes) ORDER BY prefix, dataset LOOP
    IF d.move IS NOT NULL THEN
      imports := jsonb_set(imports, ARRAY[d.prefix], coalesce(imports->d.prefix, '[]') || to_jsonb(d.dataset));
    END IF;
    EXECUTE format(last_given, pg_get_serial_sequence(format('public.%I', d.prefix || '_job_status_' || d.dataset), 'id')) INTO given;
    statuses := jsonb_set(statuses, ARRAY[d.prefix], coalesce(statuses->d.prefix, '{}') || jsonb_build_object(d.dataset, given));
  END LOOP;
  FOREACH p IN ARRAY p_prefixes LOOP
    EXECUTE format(last_given, format('ringmaster.%I', p || '_job_id')) INTO given;
    jobs := jobs || jsonb_build_object(p, given);
  END LOOP;
  EXECUTE format(last_given, 'ringmaster.message_ids_seq_seq') INTO given;
  RETURN jsonb_build_object('statuses', statuses, 'imports', imports, 'jobs', jobs, 'messageIds', given);
END $$;

-- As before; notes of each import when it was attached and which statuses came with it, and gives the attached datasets, which saves asking for them.
DROP FUNCTION ringmaster.follow(bigint, integer[], integer[], text[], bigint, text);
CREATE FUNCTION ringmaster.follow(p_instance bigint, p_opening integer[], p_closing integer[], p_imports text[], p_version bigint, p_hash text)
RETURNS TABLE (prefix text, dataset integer, move text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE missing text; d record; next_id bigint;
BEGIN
  PERFORM ringmaster.enter_alone(p_instance, p_opening || p_closing);
  FOR missing IN SELECT m FROM unnest(p_imports) AS m WHERE NOT EXISTS (SELECT FROM ringmaster.datasets AS i WHERE i.move = m) LOOP
    RAISE EXCEPTION '% was handed over to this node, whose database has no copy of it', missing USING ERRCODE = 'RM005';
  END LOOP;
  FOR d IN SELECT prefix, dataset FROM ringmaster.datasets WHERE move = ANY (p_imports) AND NOT attached LOOP
    -- Imported statuses keep their source ids; what this node adds must come after them, as the highest id is a job's state.
    EXECUTE format('SELECT setval(pg_get_serial_sequence(%1$L, %2$L), coalesce(max(id), 0) + 1, false) AS next FROM %1$s',
      format('public.%I', d.prefix || '_job_status_' || d.dataset), 'id') INTO next_id;
    UPDATE ringmaster.datasets SET attached = true, attached_at = now(), imported_status_id = next_id - 1
    WHERE prefix = d.prefix AND dataset = d.dataset;
  END LOOP;
  INSERT INTO ringmaster.partitions (partition, state, token, move)
  SELECT p, 'open', p_version, NULL FROM unnest(p_opening) AS p
  UNION ALL SELECT p, 'closed', p_version, NULL FROM unnest(p_closing) AS p
  ON CONFLICT ON CONSTRAINT partitions_pkey DO UPDATE SET state = excluded.state, token = excluded.token, move = NULL;
  UPDATE ringmaster.node SET folded_version = p_version, folded_hash = p_hash WHERE folded_version <= p_version;
  RETURN QUERY SELECT prefix, dataset, move FROM ringmaster.datasets WHERE attached ORDER BY prefix, dataset;
END $$;

-- The opening of an import, undone inside: what would fail or take its time there does so here, where nobody waits. The connection has then compiled the
-- functions, planned their statements and looked the new tables up. Only the statuses' sequence keeps its place, which nobody uses before the opening.
CREATE FUNCTION ringmaster.rehearse_opening(p_instance bigint, p_opening integer[], p_import text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  BEGIN
    PERFORM ringmaster.follow(p_instance, p_opening, '{}', ARRAY[p_import], 0, '');
    RAISE EXCEPTION 'undone' USING ERRCODE = 'RM000';
  EXCEPTION WHEN SQLSTATE 'RM000' THEN NULL;
  END;
END $$;

-- Whether something of this dataset was moved away, or it was attached, within the last p_keep_ms milliseconds, by this database's clock.
CREATE FUNCTION ringmaster.is_kept(d ringmaster.datasets, p_keep_ms double precision) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT coalesce(greatest(d.migrated_at, CASE WHEN d.move IS NOT NULL THEN coalesce(d.attached_at, d.made_at) END)
    > now() - p_keep_ms * interval '1 millisecond', false)
$$;

-- Drops a dataset that is not live, not kept, and has no pending job above p_after (the caller has looked through what lies below: what is done stays done).
-- The row first, then the tables, as those who read datasets from the table do; who would have to wait for longer than a moment gives up (55P03).
CREATE FUNCTION ringmaster.drop_dataset(p_instance bigint, p_prefix text, p_dataset integer, p_after bigint, p_keep_ms double precision)
RETURNS text LANGUAGE plpgsql SET lock_timeout = '100ms' AS $$
DECLARE
  jobs text := format('public.%I', p_prefix || '_jobs_' || p_dataset);
  statuses text := format('public.%I', p_prefix || '_job_status_' || p_dataset);
  d ringmaster.datasets;
  current_instance bigint;
  is_pending boolean;
BEGIN
  PERFORM pg_advisory_xact_lock_shared(${lockClass.instance}, 0);
  SELECT n.instance INTO current_instance FROM ringmaster.node AS n;
  IF current_instance IS DISTINCT FROM p_instance THEN
    RAISE EXCEPTION 'instance % is no longer the node, % is', p_instance, current_instance USING ERRCODE = 'RM001';
  END IF;
  SELECT t.* INTO d FROM ringmaster.datasets AS t WHERE t.prefix = p_prefix AND t.dataset = p_dataset AND t.attached FOR UPDATE;
  IF NOT FOUND OR ringmaster.is_kept(d, p_keep_ms) THEN RETURN 'kept'; END IF;
  IF d.move IS NULL AND NOT EXISTS (SELECT FROM ringmaster.datasets AS t WHERE t.prefix = p_prefix AND t.move IS NULL AND t.dataset > p_dataset) THEN
    RETURN 'kept';
  END IF;
  EXECUTE format('LOCK TABLE %s, %s IN ACCESS EXCLUSIVE MODE', jobs, statuses);
  EXECUTE format($look$
    SELECT EXISTS (
      SELECT FROM %s AS j LEFT JOIN LATERAL (SELECT t.job_state FROM %s AS t WHERE t.job_id = j.job_id ORDER BY t.id DESC LIMIT 1) AS s ON true
      WHERE j.job_id > $1 AND (s.job_state IS NULL OR s.job_state NOT IN (${terminalStates.map((state) => `'${state}'`).join(', ')})))
  $look$, jobs, statuses) INTO is_pending USING p_after;
  IF is_pending THEN RETURN 'pending'; END IF;
  DELETE FROM ringmaster.datasets AS t WHERE t.prefix = p_prefix AND t.dataset = p_dataset;
  EXECUTE format('DROP TABLE %s, %s', jobs, statuses);
  RETURN 'dropped';
END $$;
`;

const ringLog = `
-- The ring's log as this node has folded it, whole: what it can give back to a ring store that has lost events, and by which it notices such a store.
CREATE TABLE ringmaster.ring_log (
  cluster_id text NOT NULL,
  version bigint NOT NULL,
  hash text NOT NULL,
  event json NOT NULL,
  PRIMARY KEY (cluster_id, version)
);
`;

export const migrations: readonly { readonly version: number; readonly sql: string }[] = [
  { version: 1, sql: initial },
  { version: 2, sql: migrator },
  { version: 3, sql: ringLog },
];
