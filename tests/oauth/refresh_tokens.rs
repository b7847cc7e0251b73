//! Refresh tokens: which one is kept, and where they go. They are refreshed here the one way that there is so far: once,
//! to prove that one from elsewhere works.

use keyholder_proto::v1;
use keyholder_testkit::browser::Browser;
use keyholder_testkit::provider::{Call, Endpoint, RefreshTokens};
use tonic::Code;

use super::world::{OAuth, Setup, challenge_of, start};
use crate::harness::{assert_refused, eventually, resolve_request};

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_from_elsewhere_is_taken_over_once_it_has_proven_itself() {
    let oauth = OAuth::start();
    let (access, refresh) = raw_tokens(&oauth).await;
    let made =
        oauth.world.connections().create_connection(import(&access, &refresh)).await.unwrap().into_inner();
    let made = made.connection.unwrap();
    assert_eq!(made.account.as_ref().unwrap().id, "user-ada");
    assert!(made.tokens.as_ref().unwrap().renewable);
    let resolve = resolve_request("user:ada", &made.connection_id);
    let released = oauth.world.grants("gateway").resolve_credential(resolve).await.unwrap().into_inner();
    let Some(v1::credential::Kind::Oauth2(token)) = released.credential.unwrap().kind else { panic!() };
    assert_ne!(token.access_token, access, "what is released came with the proof");
    assert_eq!(oauth.provider.counts().refreshes, 1);
    let spent = oauth.world.connections().create_connection(import(&access, &refresh)).await;
    assert_refused(spent, Code::FailedPrecondition, "PROVIDER_REFUSED");
}

