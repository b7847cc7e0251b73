//! As which client Keyholder speaks: the installation's, or an organization's own.

use std::process::Command;

use keyholder_proto::v1;
use keyholder_proto::v1::o_auth_client_service_client::OAuthClientServiceClient;
use keyholder_testkit::provider::{Authentication, Client, Endpoint};
use tonic::Code;
use tonic::transport::Channel;

use super::world::{CLIENT, ClientFrom, OAuth, Setup, start, text};
use crate::harness::{ACME, DATABASE, assert_refused, binary};

const OWN: &str = "acme-own";

fn clients(oauth: &OAuth) -> OAuthClientServiceClient<Channel> {
    OAuthClientServiceClient::new(oauth.world.channel("console"))
}

fn set(secret: &str) -> v1::SetOAuthClientRequest {
    v1::SetOAuthClientRequest {
        organization_id: ACME.into(),
        provider_id: "demo".into(),
        client_id: OWN.into(),
        client_secret: secret.into(),
        ..Default::default()
    }
}

/// Registers acme's own client at the provider.
fn register(oauth: &OAuth, secret: &str) {
    let callback = format!("{}/oauth/callback/demo", oauth.web);
    oauth.provider.register(Client::confidential(OWN, secret, &callback));
}

/// What the whole database holds, as text.
fn dump(oauth: &OAuth) -> String {
    let mut command = Command::new(oauth.world.postgres.bin_dir().join("pg_dump"));
    let dump = command.arg(oauth.world.postgres.url(DATABASE)).output().unwrap();
    assert!(dump.status.success());
    String::from_utf8(dump.stdout).unwrap()
}

