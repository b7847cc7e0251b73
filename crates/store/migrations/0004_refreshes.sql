-- Refreshing: when each connection is due, the attempt that is under way, and what is known of each OAuth client's
-- standing with its provider. Times that decide anything are the database's.

-- This installation, and how far it has come: one row. A replica keeps both outside of the database too, and so knows
-- a database that went back in time, or is a copy.
CREATE TABLE installation (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    installation_id uuid NOT NULL DEFAULT gen_random_uuid(),
    -- The name that the configuration gives it; empty: none.
    cluster text NOT NULL DEFAULT '',
    -- Grows whenever an operator lets refreshing go on.
    era bigint NOT NULL DEFAULT 0,
    -- Grows as time goes by, and never goes back.
    epoch bigint NOT NULL DEFAULT 0,
    epoch_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The Postgres cluster that the data was in last: a dump that was restored elsewhere is in another one.
    system_identifier bigint,
    -- Since when nothing is refreshed, and why.
    frozen_time timestamptz,
    frozen_reason text,
    -- What came of trying one connection of each reuse class while it was frozen.
    probes jsonb NOT NULL DEFAULT '{}',
    CONSTRAINT installation_frozen CHECK ((frozen_time IS NULL) = (frozen_reason IS NULL))
);
INSERT INTO installation DEFAULT VALUES;

-- An OAuth client at a provider, as the provider treats it.
CREATE TABLE provider_clients (
    -- Whose own client it is; empty: the installation's.
    organization_id text NOT NULL,
    provider_id text NOT NULL,
    client_id text NOT NULL,
    -- How many calls a second it takes, as far as it has said so; NULL: it has not.
    rate double precision CHECK (rate > 0),
    -- The moment that calls are paid for up to: a token bucket in one number.
    paid_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- When it last had too many.
    limited_time timestamptz,
    -- Grows with every claim.
    claims bigint NOT NULL DEFAULT 0,
    -- Until when it is left alone.
    pause_time timestamptz,
    -- How many calls in a row came to nothing through no fault of the grant.
    failures integer NOT NULL DEFAULT 0,
    -- Why nothing is refreshed with it.
    quarantine text CHECK (quarantine IN ('CLIENT_REFUSED', 'MANY_GRANTS_REFUSED')),
    quarantine_time timestamptz,
    -- When it may be tried with one call; NULL: not by itself.
    probe_time timestamptz,
    -- Since the first refused grant of a while: when the while ends, and how many were refused and were not.
    window_end_time timestamptz,
    window_refused integer NOT NULL DEFAULT 0,
    window_good integer NOT NULL DEFAULT 0,
    -- Until when many refused grants are believed, because an operator said so.
    believed_until timestamptz,
    PRIMARY KEY (organization_id, provider_id, client_id),
    CONSTRAINT provider_clients_quarantine CHECK ((quarantine IS NULL) = (quarantine_time IS NULL))
);

-- Every connection whose tokens an OAuth server issued: when it is refreshed next, and the attempt that is under way.
CREATE TABLE refreshes (
    organization_id text NOT NULL,
    connection_id uuid NOT NULL,
    -- The client that the tokens were issued to: a row of provider_clients.
    client_organization_id text NOT NULL,
    provider_id text NOT NULL,
    client_id text NOT NULL,
    -- When it is refreshed next; NULL: not by itself, or under way.
    due_time timestamptz,
    -- Whether that moment has come.
    ready boolean NOT NULL DEFAULT false,
    -- Since when somebody waits for it.
    demand_time timestamptz,
    -- Not before this, whoever waits.
    earliest_time timestamptz NOT NULL,
    -- When the access token ends; NULL: nobody knows.
    deadline timestamptz,
    -- How long one call may take.
    call_seconds integer NOT NULL CHECK (call_seconds > 0),

    -- Grows with every attempt: what an earlier one brings later counts no more.
    fence bigint NOT NULL DEFAULT 0,
    -- The attempt that is under way. Written before the provider is asked.
    attempt_id uuid,
    attempt_time timestamptz,
    -- The generation that the tokens were sealed at with which the provider is asked.
    attempt_generation bigint,
    lease_expire_time timestamptz,
    -- What the provider answered: enc:v1:…, bound to the connection and attempt_generation. Kept before anything is made
    -- of it.
    sealed_answer text,
    -- The last attempt that was made a new credential of: tells whether a COMMIT went through.
    done_attempt_id uuid,

    -- Since when it is not known whether the provider has replaced the tokens.
    ambiguous_time timestamptz,
    -- When the provider said that the grant is gone, while it is not believed yet.
    refused_time timestamptz,
    -- Attempts in a row that came to nothing.
    failures integer NOT NULL DEFAULT 0,
    last_attempt_time timestamptz,
    last_success_time timestamptz,
    -- What went wrong last; NULL: nothing since the last success.
    last_error text,
    -- The newest generation that a workload said the provider does not take.
    rejected_generation bigint,
    -- When the owner is to be told next that the permission ends.
    notice_time timestamptz,

    PRIMARY KEY (organization_id, connection_id),
    FOREIGN KEY (organization_id, connection_id) REFERENCES connections,
    CONSTRAINT refreshes_attempt_whole CHECK (
        (attempt_id IS NULL) = (attempt_time IS NULL)
        AND (attempt_id IS NULL) = (attempt_generation IS NULL)
        AND (attempt_id IS NULL) = (lease_expire_time IS NULL)
        AND (sealed_answer IS NULL OR attempt_id IS NOT NULL)
    ),
    CONSTRAINT refreshes_ready CHECK (NOT ready OR attempt_id IS NULL),
    CONSTRAINT refreshes_finite CHECK (
        isfinite(due_time) AND isfinite(deadline) AND isfinite(earliest_time) AND isfinite(notice_time)
    )
) WITH (fillfactor = 80);

