//! The token endpoint: what is sent there, and what is made of its answers.

use std::sync::Arc;
use std::time::Duration;

use keyholder_domain::SystemClock;
use keyholder_proto::v1::{self, AuthorizationState, ConnectionState};
use keyholder_testkit::provider::{Call, Effect, Endpoint, Expiry, Format, Provider, ScopeShape, Stage};
use serde_json::json;
use tonic::Code;

use super::world::{CLIENT, OAuth, Setup, start};
use crate::harness::{ACME, assert_refused, eventually, grant_request, resolve_request};

impl OAuth {
    /// Goes through a flow that must come to nothing, and returns why.
    async fn come_to_nothing(&self) -> String {
        let begun = self.begin("user:ada").await;
        self.consent(&begun).await;
        self.failure(&begun).await
    }

    /// Waits until the provider has taken back so many tokens.
    fn until_given_back(&self, tokens: u64) {
        eventually("tokens that are given back", || {
            (self.provider.counts().revocations >= tokens).then_some(())
        });
    }

    fn connections_made(&self) -> String {
        self.world.sql("SELECT count(*) FROM connections")
    }
}

// === What is sent ===

#[tokio::test(flavor = "multi_thread")]
async fn c26_c27_c28_secrets_go_in_the_body_or_the_header_of_a_post_and_in_no_url() {
    for authentication in ["basic", "basic_raw", "body"] {
        let wanted = format!("client_authentication: {authentication}");
        let instead = [("client_authentication: basic", wanted.as_str())];
        let oauth = OAuth::start_with(&Setup { instead: &instead, ..Setup::default() });
        let made = oauth.connect("user:ada").await;
        let delete = v1::DeleteConnectionRequest {
            organization_id: ACME.into(),
            connection_id: made.connection_id,
            ..Default::default()
        };
        oauth.world.connections().delete_connection(delete).await.unwrap();
        oauth.until_given_back(1);
        let asked: Vec<Call> =
            [Endpoint::Token, Endpoint::Revoke].into_iter().flat_map(|it| oauth.calls(it)).collect();
        assert!(asked.len() >= 2, "{asked:?}");
        for call in &asked {
            assert_eq!((call.method.as_str(), call.query.len()), ("POST", 0), "{authentication}");
            let ways = [
                call.header("authorization"),
                call.parameter("client_secret"),
                call.parameter("client_assertion"),
            ];
            assert_eq!(ways.iter().flatten().count(), 1, "{authentication}: {call:?}");
        }
        let mut secrets = oauth.provider.secrets();
        secrets.retain(|secret| !secret.starts_with("code-"));
        secrets.push(CLIENT.1.to_owned());
        for call in oauth.provider.history() {
            for (name, value) in &call.query {
                assert!(
                    !secrets.iter().any(|secret| value.contains(secret)),
                    "{name} of {:?}",
                    call.endpoint
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c25_a_token_endpoint_in_the_clear_is_not_called_unless_danger_names_it() {
    let elsewhere = Provider::start(Arc::new(SystemClock)).unwrap();
    let to = format!("token: {{ url: '{}' }}", elsewhere.url("/token"));
    let recipe = format!("  {to}\n");
    let instead = [("  token: { url: '{base}/token' }", "")];
    // Only the address of the definition's own token endpoint differs.
    let oauth = OAuth::start_with(&Setup { recipe: &recipe, instead: &instead, ..Setup::default() });
    assert_eq!(oauth.come_to_nothing().await, "PROVIDER_UNAVAILABLE");
    assert!(elsewhere.history().is_empty(), "nobody was asked");
    oauth.assert_no_token_call();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_has_default_scopes_of_its_own() {
    let instead = [
        ("- method: oauth2_device\n", "- method: oauth2_device\n    default_scopes: [read]\n"),
        (
            "- method: oauth2_client_credentials\n",
            "- method: oauth2_client_credentials\n    default_scopes: []\n",
        ),
    ];
    let oauth = OAuth::start_with(&Setup { instead: &instead, ..Setup::default() });
    let by_code = oauth.begin("user:ada").await.authorization.unwrap();
    assert_eq!(by_code.scopes, ["read", "write"]);
    let device = v1::StartAuthorizationRequest {
        auth_method: v1::AuthMethod::Oauth2Device.into(),
        ..start("user:bob")
    };
    assert_eq!(oauth.begin_as(device).await.authorization.unwrap().scopes, ["read"]);
    assert_eq!(oauth.calls(Endpoint::DeviceAuthorization)[0].parameter("scope"), Some("read"));
    let create = |scopes: &[&str]| v1::CreateConnectionRequest {
        organization_id: ACME.into(),
        owner: "service:robot".into(),
        provider_id: "demo".into(),
        auth_method: v1::AuthMethod::Oauth2ClientCredentials.into(),
        credentials: [
            ("client_id".to_owned(), CLIENT.0.to_owned()),
            ("client_secret".to_owned(), CLIENT.1.to_owned()),
        ]
        .into(),
        scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
        ..Default::default()
    };
    let made = oauth.world.connections().create_connection(create(&[])).await.unwrap().into_inner();
    assert!(made.connection.unwrap().scopes.is_empty());
    let asked = oauth.calls(Endpoint::Token);
    let asked = asked.iter().find(|call| call.parameter("grant_type") == Some("client_credentials")).unwrap();
    assert_eq!(asked.parameter("scope"), None);
}

// === What is made of an answer ===

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_read_in_every_shape_that_the_recipe_allows() {
    let oauth = OAuth::start();
    for format in [Format::Json, Format::Form, Format::TextJson, Format::AsAccepted] {
        for scope in [ScopeShape::Text, ScopeShape::Commas, ScopeShape::List, ScopeShape::Missing] {
            oauth.provider.behave(|manners| (manners.format, manners.scope) = (format, scope));
            let made = oauth.connect("user:ada").await;
            assert_eq!(
                (made.state(), made.scopes.len()),
                (ConnectionState::Active, 2),
                "{format:?} {scope:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c32_a_token_of_a_type_that_is_not_known_is_given_back_and_never_out() {
    let oauth = OAuth::start();
    for (number, kind) in ["mac", "DPoP", "N_A", ""].into_iter().enumerate() {
        oauth.provider.behave(|manners| manners.token_type = Some(kind.to_owned()));
        assert_eq!(oauth.come_to_nothing().await, "ANSWER_UNUSABLE", "{kind}");
        oauth.until_given_back(number as u64 + 1);
    }
    assert_eq!(oauth.connections_made(), "0");
    for kind in [Some("bEaReR"), None] {
        oauth.provider.behave(|manners| manners.token_type = kind.map(str::to_owned));
        oauth.connect("user:ada").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c33_a_long_token_arrives_whole_and_one_that_is_too_long_does_not() {
    let oauth = OAuth::start_with(&Setup {
        // Nothing is asked with the token: the provider would not know it.
        instead: &[(
            "test:\n      request: GET /userinfo\n      good: [200]\n      dead: [401]\n      account: { id: /sub, name: /name, email: /email }",
            "no_test: Nothing can be asked.",
        )],
        ..Setup::default()
    });
    oauth
        .provider
        .behave(|manners| drop(manners.answer_extra.insert("novelty".into(), json!({ "a": [null] }))));
    oauth.provider.spoil(1, Stage::After, Effect::long_token(16 * 1024));
    let made = oauth.connect("user:ada").await;
    let resolved = oauth
        .world
        .grants("gateway")
        .resolve_credential(resolve_request("user:ada", &made.connection_id))
        .await;
    let Some(v1::credential::Kind::Oauth2(token)) = resolved.unwrap().into_inner().credential.unwrap().kind
    else {
        panic!()
    };
    assert_eq!(token.access_token.len(), 16 * 1024);
    oauth.provider.spoil(1, Stage::After, Effect::long_token(64 * 1024 + 1));
    assert_eq!(oauth.come_to_nothing().await, "ANSWER_UNUSABLE");
}

#[tokio::test(flavor = "multi_thread")]
async fn c34_an_end_that_nobody_told_is_neither_now_nor_never() {
    let oauth = OAuth::start();
    for expiry in [
        Expiry::Missing,
        Expiry::Raw(json!(-1)),
        Expiry::Raw(json!(0)),
        Expiry::Raw(json!(1e99)),
        Expiry::Raw(json!("abc")),
        Expiry::Raw(json!(null)),
    ] {
        oauth.provider.behave(|manners| manners.expiry = expiry.clone());
        let made = oauth.connect("user:ada").await;
        assert_eq!(made.tokens.unwrap().expire_time, None, "{expiry:?}");
        let ask = |seconds| v1::ResolveCredentialRequest {
            min_ttl: Some(prost_types::Duration { seconds, nanos: 0 }),
            ..resolve_request("user:ada", &made.connection_id)
        };
        let resolved = oauth.world.grants("gateway").resolve_credential(ask(0)).await.unwrap().into_inner();
        assert_eq!(resolved.valid_until, None, "{expiry:?}");
    }
    for expiry in [Expiry::Text, Expiry::Float, Expiry::Seconds] {
        oauth.provider.behave(|manners| manners.expiry = expiry.clone());
        assert!(oauth.connect("user:ada").await.tokens.unwrap().expire_time.is_some(), "{expiry:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c35_what_was_granted_is_what_counts() {
    let oauth = OAuth::start();
    oauth.provider.behave(|manners| manners.granted = Some(vec!["read".into()]));
    let made = oauth.connect("user:ada").await;
    assert_eq!(made.scopes, ["read"]);
    let mut grant = grant_request("agent:roadie", &made.connection_id);
    grant.scopes = vec!["write".into()];
    assert!(
        oauth.world.grants("console").create_grant(grant).await.is_err(),
        "nobody can pass on what is not there"
    );
    let ask = v1::ResolveCredentialRequest {
        scopes: vec!["write".into()],
        ..resolve_request("user:ada", &made.connection_id)
    };
    let refused = oauth.world.grants("gateway").resolve_credential(ask).await;
    assert_refused(refused, Code::FailedPrecondition, "SCOPE_MISSING");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lifetime_counts_from_the_moment_that_the_answer_came() {
    let oauth = OAuth::start();
    let lifetime = Duration::from_secs(600);
    oauth.provider.behave(|manners| manners.access_lifetime = lifetime);
    let request = v1::StartAuthorizationRequest {
        // Of no verifier that anybody knows; the app is taken out of the way below.
        completion_challenge: "A".repeat(43),
        ..start("user:ada")
    };
    let begun = oauth.begin_as(request).await;
    oauth.consent(&begun).await;
    oauth.until(&begun, AuthorizationState::AwaitingCompletion).await;
    let answered = oauth.calls(Endpoint::Token)[0].answered.unwrap();
    // Its owner takes a while to come back.
    let late = answered + Duration::from_secs(3);
    eventually("a later moment", || (keyholder_domain::Clock::now(&SystemClock) > late).then_some(()));
    oauth.world.sql("UPDATE authorizations SET completion_challenge = ''");
    let complete = v1::CompleteAuthorizationRequest {
        organization_id: ACME.into(),
        authorization_id: begun.authorization.unwrap().authorization_id,
        ..Default::default()
    };
    let done = oauth.world.connections().complete_authorization(complete).await.unwrap().into_inner();
    let made = oauth.connection(&done.authorization.unwrap().connection_id).await;
    let ends = made.tokens.unwrap().expire_time.unwrap().seconds;
    assert!(ends <= (answered + lifetime).unix_timestamp() + 1, "{ends} {answered}");
}

// === What goes wrong ===

#[tokio::test(flavor = "multi_thread")]
async fn c36_each_error_ends_a_flow_with_its_own_reason_and_the_code_goes_out_once() {
    let oauth = OAuth::start();
    let error = |status, code: &str| Effect::Error { status, code: code.to_owned() };
    let raw = |content_type: &str, body: &str| Effect::Raw {
        status: 200,
        content_type: content_type.to_owned(),
        body: body.as_bytes().to_vec(),
    };
    let table = [
        (error(400, "invalid_grant"), "CODE_REFUSED"),
        (error(500, "invalid_grant"), "CODE_REFUSED"),
        (error(200, "invalid_grant"), "CODE_REFUSED"),
        (error(400, "invalid_scope"), "CODE_REFUSED"),
        (error(401, "invalid_client"), "CLIENT_REFUSED"),
        (error(400, "unauthorized_client"), "CLIENT_REFUSED"),
        (error(400, "access_denied"), "ACCESS_DENIED"),
        (error(400, "temporarily_unavailable"), "PROVIDER_UNAVAILABLE"),
        (error(200, "server_error"), "PROVIDER_UNAVAILABLE"),
        (error(400, "novelty"), "ANSWER_UNUSABLE"),
        (Effect::RetryAfter(429, "7".into()), "PROVIDER_UNAVAILABLE"),
        (Effect::RetryAfter(503, "in a year".into()), "PROVIDER_UNAVAILABLE"),
        (Effect::Status(500), "PROVIDER_UNAVAILABLE"),
        (Effect::Status(403), "ANSWER_UNUSABLE"),
        (Effect::Html(502), "PROVIDER_UNAVAILABLE"),
        (Effect::Html(200), "ANSWER_UNUSABLE"),
        (Effect::Empty(200), "ANSWER_UNUSABLE"),
        (Effect::Empty(204), "ANSWER_UNUSABLE"),
        (Effect::Reset, "PROVIDER_UNAVAILABLE"),
        (Effect::Cut(60), "PROVIDER_UNAVAILABLE"),
        (Effect::Redirect { status: 307, location: oauth.provider.url("/token") }, "PROVIDER_UNAVAILABLE"),
        (Effect::Redirect { status: 303, location: "https://evil.example/".into() }, "PROVIDER_UNAVAILABLE"),
        (Effect::Huge(2 * 1024 * 1024), "PROVIDER_UNAVAILABLE"),
        (Effect::Deep(100_000), "ANSWER_UNUSABLE"),
        (Effect::NotUtf8, "ANSWER_UNUSABLE"),
        (Effect::Twice, "ANSWER_UNUSABLE"),
        (Effect::member("access_token", json!(null)), "ANSWER_UNUSABLE"),
        (Effect::member("access_token", 7), "ANSWER_UNUSABLE"),
        (Effect::member("access_token", ""), "ANSWER_UNUSABLE"),
        (Effect::token_with_line_break(), "ANSWER_UNUSABLE"),
        (raw("application/json", "{\"access_token\":\"\\ud800\"}"), "ANSWER_UNUSABLE"),
        (raw("application/json", "access_token=at"), "ANSWER_UNUSABLE"),
        (raw("application/json", "{\"access_token\":\"unknown\"}"), "ANSWER_UNUSABLE"),
    ];
    for (number, (effect, reason)) in table.into_iter().enumerate() {
        oauth.provider.spoil(1, Stage::After, effect.clone());
        assert_eq!(oauth.come_to_nothing().await, reason, "{effect:?}");
        assert_eq!(oauth.calls(Endpoint::Token).len(), number + 1, "once: {effect:?}");
    }
    assert_eq!(oauth.connections_made(), "0");
    assert_eq!(oauth.provider.counts().code_replays, 0);
    oauth.connect("user:ada").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f17_an_answer_that_never_ends_ends_the_flow_and_the_code_goes_out_once() {
    let oauth = OAuth::start();
    for (number, effect) in [Effect::Hang, Effect::Trickle(Duration::from_secs(1))].into_iter().enumerate() {
        oauth.provider.spoil(1, Stage::After, effect.clone());
        assert_eq!(oauth.come_to_nothing().await, "PROVIDER_UNAVAILABLE", "{effect:?}");
        assert_eq!(oauth.calls(Endpoint::Token).len(), number + 1, "once: {effect:?}");
    }
    assert_eq!(oauth.connections_made(), "0");
    oauth.connect("user:ada").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_beside_tokens_wins_and_the_tokens_are_given_back() {
    let oauth = OAuth::start();
    for (number, (status, code, reason)) in [
        (200, "invalid_grant", "CODE_REFUSED"),
        (400, "server_error", "PROVIDER_UNAVAILABLE"),
        (500, "novelty", "PROVIDER_UNAVAILABLE"),
    ]
    .into_iter()
    .enumerate()
    {
        oauth.provider.spoil(1, Stage::After, Effect::ErrorBeside { status, code: code.to_owned() });
        assert_eq!(oauth.come_to_nothing().await, reason);
        oauth.until_given_back(number as u64 + 1);
    }
    assert_eq!(oauth.connections_made(), "0");
    let left = oauth.world.sql(
        "SELECT count(*) FROM authorizations WHERE sealed_answer IS NOT NULL OR sealed_flow IS NOT NULL",
    );
    assert_eq!(left, "0", "a flow that is over holds nothing");
}

// === What is given back ===

#[tokio::test(flavor = "multi_thread")]
async fn c43_only_the_status_that_says_so_means_that_a_token_was_taken_back() {
    let oauth = OAuth::start();
    let made = oauth.connect("user:ada").await;
    for effect in [Effect::RetryAfter(503, "1".into()), Effect::Empty(202), Effect::Html(200)] {
        // The last one is a good answer: nobody looks at its body.
        oauth.provider.spoil_at(Endpoint::Revoke, 1, Stage::Before, effect);
    }
    let delete = v1::DeleteConnectionRequest {
        organization_id: ACME.into(),
        connection_id: made.connection_id,
        ..Default::default()
    };
    oauth.world.connections().delete_connection(delete).await.unwrap();
    for attempts in 1..=2 {
        eventually("another attempt", || {
            let postponed = format!(
                "SELECT count(*) FROM revocations WHERE outcome = 'PENDING' AND attempts = {attempts} \
                 AND sealed_tokens IS NOT NULL AND next_attempt_time > clock_timestamp() \
                 AND (SELECT count(*) FROM audit_events WHERE kind = 'TOKEN_REVOKED') = 0"
            );
            (oauth.calls(Endpoint::Revoke).len() == attempts && oauth.world.sql(&postponed) == "1")
                .then_some(())
        });
        // Longer than its lease, so that it is the wait that is shortened here.
        oauth.world.sql("UPDATE revocations SET next_attempt_time = clock_timestamp()");
    }
    eventually("the outcome", || {
        (oauth.world.sql("SELECT outcome FROM revocations") == "REVOKED").then_some(())
    });
    let order: Vec<String> = oauth
        .calls(Endpoint::Revoke)
        .iter()
        .map(|call| call.presented.as_deref().unwrap().split('-').next().unwrap().to_owned())
        .collect();
    assert_eq!(order, ["rt", "rt", "rt", "at"], "the refresh token first, and again while it may be alive");
}
