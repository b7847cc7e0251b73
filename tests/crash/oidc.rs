//! A server that is not ours: a refresh token that comes again ends its grant.

use keyholder_domain::{Clock as _, SystemClock};
use keyholder_proto::v1;
use keyholder_testkit::browser::Browser;
use serde_json::json;

use super::dice::Dice;
use crate::oauth::world::create;
use crate::peers::{Peer, call};

const DEFINITION: &str = "id: oidc
name: Oidc
documentation_url: https://example.com/docs
facts_checked: 2026-11-26
base_url: HERE
auth_methods:
  - { method: oauth2_code, title: Sign in }
oauth2:
  issuer: HERE
  sends_iss: true
  client_authentication: basic
  authorize: { url: HERE/auth }
  token: { url: HERE/token }
  revoke: { url: HERE/token/revocation }
  refresh: { reuse: none }
  account: { from: id_token, id: /sub }
scopes:
  - { name: openid, title: Who it is }
  - { name: mail.read, title: Read mail }
default_scopes: [openid, mail.read]
";

const CALLBACK: &str = "http://127.0.0.1:9/callback";

/// The example of RFC 7636, appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

pub(super) struct Oidc {
    peer: Peer,
    /// The ids of the connections.
    pub(super) made: Vec<String>,
    /// How many answers were lost on purpose.
    pub(super) lost_answers: usize,
    accounts: usize,
}

impl Oidc {
    pub(super) fn start() -> Self {
        let peer = Peer::oidc_provider(&[("CALLBACKS", CALLBACK), ("ACCESS_SECONDS", "10")]);
        Self { peer, made: Vec::new(), lost_answers: 0, accounts: 0 }
    }

    pub(super) fn definition(&self) -> String {
        DEFINITION.replace("HERE", &self.peer.url(""))
    }

    pub(super) fn host(&self) -> String {
        self.peer.url("").strip_prefix("http://").unwrap().to_owned()
    }

    /// Signs somebody in, and asks for the tokens to be taken over.
    pub(super) async fn account(&mut self) -> v1::CreateConnectionRequest {
        self.accounts += 1;
        // Faults are for the broker's calls.
        self.peer.forgive();
        let account = format!("oidc-{}", self.accounts);
        let url = format!(
            "{}?client_id=broker&response_type=code&redirect_uri={CALLBACK}&state=s1&scope=openid+mail.read\
             &code_challenge={CHALLENGE}&code_challenge_method=S256&login_hint={account}",
            self.peer.url("/auth")
        );
        let code = Browser::new().get_until(&url, CALLBACK).await.unwrap().parameter("code").unwrap();
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code.as_str()),
            ("redirect_uri", CALLBACK),
            ("code_verifier", VERIFIER),
        ];
        let (status, tokens) = call(&self.peer.url("/token"), &form).await.unwrap();
        assert_eq!(status, 200);
        let token = |name: &str| tokens[name].as_str().unwrap().to_owned();
        let (access, refresh) = (token("access_token"), token("refresh_token"));
        let fields = [("access_token", access.as_str()), ("refresh_token", refresh.as_str())];
        let ends = SystemClock.now().unix_timestamp() + 10;
        v1::CreateConnectionRequest {
            owner: format!("user:{account}"),
            account: Some(v1::Account { id: account.clone(), ..Default::default() }),
            request_id: account,
            token_expire_time: Some(prost_types::Timestamp { seconds: ends, nanos: 0 }),
            ..create("oidc", v1::AuthMethod::Oauth2Code, &fields)
        }
    }

    /// How often the token endpoint was asked.
    pub(super) fn asked(&self) -> u64 {
        self.peer.counts()["/token"].as_u64().unwrap_or_default()
    }

    /// How many grants ended because a token came again.
    pub(super) fn ended(&self) -> u64 {
        self.peer.counts()["grants_revoked"].as_u64().unwrap_or_default()
    }

    /// Spoils the next calls.
    pub(super) fn spoil(&mut self, dice: &mut Dice) {
        let fault = match dice.below(4) {
            0 => json!({ "path": "/token", "drop": true }),
            1 => json!({ "path": "/token", "status": 503 }),
            2 => json!({ "path": "/token", "delay_ms": 800 }),
            _ => {
                self.lost_answers += 1;
                json!({ "path": "/token", "lose": true })
            }
        };
        self.peer.spoil(&fault);
    }

    /// Lets the next call be slow, and its answer be lost.
    pub(super) fn lose_late(&mut self) {
        self.lost_answers += 1;
        self.peer.spoil(&json!({ "path": "/token", "delay_ms": 1_500, "lose": true }));
    }

    /// Whether the server says that a token is good.
    pub(super) async fn takes(&self, token: &str) -> bool {
        call(&self.peer.url("/token/introspection"), &[("token", token)]).await.unwrap().1["active"] == true
    }
}