async fn client_of(oauth: &OAuth, owner: &str) -> String {
    oauth.connect(owner).await.tokens.unwrap().client_id
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organizations_own_client_takes_the_place_of_the_installations_until_it_is_deleted() {
    let oauth = OAuth::start();
    assert_eq!(client_of(&oauth, "user:ada").await, CLIENT.0);
    register(&oauth, "own-secret-81");
    let made = clients(&oauth).set_o_auth_client(set("own-secret-81")).await.unwrap().into_inner();
    let made = made.oauth_client.unwrap();
    assert_eq!((made.client_id.as_str(), made.secret_count), (OWN, 1));
    assert_eq!(client_of(&oauth, "user:bob").await, OWN);

    let list = v1::ListOAuthClientsRequest { organization_id: ACME.into() };
    let listed = clients(&oauth).list_o_auth_clients(list).await.unwrap().into_inner();
    assert!(!format!("{listed:?}").contains("own-secret"), "{listed:?}");
    let log = std::fs::read_to_string(&oauth.world.server.log).unwrap();
    for (what, text) in [("the database", dump(&oauth)), ("the log", log)] {
        assert!(!text.contains("own-secret-81") && !text.contains(CLIENT.1), "a secret is in {what}");
    }
    // Another organization has nothing of it.
    let elsewhere = v1::ListOAuthClientsRequest { organization_id: "umbrella".into() };
    let listed = clients(&oauth).list_o_auth_clients(elsewhere).await.unwrap().into_inner();
    assert!(listed.oauth_clients.is_empty());
    let request = v1::StartAuthorizationRequest { organization_id: "umbrella".into(), ..start("user:eve") };
    let begun = oauth.begin_as(request).await;
    let page = oauth.consent(&begun).await;
    let to_provider = page.visited.iter().find(|url| url.path() == "/authorize").unwrap();
    assert!(to_provider.query_pairs().any(|pair| pair == ("client_id".into(), CLIENT.0.into())));

    let delete = v1::DeleteOAuthClientRequest { organization_id: ACME.into(), provider_id: "demo".into() };
    clients(&oauth).delete_o_auth_client(delete.clone()).await.unwrap();
    assert_eq!(client_of(&oauth, "user:cleo").await, CLIENT.0);
    let again = clients(&oauth).delete_o_auth_client(delete).await;
    assert_refused(again, Code::FailedPrecondition, "OAUTH_CLIENT_MISSING");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_secrets_are_good_for_us_while_a_secret_is_changed() {
    let oauth = OAuth::start();
    register(&oauth, "old");
    clients(&oauth).set_o_auth_client(set("old")).await.unwrap();
    // The new one is here before it is there.
    let changed = v1::SetOAuthClientRequest { keep_previous_secret: true, ..set("new") };
    let made = clients(&oauth).set_o_auth_client(changed).await.unwrap().into_inner();
    assert_eq!(made.oauth_client.unwrap().secret_count, 2);
    oauth.provider.behave(|manners| manners.device_interval = Some(std::time::Duration::from_secs(1)));
    for secrets in [&["old"][..], &["old", "new"], &["new"]] {
        oauth.provider.set_secrets(OWN, secrets);
        oauth.connect("user:ada").await;
        let device = v1::StartAuthorizationRequest {
            auth_method: v1::AuthMethod::Oauth2Device.into(),
            ..start("user:ada")
        };
        let begun = oauth.begin_as(device).await;
        let done = oauth.end_of(&begun).await;
        assert_eq!(done.state(), v1::AuthorizationState::Completed, "{secrets:?} {done:?}");
    }
    // Set once more without the old one, which is then forgotten.
    clients(&oauth).set_o_auth_client(set("new")).await.unwrap();
    oauth.provider.set_secrets(OWN, &["old"]);
    let begun = oauth.begin("user:ada").await;
    oauth.consent(&begun).await;
    assert_eq!(oauth.authorization(&begun).await.failure, "CLIENT_REFUSED");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_given_back_with_the_secret_that_the_provider_takes() {
    let oauth = OAuth::start();
    register(&oauth, "old");
    clients(&oauth).set_o_auth_client(set("old")).await.unwrap();
    let made = oauth.connect("user:ada").await;
    let changed = v1::SetOAuthClientRequest { keep_previous_secret: true, ..set("new") };
    clients(&oauth).set_o_auth_client(changed).await.unwrap();
    oauth.delete(&made).await;
    crate::harness::eventually("the outcome is on record", || {
        let events = oauth.world.sql("SELECT reason FROM audit_events WHERE kind = 'TOKEN_REVOKED'");
        (events == "REVOKED").then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_ends_the_flow_and_says_that_the_app_is_not_set_up() {
    let oauth = OAuth::start();
    register(&oauth, "right");
    clients(&oauth).set_o_auth_client(set("wrong")).await.unwrap();
    let begun = oauth.begin("user:ada").await;
    let page = oauth.consent(&begun).await;
    assert!(text(&page).contains("The app is not set up correctly"), "{}", text(&page));
    assert_eq!(oauth.authorization(&begun).await.failure, "CLIENT_REFUSED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_whose_client_is_gone_ends_at_once_with_words() {
    let oauth = OAuth::start_with(&Setup { client: ClientFrom::Variables(&[]), ..Setup::default() });
    let refused = oauth.world.connections().start_authorization(start("user:ada")).await;
    assert_refused(refused, Code::FailedPrecondition, "OAUTH_CLIENT_MISSING");
    register(&oauth, "right");
    clients(&oauth).set_o_auth_client(set("right")).await.unwrap();
    let begun = oauth.begin("user:ada").await;
    let mut browser = keyholder_testkit::browser::Browser::new();
    let callback = format!("{}/oauth/callback", oauth.web);
    let back = browser.get_until(&begun.authorization_url, &callback).await.unwrap();
    let delete = v1::DeleteOAuthClientRequest { organization_id: ACME.into(), provider_id: "demo".into() };
    clients(&oauth).delete_o_auth_client(delete).await.unwrap();
    let page = browser.get(back.url.as_str()).await.unwrap();
    assert!(text(&page).contains("The app is not set up correctly"), "{}", text(&page));
    let done = oauth.authorization(&begun).await;
    assert_eq!((done.state(), done.failure.as_str()), (v1::AuthorizationState::Failed, "CLIENT_REFUSED"));
    assert_eq!(oauth.provider.counts().token_calls, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_make_a_client_and_overrule_the_file() {
    let variables = [
        ("KEYHOLDER_OAUTH_DEMO_CLIENT_ID", CLIENT.0),
        ("KEYHOLDER_OAUTH_DEMO_CLIENT_SECRET", "new"),
        ("KEYHOLDER_OAUTH_DEMO_PREVIOUS_CLIENT_SECRET", CLIENT.1),
    ];
    let oauth = OAuth::start_with(&Setup { client: ClientFrom::Variables(&variables), ..Setup::default() });
    assert_eq!(client_of(&oauth, "user:ada").await, CLIENT.0);
    oauth.provider.set_secrets(CLIENT.0, &["new"]);
    assert_eq!(client_of(&oauth, "user:ada").await, CLIENT.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_for_no_provider_keeps_the_server_from_starting_in_one_line() {
    let mut oauth = OAuth::start();
    // Its ports are free again.
    oauth.world.server.signal("KILL");
    oauth.world.server.child.wait().unwrap();
    for (variables, expected) in [
        (&[("KEYHOLDER_OAUTH_DEMOO_CLIENT_ID", "x")][..], "KEYHOLDER_OAUTH_DEMOO_CLIENT_ID"),
        (&[("KEYHOLDER_OAUTH_OPENAI_CLIENT_ID", "x")], "KEYHOLDER_OAUTH_OPENAI_CLIENT_ID"),
        (&[("KEYHOLDER_OAUTH_DEMO_CLIENT_SECRET", "canary-19")], "demo"),
    ] {
        let mut command = Command::new(binary());
        command.arg("serve").current_dir(oauth.world.dir.path());
        command.env("DATABASE_URL", oauth.world.postgres.url(DATABASE)).envs(variables.iter().copied());
        let output = command.output().unwrap();
        assert!(!output.status.success());
        let said = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with('{')).collect();
        assert!(lines.len() == 1 && lines[0].contains(expected), "{said}");
        assert!(!said.contains("canary"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_signs_who_it_is_with_a_key_from_a_file() {
    let definition = "id: demo\nname: Demo\ndocumentation_url: https://example.com/docs\nfacts_checked: 2026-11-26\n\
         base_url: HERE\nauth_methods:\n  - method: oauth2_code\n    title: Sign in\n    test:\n\
         \x20     request: GET /userinfo\n      good: [200]\n      dead: [401]\n      account: { id: /sub }\n\
         oauth2:\n  issuer: HERE\n  sends_iss: true\n  client_authentication: private_key_jwt\n\
         \x20 authorize: { url: HERE/authorize }\n  token: { url: HERE/token }\n  revoke: { url: HERE/revoke }\n\
         scopes:\n  - { name: read, title: Read }\ndefault_scopes: [read]\n";
    let key = concat!(env!("CARGO_MANIFEST_DIR"), "/oauth/rsa-key.pem");
    let settings = format!(
        "client_id = \"{}\"\nprivate_key_file = \"{key}\"\nprivate_key_algorithm = \"RS256\"\nprivate_key_id = \"k1\"",
        CLIENT.0
    );
    let oauth = OAuth::start_with(&Setup {
        demo: definition,
        client: ClientFrom::Settings(&settings),
        ..Setup::default()
    });
    let callback = format!("{}/oauth/callback/demo", oauth.web);
    oauth.provider.register(Client {
        authentication: Authentication::Assertion,
        secrets: Vec::new(),
        ..Client::confidential(CLIENT.0, "", &callback)
    });
    let made = oauth.connect("user:ada").await;
    oauth.delete(&made).await;
    let given = crate::harness::eventually("the tokens are given back", || {
        let history = oauth.provider.history();
        history.iter().any(|call| call.endpoint == Endpoint::Revoke).then_some(history)
    });
    let proven: Vec<_> = given.iter().filter(|call| call.claims.is_some()).collect();
    assert!(proven.len() >= 2);
    let mut ids = std::collections::BTreeSet::new();
    for call in proven {
        let claims = call.claims.as_ref().unwrap();
        assert_eq!((&claims["iss"], &claims["sub"]), (&CLIENT.0.into(), &CLIENT.0.into()));
        assert_eq!(claims["aud"], oauth.provider.issuer());
        assert!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap() <= 300);
        assert!(ids.insert(claims["jti"].to_string()), "each is used once");
        assert_eq!(call.parameter("client_secret"), None);
    }
}
