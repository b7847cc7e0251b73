//! What a refusal means: the grant is dead, the client is broken, or neither is to be believed.

use std::sync::Arc;
use std::time::Duration;

use keyholder_domain::SystemClock;
use keyholder_proto::v1::o_auth_client_service_client::OAuthClientServiceClient;
use keyholder_proto::v1::{self, ConnectionState, RefreshState};
use keyholder_testkit::provider::{Client, Effect, Endpoint, Provider, Stage};
use tonic::Code;

use super::*;
use crate::harness::{assert_refused, log_lines};
use crate::oauth::world::Setup;

const REFUSED: ConnectionState = ConnectionState::ReauthorizationRequired;

fn invalid_grant() -> Effect {
    Effect::Error { status: 400, code: "invalid_grant".into() }
}

async fn refresh_state(oauth: &OAuth, made: &v1::Connection) -> (RefreshState, String) {
    let refresh = oauth.connection(&made.connection_id).await.refresh.unwrap();
    (refresh.state(), refresh.error)
}

/// Waits until nothing is wrong with a connection, and nothing under way.
async fn until_scheduled(oauth: &OAuth, made: &v1::Connection) {
    let good = (RefreshState::Scheduled, String::new());
    tokio::time::timeout(Duration::from_secs(60), async {
        while refresh_state(oauth, made).await != good {}
    })
    .await
    .unwrap_or_else(|_| panic!("{} is not scheduled", made.connection_id));
}

/// A catalog whose tokens stay good, and a client that everybody's tokens were issued to.
fn steady() -> OAuth {
    OAuth::start_with(&Setup { recipe: STATIC, ..Setup::default() })
}

// === The grant is dead ===

