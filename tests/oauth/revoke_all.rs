//! Everything revoked in one go, for the day on which somebody's keys were stolen.

use keyholder_proto::v1::{self, ConnectionState};
use keyholder_testkit::provider::{Effect, Endpoint, Stage};
use tonic::{Code, Status};

use super::world::{CLIENT, OAuth};
use crate::harness::{ACME, Server, assert_refused, eventually, resolve_request};

fn everything() -> v1::RevokeAllRequest {
    v1::RevokeAllRequest { organization_id: ACME.into(), ..Default::default() }
}

fn at(provider_id: &str) -> v1::RevokeAllRequest {
    v1::RevokeAllRequest { provider_id: provider_id.into(), ..everything() }
}

fn reached_by(workload: &str) -> v1::RevokeAllRequest {
    v1::RevokeAllRequest { workload: format!("spiffe://test.example/{workload}"), ..everything() }
}

/// The numbers of a run: deleted; pending, revoked, unsupported and failed.
fn counts(run: &v1::RevocationRun) -> (i64, [i64; 4]) {
    (run.deleted, [run.pending, run.revoked, run.unsupported, run.failed])
}

impl OAuth {
    async fn revoke_all(&self, request: v1::RevokeAllRequest) -> v1::RevocationRun {
        self.revoke_all_as("console", request).await.unwrap()
    }

    async fn revoke_all_as(
        &self,
        workload: &str,
        request: v1::RevokeAllRequest,
    ) -> Result<v1::RevocationRun, Status> {
        let channel = self.world.channel(workload);
        let mut client = v1::connection_service_client::ConnectionServiceClient::new(channel);
        Ok(client.revoke_all(request).await?.into_inner().revocation_run.unwrap())
    }

    async fn run(&self, server: &Server, run: &v1::RevocationRun) -> v1::RevocationRun {
        let request = v1::GetRevocationRunRequest {
            organization_id: ACME.into(),
            revocation_run_id: run.revocation_run_id.clone(),
        };
        let channel = self.world.channel_to(server, "console");
        let mut client = v1::connection_service_client::ConnectionServiceClient::new(channel);
        client.get_revocation_run(request).await.unwrap().into_inner().revocation_run.unwrap()
    }

    /// The run when every connection is deleted and nothing is left to be given back.
    async fn finished(&self, run: &v1::RevocationRun) -> v1::RevocationRun {
        self.wait_for_deletions();
        self.wait_for_tokens();
        self.run(&self.world.server, run).await
    }

    fn wait_for_deletions(&self) {
        eventually("the end of every run", || {
            let open = self.world.sql("SELECT count(*) FROM revocation_runs WHERE done_time IS NULL");
            (open == "0").then_some(())
        });
    }

    fn wait_for_tokens(&self) {
        eventually("the end of every revocation", || {
            let open = self.world.sql("SELECT count(*) FROM revocations WHERE outcome = 'PENDING'");
            (open == "0").then_some(())
        });
    }

    /// Connects an account whose tokens are issued to a client, without a browser.
    async fn by_client(&self, owner: &str) -> String {
        let request = v1::CreateConnectionRequest {
            organization_id: ACME.into(),
            owner: owner.into(),
            provider_id: "demo".into(),
            auth_method: v1::AuthMethod::Oauth2ClientCredentials.into(),
            credentials: [("client_id", CLIENT.0), ("client_secret", CLIENT.1)]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..Default::default()
        };
        let made = self.world.connections().create_connection(request).await.unwrap().into_inner();
        made.connection.unwrap().connection_id
    }

    async fn resolve_through(&self, workload: &str, owner: &str, connection_id: &str) {
        let mut client = self.world.grants(workload);
        client.resolve_credential(resolve_request(owner, connection_id)).await.unwrap();
    }

