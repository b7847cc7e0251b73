//! Keyholder and OAuth 2.0 servers that nobody here wrote.

use keyholder_proto::v1;
use keyholder_testkit::browser::Browser;
use serde_json::{Value, json};
use tonic::Code;

use super::world::{ClientFrom, OAuth, Setup, create, free_port, start, text};
use crate::harness::{assert_refused, eventually};
use crate::peers::{Peer, call};

// === oidc-provider: OpenID, `iss` on the redirect, rotation that ends the grant when a token comes again ===

const OIDC: &str = r#"id: oidc
name: Oidc
documentation_url: https://example.com/docs
facts_checked: 2026-11-26
base_url: HERE
auth_methods:
  - { method: oauth2_code, title: Sign in }
  - { method: oauth2_device, title: On another device }
  - method: oauth2_client_credentials
    title: A client of its own
    fields:
      - { name: client_id, title: Id }
      - { name: client_secret, title: Secret, secret: true }
oauth2:
  issuer: HERE
  sends_iss: true
  client_authentication: AUTHENTICATION
  authorize: { url: HERE/auth, parameters: { login_hint: HINT } }
  token: { url: HERE/token }
  device: { url: HERE/device/auth }
  revoke: { url: HERE/token/revocation }
  refresh: { reuse: none }
  account: { from: id_token, id: /sub }
scopes:
  - { name: openid, title: Who it is }
  - { name: mail.read, title: Read mail }
default_scopes: [openid, mail.read]
"#;

// === django-oauth-toolkit: no OpenID and no `iss`; whose a token is, a request tells ===

const DJANGO: &str = r#"id: django
name: Django
documentation_url: https://example.com/docs
facts_checked: 2026-11-26
base_url: HERE
auth_methods:
  - method: oauth2_code
    title: Sign in
    test:
      request: GET /me
      good: [200]
      dead: [401, 403]
      account: { id: /id }
  - method: oauth2_client_credentials
    title: A client of its own
    fields:
      - { name: client_id, title: Id }
      - { name: client_secret, title: Secret, secret: true }
oauth2:
  client_authentication: AUTHENTICATION
  authorize: { url: HERE/o/authorize/ }
  token: { url: HERE/o/token/ }
  revoke: { url: HERE/o/revoke_token/ }
  refresh: { reuse: none }
scopes:
  - { name: mail.read, title: Read mail }
default_scopes: [mail.read]
"#;

/// Keyholder and a server that is not ours.
struct Meeting {
    oauth: OAuth,
    peer: Peer,
    provider_id: &'static str,
    paths: Paths,
}

/// Where a server has what tests ask it for.
#[derive(Clone, Copy)]
struct Paths {
    token: &'static str,
    introspect: &'static str,
}

/// What is different from a flow that goes well.
#[derive(Clone, Copy)]
struct Differs {
    hint: &'static str,
    client: (&'static str, &'static str),
    authentication: &'static str,
}

const USUAL: Differs =
    Differs { hint: "alice", client: ("broker", "broker-secret"), authentication: "basic" };

impl Meeting {
    fn oidc(differs: Differs) -> Self {
        let port = free_port();
        let callback = callback(port, "oidc");
        let peer = Peer::oidc_provider(&[("CALLBACKS", &callback), ("ACCESS_SECONDS", "300")]);
        let paths = Paths { token: "/token", introspect: "/token/introspection" };
        Self::start(port, peer, "oidc", OIDC, differs, paths)
    }

    fn django(differs: Differs) -> Self {
        let port = free_port();
        let callback = callback(port, "django");
        let peer = Peer::django_oauth_toolkit(&[("CALLBACKS", &callback), ("ACCESS_SECONDS", "300")]);
        let paths = Paths { token: "/o/token/", introspect: "/o/introspect/" };
        Self::start(port, peer, "django", DJANGO, differs, paths)
    }

    /// Both, one after the other.
    fn both() -> [fn(Differs) -> Self; 2] {
        [Self::oidc, Self::django]
    }

