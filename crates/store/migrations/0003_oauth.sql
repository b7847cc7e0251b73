-- OAuth: what is known of a connection's tokens, the flows in progress, organizations' own clients, and the tokens
-- that are still to be given back.

ALTER TABLE connections
    -- The public id of the client that the tokens were issued to. NULL: the credential was typed in.
    ADD COLUMN token_client_id text,
    ADD COLUMN token_scopes_asked text[],
    -- When the access token ends; NULL also where the provider does not say.
    ADD COLUMN token_expire_time timestamptz,
    ADD COLUMN token_renewal_missing boolean,
    ADD COLUMN token_idle_expire_time timestamptz,
    ADD COLUMN token_absolute_expire_time timestamptz,
    -- What the next access token is got with: enc:v1:…, bound like sealed_credential, to the same generation.
    ADD COLUMN sealed_renewal text,
    ADD CONSTRAINT connections_tokens_whole CHECK (
        (token_client_id IS NULL) = (token_scopes_asked IS NULL)
        AND (token_client_id IS NULL) = (token_renewal_missing IS NULL)
        AND (token_client_id IS NOT NULL OR (
            token_expire_time IS NULL AND token_idle_expire_time IS NULL
            AND token_absolute_expire_time IS NULL AND sealed_renewal IS NULL
        ))
    ),
    ADD CONSTRAINT connections_renewal_is_erased CHECK (sealed_renewal IS NULL OR sealed_credential IS NOT NULL),
    ADD CONSTRAINT connections_tokens_finite CHECK (
        isfinite(token_expire_time) AND isfinite(token_idle_expire_time)
        AND isfinite(token_absolute_expire_time)
    );

-- One OAuth flow in progress. What the browser brings finds its flow by the hash of a secret of 256 random bits, and so
-- finds the organization: the one place where no caller could name it.
CREATE TABLE authorizations (
    organization_id text NOT NULL REFERENCES organizations,
    authorization_id uuid NOT NULL,
    owner text NOT NULL,
    provider_id text NOT NULL,
    auth_method text NOT NULL,
    connection_id uuid,
    reauthorizes boolean NOT NULL,
    display_name text NOT NULL,
    labels jsonb NOT NULL,
    config jsonb NOT NULL,
    scopes text[] NOT NULL,
    client_id text NOT NULL,
    redirect_uri text NOT NULL,
    return_url text NOT NULL,
    completion_challenge text NOT NULL,
    state text NOT NULL
        CHECK (state IN ('PENDING', 'EXCHANGING', 'AWAITING_COMPLETION', 'COMPLETED', 'FAILED')),
    failure text,
    user_code text NOT NULL DEFAULT '',
    verification_uri text NOT NULL DEFAULT '',
    verification_uri_complete text NOT NULL DEFAULT '',
    -- SHA-256 of what the link to our start page, the provider's redirect and the browser's cookie carry.
    ticket_hash bytea,
    state_hash bytea,
    browser_hash bytea,
    -- The verifier, the state, the nonce, the device code: enc:v1:…, bound to the authorization.
    sealed_flow text,
    -- What the provider answered, as it came: kept before anything is made of it.
    sealed_answer text,
    -- Until when whoever exchanges has it to itself; after that, somebody else may finish.
    lease_expire_time timestamptz,
    -- For a device: when to ask next, and how many seconds to leave between.
    poll_time timestamptz,
    poll_seconds integer,
    started_by text NOT NULL,
    request_id text,
    request_fingerprint text,
    create_time timestamptz NOT NULL,
    expire_time timestamptz NOT NULL,
    PRIMARY KEY (organization_id, authorization_id),
    FOREIGN KEY (organization_id, connection_id) REFERENCES connections,
    CONSTRAINT authorizations_failure CHECK ((state = 'FAILED') = (failure IS NOT NULL)),
    CONSTRAINT authorizations_completed CHECK (state <> 'COMPLETED' OR connection_id IS NOT NULL),
    -- A flow that is over holds no secret.
    CONSTRAINT authorizations_erased CHECK (
        state NOT IN ('COMPLETED', 'FAILED') OR (sealed_flow IS NULL AND sealed_answer IS NULL)
    ),
    CONSTRAINT authorizations_finite CHECK (isfinite(create_time) AND isfinite(expire_time))
);

CREATE UNIQUE INDEX authorizations_ticket ON authorizations (ticket_hash) WHERE ticket_hash IS NOT NULL;
CREATE UNIQUE INDEX authorizations_state ON authorizations (state_hash) WHERE state_hash IS NOT NULL;
CREATE UNIQUE INDEX authorizations_request ON authorizations (organization_id, request_id)
    WHERE request_id IS NOT NULL;
-- What is to be done by itself: devices to poll, exchanges to finish, flows that nobody finished.
CREATE INDEX authorizations_open ON authorizations (expire_time)
    WHERE state IN ('PENDING', 'EXCHANGING', 'AWAITING_COMPLETION');

-- An organization's own OAuth client at a provider.
CREATE TABLE oauth_clients (
    organization_id text NOT NULL REFERENCES organizations,
    provider_id text NOT NULL,
    client_id text NOT NULL,
    -- The secrets, the newest and the one before it: enc:v1:…, bound to organization, provider and generation.
    sealed_secrets text,
    secret_count integer NOT NULL CHECK (secret_count BETWEEN 0 AND 2),
    generation bigint NOT NULL CHECK (generation >= 1),
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    PRIMARY KEY (organization_id, provider_id)
);

-- Everything of an organization, of one provider or of what one workload got credentials of, that is deleted and given
-- back in one go. Goes on where it stopped, whichever replica that was.
CREATE TABLE revocation_runs (
    organization_id text NOT NULL REFERENCES organizations,
    revocation_run_id uuid NOT NULL,
    -- NULL: at any provider.
    provider_id text,
    -- NULL: whoever got their credentials.
    workload text,
    requested_by text NOT NULL,
    -- The last connection that was looked at.
    reached uuid,
    deleted bigint NOT NULL DEFAULT 0,
    lease_expire_time timestamptz,
    done_time timestamptz,
    request_id text,
    request_fingerprint text,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (organization_id, revocation_run_id)
);

CREATE UNIQUE INDEX revocation_runs_request ON revocation_runs (organization_id, request_id)
    WHERE request_id IS NOT NULL;
CREATE INDEX revocation_runs_open ON revocation_runs (create_time) WHERE done_time IS NULL;

-- Tokens of connections that are gone, until their provider has taken them back.
CREATE TABLE revocations (
    organization_id text NOT NULL REFERENCES organizations,
    connection_id uuid NOT NULL,
    provider_id text NOT NULL,
    client_id text NOT NULL,
    config jsonb NOT NULL,
    -- enc:v1:…, bound to the connection and this generation.
    sealed_tokens text,
    generation bigint NOT NULL,
    outcome text NOT NULL DEFAULT 'PENDING'
        CHECK (outcome IN ('PENDING', 'REVOKED', 'UNSUPPORTED', 'FAILED')),
    attempts integer NOT NULL DEFAULT 0,
    next_attempt_time timestamptz NOT NULL,
    requested_by text NOT NULL,
    -- The run that it belongs to, if any.
    revocation_run_id uuid,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (organization_id, connection_id, generation),
    CONSTRAINT revocations_erased CHECK ((outcome = 'PENDING') = (sealed_tokens IS NOT NULL))
);

CREATE INDEX revocations_run ON revocations (organization_id, revocation_run_id) WHERE revocation_run_id IS NOT NULL;
CREATE INDEX revocations_due ON revocations (next_attempt_time) WHERE outcome = 'PENDING';
