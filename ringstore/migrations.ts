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
  {
    version: 2,
    breaking: false,
    sql: `
      -- What nodes and routers have seen, as they tell it when \`ring repair\` asks (copies.ts, repair.ts).
      CREATE TABLE ringmaster_ring.copies (
        ask         uuid NOT NULL,
        source      text NOT NULL,
        cluster_id  text NOT NULL,
        version     bigint NOT NULL,
        hash        text NOT NULL,
        agrees_to   bigint,               -- the last version at which it and the log are one; NULL: it no longer knows where they part
        answered_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (ask, source)
      );
      CREATE TABLE ringmaster_ring.copy_events (
        ask         uuid NOT NULL,
        source      text NOT NULL,
        version     bigint NOT NULL,
        event       json NOT NULL,        -- a recorded event, whole: it is checked by its hash before it is used
        PRIMARY KEY (ask, source, version),
        FOREIGN KEY (ask, source) REFERENCES ringmaster_ring.copies ON DELETE CASCADE
      );

      CREATE TABLE ringmaster_ring.repairs (
        id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        cluster_id  text NOT NULL,
        at          timestamptz NOT NULL DEFAULT now(),
        actor       text NOT NULL,
        reason      text NOT NULL,
        source      text NOT NULL,
        kept_to     bigint NOT NULL,
        appended_to bigint NOT NULL
      );
      -- Events that were appended to a log which had come back from a backup: kept here, for people.
      CREATE TABLE ringmaster_ring.set_aside (LIKE ringmaster_ring.events, repair bigint NOT NULL REFERENCES ringmaster_ring.repairs);

      -- How far each node's database has come, as its node says from time to time: one that is restored from an older backup is behind that.
      CREATE TABLE ringmaster_ring.node_marks (
        cluster_id  text NOT NULL,
        database_id uuid NOT NULL,
        node        text NOT NULL,
        instance    bigint NOT NULL,
        marks       json NOT NULL,
        at          timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (cluster_id, database_id)
      );

      CREATE OR REPLACE FUNCTION ringmaster_ring.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        -- Only by a repair, in its own transaction, which has put them aside.
        IF TG_OP = 'DELETE' AND current_setting('ringmaster.repairing', true) = 'on' THEN RETURN NULL; END IF;
        RAISE EXCEPTION 'the ring''s log is append-only: % refused', TG_OP USING ERRCODE = 'RM002';
      END
      $$;
    `,
  },
  {
    version: 3,
    breaking: false,
    sql: `
      -- Routers that live, for people to see. Both times are this server's.
      CREATE TABLE ringmaster_ring.routers (
        cluster_id  text NOT NULL,
        router      text NOT NULL,
        facts       json NOT NULL,
        renewed_at  timestamptz NOT NULL,
        expires_at  timestamptz NOT NULL,
        PRIMARY KEY (cluster_id, router)
      );
    `,
  },
];

/** The newest step that this code knows. */
export const RING_STORE_VERSION = migrations.at(-1)!.version;