    fn start(
        port: u16,
        peer: Peer,
        provider_id: &'static str,
        definition: &str,
        differs: Differs,
        paths: Paths,
    ) -> Self {
        let definition = definition
            .replace("HERE", &peer.url(""))
            .replace("HINT", differs.hint)
            .replace("AUTHENTICATION", differs.authentication);
        let (id, secret) = differs.client;
        let variable = format!("KEYHOLDER_OAUTH_{}_CLIENT", provider_id.to_ascii_uppercase());
        let (id_variable, secret_variable) = (format!("{variable}_ID"), format!("{variable}_SECRET"));
        let variables: &[(&str, &str)] = if secret.is_empty() {
            &[(&id_variable, id)]
        } else {
            &[(&id_variable, id), (&secret_variable, secret)]
        };
        let host = peer.url("");
        let oauth = OAuth::start_with(&Setup {
            others: &[(provider_id, &definition)],
            egress: &[host.strip_prefix("http://").unwrap()],
            client: ClientFrom::Variables(variables),
            port: Some(port),
            ..Setup::default()
        });
        Self { oauth, peer, provider_id, paths }
    }

    fn request(&self) -> v1::StartAuthorizationRequest {
        v1::StartAuthorizationRequest { provider_id: self.provider_id.into(), ..start("user:ada") }
    }

    /// Goes through the browser's way, and says how the flow and the page are.
    async fn flow(&self) -> (v1::Authorization, String) {
        let begun = self.oauth.begin_as(self.request()).await;
        let page = self.oauth.consent(&begun).await;
        (self.oauth.authorization(&begun).await, text(&page))
    }

    async fn connected(&self) -> v1::Connection {
        let (done, page) = self.flow().await;
        assert_eq!(done.state(), v1::AuthorizationState::Completed, "{done:?} {page}");
        self.oauth.connection(&done.connection_id).await
    }

    /// Whether the server says that a token is good.
    async fn is_active(&self, token: &str) -> bool {
        let form = [("token", token)];
        call(&self.peer.url(self.paths.introspect), &form).await.unwrap().1["active"] == true
    }

    /// How often the token endpoint was asked.
    fn asked(&self) -> u64 {
        self.peer.counts()[self.paths.token].as_u64().unwrap_or_default()
    }

    /// Tokens that the server issued to the same client, in a flow that Keyholder has nothing to do with.
    async fn tokens_of_elsewhere(&self) -> Value {
        const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
        let callback = format!("{}/oauth/callback/{}", self.oauth.web, self.provider_id);
        let (authorize, scope) = match self.provider_id {
            "oidc" => ("/auth", "openid+mail.read"),
            _ => ("/o/authorize/", "mail.read"),
        };
        let url = format!(
            "{}?client_id=broker&response_type=code&redirect_uri={callback}&state=s1&scope={scope}\
             &code_challenge={CHALLENGE}&code_challenge_method=S256",
            self.peer.url(authorize)
        );
        let code = Browser::new().get_until(&url, &callback).await.unwrap().parameter("code").unwrap();
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code.as_str()),
            ("redirect_uri", &callback),
            ("code_verifier", VERIFIER),
        ];
        let (status, tokens) = call(&self.peer.url(self.paths.token), &form).await.unwrap();
        assert_eq!(status, 200, "{tokens}");
        tokens
    }
}

