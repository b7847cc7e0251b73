//! A provider, and a server that keeps what it is sent, for the tests beside this file.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread::JoinHandle;

use keyholder_catalog::{Catalog, Provider};
use keyholder_domain::{ProviderId, Timestamp};
use keyholder_egress::{Egress, Settings};
use keyholder_vault::SecretString;

use super::{Client, Server};
use crate::Upstream;

/// Some moment.
pub(super) fn now() -> Timestamp {
    Timestamp::from_unix_timestamp(1_795_000_000).unwrap()
}

/// What speaks to a provider.
pub(super) struct Acme {
    pub(super) provider: Provider,
    pub(super) client: Client,
    pub(super) config: BTreeMap<String, String>,
}

impl Acme {
    /// A provider at `https://acme.example`, with more keys of the recipe, two spaces in, and more of the definition.
    pub(super) fn new(recipe: &str, more: &str) -> Self {
        Self::at("https://acme.example", "basic", recipe, more)
    }

    /// The same elsewhere, with another way to authenticate.
    pub(super) fn at(base: &str, authentication: &str, recipe: &str, more: &str) -> Self {
        let authorize = match recipe.contains("authorize:") {
            true => String::new(),
            false => format!("  authorize: {{ url: '{base}/authorize' }}\n"),
        };
        let token = match recipe.contains("  token:") {
            true => String::new(),
            false => format!("  token: {{ url: '{base}/token' }}\n"),
        };
        let assertion = match recipe.contains("  assertion:") {
            true => String::new(),
            false => format!(
                "  assertion: {{ key: private_key, algorithm: ES256, issuer: '{{credential.email}}', \
                 subject: '{{credential.email}}', audience: '{base}/token', scope: true }}\n"
            ),
        };
        let definition = format!(
            "id: acme\nname: Acme\ndocumentation_url: https://acme.example/docs\nfacts_checked: 2026-01-31\n\
             base_url: https://api.acme.example\n{more}\nauth_methods:\n\
             \x20 - method: oauth2_code\n    title: Sign in\n    no_test: Nothing can be asked.\n\
             \x20 - method: jwt_bearer\n    title: Service account\n    no_test: Nothing can be asked.\n    fields:\n\
             \x20     - {{ name: email, title: Address }}\n\
             \x20     - {{ name: private_key, title: Key, secret: true, multiline: true }}\n\
             oauth2:\n  client_authentication: {authentication}\n{authorize}{token}{assertion}{recipe}\n"
        );
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("acme.yaml"), &definition).unwrap();
        let catalog = Catalog::load(Some(dir.path())).unwrap_or_else(|error| panic!("{error}\n{definition}"));
        let provider = catalog.get(&ProviderId::parse("acme").unwrap()).unwrap().clone();
        let client = Client { id: "client-1".to_owned(), secrets: vec!["s3cret".into()], key: None };
        Self { provider, client, config: BTreeMap::new() }
    }

    pub(super) fn server(&self) -> Server<'_> {
        Server {
            provider: &self.provider,
            recipe: self.provider.oauth2.as_deref().unwrap(),
            client: &self.client,
            config: &self.config,
        }
    }
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    /// Such as `POST /token HTTP/1.1`.
    pub(super) line: String,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: String,
}

/// Listens, answers each of some calls with the same answer, and tells what came.
pub(super) struct Listener {
    pub(super) base: String,
    thread: JoinHandle<Vec<Sent>>,
}

impl Listener {
    pub(super) fn answering(calls: usize, answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            (0..calls)
                .map(|_| {
                    let (mut stream, _) = listener.accept().unwrap();
                    let sent = read(&mut stream);
                    stream.write_all(answer.as_bytes()).unwrap();
                    sent
                })
                .collect()
        });
        Self { base, thread }
    }

    /// What came, once every call did.
    pub(super) fn sent(self) -> Vec<Sent> {
        self.thread.join().unwrap()
    }

    /// The way to this listener and to nowhere else.
    pub(super) fn upstream(&self) -> Upstream {
        let danger = vec![self.base.trim_start_matches("http://").parse().unwrap()];
        Upstream::new(Egress::new(&Settings { danger, ..Settings::default() }).unwrap())
    }
}

fn read(stream: &mut std::net::TcpStream) -> Sent {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let mut lines = head.split("\r\n");
            let line = lines.next().unwrap().to_owned();
            let headers: BTreeMap<String, String> = lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect();
            let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                return Sent { line, headers, body: body.to_owned() };
            }
        }
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).unwrap();
        assert!(read > 0, "the request broke off: {text}");
        bytes.extend_from_slice(&chunk[..read]);
    }
}

/// A secret of a test.
pub(super) fn secret(text: &str) -> SecretString {
    text.into()
}
