-- How the last real call with a connection's credential went.

ALTER TABLE connections
    ADD COLUMN last_test_time timestamptz,
    ADD COLUMN last_test_class text,
    ADD COLUMN last_test_http_status integer,
    ADD COLUMN last_test_summary text,
    -- When a test last began, so that one connection is not tested again and again.
    ADD COLUMN test_claim_time timestamptz,
    ADD CONSTRAINT connections_last_test_whole CHECK (
        (last_test_time IS NULL) = (last_test_class IS NULL)
        AND (last_test_time IS NULL) = (last_test_summary IS NULL)
        AND (last_test_http_status IS NULL OR last_test_time IS NOT NULL)
    );

CREATE INDEX connections_last_test ON connections (organization_id, last_test_class, connection_id)
    WHERE last_test_class IS NOT NULL;

-- 'infinity' is a timestamp to Postgres and none to us.
ALTER TABLE connections ADD CONSTRAINT connections_finite CHECK (
    isfinite(create_time) AND isfinite(update_time) AND isfinite(last_test_time)
);
ALTER TABLE grants ADD CONSTRAINT grants_finite CHECK (
    isfinite(create_time) AND isfinite(expire_time) AND isfinite(revoke_time)
);
ALTER TABLE audit_events ADD CONSTRAINT audit_events_finite CHECK (isfinite(create_time));