-- What is to become ready; what is ready, by client; what is under way; who is to be told.
CREATE INDEX refreshes_due ON refreshes (due_time) WHERE due_time IS NOT NULL AND NOT ready;
CREATE INDEX refreshes_ready
    ON refreshes (client_organization_id, provider_id, client_id, demand_time, deadline) WHERE ready;
CREATE INDEX refreshes_under_way
    ON refreshes (client_organization_id, provider_id, client_id) WHERE lease_expire_time IS NOT NULL;
CREATE INDEX refreshes_notice ON refreshes (notice_time) WHERE notice_time IS NOT NULL;
CREATE INDEX refreshes_ambiguous ON refreshes (ambiguous_time) WHERE ambiguous_time IS NOT NULL;
CREATE INDEX refreshes_refused ON refreshes (client_organization_id, provider_id, client_id, refused_time)
    WHERE refused_time IS NOT NULL;

-- Answers that came when their attempt counted no more, and answers that held tokens beside an error: what a connection
-- may still be saved with.
CREATE TABLE late_answers (
    organization_id text NOT NULL,
    connection_id uuid NOT NULL,
    attempt_id uuid NOT NULL,
    -- The generation that the tokens were sealed at with which the provider was asked.
    generation bigint NOT NULL,
    sealed_answer text NOT NULL,
    -- Whether it was looked at already: no new credential could be made of it as a whole.
    seen boolean NOT NULL,
    create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (organization_id, connection_id, attempt_id)
);
CREATE INDEX late_answers_time ON late_answers (create_time);

-- Connections from before there was a refresher: due in the order in which their tokens end.
INSERT INTO provider_clients (organization_id, provider_id, client_id)
SELECT DISTINCT CASE WHEN o.client_id = c.token_client_id THEN c.organization_id ELSE '' END, c.provider_id, c.token_client_id
FROM connections c
LEFT JOIN oauth_clients o ON o.organization_id = c.organization_id AND o.provider_id = c.provider_id
WHERE c.token_client_id IS NOT NULL AND c.sealed_renewal IS NOT NULL AND c.state IN ('ACTIVE', 'DISABLED');
INSERT INTO refreshes (organization_id, connection_id, client_organization_id, provider_id, client_id, due_time,
                       earliest_time, deadline, call_seconds)
SELECT c.organization_id, c.connection_id,
       CASE WHEN o.client_id = c.token_client_id THEN c.organization_id ELSE '' END, c.provider_id, c.token_client_id,
       coalesce(c.token_expire_time, c.token_idle_expire_time) - interval '10 minutes', clock_timestamp(),
       c.token_expire_time, 10
FROM connections c
LEFT JOIN oauth_clients o ON o.organization_id = c.organization_id AND o.provider_id = c.provider_id
WHERE c.token_client_id IS NOT NULL AND c.sealed_renewal IS NOT NULL AND c.state IN ('ACTIVE', 'DISABLED');
