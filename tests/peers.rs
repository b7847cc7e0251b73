//! OAuth 2.0 servers that nobody here wrote, as real processes. `deploy/tools/setup peers` installs them; what
//! each has and how its answers are spoilt, its own file in `tests/peers/` says.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyholder_testkit::browser::{Browser, BrowserError, Page};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::root;

/// A server that runs until it is dropped.
pub(crate) struct Peer {
    child: Child,
    url: String,
    /// Its working folder, with its log.
    _dir: TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Peer {
    /// Starts oidc-provider, and waits until it answers. Settings are in the head of its file.
    pub(crate) fn oidc_provider(settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(root().join("target/tools/peers/bin/node"));
        command.arg(root().join("tests/peers/oidc-provider/server.mjs"));
        Self::start(command, settings)
    }

    /// Starts django-oauth-toolkit, and waits until it answers. Settings are in the head of its file.
    pub(crate) fn django_oauth_toolkit(settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(root().join("target/tools/peers/venv/bin/python"));
        command.arg(root().join("tests/peers/django-oauth-toolkit/server.py"));
        Self::start(command, settings)
    }

    fn start(mut command: Command, settings: &[(&str, &str)]) -> Self {
        let packages = root().join("target/tools/peers");
        assert!(packages.join("installed.json").exists(), "run deploy/tools/setup peers first");
        let dir = TempDir::new().unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut child = command
            .current_dir(dir.path())
            .env("KEYHOLDER_PEERS", packages)
            .env("UNTIL_STDIN_ENDS", "1")
            .envs(settings.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = lines.map_while(Result::ok).find(|line| line.starts_with("http://"));
        let url =
            url.unwrap_or_else(|| panic!("{}", std::fs::read_to_string(dir.path().join("log")).unwrap()));
        Self { child, url, _dir: dir }
    }

    /// The URL of a path, which begins with a slash. The one of no path is the issuer.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// Calls by path.
    pub(crate) fn counts(&self) -> Value {
        serde_json::from_str(&self.control("GET", "counts", "")).unwrap()
    }

    /// Spoils the next calls of a path.
    pub(crate) fn spoil(&self, fault: &Value) {
        self.control("POST", "faults", &fault.to_string());
    }

    /// Spoils no call any more.
    pub(crate) fn forgive(&self) {
        self.control("DELETE", "faults", "");
    }

    fn control(&self, method: &str, what: &str, body: &str) -> String {
        let host = self.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(host).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} /_control/{what} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{head}");
        body.to_owned()
    }
}

// === That they work here ===

const CALLBACK: &str = "http://127.0.0.1:9/callback";

/// The example of RFC 7636, appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

async fn allow(url: String, more: &str) -> Page {
    let url = format!(
        "{url}?client_id=broker&response_type=code&redirect_uri={CALLBACK}&state=s1\
         &code_challenge={CHALLENGE}&code_challenge_method=S256{more}"
    );
    let page = Browser::new().get_until(&url, CALLBACK).await.unwrap();
    assert_eq!(page.parameter("state").as_deref(), Some("s1"), "{}", page.body);
    page
}

/// A call as the client `broker`.
pub(crate) async fn call(url: &str, form: &[(&str, &str)]) -> Result<(u16, Value), BrowserError> {
    let mut browser = Browser::new();
    browser.set_header("authorization", &format!("Basic {}", STANDARD.encode("broker:broker-secret")));
    let page = browser.post(url, form).await?;
    Ok((page.status.unwrap().as_u16(), serde_json::from_str(&page.body).unwrap_or_default()))
}

async fn exchange(url: &str, code: &str) -> Value {
    let form = [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", CALLBACK),
        ("code_verifier", VERIFIER),
    ];
    let (status, tokens) = call(url, &form).await.unwrap();
    assert_eq!(status, 200, "{tokens}");
    tokens
}

async fn refresh(url: &str, tokens: &Value) -> Result<(u16, Value), BrowserError> {
    let token = tokens["refresh_token"].as_str().unwrap();
    call(url, &[("grant_type", "refresh_token"), ("refresh_token", token)]).await
}

#[tokio::test]
async fn oidc_provider_rotates_and_ends_the_grant_when_a_token_comes_again() {
    let peer = Peer::oidc_provider(&[]);
    let page = allow(peer.url("/auth"), "&scope=openid+mail.read").await;
    assert_eq!(page.parameter("iss"), Some(peer.url("")));
    let token_url = peer.url("/token");
    let first = exchange(&token_url, &page.parameter("code").unwrap()).await;
    let (status, second) = refresh(&token_url, &first).await.unwrap();
    assert_eq!(status, 200, "{second}");
    assert_ne!(first["refresh_token"], second["refresh_token"]);
    peer.spoil(&json!({ "path": "/token", "status": 503, "headers": { "retry-after": "1" } }));
    assert_eq!(refresh(&token_url, &second).await.unwrap().0, 503);
    peer.spoil(&json!({ "path": "/token", "lose": true }));
    assert!(refresh(&token_url, &second).await.is_err());
    assert_eq!(refresh(&token_url, &second).await.unwrap().1["error"], "invalid_grant");
    let counts = peer.counts();
    assert_eq!((&counts["/token"], &counts["grants_revoked"]), (&json!(5), &json!(1)));
}

#[tokio::test]
async fn oidc_provider_revokes_and_lets_a_person_deny() {
    let peer = Peer::oidc_provider(&[]);
    let code = allow(peer.url("/auth"), "&scope=openid&login_hint=bob").await.parameter("code").unwrap();
    let tokens = exchange(&peer.url("/token"), &code).await;
    let form = [("token", tokens["refresh_token"].as_str().unwrap())];
    assert_eq!(call(&peer.url("/token/revocation"), &form).await.unwrap().0, 200);
    assert_eq!(refresh(&peer.url("/token"), &tokens).await.unwrap().0, 400);
    let page = allow(peer.url("/auth"), "&scope=openid&login_hint=deny").await;
    assert_eq!(page.parameter("error").as_deref(), Some("access_denied"));
    assert_eq!(page.parameter("iss"), Some(peer.url("")));
}

#[tokio::test]
async fn oidc_provider_connects_a_device() {
    let peer = Peer::oidc_provider(&[]);
    let form = async |path: &str, form: &[(&str, &str)]| {
        let page = Browser::new().post(&peer.url(path), form).await.unwrap();
        serde_json::from_str::<Value>(&page.body).unwrap()
    };
    let started = form("/device/auth", &[("client_id", "device"), ("scope", "openid")]).await;
    let code = started["device_code"].as_str().unwrap();
    let grant_type = ("grant_type", "urn:ietf:params:oauth:grant-type:device_code");
    let poll = [("client_id", "device"), grant_type, ("device_code", code)];
    assert_eq!(form("/token", &poll).await["error"], "authorization_pending");

    let mut browser = Browser::new();
    let page = browser.get(&peer.url("/device")).await.unwrap();
    let (xsrf, user_code) = (page.field("xsrf").unwrap(), started["user_code"].as_str().unwrap());
    browser.post(&peer.url("/device"), &[("xsrf", &xsrf), ("user_code", user_code)]).await.unwrap();
    let confirm = [("xsrf", xsrf.as_str()), ("user_code", user_code), ("confirm", "yes")];
    let page = browser.post(&peer.url("/device"), &confirm).await.unwrap();
    assert!(page.body.contains("the device is connected"), "{}", page.body);
    assert!(form("/token", &poll).await["refresh_token"].is_string());
}

#[tokio::test]
async fn django_oauth_toolkit_ends_the_family_or_gives_the_same_again_as_it_is_set() {
    for (grace, status) in [("0", 400), ("60", 200)] {
        let peer = Peer::django_oauth_toolkit(&[("GRACE_SECONDS", grace)]);
        let token_url = peer.url("/o/token/");
        let page = allow(peer.url("/o/authorize/"), "&scope=mail.read").await;
        assert_eq!(page.parameter("iss"), None);
        let first = exchange(&token_url, &page.parameter("code").unwrap()).await;
        let (_, second) = refresh(&token_url, &first).await.unwrap();
        assert_ne!(first["refresh_token"], second["refresh_token"]);
        let (again, third) = refresh(&token_url, &first).await.unwrap();
        assert_eq!(again, status, "{third}");
        if status == 200 {
            assert_eq!(third["refresh_token"], second["refresh_token"]);
        }
        peer.spoil(&json!({ "path": "/o/token/", "lose": true }));
        assert!(refresh(&token_url, &second).await.is_err());
        assert_eq!(peer.counts()["/o/token/"], 4);
        let form = [("token", second["refresh_token"].as_str().unwrap())];
        assert_eq!(call(&peer.url("/o/revoke_token/"), &form).await.unwrap().0, 200);
    }
}
