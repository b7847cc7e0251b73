//! A world whose catalog has an OAuth provider on this machine, with a client at it.

use std::fs::{self, File};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyholder_domain::SystemClock;
use keyholder_proto::v1;
use keyholder_testkit::browser::{Browser, Page};
use keyholder_testkit::provider::{Call, Client, Consent, Endpoint, Provider};
use tonic::Status;
use url::Url;

use crate::harness::{ACME, Environment, Server, World, eventually, resolve_request};

/// How long a flow may take to come where it must.
const PATIENCE: Duration = Duration::from_secs(60);

/// The client's id and secret at the provider.
pub(crate) const CLIENT: (&str, &str) = ("keyholder", "client-secret-7f3a");

/// Everything that a test needs.
pub(crate) struct OAuth {
    pub(crate) world: World,
    pub(crate) provider: Provider,
    /// Where the pages are.
    pub(crate) web: String,
}

/// What a test wants to be different.
#[derive(Default)]
pub(crate) struct Setup<'a> {
    /// More keys of the recipe, two spaces in.
    pub(crate) recipe: &'a str,
    /// More keys of the method of the owner's own client, four spaces in.
    pub(crate) own_client: &'a str,
    /// More of the definition.
    pub(crate) definition: &'a str,
    /// More settings under `[web]`.
    pub(crate) web: &'a str,
    /// Pieces of the definition that are other ones.
    pub(crate) instead: &'a [(&'a str, &'a str)],
    /// A second provider, `other`, with the same definition.
    pub(crate) other: Option<&'a Provider>,
    /// Where browsers reach the pages; if empty, where they are.
    pub(crate) public_url: &'a str,
    /// The whole definition of `demo`, in place of the usual one. `HERE` is the provider's address, and
    /// `LOCALHOST` the same by that name.
    pub(crate) demo: &'a str,
    /// More definitions, by provider.
    pub(crate) others: &'a [(&'a str, &'a str)],
    /// More tables of settings.
    pub(crate) settings: &'a str,
    /// More hosts that may be called in the clear, each with its port.
    pub(crate) egress: &'a [&'a str],
    /// The port of the pages, if somebody must know it before.
    pub(crate) port: Option<u16>,
    /// Where the installation's client comes from.
    pub(crate) client: ClientFrom<'a>,
}