#[tokio::test(flavor = "multi_thread")]
async fn f22_c36_a_revoked_grant_needs_its_owner_and_nobody_is_asked_again() {
    let oauth = OAuth::start();
    let made = oauth.connect("user:ada").await;
    let everything = v1::WatchConnectionsRequest { organization_id: ACME.into(), ..Default::default() };
    let mut feed = oauth.world.connections().watch_connections(everything).await.unwrap().into_inner();
    while feed.message().await.unwrap().unwrap().connection.is_some() {}

    oauth.provider.withdraw("ada");
    let refused = refresh_now(&oauth, &made).await;
    assert_refused(refused, Code::Unavailable, "PROVIDER_UNAVAILABLE");
    // Not believed at once: others of the same client may hear the same.
    let held = (RefreshState::Refused, "GRANT_REFUSED".to_owned());
    assert_eq!(refresh_state(&oauth, &made).await, held);
    assert_eq!(oauth.connection(&made.connection_id).await.state(), ConnectionState::Active);

    let gone = until_state(&oauth, &made, REFUSED).await;
    assert_eq!(gone.state_reason, "REVOKED");
    assert_eq!(events(&oauth, "REAUTHORIZATION_REQUIRED"), "REVOKED");
    let told = feed.message().await.unwrap().unwrap().connection.unwrap();
    assert_eq!((told.connection_id.as_str(), told.state()), (made.connection_id.as_str(), REFUSED));
    assert_refused(resolve(&oauth, &made).await, Code::FailedPrecondition, "REAUTHORIZATION_REQUIRED");
    let again = refresh_now(&oauth, &made).await;
    assert_refused(again, Code::FailedPrecondition, "CONSENT_NEEDED");
    assert_eq!(oauth.calls(Endpoint::Token).len(), 2, "the code, and one refresh");
    assert_eq!(oauth.world.sql("SELECT count(*) FROM refreshes"), "0", "nothing is planned any more");
    let lines = log_lines(&oauth.world.server.log);
    assert!(lines.iter().any(|line| line["reason"] == "REVOKED"), "the operator can read why");

    // Its owner comes back.
    let again = oauth.connect("user:ada").await;
    assert_eq!(again.connection_id, made.connection_id);
    assert_good(&oauth, &again).await;
    refresh_now(&oauth, &again).await.unwrap();
    assert_silent(&oauth, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_an_operator_who_asks_again_does_not_make_a_refusal_believed_sooner() {
    let oauth = OAuth::start();
    let made = oauth.connect("user:ada").await;
    oauth.provider.withdraw("ada");
    refresh_now(&oauth, &made).await.unwrap_err();
    let hour = "due_time = clock_timestamp() + interval '1 hour', \
                earliest_time = clock_timestamp() + interval '1 hour'";
    oauth.world.sql(&format!("UPDATE refreshes SET {hour} WHERE refused_time IS NOT NULL"));
    refresh_now(&oauth, &made).await.unwrap_err();
    assert_eq!(refresh_state(&oauth, &made).await.0, RefreshState::Refused);
    assert_eq!(oauth.connection(&made.connection_id).await.state(), ConnectionState::Active);
}

#[tokio::test(flavor = "multi_thread")]
async fn c36_the_loser_of_a_race_changes_nothing_where_newer_tokens_are() {
    let oauth = OAuth::start();
    let made = oauth.connect("user:ada").await;
    let gate = oauth.provider.hold(Stage::Before);
    oauth.provider.spoil(1, Stage::Before, invalid_grant());
    make_due(&oauth, &made);
    gate.held().await;
    let newer = oauth.connect("user:ada").await;
    assert_eq!(newer.connection_id, made.connection_id);
    let token = oauth.token(&newer).await;
    gate.release();
    eventually("the loser's answer", || {
        metric(&oauth, r#"keyholder_refreshes{provider="demo",outcome="GRANT_REFUSED"}"#)
    });
    assert_eq!(row(&oauth, &made, "refused_time IS NULL AND last_error IS NULL AND failures = 0"), "t");
    assert_eq!(oauth.token(&newer).await, token);
    let refreshed = refresh_now(&oauth, &newer).await.unwrap();
    assert_eq!(refreshed.state(), ConnectionState::Active);
    assert_eq!(events_of(&oauth, "REAUTHORIZATION_REQUIRED"), "0");
    assert_eq!(oauth.provider.counts().replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn c39_an_operator_who_asks_again_does_not_show_a_token_that_may_be_replaced() {
    let oauth = OAuth::start();
    let made = oauth.connect("user:ada").await;
    oauth.provider.spoil(1, Stage::After, Effect::Reset);
    refresh_now(&oauth, &made).await.unwrap_err();
    assert_eq!(refresh_state(&oauth, &made).await.0, RefreshState::Ambiguous);
    let asked = oauth.calls(Endpoint::Token).len();
    refresh_now(&oauth, &made).await.unwrap_err();
    assert_eq!(oauth.provider.counts().replays, 0, "the access token in use is still good");
    assert_eq!(oauth.calls(Endpoint::Token).len(), asked, "nobody was asked");
    assert_good(&oauth, &made).await;
}

// === The client is broken ===

#[tokio::test(flavor = "multi_thread")]
async fn c36_a_client_that_is_refused_is_put_into_quarantine_and_owners_are_left_alone() {
    let elsewhere = Provider::start(Arc::new(SystemClock)).unwrap();
    let oauth = OAuth::start_with(&Setup { recipe: STATIC, other: Some(&elsewhere), ..Setup::default() });
    let mine = import(&oauth, &oauth.provider, "demo", 3).await;
    let others = import(&oauth, &elsewhere, "other", 1).await;
    oauth.provider.forget(CLIENT.0);
    let refused = refresh_now(&oauth, &mine[0]).await;
    assert_refused(refused, Code::FailedPrecondition, "OAUTH_CLIENT_REFUSED");
    let asked = oauth.calls(Endpoint::Token).len();

    make_due_where(&oauth, "provider_id = 'demo'");
    let line = "demo keyholder installation 3 3 0 1 0 0";
    eventually("three that wait", || operators_line(&oauth, "demo").starts_with(line).then_some(()));
    assert!(operators_line(&oauth, "demo").ends_with("QUARANTINE: CLIENT_REFUSED"));
    assert_eq!(metric(&oauth, "keyholder_refresh_clients_quarantined").as_deref(), Some("1"));
    let alarm = |line: &serde_json::Value| {
        line["level"] == "ERROR" && line["client_id"] == CLIENT.0 && line["connections"] == 3
    };
    assert!(log_lines(&oauth.world.server.log).iter().any(alarm), "the log says so, loudly");
    for made in &mine {
        assert_good(&oauth, made).await;
        assert_eq!(refresh_state(&oauth, made).await.0, RefreshState::ClientQuarantined);
    }
    expire(&oauth, &mine[1]);
    let refused = resolve(&oauth, &mine[1]).await;
    assert_refused(refused, Code::FailedPrecondition, "OAUTH_CLIENT_REFUSED");
    assert_eq!(oauth.calls(Endpoint::Token).len(), asked, "one was refused, and the others did not try");
    assert_eq!(events_of(&oauth, "REAUTHORIZATION_REQUIRED"), "0");
    refresh_now(&oauth, &others[0]).await.unwrap();
    assert!(operators_line(&oauth, "other").ends_with("in use"));

    // A probe that is refused, too, changes nothing.
    oauth
        .world
        .sql("UPDATE provider_clients SET probe_time = clock_timestamp() WHERE quarantine IS NOT NULL");
    eventually("a probe", || (oauth.calls(Endpoint::Token).len() > asked).then_some(()));
    assert_eq!(oauth.calls(Endpoint::Token).len(), asked + 1, "with one connection");
    let callback = format!("{}/oauth/callback/demo", oauth.web);
    oauth.provider.register(Client::confidential(CLIENT.0, CLIENT.1, &callback));
    // In place of half a minute.
    eventually("a client that is used again", || {
        let soon = "UPDATE provider_clients SET probe_time = clock_timestamp() WHERE quarantine IS NOT NULL";
        oauth.world.sql(soon);
        make_due_where(&oauth, "last_error IS NOT NULL");
        operators_line(&oauth, "demo").contains("3 0 0 0 0 0").then_some(())
    });
    assert!(operators_line(&oauth, "demo").ends_with("in use"));
    assert_eq!(metric(&oauth, "keyholder_refresh_clients_quarantined").as_deref(), Some("0"));
    for made in &mine {
        until_scheduled(&oauth, made).await;
        assert_good(&oauth, made).await;
    }
    assert_silent(&oauth, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn c36_an_organizations_own_client_that_is_refused_is_its_own_trouble_and_heals_when_it_is_set() {
    let oauth = steady();
    let shared = oauth.connect("user:ada").await;
    let callback = format!("{}/oauth/callback/demo", oauth.web);
    oauth.provider.register(Client::confidential("acme-own", "first-secret-5d", &callback));
    let set = |secret: &str| v1::SetOAuthClientRequest {
        organization_id: ACME.into(),
        provider_id: "demo".into(),
        client_id: "acme-own".into(),
        client_secret: secret.into(),
        ..Default::default()
    };
    let mut clients = OAuthClientServiceClient::new(oauth.world.channel("console"));
    clients.set_o_auth_client(set("first-secret-5d")).await.unwrap();
    let own = oauth.connect("user:bob").await;
    oauth.provider.set_secrets("acme-own", &["second-secret-8e"]);
    let refused = refresh_now(&oauth, &own).await;
    assert_refused(refused, Code::FailedPrecondition, "OAUTH_CLIENT_REFUSED");
    assert_eq!(
        oauth
            .world
            .sql("SELECT organization_id, client_id FROM provider_clients WHERE quarantine IS NOT NULL"),
        "acme|acme-own"
    );
    refresh_now(&oauth, &shared).await.unwrap();
    assert_good(&oauth, &own).await;

    clients.set_o_auth_client(set("second-secret-8e")).await.unwrap();
    make_due(&oauth, &own);
    eventually("a client that is used again", || {
        (oauth.world.sql("SELECT count(*) FROM provider_clients WHERE quarantine IS NOT NULL") == "0")
            .then_some(())
    });
    refresh_now(&oauth, &own).await.unwrap();
    assert_silent(&oauth, &["first-secret-5d", "second-secret-8e"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn c36_an_owners_own_client_that_is_refused_ends_that_connection_only() {
    let oauth = OAuth::start();
    for client in ["reports", "billing"] {
        oauth.provider.register(Client::confidential(client, "owners-secret-2b", ""));
    }
    let method = v1::AuthMethod::Oauth2ClientCredentials;
    let fields = |client| [("client_id", client), ("client_secret", "owners-secret-2b")];
    let broken = oauth.create("demo", method, &fields("reports")).await.unwrap();
    let sound = oauth.create("demo", method, &fields("billing")).await.unwrap();
    let consented = oauth.connect("user:bob").await;
    oauth.provider.set_secrets("reports", &["another"]);
    make_due(&oauth, &broken);
    let gone = until_state(&oauth, &broken, REFUSED).await;
    assert_eq!(gone.state_reason, "CREDENTIALS_REFUSED");
    assert_eq!(events(&oauth, "REAUTHORIZATION_REQUIRED"), "CREDENTIALS_REFUSED");
    for made in [&sound, &consented] {
        refresh_now(&oauth, made).await.unwrap();
        assert_good(&oauth, made).await;
    }
    assert_eq!(oauth.world.sql("SELECT count(*) FROM provider_clients WHERE quarantine IS NOT NULL"), "0");
    assert_silent(&oauth, &["owners-secret-2b"]);
}

// === Too many to be believed ===

#[tokio::test(flavor = "multi_thread")]
async fn f22_many_grants_refused_at_once_are_not_believed_until_an_operator_says_so() {
    let oauth = steady();
    let made = import(&oauth, &oauth.provider, "demo", 6).await;
    let (refused, sound) = made.split_at(5);
    // Nothing shows that the provider is to be believed.
    let kept_out = format!("UPDATE refreshes SET due_time = NULL WHERE connection_id = '{}'", id(&sound[0]));
    oauth.world.sql(&kept_out);
    oauth.provider.spoil(5, Stage::Before, invalid_grant());
    for one in refused {
        make_due(&oauth, one);
    }
    let line = "demo keyholder installation 6 0 0 5 0 5";
    eventually("five that are refused", || operators_line(&oauth, "demo").starts_with(line).then_some(()));
    assert!(operators_line(&oauth, "demo").ends_with("QUARANTINE: MANY_GRANTS_REFUSED"));
    assert_eq!(metric(&oauth, "keyholder_refresh_clients_quarantined").as_deref(), Some("1"));
    let alarm = |line: &serde_json::Value| {
        line["level"] == "ERROR" && line["refused"] == 5 && line["connections"] == 6
    };
    assert!(log_lines(&oauth.world.server.log).iter().any(alarm));

    // However long it takes, as long as no other connection shows that the provider is to be believed.
    let later = "UPDATE provider_clients SET probe_time = clock_timestamp() + interval '1 hour'";
    oauth.world.sql(later);
    let asked = oauth.calls(Endpoint::Token).len();
    make_due_where(&oauth, "true");
    eventually("six that wait", || {
        operators_line(&oauth, "demo").starts_with("demo keyholder installation 6 6 0").then_some(())
    });
    let waits = refresh_now(&oauth, &sound[0]).await;
    assert_refused(waits, Code::FailedPrecondition, "OAUTH_CLIENT_REFUSED");
    for one in &made {
        assert_good(&oauth, one).await;
    }
    assert_eq!(refresh_state(&oauth, &refused[0]).await.0, RefreshState::Refused);
    assert_eq!(events_of(&oauth, "REAUTHORIZATION_REQUIRED"), "0");
    assert_eq!(oauth.calls(Endpoint::Token).len(), asked);

    // Each is asked once more: what was wrong may be mended. Two are refused again.
    oauth.provider.spoil(2, Stage::Before, invalid_grant());
    assert!(keyholder_refresh(&oauth, &["resume", "demo"]).contains("1 client is used again"));
    let ended = "SELECT count(*) FROM connections WHERE state = 'REAUTHORIZATION_REQUIRED' AND state_reason = 'REVOKED'";
    eventually("two that are gone", || (oauth.world.sql(ended) == "2").then_some(()));
    let done = "SELECT count(*) FROM refreshes WHERE done_attempt_id IS NOT NULL AND refused_time IS NULL";
    eventually("the others", || (oauth.world.sql(done) == "4").then_some(()));
    assert_eq!(events_of(&oauth, "REAUTHORIZATION_REQUIRED"), "2");
    assert_eq!(oauth.calls(Endpoint::Token).len(), asked + 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_where_many_grants_are_refused_one_that_was_not_is_tried_although_none_is_due() {
    let oauth = steady();
    let made = import(&oauth, &oauth.provider, "demo", 6).await;
    let (refused, _sound) = made.split_at(5);
    oauth.provider.spoil(5, Stage::Before, invalid_grant());
    for one in refused {
        make_due(&oauth, one);
    }
    // It goes well, so that the others are asked again.
    let done = "SELECT count(*) FROM refreshes WHERE done_attempt_id IS NOT NULL AND refused_time IS NULL";
    eventually("all of them", || (oauth.world.sql(done) == "6").then_some(()));
    assert_eq!(events_of(&oauth, "REAUTHORIZATION_REQUIRED"), "0");
    assert_eq!(oauth.world.sql("SELECT count(*) FROM provider_clients WHERE quarantine IS NOT NULL"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_who_names_no_client_that_is_in_quarantine_hears_of_it() {
    let oauth = steady();
    for arguments in [&["resume", "nosuch"][..], &["resume", "demo", "--client-id", "another"]] {
        let output = std::process::Command::new(binary())
            .arg("refresh")
            .args(arguments)
            .current_dir(oauth.world.dir.path())
            .env("DATABASE_URL", oauth.world.postgres.url(DATABASE))
            .output()
            .unwrap();
        assert!(!output.status.success());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            said.contains(&format!(
                "no client of {}, as far as it was named, is in quarantine",
                arguments[1]
            )),
            "{said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_grants_that_are_refused_while_more_go_well_are_believed() {
    let oauth = steady();
    let made = import(&oauth, &oauth.provider, "demo", 11).await;
    let (refused, sound) = made.split_at(5);
    oauth.provider.spoil(1, Stage::Before, invalid_grant());
    refresh_now(&oauth, &refused[0]).await.unwrap_err();
    for one in sound {
        refresh_now(&oauth, one).await.unwrap();
    }
    oauth.provider.spoil(4, Stage::Before, invalid_grant());
    for one in &refused[1..] {
        make_due(&oauth, one);
    }
    for one in refused {
        until_state(&oauth, one, REFUSED).await;
    }
    for one in sound {
        assert_good(&oauth, one).await;
    }
    assert!(operators_line(&oauth, "demo").ends_with("in use"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_not_configured_any_more_waits_for_it_and_costs_no_owner_anything() {
    let mut oauth = steady();
    let made = oauth.connect("user:ada").await;
    let file = oauth.world.dir.path().join("keyholder.toml");
    let configured = fs::read_to_string(&file).unwrap();
    let without = configured.replace("client_id = \"keyholder\"", "client_id = \"another\"");
    fs::write(&file, without).unwrap();
    let (second, _) = oauth.replica("second");
    oauth.world.server = second;
    let refused = refresh_now(&oauth, &made).await;
    assert_refused(refused, Code::FailedPrecondition, "OAUTH_CLIENT_REFUSED");
    assert_eq!(refresh_state(&oauth, &made).await.1, "CLIENT_MISSING");
    assert_good(&oauth, &made).await;
    assert_eq!(oauth.calls(Endpoint::Token).len(), 1, "nobody was asked");
    fs::write(&file, configured).unwrap();
    let (third, _) = oauth.replica("third");
    oauth.world.server = third;
    make_due(&oauth, &made);
    eventually("a refresh", || (oauth.provider.counts().refreshes == 1).then_some(()));
    assert_good(&oauth, &made).await;
}
