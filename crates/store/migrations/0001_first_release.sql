-- The first release: organizations with their data keys, connections, grants, audit.
--
-- Tenancy: organization_id is the first column of every key, and every query names it.

CREATE TABLE organizations (
    organization_id text PRIMARY KEY,
    -- The number of the last change to a connection. Whoever changes anything in an organization takes the
    -- next number first and so holds this row until commit: numbers become visible in their own order.
    change bigint NOT NULL DEFAULT 0
);

CREATE TABLE data_keys (
    organization_id text NOT NULL REFERENCES organizations,
    data_key_id text NOT NULL,
    -- enc:v1:<key-encryption key id>:…
    wrapped text NOT NULL,
    create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (organization_id, data_key_id)
);

CREATE TABLE connections (
    organization_id text NOT NULL REFERENCES organizations,
    connection_id uuid NOT NULL,
    owner text NOT NULL,
    provider_id text NOT NULL,
    auth_method text NOT NULL,
    display_name text NOT NULL,
    account_id text NOT NULL,
    account_name text NOT NULL,
    account_email text NOT NULL,
    scopes text[] NOT NULL,
    state text NOT NULL
        CHECK (state IN ('PENDING', 'ACTIVE', 'DISABLED', 'REAUTHORIZATION_REQUIRED', 'DELETED')),
    state_reason text NOT NULL,
    -- enc:v1:<data key id>:…, bound to organization, connection and sealed_generation.
    sealed_credential text,
    -- The generation at which the credential was sealed; later generations changed something else.
    sealed_generation bigint,
    -- A keyed hash that recognises the same credential twice.
    credential_fingerprint text,
    credential_fields text[] NOT NULL,
    config jsonb NOT NULL,
    labels jsonb NOT NULL,
    request_id text,
    -- A keyed hash of the request that made the row.
    request_fingerprint text,
    change bigint NOT NULL,
    generation bigint NOT NULL CHECK (generation >= 1),
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    PRIMARY KEY (organization_id, connection_id),
    CONSTRAINT connections_sealed_whole CHECK (
        (sealed_credential IS NULL) = (sealed_generation IS NULL)
        AND (sealed_credential IS NULL) = (credential_fingerprint IS NULL)
        AND sealed_generation <= generation
    ),
    CONSTRAINT connections_active_has_credential CHECK (state <> 'ACTIVE' OR sealed_credential IS NOT NULL),
    CONSTRAINT connections_deleted_is_erased CHECK (
        state <> 'DELETED' OR (sealed_credential IS NULL AND credential_fields = '{}')
    )
);

-- The same account of the same owner at the same provider once.
CREATE UNIQUE INDEX connections_account ON connections (organization_id, provider_id, owner, account_id)
    WHERE account_id <> '' AND state <> 'DELETED';
-- Where the account is not known, the same credential once.
CREATE UNIQUE INDEX connections_credential
    ON connections (organization_id, provider_id, owner, credential_fingerprint)
    WHERE account_id = '' AND state <> 'DELETED';
CREATE UNIQUE INDEX connections_request ON connections (organization_id, request_id)
    WHERE request_id IS NOT NULL;
CREATE UNIQUE INDEX connections_change ON connections (organization_id, change);
CREATE INDEX connections_owner ON connections (organization_id, owner, connection_id);

-- The generation of the set of connections and grants of an organization at a provider: grows whenever one is
-- added to it. Together with the generations of its members, it tells whether "the one connection that
-- this actor has at this provider" is still the one that was decided on.
CREATE TABLE provider_generations (
    organization_id text NOT NULL REFERENCES organizations,
    provider_id text NOT NULL,
    generation bigint NOT NULL,
    PRIMARY KEY (organization_id, provider_id)
);

CREATE TABLE grants (
    organization_id text NOT NULL REFERENCES organizations,
    grant_id uuid NOT NULL,
    grantee text NOT NULL,
    -- Either one connection, or every connection of selector_owner at the provider.
    connection_id uuid,
    selector_owner text,
    provider_id text NOT NULL,
    scopes text[] NOT NULL,
    workloads text[] NOT NULL,
    expire_time timestamptz,
    reason text NOT NULL,
    created_by text NOT NULL,
    revoke_time timestamptz,
    request_id text,
    request_fingerprint text,
    generation bigint NOT NULL CHECK (generation >= 1),
    create_time timestamptz NOT NULL,
    PRIMARY KEY (organization_id, grant_id),
    FOREIGN KEY (organization_id, connection_id) REFERENCES connections,
    CONSTRAINT grants_one_target CHECK ((connection_id IS NULL) <> (selector_owner IS NULL))
);

CREATE INDEX grants_grantee ON grants (organization_id, grantee, provider_id);
CREATE INDEX grants_connection ON grants (organization_id, connection_id) WHERE connection_id IS NOT NULL;
CREATE INDEX grants_selector ON grants (organization_id, provider_id, selector_owner)
    WHERE selector_owner IS NOT NULL;
CREATE UNIQUE INDEX grants_request ON grants (organization_id, request_id) WHERE request_id IS NOT NULL;

-- organization_id has no foreign key: a denial may name an organization that nobody ever used.
CREATE TABLE audit_events (
    organization_id text NOT NULL,
    -- A UUIDv7: later events sort later.
    audit_event_id uuid NOT NULL,
    kind text NOT NULL,
    workload text NOT NULL,
    actor text,
    connection_id uuid,
    generation bigint,
    grant_id uuid,
    provider_id text,
    reason text NOT NULL DEFAULT '',
    purpose text NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (organization_id, audit_event_id)
);

CREATE INDEX audit_events_connection ON audit_events (organization_id, connection_id, audit_event_id)
    WHERE connection_id IS NOT NULL;
CREATE INDEX audit_events_grant ON audit_events (organization_id, grant_id, audit_event_id)
    WHERE grant_id IS NOT NULL;
CREATE INDEX audit_events_actor ON audit_events (organization_id, actor, audit_event_id)
    WHERE actor IS NOT NULL;