    async fn is_deleted(&self, connection_id: &str) -> bool {
        self.connection(connection_id).await.state() == ConnectionState::Deleted
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_providers_connections_are_deleted_and_their_tokens_given_back_and_nothing_else() {
    let oauth = OAuth::start();
    let ada = oauth.connect("user:ada").await.connection_id;
    let bob = oauth.connect("user:bob").await.connection_id;
    let key = oauth.world.connect("user:ada", "sk-ada").await;
    let run = oauth.revoke_all(at("demo")).await;
    assert_eq!((run.provider_id.as_str(), run.workload.as_str()), ("demo", ""));
    let done = oauth.finished(&run).await;
    assert_eq!(counts(&done), (2, [0, 2, 0, 0]));
    assert!(done.done_time.is_some());
    assert!(oauth.is_deleted(&ada).await && oauth.is_deleted(&bob).await);
    assert!(!oauth.is_deleted(&key).await);
    let history = oauth.provider.history();
    let given: Vec<_> = history.iter().filter(|call| call.endpoint == Endpoint::Revoke).collect();
    let mut kinds: Vec<_> =
        given.iter().map(|call| call.presented.as_deref().unwrap().split('-').next().unwrap()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["at", "at", "rt", "rt"]);

    let began = oauth.world.sql(
        "SELECT workload || ' ' || provider_id || ' ' || reason FROM audit_events WHERE kind = 'REVOCATION_RUN_STARTED'",
    );
    assert_eq!(began, format!("spiffe://test.example/console demo {}", run.revocation_run_id));
    let on_record = oauth.world.sql(
        "SELECT kind, workload, count(*) FROM audit_events
         WHERE kind IN ('CONNECTION_DELETED', 'TOKEN_REVOKED') GROUP BY 1, 2 ORDER BY 1",
    );
    let by = "spiffe://test.example/console";
    assert_eq!(on_record, format!("CONNECTION_DELETED|{by}|2\nTOKEN_REVOKED|{by}|2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_workload_got_is_deleted_wherever_it_is_and_nothing_else() {
    let oauth = OAuth::start();
    let [consented, key, untouched, others] = [
        oauth.connect("user:ada").await.connection_id,
        oauth.world.connect("user:ada", "sk-ada").await,
        oauth.world.connect("user:bob", "sk-bob").await,
        oauth.connect("user:bob").await.connection_id,
    ];
    oauth.resolve_through("gateway", "user:ada", &consented).await;
    oauth.resolve_through("gateway", "user:ada", &key).await;
    oauth.resolve_through("several", "user:bob", &others).await;
    // Refused is not got.
    let refused =
        oauth.world.grants("gateway").resolve_credential(resolve_request("user:ada", &untouched)).await;
    assert_refused(refused, Code::PermissionDenied, "GRANT_MISSING");

    let nothing =
        oauth.revoke_all(v1::RevokeAllRequest { provider_id: "stripe".into(), ..reached_by("gateway") });
    let nothing = nothing.await;
    assert_eq!(counts(&oauth.finished(&nothing).await), (0, [0; 4]));
    let run = oauth.revoke_all(v1::RevokeAllRequest { provider_id: "demo".into(), ..reached_by("gateway") });
    let run = run.await;
    // A static credential has nothing that could be given back, and counts only as deleted.
    assert_eq!(counts(&oauth.finished(&run).await), (1, [0, 1, 0, 0]));
    assert!(oauth.is_deleted(&consented).await && !oauth.is_deleted(&key).await);
    let run = oauth.revoke_all(reached_by("gateway")).await;
    let done = oauth.finished(&run).await;
    assert_eq!((counts(&done), done.workload.as_str()), ((1, [0; 4]), "spiffe://test.example/gateway"));
    assert!(oauth.is_deleted(&key).await);
    assert!(!oauth.is_deleted(&untouched).await && !oauth.is_deleted(&others).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_of_one_organization_is_deleted_whatever_its_state() {
    let oauth = OAuth::start();
    let consented = oauth.connect("user:ada").await.connection_id;
    let by_client = oauth.by_client("user:ada").await;
    let disabled = oauth.world.connect("user:ada", "sk-ada").await;
    let mut client = oauth.world.connections();
    let disable = v1::DisableConnectionRequest {
        organization_id: ACME.into(),
        connection_id: disabled.clone(),
        ..Default::default()
    };
    client.disable_connection(disable).await.unwrap();
    let gone = oauth.world.connect("user:ada", "sk-gone").await;
    let delete = v1::DeleteConnectionRequest {
        organization_id: ACME.into(),
        connection_id: gone,
        ..Default::default()
    };
    client.delete_connection(delete).await.unwrap();
    let other = v1::CreateConnectionRequest {
        organization_id: "other".into(),
        ..crate::harness::openai("user:ada", "sk-other")
    };
    client.create_connection(other).await.unwrap();

    let run = oauth.revoke_all(everything()).await;
    assert_eq!(counts(&oauth.finished(&run).await), (3, [0, 2, 0, 0]));
    for id in [&consented, &by_client, &disabled] {
        assert!(oauth.is_deleted(id).await, "{id}");
    }
    let left = oauth.world.sql("SELECT organization_id FROM connections WHERE state <> 'DELETED'");
    assert_eq!(left, "other");
    let refused =
        oauth.world.grants("gateway").resolve_credential(resolve_request("user:ada", &consented)).await;
    assert_refused(refused, Code::NotFound, "CONNECTION_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_connected_after_a_run_began_stays() {
    let oauth = OAuth::start();
    let before = oauth.world.connect("user:ada", "sk-before").await;
    let id = before.replace("conn_", "");
    let mut held =
        oauth.world.lock(&format!("SELECT 1 FROM connections WHERE connection_id = '{id}' FOR UPDATE"));
    let run = oauth.revoke_all(everything()).await;
    let during = oauth.world.connect("user:ada", "sk-during").await;
    assert!(oauth.run(&oauth.world.server, &run).await.done_time.is_none());
    held.release();
    assert_eq!(counts(&oauth.finished(&run).await), (1, [0; 4]));
    let after = oauth.connect("user:ada").await.connection_id;
    assert!(oauth.is_deleted(&before).await);
    assert!(!oauth.is_deleted(&during).await && !oauth.is_deleted(&after).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_server_was_killed_is_finished_by_another_one_and_counts_each_connection_once() {
    const CONNECTIONS: usize = 300;
    let mut oauth = OAuth::start();
    oauth.by_client("user:first").await;
    for number in 2..CONNECTIONS {
        oauth.world.connect("user:ada", &format!("sk-{number}")).await;
    }
    oauth.by_client("user:last").await;
    // The run waits for this one: in the middle of a batch, behind others that are noted.
    let at =
        oauth.world.sql("SELECT connection_id FROM connections ORDER BY connection_id OFFSET 119 LIMIT 1");
    let mut held =
        oauth.world.lock(&format!("SELECT 1 FROM connections WHERE connection_id = '{at}' FOR UPDATE"));
    let run = oauth.revoke_all(everything()).await;
    let deleted = "SELECT count(*) FROM connections WHERE state = 'DELETED'";
    eventually("the run's way to the connection that is held", || {
        (oauth.world.sql(deleted) == "119").then_some(())
    });
    assert_eq!(oauth.run(&oauth.world.server, &run).await.deleted, 119);
    oauth.world.server.signal("KILL");
    oauth.world.server.child.wait().unwrap();
    held.release();
    assert_eq!(oauth.world.sql(deleted), "119");

    let second = oauth.world.server("second");
    oauth.world.sql("UPDATE revocation_runs SET lease_expire_time = now() - interval '1 second'");
    oauth.world.sql("UPDATE revocations SET next_attempt_time = now() WHERE outcome = 'PENDING'");
    oauth.wait_for_deletions();
    oauth.wait_for_tokens();
    assert_eq!(oauth.world.sql(deleted), CONNECTIONS.to_string());
    let done = oauth.run(&second, &run).await;
    assert_eq!(counts(&done), (i64::try_from(CONNECTIONS).unwrap(), [0, 2, 0, 0]));
    let events = oauth.world.sql("SELECT count(*) FROM audit_events WHERE kind = 'CONNECTION_DELETED'");
    assert_eq!(events, CONNECTIONS.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_a_provider_cannot_take_at_present_are_pending_until_it_does() {
    let oauth = OAuth::start();
    let made = oauth.connect("user:ada").await.connection_id;
    oauth.provider.spoil_at(Endpoint::Revoke, 1_000, Stage::Before, Effect::Status(503));
    let run = oauth.revoke_all(at("demo")).await;
    oauth.wait_for_deletions();
    eventually("an attempt", || {
        oauth.provider.history().iter().find(|call| call.endpoint == Endpoint::Revoke)?.answered
    });
    let waiting = oauth.run(&oauth.world.server, &run).await;
    assert_eq!(counts(&waiting), (1, [1, 0, 0, 0]));
    // The connection is gone all the same.
    assert!(waiting.done_time.is_some() && oauth.is_deleted(&made).await);

    oauth.provider.forgive();
    eventually("the end of the revocation", || {
        let again = "UPDATE revocations SET next_attempt_time = now() WHERE outcome = 'PENDING'";
        oauth.world.sql(again);
        let outcome = oauth.world.sql("SELECT outcome FROM revocations");
        (outcome == "REVOKED").then_some(())
    });
    assert_eq!(counts(&oauth.run(&oauth.world.server, &run).await), (1, [0, 1, 0, 0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_again_gets_the_run_it_began_and_begins_nothing() {
    let oauth = OAuth::start();
    oauth.world.connect("user:ada", "sk-before").await;
    let request = v1::RevokeAllRequest { request_id: "stolen-1".into(), ..at("openai") };
    let run = oauth.revoke_all(request.clone()).await;
    let done = oauth.finished(&run).await;
    assert_eq!(done.deleted, 1);
    let after = oauth.world.connect("user:ada", "sk-after").await;
    assert_eq!(oauth.revoke_all(request.clone()).await, done);
    assert_eq!(oauth.world.sql("SELECT count(*) FROM revocation_runs"), "1");
    assert!(!oauth.is_deleted(&after).await);
    let another = v1::RevokeAllRequest { provider_id: "demo".into(), ..request };
    let refused = oauth.revoke_all_as("console", another).await;
    assert_refused(refused, Code::AlreadyExists, "REQUEST_ID_REUSED");
    assert_eq!(oauth.world.sql("SELECT count(*) FROM revocation_runs"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_exists_nowhere_is_refused_and_begins_nothing() {
    let oauth = OAuth::start();
    let key = oauth.world.connect("user:ada", "sk-ada").await;
    let misspelt =
        [at("opneai"), v1::RevokeAllRequest { provider_id: "opneai".into(), ..reached_by("gateway") }];
    for request in misspelt {
        let refused = oauth.revoke_all_as("console", request).await;
        assert_refused(refused, Code::NotFound, "PROVIDER_NOT_FOUND");
    }
    assert_eq!(oauth.world.sql("SELECT count(*) FROM revocation_runs"), "0");
    assert!(!oauth.is_deleted(&key).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_has_left_the_catalog_is_revoked_and_its_request_can_be_repeated() {
    let oauth = OAuth::start();
    let key = oauth.world.connect("user:ada", "sk-ada").await;
    oauth.world.sql("UPDATE connections SET provider_id = 'gone'");
    let request = v1::RevokeAllRequest { request_id: "gone-1".into(), ..at("gone") };
    let run = oauth.revoke_all(request.clone()).await;
    let done = oauth.finished(&run).await;
    assert_eq!(done.deleted, 1);
    assert!(oauth.is_deleted(&key).await);
    assert_eq!(oauth.revoke_all(request).await, done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_revokes_at_no_provider_that_its_policy_does_not_name() {
    let oauth = OAuth::start();
    let consented = oauth.connect("user:ada").await.connection_id;
    let key = oauth.world.connect("user:ada", "sk-ada").await;
    oauth.resolve_through("gateway", "user:ada", &consented).await;
    for request in [at("demo"), everything(), reached_by("gateway")] {
        let refused = oauth.revoke_all_as("openai-console", request).await;
        assert_refused(refused, Code::PermissionDenied, "PROVIDER_NOT_ALLOWED");
    }
    for request in [at("demo"), everything()] {
        let elsewhere = v1::RevokeAllRequest { organization_id: "other".into(), ..request };
        let refused = oauth.revoke_all_as("acme-console", elsewhere).await;
        assert_refused(refused, Code::PermissionDenied, "ORGANIZATION_NOT_ALLOWED");
    }
    assert_eq!(oauth.world.sql("SELECT count(*) FROM revocation_runs"), "0");
    let run = oauth.revoke_all_as("openai-console", at("openai")).await.unwrap();
    assert_eq!(counts(&oauth.finished(&run).await), (1, [0; 4]));
    assert!(oauth.is_deleted(&key).await && !oauth.is_deleted(&consented).await);
}
