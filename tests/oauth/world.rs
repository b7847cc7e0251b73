//! A world whose catalog has an OAuth provider on this machine, with a client at it.

use std::net::TcpListener;
use std::sync::Arc;

use keyholder_domain::SystemClock;
use keyholder_proto::v1;
use keyholder_testkit::browser::{Browser, Page};
use keyholder_testkit::provider::{Client, Consent, Provider};

use crate::harness::{ACME, World};

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
    pub(crate) client: &'a str,
    /// More of the definition.
    pub(crate) definition: &'a str,
    /// More settings under `[web]`.
    pub(crate) web: &'a str,
}

impl OAuth {
    /// The usual world: everyone says yes, as Ada.
    pub(crate) fn start() -> Self {
        Self::start_with(&Setup::default())
    }

    pub(crate) fn start_with(setup: &Setup<'_>) -> Self {
        let provider = Provider::start(Arc::new(SystemClock)).unwrap();
        let port = free_port();
        let web = format!("http://127.0.0.1:{port}");
        provider.register(Client::confidential(CLIENT.0, CLIENT.1, &format!("{web}/oauth/callback/demo")));
        provider.behave(|manners| {
            manners.consent = Consent::Allow;
            manners.account = "ada".into();
        });
        let world = World::start_with(|_, dir| {
            std::fs::create_dir(dir.join("providers")).unwrap();
            std::fs::write(dir.join("providers/demo.yaml"), definition(&provider, setup)).unwrap();
            std::fs::write(dir.join("demo.secret"), format!("{}\n", CLIENT.1)).unwrap();
            format!(
                "[catalog]\ndirectory = \"providers\"\n\
                 [web]\nlisten = \"127.0.0.1:{port}\"\npublic_url = \"{web}\"\n\
                 return_urls = [\"https://app.example.com/*\"]\n{}\n\
                 [oauth.demo]\nclient_id = \"{}\"\nclient_secret_file = \"demo.secret\"\n\
                 [danger]\negress = [\"{}\"]\n",
                setup.web,
                CLIENT.0,
                provider.address(),
            )
        });
        Self { world, provider, web }
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

    pub(crate) async fn connection(&self, id: &str) -> v1::Connection {
        let request = v1::GetConnectionRequest { organization_id: ACME.into(), connection_id: id.to_owned() };
        self.world.connections().get_connection(request).await.unwrap().into_inner().connection.unwrap()
    }
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

/// What a page says, as text.
pub(crate) fn text(page: &Page) -> String {
    String::from_utf8_lossy(page.body.as_ref()).into_owned()
}

fn definition(provider: &Provider, setup: &Setup<'_>) -> String {
    let at = |path: &str| provider.url(path);
    format!(
        "id: demo\nname: Demo\ndocumentation_url: https://example.com/docs\nfacts_checked: 2026-11-26\n\
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
        client = setup.client,
        recipe = setup.recipe,
        more = setup.definition,
    )
}

fn method(name: &str) -> String {
    format!(
        "\x20 - method: {name}\n    title: Sign in\n    test:\n      request: GET /userinfo\n      good: [200]\n\
         \x20     dead: [401]\n      account: {{ id: /sub, name: /name, email: /email }}\n"
    )
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
