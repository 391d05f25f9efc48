/**
 * The ring store's schema, as numbered steps. A step that was released is frozen: it is never edited, a new one follows it.
 * `breaking`: code that does not know this step must not use the store (RING_STORE_TOO_NEW). Steps that only add are not, so that versions N and N−1
 * work together while an upgrade rolls.
 */
export interface Migration {
  readonly version: number;
  readonly breaking: boolean;
  readonly sql: string;
}

export const migrations: readonly Migration[] = [
  {
    version: 1,
    breaking: true,
    sql: `
      CREATE TABLE ringmaster_ring.events (
        cluster_id    text NOT NULL,
        version       bigint NOT NULL CHECK (version > 0),
        id            uuid NOT NULL UNIQUE,
        type          text NOT NULL,
        data          json NOT NULL,        -- json, not jsonb: kept to the letter, as it was hashed
        actor         text NOT NULL,
        reason        text NOT NULL,
        operation     text,
        at            timestamptz NOT NULL,
        previous_hash text NOT NULL,
        hash          text NOT NULL,
        PRIMARY KEY (cluster_id, version)
      );

      CREATE FUNCTION ringmaster_ring.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        RAISE EXCEPTION 'the ring''s log is append-only: % refused', TG_OP USING ERRCODE = 'RM002';
      END
      $$;

      CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ringmaster_ring.events
        FOR EACH STATEMENT EXECUTE FUNCTION ringmaster_ring.refuse_change();
      -- ALWAYS: also where session_replication_role turns ordinary triggers off.
      ALTER TABLE ringmaster_ring.events ENABLE ALWAYS TRIGGER append_only;
    `,
  },
];

/** The newest step that this code knows. */
export const RING_STORE_VERSION = migrations.at(-1)!.version;