fn callback(port: u16, provider_id: &str) -> String {
    format!("http://127.0.0.1:{port}/oauth/callback/{provider_id}")
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_not_ours_connect_an_account_and_the_token_is_good_there() {
    for start in Meeting::both() {
        let met = start(USUAL);
        let made = met.connected().await;
        assert_eq!(made.account.as_ref().unwrap().id, "alice", "{}", met.provider_id);
        let tokens = made.tokens.as_ref().unwrap();
        assert!(tokens.renewable && tokens.missing_scopes.is_empty(), "{tokens:?}");
        let token = met.oauth.token(&made).await;
        assert!(met.is_active(&token).await, "{}", met.provider_id);
        assert_eq!(met.asked(), 1);

        met.oauth.delete(&made).await;
        eventually("the outcome is on record", || {
            let events = met.oauth.world.sql("SELECT reason FROM audit_events WHERE kind = 'TOKEN_REVOKED'");
            (events == "REVOKED").then_some(())
        });
        assert!(!met.is_active(&token).await, "dead at {} too", met.provider_id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_proves_itself_in_the_body_too() {
    let met = Meeting::oidc(Differs {
        client: ("broker-post", "broker-post-secret"),
        authentication: "body",
        ..USUAL
    });
    assert_eq!(met.connected().await.account.unwrap().id, "alice");
    let met = Meeting::django(Differs { authentication: "body", ..USUAL });
    assert_eq!(met.connected().await.account.unwrap().id, "alice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_says_no_is_told_so_and_no_code_is_exchanged() {
    let met = Meeting::oidc(Differs { hint: "deny", ..USUAL });
    let (done, page) = met.flow().await;
    assert_eq!((done.state(), done.failure.as_str()), (v1::AuthorizationState::Failed, "ACCESS_DENIED"));
    assert!(page.contains("Access was not given"), "{page}");
    assert!(!page.contains("the person said no"), "a server's own words are not shown: {page}");
    assert_eq!(met.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_persons_account_is_another_connection_and_the_same_persons_is_not() {
    let met = Meeting::oidc(Differs { hint: "bob", ..USUAL });
    let first = met.connected().await;
    assert_eq!(first.account.as_ref().unwrap().id, "bob");
    let again = met.connected().await;
    assert_eq!(again.connection_id, first.connection_id);
    assert!(again.generation > first.generation);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_the_clients_fault() {
    for start in Meeting::both() {
        let met = start(Differs { client: ("broker", "wrong"), ..USUAL });
        let (done, page) = met.flow().await;
        assert_eq!(done.failure, "CLIENT_REFUSED", "{}", met.provider_id);
        assert!(page.contains("The app is not set up correctly"), "{page}");
        assert_eq!(met.asked(), 1, "a code is sent once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_issuer_is_not_believed() {
    let met = Meeting::oidc(USUAL);
    let begun = met.oauth.begin_as(met.request()).await;
    let mut browser = Browser::new();
    let callback = format!("{}/oauth/callback", met.oauth.web);
    let back = browser.get_until(&begun.authorization_url, &callback).await.unwrap();
    assert_eq!(back.parameter("iss"), Some(met.peer.url("")));
    let mut forged = back.url.clone();
    let pairs: Vec<_> = back.url.query_pairs().into_owned().collect();
    forged.query_pairs_mut().clear().extend_pairs(
        pairs
            .into_iter()
            .map(|(name, value)| if name == "iss" { (name, value + "/") } else { (name, value) }),
    );
    browser.get(forged.as_str()).await.unwrap();
    assert_eq!(met.oauth.authorization(&begun).await.failure, "ISSUER_MISMATCH");
    assert_eq!(met.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_once_or_whose_answer_is_lost_ends_the_flow_and_a_new_one_succeeds() {
    for start in Meeting::both() {
        let met = start(USUAL);
        let path = met.paths.token;
        for fault in [json!({ "path": path, "status": 503 }), json!({ "path": path, "lose": true })] {
            met.peer.spoil(&fault);
            let (done, page) = met.flow().await;
            assert_eq!(done.failure, "PROVIDER_UNAVAILABLE", "{}: {fault}", met.provider_id);
            assert!(page.contains("did not answer properly"), "{page}");
        }
        assert_eq!(met.asked(), 2, "a code is never sent twice");
        assert_eq!(met.oauth.world.sql("SELECT count(*) FROM connections"), "0");
        met.connected().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_given_back_until_the_server_has_heard() {
    let met = Meeting::oidc(USUAL);
    let made = met.connected().await;
    let token = met.oauth.token(&made).await;
    met.peer.spoil(&json!({ "path": "/token/revocation", "status": 503 }));
    met.oauth.delete(&made).await;
    eventually("the first attempt", || (met.peer.counts()["/token/revocation"] == 1).then_some(()));
    eventually("the wait after it", || {
        let attempts = "SELECT attempts || ' ' || (next_attempt_time > clock_timestamp()) FROM revocations";
        (met.oauth.world.sql(attempts) == "1 true").then_some(())
    });
    assert!(met.is_active(&token).await);
    met.oauth.world.sql("UPDATE revocations SET next_attempt_time = create_time");
    eventually("the outcome is on record", || {
        let events = met.oauth.world.sql("SELECT reason FROM audit_events WHERE kind = 'TOKEN_REVOKED'");
        (events == "REVOKED").then_some(())
    });
    assert!(!met.is_active(&token).await);
}

// === A device ===

async fn begin_device(met: &Meeting) -> v1::StartAuthorizationResponse {
    let request =
        v1::StartAuthorizationRequest { auth_method: v1::AuthMethod::Oauth2Device.into(), ..met.request() };
    met.oauth.begin_as(request).await
}

/// Does on the server's page what a person does: types the code in, and decides.
async fn decide(met: &Meeting, begun: &v1::StartAuthorizationResponse, decision: (&str, &str)) -> String {
    let authorization = begun.authorization.as_ref().unwrap();
    let page = authorization.verification_uri.as_str();
    assert_eq!(page, met.peer.url("/device"));
    let mut browser = Browser::new();
    let xsrf = browser.get(page).await.unwrap().field("xsrf").unwrap();
    let typed = [("xsrf", xsrf.as_str()), ("user_code", authorization.user_code.as_str())];
    browser.post(page, &typed).await.unwrap();
    browser.post(page, &[typed[0], typed[1], decision]).await.unwrap().body
}

const DEVICE: Differs = Differs { client: ("device", ""), authentication: "none", ..USUAL };

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_connected_at_a_server_that_is_not_ours() {
    let met = Meeting::oidc(DEVICE);
    let begun = begin_device(&met).await;
    eventually("a first question", || (met.asked() >= 1).then_some(()));
    assert_eq!(met.oauth.authorization(&begun).await.connection_id, "");
    let page = decide(&met, &begun, ("confirm", "yes")).await;
    assert!(page.contains("the device is connected"), "{page}");
    let done = met.oauth.end_of(&begun).await;
    assert_eq!(done.state(), v1::AuthorizationState::Completed, "{done:?}");
    let made = met.oauth.connection(&done.connection_id).await;
    assert_eq!(made.account.as_ref().unwrap().id, "alice", "the ID token tells it");
    assert!(made.tokens.as_ref().unwrap().renewable);
    assert!(met.is_active(&met.oauth.token(&made).await).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_denied_at_a_server_that_is_not_ours() {
    let met = Meeting::oidc(DEVICE);
    let begun = begin_device(&met).await;
    decide(&met, &begun, ("abort", "yes")).await;
    let done = met.oauth.end_of(&begun).await;
    assert_eq!((done.state(), done.failure.as_str()), (v1::AuthorizationState::Failed, "ACCESS_DENIED"));
}

// === Without asking anybody ===

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_its_own_gets_a_token_of_a_server_that_is_not_ours() {
    let method = v1::AuthMethod::Oauth2ClientCredentials;
    for start in Meeting::both() {
        let met = start(USUAL);
        let machine = |secret: &str| v1::CreateConnectionRequest {
            scopes: if met.provider_id == "oidc" { vec!["mail.read".into()] } else { Vec::new() },
            ..create(met.provider_id, method, &[("client_id", "machine"), ("client_secret", secret)])
        };
        let refused = met.oauth.world.connections().create_connection(machine("wrong")).await;
        assert_refused(refused, Code::FailedPrecondition, "PROVIDER_REFUSED");
        let made = met.oauth.world.connections().create_connection(machine("machine-secret")).await.unwrap();
        let made = made.into_inner().connection.unwrap();
        let token = met.oauth.token(&made).await;
        assert!(met.is_active(&token).await, "{}", met.provider_id);
        met.oauth.delete(&made).await;
        eventually("the outcome is on record", || {
            let events = met.oauth.world.sql("SELECT reason FROM audit_events WHERE kind = 'TOKEN_REVOKED'");
            (!events.is_empty()).then(|| assert_eq!(events, "REVOKED"))
        });
        assert!(!met.is_active(&token).await, "{}", met.provider_id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_elsewhere_are_taken_over_and_given_back() {
    for start in Meeting::both() {
        let met = start(USUAL);
        let tokens = met.tokens_of_elsewhere().await;
        let token = |name: &str| tokens[name].as_str().unwrap().to_owned();
        let (access, refresh) = (token("access_token"), token("refresh_token"));
        let fields = [("access_token", access.as_str()), ("refresh_token", refresh.as_str())];
        let made = met.oauth.create(met.provider_id, v1::AuthMethod::Oauth2Code, &fields).await.unwrap();
        assert!(made.tokens.as_ref().unwrap().renewable);
        assert_eq!(met.oauth.token(&made).await, access);
        met.oauth.delete(&made).await;
        eventually("the outcome is on record", || {
            let events = met.oauth.world.sql("SELECT reason FROM audit_events WHERE kind = 'TOKEN_REVOKED'");
            (events == "REVOKED").then_some(())
        });
        let again = [("grant_type", "refresh_token"), ("refresh_token", refresh.as_str())];
        let (status, answer) = call(&met.peer.url(met.paths.token), &again).await.unwrap();
        assert_eq!((status, answer["error"].as_str()), (400, Some("invalid_grant")), "{}", met.provider_id);
        assert!(!met.is_active(&access).await, "{}", met.provider_id);
    }
}
