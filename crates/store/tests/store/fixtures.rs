use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use keyholder_domain::{
    Account, AuditEventId, AuthMethod, Clock as _, Connection, ConnectionId, ConnectionState, Generation,
    Grant, GrantId, GrantTarget, Labels, OrganizationId, Principal, ProviderId, Scopes, SystemClock, Text,
    Timestamp, WorkloadId,
};
use keyholder_store::{
    NewConnection, NewGrant, Release, ReleaseLane, Sealed, Store, StoreSettings, StoredConnection, Target,
};
use keyholder_testkit::postgres::PrivatePostgres;

pub(crate) const DATABASE: &str = "keyholder";

/// A store on a database of its own.
pub(crate) struct World {
    pub(crate) postgres: PrivatePostgres,
    pub(crate) store: Store,
    pub(crate) lane: ReleaseLane,
}

impl World {
    /// An empty, migrated database.
    pub(crate) async fn start() -> Self {
        let world = Self::unmigrated().await;
        world.store.migrate().await.unwrap();
        world
    }

    /// An empty database.
    pub(crate) async fn unmigrated() -> Self {
        let postgres = PrivatePostgres::temporary().unwrap();
        postgres.create_database(DATABASE).unwrap();
        let store = Store::connect(&StoreSettings::new(postgres.url(DATABASE))).await.unwrap();
        let (lane, _) = store.release_lane();
        Self { postgres, store, lane }
    }

    pub(crate) fn sql(&self, sql: &str) -> String {
        self.postgres.psql(DATABASE, sql).unwrap().trim().to_owned()
    }

    /// Somebody in whose transaction a query has run, and which goes on.
    pub(crate) fn hold(&self, query: &str) -> Holding {
        let mut psql = Command::new(self.postgres.bin_dir().join("psql"))
            .args(["--quiet", "--no-psqlrc", "--tuples-only", "--no-align", &self.postgres.url(DATABASE)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        writeln!(psql.stdin.as_mut().unwrap(), "BEGIN; {query}; SELECT 'held';").unwrap();
        let mut lines = BufReader::new(psql.stdout.take().unwrap()).lines();
        lines.find(|line| line.as_ref().unwrap() == "held").unwrap().unwrap();
        Holding(psql)
    }

    /// Adds a connection and returns it as it is stored.
    pub(crate) async fn insert(&self, connection: &Connection) -> StoredConnection {
        let mut change = self.store.change(&connection.organization_id).await.unwrap();
        let new = NewConnection { connection, sealed: Some(&sealed()), request: None };
        change.insert_connection(&new).await.unwrap();
        change.commit().await.unwrap();
        self.store.connection(&connection.organization_id, connection.id).await.unwrap().unwrap()
    }

    /// Adds a grant.
    pub(crate) async fn give(&self, grant: &Grant) {
        let mut change = self.store.change(&grant.organization_id).await.unwrap();
        change
            .insert_grant(&NewGrant { grant, provider_id: &provider("openai"), request: None })
            .await
            .unwrap();
        change.commit().await.unwrap();
    }
}

/// See [`World::hold`].
pub(crate) struct Holding(Child);

impl Holding {
    /// Ends the transaction.
    pub(crate) fn end(mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }

    /// What it did stands.
    pub(crate) fn commit(mut self) {
        writeln!(self.0.stdin.as_mut().unwrap(), "COMMIT;").unwrap();
        self.end();
    }
}

pub(crate) fn organization(name: &str) -> OrganizationId {
    OrganizationId::parse(name).unwrap()
}

pub(crate) fn provider(name: &str) -> ProviderId {
    ProviderId::parse(name).unwrap()
}

pub(crate) fn principal(text: &str) -> Principal {
    Principal::parse(text).unwrap()
}

pub(crate) fn workload() -> WorkloadId {
    WorkloadId::parse("spiffe://test.example/gateway").unwrap()
}

pub(crate) fn now() -> Timestamp {
    SystemClock.now()
}

pub(crate) fn sealed() -> Sealed {
    Sealed {
        credential: "enc:v1:dk_1:AAAA".into(),
        generation: Generation::FIRST,
        fingerprint: format!("f{}", now().unix_timestamp_nanos()),
        renewal: None,
    }
}

/// A connection of `user:ada` at openai; numbers make ids.
pub(crate) fn connection(organization_id: &str, number: u8) -> Connection {
    Connection {
        id: ConnectionId::new(now(), [number; 10]),
        organization_id: organization(organization_id),
        owner: principal("user:ada"),
        provider_id: provider("openai"),
        auth_method: AuthMethod::ApiKey,
        display_name: Text::parse("Ada's").unwrap(),
        account: Account { id: Text::parse(&format!("account-{number}")).unwrap(), ..Account::default() },
        scopes: Scopes::parse(["read"]).unwrap(),
        state: ConnectionState::Active,
        state_reason: Text::default(),
        credential_summary: BTreeMap::from([("api_key".into(), "configured...[REDACTED]".into())]),
        config: BTreeMap::from([("base_url".into(), "https://api.example.com".into())]),
        labels: Labels::parse([("team", "a")]).unwrap(),
        last_test: None,
        tokens: None,
        generation: Generation::FIRST,
        create_time: now(),
        update_time: now(),
    }
}

/// A grant for `agent:roadie`.
pub(crate) fn grant(organization_id: &str, target: GrantTarget) -> Grant {
    Grant {
        id: GrantId::new(now(), [9; 10]),
        organization_id: organization(organization_id),
        grantee: principal("agent:roadie"),
        target,
        scopes: Scopes::default(),
        workloads: Vec::new(),
        expire_time: None,
        reason: Text::default(),
        created_by: workload(),
        revoke_time: None,
        last_used_time: None,
        generation: Generation::FIRST,
        create_time: now(),
    }
}

/// A release of a connection to `agent:roadie`.
/// A release of a connection by the fixture's actor and workload, as it stands now.
pub(crate) async fn release(world: &World, connection: &Connection, number: u8) -> Release {
    let (organization, actor) = (&connection.organization_id, principal("agent:roadie"));
    let found = world.store.find(organization, &actor, &Target::Connection(connection.id)).await.unwrap();
    Release {
        audit_event_id: AuditEventId::new(now(), [number; 10]),
        organization_id: organization.clone(),
        connection: (connection.id, connection.generation),
        version: found.candidates[0].version,
        grant_id: found.candidates[0].grants.first().map(|grant| grant.id),
        provider_id: connection.provider_id.clone(),
        provider_generation: None,
        before: None,
        workload: workload(),
        actor,
        purpose: Text::default(),
    }
}
