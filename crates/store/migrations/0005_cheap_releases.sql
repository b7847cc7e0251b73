-- What a release costs the database: one look at a version and one row of an audit that is kept by weeks.

-- Nobody adds or changes anything unseen meanwhile.
DO $$ BEGIN LOCK TABLE connections, grants IN SHARE ROW EXCLUSIVE MODE; END $$;

-- A random value that changes with everything that a release of a connection is decided on: its row, and the grants that
-- are about it. Where it is still what it was when all that was read, all that still stands, also after a restore. Kept
-- by triggers, so that a change by whatever means counts.
CREATE TABLE connection_versions (
    connection_id uuid PRIMARY KEY,
    version uuid NOT NULL DEFAULT gen_random_uuid()
) WITH (fillfactor = 80);
INSERT INTO connection_versions (connection_id) SELECT connection_id FROM connections;

CREATE FUNCTION connection_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND OLD.connection_id <> NEW.connection_id) THEN
        DELETE FROM connection_versions WHERE connection_id = OLD.connection_id;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO connection_versions (connection_id) VALUES (NEW.connection_id)
        ON CONFLICT (connection_id) DO UPDATE SET version = gen_random_uuid();
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER connection_changed AFTER INSERT OR UPDATE OR DELETE ON connections
    FOR EACH ROW EXECUTE FUNCTION connection_changed();

-- A new grant takes nothing away.
CREATE FUNCTION grant_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.connection_id IS NOT NULL THEN
        UPDATE connection_versions SET version = gen_random_uuid() WHERE connection_id = OLD.connection_id;
    ELSE
        -- Whoever adds a connection holds this row: none is added unseen.
        PERFORM FROM organizations WHERE organization_id = OLD.organization_id FOR UPDATE;
        UPDATE connection_versions v SET version = gen_random_uuid() FROM connections c
        WHERE c.organization_id = OLD.organization_id AND c.owner = OLD.selector_owner
          AND c.provider_id = OLD.provider_id AND v.connection_id = c.connection_id;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER grant_changed AFTER UPDATE OR DELETE ON grants
    FOR EACH ROW EXECUTE FUNCTION grant_changed();

-- When a credential was last released through a grant, to the minute.
CREATE TABLE grant_uses (
    organization_id text NOT NULL,
    grant_id uuid NOT NULL,
    last_used_time timestamptz NOT NULL,
    PRIMARY KEY (organization_id, grant_id)
) WITH (fillfactor = 80);
INSERT INTO grant_uses
SELECT organization_id, grant_id, max(create_time) FROM audit_events
WHERE kind = 'CREDENTIAL_RELEASED' AND grant_id IS NOT NULL
GROUP BY organization_id, grant_id;

-- The audit by weeks: what is older than it must be kept goes by dropping tables. An id is unique in the installation, and
-- as new ones are the greatest, its index grows at one end. What else is looked for is found by summaries of blocks:
-- an entry in an index for each would cost three times as much as the row.

-- The first id of a moment: its milliseconds since 1970, as a UUIDv7 begins (RFC 9562, section 5.7).
CREATE FUNCTION audit_bound(moment timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT (lpad(to_hex(greatest((extract(epoch FROM moment) * 1000)::bigint, 0)), 12, '0') || repeat('0', 20))::uuid
$$;

ALTER TABLE audit_events RENAME TO audit_events_before;
ALTER TABLE audit_events_before DROP CONSTRAINT audit_events_pkey;
DROP INDEX audit_events_connection, audit_events_grant, audit_events_actor;

CREATE TABLE audit_events (
    LIKE audit_events_before INCLUDING DEFAULTS,
    PRIMARY KEY (audit_event_id)
) PARTITION BY RANGE (audit_event_id);

CREATE INDEX audit_events_blocks ON audit_events USING brin (
    organization_id text_bloom_ops, connection_id uuid_bloom_ops, grant_id uuid_bloom_ops, actor text_bloom_ops,
    workload text_bloom_ops
) WITH (pages_per_range = 32, autosummarize = on);
-- What is no release is rare, and looked for by the connection.
CREATE INDEX audit_events_connection ON audit_events (organization_id, connection_id, audit_event_id)
    WHERE kind <> 'CREDENTIAL_RELEASED';

-- What a clock that went wrong put where there is no week: an event is never refused for its time.
CREATE TABLE audit_events_other PARTITION OF audit_events DEFAULT;

-- Makes the week that begins on a Monday, if it is not there, and says whether it was made. A table is named by the
-- day that it ends before.
CREATE FUNCTION make_audit_week(monday date) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    week text := 'audit_events_until_' || to_char(monday + 7, 'YYYYMMDD');
    first uuid := audit_bound(monday::timestamp AT TIME ZONE 'UTC');
    behind uuid := audit_bound((monday + 7)::timestamp AT TIME ZONE 'UTC');
BEGIN
    IF to_regclass(week) IS NOT NULL OR EXISTS (
        -- What there was before weeks reaches further.
        SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'audit_events'::regclass AND c.relname > week
          AND pg_get_expr(c.relpartbound, c.oid) LIKE '%MINVALUE%'
    ) THEN
        RETURN false;
    END IF;
    -- Nobody puts anything there while it is looked through.
    LOCK TABLE audit_events_other IN SHARE ROW EXCLUSIVE MODE;
    -- To move a great many would hold up those who write there; they stay where they are.
    IF (SELECT count(*) > 100000 FROM (
            SELECT 1 FROM audit_events_other WHERE audit_event_id >= first AND audit_event_id < behind LIMIT 100001
        ) AS those) THEN
        RETURN false;
    END IF;
    -- Attached rather than created in place, so that nobody who reads or writes elsewhere has to wait.
    EXECUTE format('CREATE TABLE %I (LIKE audit_events INCLUDING DEFAULTS)', week);
    EXECUTE format(
        'WITH moved AS (DELETE FROM audit_events_other WHERE audit_event_id >= %L AND audit_event_id < %L RETURNING *)
         INSERT INTO %I SELECT * FROM moved', first, behind, week);
    EXECUTE format('ALTER TABLE audit_events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', week, first, behind);
    RETURN true;
END
$$;

-- What there is already is one part, up to the end of this week; in a new database there is nothing.
DO $$
DECLARE
    monday date := date_trunc('week', now() AT TIME ZONE 'UTC')::date;
    latest uuid := (SELECT audit_event_id FROM audit_events_before ORDER BY audit_event_id DESC LIMIT 1);
    before text;
BEGIN
    IF latest IS NULL THEN
        DROP TABLE audit_events_before;
    ELSE
        -- Clocks differ: some events may be a little ahead.
        WHILE latest >= audit_bound((monday + 7)::timestamp AT TIME ZONE 'UTC') LOOP
            monday := monday + 7;
        END LOOP;
        before := 'audit_events_until_' || to_char(monday + 7, 'YYYYMMDD');
        EXECUTE format('ALTER TABLE audit_events_before RENAME TO %I', before);
        EXECUTE format('ALTER TABLE audit_events ATTACH PARTITION %I FOR VALUES FROM (MINVALUE) TO (%L)',
            before, audit_bound((monday + 7)::timestamp AT TIME ZONE 'UTC'));
    END IF;
    PERFORM make_audit_week(monday + 7 * week) FROM generate_series(0, 4) AS week;
END
$$;