/// Where the installation's client comes from.
#[derive(Default, Clone, Copy)]
pub(crate) enum ClientFrom<'a> {
    /// The configuration names its id and a file with its secret.
    #[default]
    File,
    /// Variables.
    Variables(&'a [(&'a str, &'a str)]),
    /// These settings of its table.
    Settings(&'a str),
}

impl OAuth {
    /// The usual world: everyone says yes, as Ada.
    pub(crate) fn start() -> Self {
        Self::start_with(&Setup::default())
    }

    pub(crate) fn start_with(setup: &Setup<'_>) -> Self {
        let provider = Provider::start(Arc::new(SystemClock)).unwrap();
        let port = setup.port.unwrap_or_else(free_port);
        let web = format!("http://127.0.0.1:{port}");
        let public_url = if setup.public_url.is_empty() { &web } else { setup.public_url };
        let every = [("demo", Some(&provider)), ("other", setup.other)];
        let every: Vec<(&str, &Provider)> =
            every.into_iter().filter_map(|(id, provider)| Some((id, provider?))).collect();
        for &(id, provider) in &every {
            let back = format!("{public_url}/oauth/callback/{id}");
            provider.register(Client::confidential(CLIENT.0, CLIENT.1, &back));
            provider.behave(|manners| {
                manners.consent = Consent::Allow;
                manners.account = "ada".into();
            });
        }
        let environment = match setup.client {
            ClientFrom::Variables(variables) => {
                variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
            }
            ClientFrom::File | ClientFrom::Settings(_) => Environment::new(),
        };
        let world = World::start_in(environment, |_, dir| {
            std::fs::create_dir(dir.join("providers")).unwrap();
            let mut clients = String::new();
            let mut egress: Vec<String> = setup.egress.iter().map(|&host| host.to_owned()).collect();
            for &(id, provider) in &every {
                let file = dir.join(format!("providers/{id}.yaml"));
                std::fs::write(file, definition(id, provider, setup)).unwrap();
                let address = provider.address();
                egress.extend([address.to_string(), format!("localhost:{}", address.port())]);
                clients += &match setup.client {
                    ClientFrom::File => format!(
                        "[oauth.{id}]\nclient_id = \"{}\"\nclient_secret_file = \"demo.secret\"\n",
                        CLIENT.0
                    ),
                    ClientFrom::Variables(_) => String::new(),
                    ClientFrom::Settings(settings) => format!("[oauth.{id}]\n{settings}\n"),
                };
            }
            for (id, definition) in setup.others {
                std::fs::write(dir.join(format!("providers/{id}.yaml")), definition).unwrap();
            }
            std::fs::write(dir.join("demo.secret"), format!("{}\n", CLIENT.1)).unwrap();
            format!(
                "[catalog]\ndirectory = \"providers\"\n\
                 [web]\nlisten = \"127.0.0.1:{port}\"\npublic_url = \"{public_url}\"\n\
                 return_urls = [\"https://app.example.com/*\"]\n{}\n\
                 {clients}\n{}\n[danger]\negress = {egress:?}\n",
                setup.web, setup.settings,
            )
        });
        Self { world, provider, web }
    }

    /// Another server of the same installation, and where its pages are.
    pub(crate) fn replica(&self, name: &str) -> (Server, String) {
        let listen = format!("127.0.0.1:{}", free_port());
        let server = self.world.server_with(name, &[("KEYHOLDER_WEB__LISTEN", &listen)]);
        (server, format!("http://{listen}"))
    }

    /// Begins a flow for a user.
    pub(crate) async fn begin(&self, owner: &str) -> v1::StartAuthorizationResponse {
        self.begin_as(start(owner)).await
    }

    pub(crate) async fn begin_as(
        &self,
        request: v1::StartAuthorizationRequest,
    ) -> v1::StartAuthorizationResponse {
        self.world.connections().start_authorization(request).await.unwrap().into_inner()
    }

    /// Follows the link to the end in a browser of its own.
    pub(crate) async fn consent(&self, begun: &v1::StartAuthorizationResponse) -> Page {
        Browser::new().get(&begun.authorization_url).await.unwrap()
    }

    /// Goes with a browser as far as the provider's answer, and returns where that leads to.
    pub(crate) async fn answer_for(
        &self,
        browser: &mut Browser,
        begun: &v1::StartAuthorizationResponse,
    ) -> Url {
        let stop = format!("{}/oauth/callback/", self.web);
        let page = browser.get_until(&begun.authorization_url, &stop).await.unwrap();
        assert!(page.url.as_str().starts_with(&stop), "{} {}", page.url, text(&page));
        page.url
    }

    /// The calls of an endpoint of the provider, in the order of arrival.
    pub(crate) fn calls(&self, endpoint: Endpoint) -> Vec<Call> {
        self.provider.history().into_iter().filter(|call| call.endpoint == endpoint).collect()
    }

    /// Waits until a flow has come to nothing, and returns why.
    pub(crate) async fn failure(&self, begun: &v1::StartAuthorizationResponse) -> String {
        self.until(begun, v1::AuthorizationState::Failed).await.failure
    }

    /// Waits until a flow is in a state.
    pub(crate) async fn until(
        &self,
        begun: &v1::StartAuthorizationResponse,
        state: v1::AuthorizationState,
    ) -> v1::Authorization {
        let waiting = async {
            loop {
                let told = self.authorization(begun).await;
                if told.state() == state {
                    return told;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting)
            .await
            .unwrap_or_else(|_| panic!("{state:?} did not come about"))
    }

    /// The cookies of a browser, for another one or for another replica.
    pub(crate) fn cookie(&self, browser: &Browser) -> String {
        let cookies = browser.cookies(&self.web);
        assert!(!cookies.is_empty(), "the browser is bound");
        let pairs = cookies.iter().map(|cookie| format!("{}={}", cookie.name, cookie.value));
        pairs.collect::<Vec<_>>().join("; ")
    }

    /// That nobody was asked for tokens.
    #[track_caller]
    pub(crate) fn assert_no_token_call(&self) {
        assert_eq!(self.provider.counts().token_calls, 0, "{:?}", self.calls(Endpoint::Token));
    }

    /// How a flow stands.
    pub(crate) async fn authorization(&self, begun: &v1::StartAuthorizationResponse) -> v1::Authorization {
        let request = v1::GetAuthorizationRequest {
            organization_id: ACME.into(),
            authorization_id: begun.authorization.as_ref().unwrap().authorization_id.clone(),
        };
        let answer = self.world.connections().get_authorization(request).await.unwrap();
        answer.into_inner().authorization.unwrap()
    }

    /// Connects an account of a user, and returns the connection.
    pub(crate) async fn connect(&self, owner: &str) -> v1::Connection {
        let begun = self.begin(owner).await;
        let page = self.consent(&begun).await;
        let done = self.authorization(&begun).await;
        assert_eq!(done.state(), v1::AuthorizationState::Completed, "{done:?} {}", text(&page));
        self.connection(&done.connection_id).await
    }

    /// Waits until a flow is over, and says how.
    pub(crate) async fn end_of(&self, begun: &v1::StartAuthorizationResponse) -> v1::Authorization {
        let id = &begun.authorization.as_ref().unwrap().authorization_id;
        let id = id.strip_prefix("authz_").unwrap();
        eventually("the end of the flow", || {
            let state = format!("SELECT state FROM authorizations WHERE authorization_id = '{id}'");
            ["COMPLETED", "FAILED"].contains(&self.world.sql(&state).as_str()).then_some(())
        });
        self.authorization(begun).await
    }

    /// What a workload gets for an actor.
    pub(crate) async fn resolve(&self, actor: &str, connection_id: &str) -> v1::ResolveCredentialResponse {
        let request = resolve_request(actor, connection_id);
        self.world.grants("gateway").resolve_credential(request).await.unwrap().into_inner()
    }

    /// The access token that an owner has.
    pub(crate) async fn token(&self, made: &v1::Connection) -> String {
        let resolved = self.resolve(&made.owner, &made.connection_id).await;
        let Some(v1::credential::Kind::Oauth2(token)) = resolved.credential.unwrap().kind else { panic!() };
        token.access_token
    }

    /// Connects an account without asking anybody.
    pub(crate) async fn create(
        &self,
        provider_id: &str,
        method: v1::AuthMethod,
        credentials: &[(&str, &str)],
    ) -> Result<v1::Connection, Status> {
        let request = create(provider_id, method, credentials);
        let made = self.world.connections().create_connection(request).await?;
        Ok(made.into_inner().connection.unwrap())
    }

    /// Deletes a connection.
    pub(crate) async fn delete(&self, made: &v1::Connection) {
        let request = v1::DeleteConnectionRequest {
            organization_id: ACME.into(),
            connection_id: made.connection_id.clone(),
            ..Default::default()
        };
        self.world.connections().delete_connection(request).await.unwrap();
    }

    pub(crate) async fn connection(&self, id: &str) -> v1::Connection {
        let request = v1::GetConnectionRequest { organization_id: ACME.into(), connection_id: id.to_owned() };
        self.world.connections().get_connection(request).await.unwrap().into_inner().connection.unwrap()
    }
}

/// A browser that shows these cookies to everybody.
pub(crate) fn browser_with(cookie: &str) -> Browser {
    let mut browser = Browser::new();
    browser.set_header("cookie", cookie);
    browser
}

/// A request to connect an account of a user.
pub(crate) fn start(owner: &str) -> v1::StartAuthorizationRequest {
    v1::StartAuthorizationRequest {
        organization_id: ACME.into(),
        owner: owner.into(),
        provider_id: "demo".into(),
        ..Default::default()
    }
}

/// A request to connect an account without asking anybody.
pub(crate) fn create(
    provider_id: &str,
    method: v1::AuthMethod,
    credentials: &[(&str, &str)],
) -> v1::CreateConnectionRequest {
    v1::CreateConnectionRequest {
        organization_id: ACME.into(),
        owner: "user:ada".into(),
        provider_id: provider_id.into(),
        auth_method: method.into(),
        credentials: credentials.iter().map(|&(name, value)| (name.into(), value.into())).collect(),
        ..Default::default()
    }
}

/// What a page says, as text.
pub(crate) fn text(page: &Page) -> String {
    String::from_utf8_lossy(page.body.as_ref()).into_owned()
}

/// The same address with other parameters.
pub(crate) fn with_parameters(url: &Url, change: impl FnOnce(&mut Vec<(String, String)>)) -> String {
    let mut pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    change(&mut pairs);
    let mut url = url.clone();
    url.query_pairs_mut().clear().extend_pairs(pairs);
    url.into()
}

fn definition(id: &str, provider: &Provider, setup: &Setup<'_>) -> String {
    if !setup.demo.is_empty() {
        let localhost = format!("http://localhost:{}", provider.address().port());
        return setup.demo.replace("HERE", &provider.issuer()).replace("LOCALHOST", &localhost);
    }
    let at = |path: &str| provider.url(path);
    let text = format!(
        "id: {id}\nname: Demo\ndocumentation_url: https://example.com/docs\nfacts_checked: 2026-11-26\n\
         base_url: {base}\nauth_methods:\n\
         {code}{device}\
         \x20 - method: oauth2_client_credentials\n    title: Client\n    fields:\n\
         \x20     - {{ name: client_id, title: Id }}\n      - {{ name: client_secret, title: Secret, secret: true }}\n\
         {client}\
         oauth2:\n  issuer: {base}\n  sends_iss: true\n  client_authentication: basic\n\
         \x20 authorize: {{ url: '{authorize}' }}\n  token: {{ url: '{token}' }}\n\
         \x20 device: {{ url: '{device_at}' }}\n  revoke: {{ url: '{revoke}' }}\n{recipe}\n\
         scopes:\n  - {{ name: read, title: Read }}\n  - {{ name: write, title: Write }}\n\
         default_scopes: [read, write]\n{more}\n",
        base = at("").trim_end_matches('/'),
        code = method("oauth2_code"),
        device = method("oauth2_device"),
        authorize = at("/authorize"),
        token = at("/token"),
        device_at = at("/device_authorization"),
        revoke = at("/revoke"),
        client = setup.own_client,
        recipe = setup.recipe,
        more = setup.definition,
    );
    setup.instead.iter().fold(text, |text, (from, to)| {
        let [from, to] = [from, to].map(|piece| piece.replace("{base}", at("").trim_end_matches('/')));
        assert!(text.contains(&from), "{from:?} is not in the definition");
        text.replace(&from, &to)
    })
}

fn method(name: &str) -> String {
    format!(
        "\x20 - method: {name}\n    title: Sign in\n    test:\n      request: GET /userinfo\n      good: [200]\n\
         \x20     dead: [401]\n      account: {{ id: /sub, name: /name, email: /email }}\n"
    )
}

/// A port of loopback that is this process's own until it ends: one that the system gives to nobody who asks for any
/// port, as most tests do, and whose lock file no other test holds.
pub(crate) fn free_port() -> u16 {
    static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let folder = std::env::temp_dir().join("keyholder-test-ports");
    fs::create_dir_all(&folder).unwrap();
    let first = u16::try_from(std::process::id() % 10_000).unwrap();
    for port in (0..10_000).map(|step| 20_000 + (first + step) % 10_000) {
        let lock = File::create(folder.join(port.to_string())).unwrap();
        if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            HELD.lock().unwrap().push(lock);
            return port;
        }
    }
    panic!("no free port");
}

/// The challenge of a verifier (RFC 7636, section 4.2).
pub(crate) fn challenge_of(verifier: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.encode(keyholder_vault::sha256(verifier.as_bytes()))
}
