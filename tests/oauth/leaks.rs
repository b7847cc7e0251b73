//! A secret of a flow is in no log, error, answer, audit event, metric or dump.

use std::fs;
use std::process::Command;

use keyholder_proto::v1;
use keyholder_proto::v1::o_auth_client_service_client::OAuthClientServiceClient;
use keyholder_testkit::browser::Browser;
use keyholder_testkit::provider::{Consent, Effect, Endpoint, Stage};
use prost::Message as _;

use super::world::{CLIENT, OAuth, start, with_parameters};
use crate::harness::{ACME, DATABASE, eventually, http_get, resolve_request};

/// What comes from outside and belongs in no log, although it is nobody's secret.
const CANARY: &str = "kanarienvogel7f3a92";

/// What was said, and what must not be in it.
#[derive(Default)]
struct Watch {
    told: Vec<String>,
    secrets: Vec<String>,
}

impl Watch {
    fn tell(&mut self, said: &impl std::fmt::Debug) {
        self.told.push(format!("{said:?}"));
    }

    fn check(&self, what: &str, text: &str) {
        for secret in &self.secrets {
            if let Some(at) = text.find(secret.as_str()) {
                let around = &text[text.floor_char_boundary(at.saturating_sub(300))..at];
                panic!("{what} holds {secret:.12}…, behind: {around}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_flows_are_never_logged() {
    let oauth = OAuth::start();
    let mut watch = Watch::default();
    watch.secrets.extend([CANARY.to_owned(), CLIENT.1.to_owned()]);

    // One that is connected, used and deleted.
    let begun = oauth.begin("user:ada").await;
    watch.tell(&begun);
    let mut browser = Browser::new();
    let url = oauth.answer_for(&mut browser, &begun).await;
    watch.secrets.push(oauth.cookie(&browser).split_once('=').unwrap().1.to_owned());
    watch.told.push(browser.get(url.as_str()).await.unwrap().body);
    watch.told.push(browser.get(url.as_str()).await.unwrap().body);
    let done = oauth.authorization(&begun).await;
    watch.tell(&done);
    let made = oauth.connection(&done.connection_id).await;
    watch.tell(&made);
    let released = oauth
        .world
        .grants("gateway")
        .resolve_credential(resolve_request("user:ada", &made.connection_id))
        .await
        .unwrap();
    watch.tell(&released);

    // One that waits with its tokens kept, one that is still at the provider, and one device.
    let waits = v1::StartAuthorizationRequest { completion_challenge: "A".repeat(43), ..start("user:bob") };
    let waits = oauth.begin_as(waits).await;
    oauth.consent(&waits).await;
    let open = oauth.begin("user:eve").await;
    let forged = oauth.answer_for(&mut browser, &open).await;
    oauth.provider.behave(|manners| manners.consent = Consent::Ask);
    let device = v1::StartAuthorizationRequest {
        auth_method: v1::AuthMethod::Oauth2Device.into(),
        ..start("user:eve")
    };
    let device = oauth.begin_as(device).await;
    oauth.provider.behave(|manners| manners.consent = Consent::Allow);
    for begun in [&waits, &open, &device] {
        watch.tell(begun);
        watch.tell(&oauth.authorization(begun).await);
    }
    for begun in [&begun, &waits, &open] {
        watch.secrets.push(begun.authorization_url.rsplit('/').next().unwrap().to_owned());
    }

    // Some that go wrong, each with something of a stranger's in it.
    for spoil in [("state", CANARY), ("iss", CANARY), ("code", CANARY), ("error", CANARY)] {
        let begun = oauth.begin("user:ada").await;
        let mut browser = Browser::new();
        let url = oauth.answer_for(&mut browser, &begun).await;
        let url = with_parameters(&url, |pairs| {
            pairs.retain(|(name, _)| name != spoil.0);
            pairs.push((spoil.0.to_owned(), spoil.1.to_owned()));
            pairs.push(("error_description".to_owned(), CANARY.to_owned()));
        });
        watch.told.push(browser.get(&url).await.unwrap().body);
        watch.tell(&oauth.authorization(&begun).await);
        watch.secrets.push(oauth.cookie(&browser).split_once('=').unwrap().1.to_owned());
    }
    for path in [
        format!("/connect/{CANARY}"),
        format!("/{CANARY}"),
        format!("/oauth/callback/{CANARY}?state={CANARY}"),
    ] {
        watch.told.push(Browser::new().get(&format!("{}{path}", oauth.web)).await.unwrap().body);
    }
    for effect in [
        Effect::Error { status: 400, code: CANARY.into() },
        Effect::Html(500),
        Effect::member("token_type", CANARY),
        Effect::member("access_token", format!("{CANARY}\r\n")),
        Effect::Raw { status: 200, content_type: "text/plain".into(), body: CANARY.into() },
        Effect::Redirect { status: 302, location: format!("https://{CANARY}.example/?{CANARY}") },
    ] {
        oauth.provider.spoil(1, Stage::After, effect);
        let begun = oauth.begin("user:ada").await;
        watch.told.push(oauth.consent(&begun).await.body);
        watch.tell(&oauth.authorization(&begun).await);
    }
    let complete = v1::CompleteAuthorizationRequest {
        organization_id: ACME.into(),
        authorization_id: waits.authorization.as_ref().unwrap().authorization_id.clone(),
        completion_verifier: CANARY.into(),
        redirect_parameters: ["code", "state"].map(|name| (name.to_owned(), CANARY.to_owned())).into(),
    };
    watch.tell(&complete);
    watch.tell(&oauth.world.connections().complete_authorization(complete).await.unwrap_err());

    // Tokens that were issued elsewhere, and a client of the organization's own.
    let import = v1::CreateConnectionRequest {
        organization_id: ACME.into(),
        owner: "user:ada".into(),
        provider_id: "demo".into(),
        auth_method: v1::AuthMethod::Oauth2Code.into(),
        credentials: ["access_token", "refresh_token"]
            .map(|name| (name.to_owned(), CANARY.to_owned()))
            .into(),
        ..Default::default()
    };
    watch.tell(&import);
    watch.tell(&oauth.world.connections().create_connection(import).await.unwrap_err());
    let mut clients = OAuthClientServiceClient::new(oauth.world.channel("console"));
    let client = v1::SetOAuthClientRequest {
        organization_id: ACME.into(),
        provider_id: "demo".into(),
        client_id: "our-own".into(),
        client_secret: CANARY.into(),
        ..Default::default()
    };
    watch.tell(&client);
    watch.tell(&clients.set_o_auth_client(client).await.unwrap());

    for call in oauth.provider.history() {
        for name in ["state", "code_verifier", "device_code", "code"] {
            watch.secrets.extend(call.parameter(name).map(str::to_owned));
        }
        watch.secrets.extend(call.header("authorization").map(str::to_owned));
    }
    watch.secrets.push(forged.query_pairs().find(|(name, _)| name == "code").unwrap().1.into_owned());
    watch.secrets.extend(oauth.provider.secrets());
    let seen = oauth.calls(Endpoint::Token).iter().any(|call| call.parameter("code_verifier").is_some());
    assert!(seen && watch.secrets.len() > 40, "{}", watch.secrets.len());
    let during = dump(&oauth);
    assert!(during.contains("enc:v1:"));
    watch.check("the dump in the middle", &during);

    let delete = v1::DeleteConnectionRequest {
        organization_id: ACME.into(),
        connection_id: made.connection_id,
        ..Default::default()
    };
    watch.tell(&oauth.world.connections().delete_connection(delete).await.unwrap());
    eventually("what is given back", || (oauth.provider.counts().revocations > 0).then_some(()));

    let connections = v1::ListConnectionsRequest { organization_id: ACME.into(), ..Default::default() };
    let listed = oauth.world.connections().list_connections(connections).await.unwrap().into_inner();
    watch.told.push(String::from_utf8_lossy(&listed.encode_to_vec()).into_owned());
    let audit =
        v1::ListAuditEventsRequest { organization_id: ACME.into(), page_size: 200, ..Default::default() };
    let audit = oauth.world.audit().list_audit_events(audit).await.unwrap().into_inner();
    assert!(audit.audit_events.len() > 10);
    watch.told.push(String::from_utf8_lossy(&audit.encode_to_vec()).into_owned());
    watch.told.push(http_get(oauth.world.server.admin, "/metrics").1);
    for told in &watch.told {
        watch.check("what was told", told);
    }
    let log = fs::read_to_string(&oauth.world.server.log).unwrap();
    assert!(log.contains("StartAuthorization"), "the log is that of these calls");
    watch.check("the log", &log);
    watch.check("the log of Postgres", &fs::read_to_string(oauth.world.postgres.log_path()).unwrap());
    watch.check("the dump", &dump(&oauth));
}

fn dump(oauth: &OAuth) -> String {
    let url = oauth.world.postgres.url(DATABASE);
    let dump = Command::new(oauth.world.postgres.bin_dir().join("pg_dump")).arg(url).output().unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    String::from_utf8(dump.stdout).unwrap()
}
