-- The pace of an OAuth client is looked for between one that went well and one that was too fast.
ALTER TABLE provider_clients
    -- The highest pace that went well for a while, and the lowest that did not; NULL: not known.
    ADD COLUMN good_rate double precision CHECK (good_rate > 0),
    ADD COLUMN bad_rate double precision CHECK (bad_rate > 0),
    -- When its pace was set last, or will have been when its pause ends.
    ADD COLUMN rate_time timestamptz,
    -- When a call last went well, as far as that mattered.
    ADD COLUMN good_time timestamptz;

-- A pace that was learned before goes on from there.
UPDATE provider_clients SET rate_time = clock_timestamp() WHERE rate IS NOT NULL;