#[tokio::test(flavor = "multi_thread")]
async fn c37_c39_a_new_refresh_token_takes_the_place_of_the_old_one_which_is_never_shown_again() {
    let oauth = OAuth::start();
    let (made, first) = taken_over(&oauth).await;
    let given_back = given_back(&oauth, &made).await;
    let kept = &given_back[0];
    assert!(
        kept.starts_with("rt-") && *kept != first,
        "{kept} came with the proof, and {first} is superseded"
    );
    let shown: Vec<Call> = presenting(&oauth, &first);
    assert_eq!(shown.len(), 1, "the superseded one was used once, by the proof itself");
    assert_eq!(oauth.provider.counts().replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn c37_without_a_new_refresh_token_the_old_one_is_kept() {
    let oauth = OAuth::start();
    oauth.provider.behave(|manners| {
        manners.reuse = keyholder_testkit::provider::Reuse::Static;
        manners.refresh_tokens = RefreshTokens::FirstOnly;
    });
    let (made, first) = taken_over(&oauth).await;
    assert!(made.tokens.as_ref().unwrap().renewable);
    assert_eq!(given_back(&oauth, &made).await[0], first);
}

#[tokio::test(flavor = "multi_thread")]
async fn c40_c41_a_refresh_token_goes_to_the_endpoints_of_its_definition_and_no_metadata_is_asked_for() {
    let oauth = OAuth::start();
    let (made, _) = taken_over(&oauth).await;
    given_back(&oauth, &made).await;
    for call in oauth.provider.history() {
        let refreshes = call.presented.as_deref().is_some_and(|token| token.starts_with("rt-"));
        let at_home = matches!(call.endpoint, Endpoint::Token | Endpoint::Revoke);
        assert!(!refreshes || at_home, "{:?} was shown a refresh token", call.endpoint);
        assert_ne!(call.endpoint, Endpoint::Metadata, "endpoints come from the definition alone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c6_a_challenge_never_takes_the_place_of_the_state() {
    let oauth = OAuth::start();
    let begun = oauth.begin("user:ada").await;
    let mut browser = Browser::new();
    let answer = oauth.answer_for(&mut browser, &begun).await;
    let asked = oauth.calls(Endpoint::Authorize);
    assert!(asked[0].parameter("code_challenge").is_some() && asked[0].parameter("state").is_some());
    let without = super::world::with_parameters(&answer, |pairs| pairs.retain(|(name, _)| name != "state"));
    let page = browser.get(&without).await.unwrap();
    assert_eq!(page.status.unwrap().as_u16(), 400);
    oauth.assert_no_token_call();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_can_demand_a_challenge_for_every_flow() {
    let oauth = OAuth::start_with(&Setup { web: "require_completion = true", ..Setup::default() });
    let without = oauth.world.connections().start_authorization(start("user:ada")).await;
    let refused = assert_refused(without, Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(crate::harness::fields(&refused), ["completion_challenge"]);
    let with = v1::StartAuthorizationRequest {
        completion_challenge: challenge_of("a verifier of the app's own"),
        ..start("user:ada")
    };
    let begun = oauth.begin_as(with).await;
    oauth.consent(&begun).await;
    assert_eq!(oauth.authorization(&begun).await.state(), v1::AuthorizationState::AwaitingCompletion);
}

/// A connection that came of a refresh token from elsewhere, and the id of that token at the provider.
async fn taken_over(oauth: &OAuth) -> (v1::Connection, String) {
    let (access, refresh) = raw_tokens(oauth).await;
    let id = refresh.split('.').next().unwrap().to_owned();
    let made = oauth.world.connections().create_connection(import(&access, &refresh)).await.unwrap();
    (made.into_inner().connection.unwrap(), id)
}

/// The ids of the tokens that are given back when a connection goes, in order.
async fn given_back(oauth: &OAuth, made: &v1::Connection) -> Vec<String> {
    oauth.delete(made).await;
    eventually("the outcome is on record", || {
        let outcome = oauth.world.sql("SELECT reason FROM audit_events WHERE kind = 'TOKEN_REVOKED'");
        (outcome == "REVOKED").then_some(())
    });
    oauth.calls(Endpoint::Revoke).into_iter().filter_map(|call| call.presented).collect()
}

/// The calls that showed a token.
fn presenting(oauth: &OAuth, token: &str) -> Vec<Call> {
    let history = oauth.provider.history().into_iter();
    history.filter(|call| call.presented.as_deref() == Some(token)).collect()
}

fn import(access: &str, refresh: &str) -> v1::CreateConnectionRequest {
    let credentials = [("access_token", access), ("refresh_token", refresh)];
    v1::CreateConnectionRequest {
        prove_refresh_token: true,
        ..super::world::create("demo", v1::AuthMethod::Oauth2Code, &credentials)
    }
}

/// Tokens that somebody else got with our client.
async fn raw_tokens(oauth: &OAuth) -> (String, String) {
    let callback = format!("{}/oauth/callback/demo", oauth.web);
    let query = format!(
        "client_id=keyholder&response_type=code&redirect_uri={callback}&state=s&scope=read&auto=allow\
         &code_challenge={}&code_challenge_method=S256",
        challenge_of(&"v".repeat(43))
    );
    let url = format!("{}?{query}", oauth.provider.url("/authorize"));
    let page = Browser::new().get_until(&url, &callback).await.unwrap();
    let code = page.parameter("code").unwrap();
    let mut browser = Browser::new();
    browser.set_header("authorization", &format!("Basic {}", base64_of("keyholder:client-secret-7f3a")));
    let verifier = "v".repeat(43);
    let form = [
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("redirect_uri", callback.as_str()),
        ("code_verifier", verifier.as_str()),
    ];
    let page = browser.post(&oauth.provider.url("/token"), &form).await.unwrap();
    let tokens: serde_json::Value = serde_json::from_slice(page.body.as_ref()).unwrap();
    let token = |name: &str| tokens[name].as_str().unwrap_or_else(|| panic!("{tokens}")).to_owned();
    (token("access_token"), token("refresh_token"))
}

fn base64_of(text: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(text)
}
