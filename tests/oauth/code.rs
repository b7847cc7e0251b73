//! The browser's way, from the link to the credential.

use keyholder_proto::v1;
use keyholder_testkit::browser::Browser;
use keyholder_testkit::provider::Endpoint;
use tonic::Code;

use super::world::{OAuth, challenge_of, start, text};
use crate::harness::{ACME, assert_refused, grant_request, resolve_request};

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_consents_once_and_an_agent_uses_the_token_through_a_grant() {
    let oauth = OAuth::start();
    let begun = oauth.begin("user:ada").await;
    assert!(begun.authorization_url.starts_with(&format!("{}/connect/", oauth.web)));
    let page = oauth.consent(&begun).await;
    assert!(text(&page).contains("Ada"), "{}", text(&page));
    let done = oauth.authorization(&begun).await;
    assert_eq!(done.state(), v1::AuthorizationState::Completed);
    let made = oauth.connection(&done.connection_id).await;
    let account = made.account.clone().unwrap();
    assert_eq!((made.state(), account.id.as_str()), (v1::ConnectionState::Active, "user-ada"));
    assert_eq!(made.scopes, ["read", "write"]);
    let tokens = made.tokens.clone().unwrap();
    assert!(tokens.renewable && !tokens.renewal_missing && tokens.expire_time.is_some());
    assert_eq!(tokens.client_id, "keyholder");

    oauth
        .world
        .grants("console")
        .create_grant(grant_request("agent:roadie", &made.connection_id))
        .await
        .unwrap();
    let resolved = oauth
        .world
        .grants("gateway")
        .resolve_credential(resolve_request("agent:roadie", &made.connection_id))
        .await
        .unwrap()
        .into_inner();
    let Some(v1::credential::Kind::Oauth2(token)) = resolved.credential.unwrap().kind else { panic!() };
    assert_eq!(oauth.provider.account_of(&token.access_token).as_deref(), Some("ada"));
    let header = &resolved.http.unwrap().headers["Authorization"];
    assert_eq!(*header, format!("Bearer {}", token.access_token));
    assert_eq!(resolved.valid_until, tokens.expire_time);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_released_that_does_not_live_as_long_as_asked() {
    let oauth = OAuth::start();
    oauth.provider.behave(|manners| manners.access_lifetime = std::time::Duration::from_secs(600));
    let made = oauth.connect("user:ada").await;
    let ask = |seconds| v1::ResolveCredentialRequest {
        min_ttl: Some(prost_types::Duration { seconds, nanos: 0 }),
        ..resolve_request("user:ada", &made.connection_id)
    };
    oauth.world.grants("gateway").resolve_credential(ask(300)).await.unwrap();
    let refused = oauth.world.grants("gateway").resolve_credential(ask(900)).await;
    assert_refused(refused, Code::FailedPrecondition, "TOKEN_EXPIRED");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_account_again_is_the_same_connection() {
    let oauth = OAuth::start();
    let first = oauth.connect("user:ada").await;
    let again = oauth.connect("user:ada").await;
    assert_eq!(first.connection_id, again.connection_id);
    assert!(again.generation > first.generation);
    let other = oauth.connect("user:bob").await;
    assert_ne!(other.connection_id, first.connection_id, "another owner's connection is another one");
}

#[tokio::test(flavor = "multi_thread")]
async fn consenting_anew_with_another_account_changes_nothing() {
    let oauth = OAuth::start();
    let made = oauth.connect("user:ada").await;
    oauth.provider.behave(|manners| manners.account = "mallory".into());
    let anew = v1::StartAuthorizationRequest {
        organization_id: ACME.into(),
        connection_id: made.connection_id.clone(),
        ..Default::default()
    };
    let begun = oauth.begin_as(anew).await;
    oauth.consent(&begun).await;
    let done = oauth.authorization(&begun).await;
    assert_eq!((done.state(), done.failure.as_str()), (v1::AuthorizationState::Failed, "ACCOUNT_MISMATCH"));
    assert_eq!(oauth.connection(&made.connection_id).await, made);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_with_a_challenge_is_finished_by_whoever_began_it_alone() {
    let oauth = OAuth::start();
    let verifier = "v".repeat(43);
    let challenge = challenge_of(&verifier);
    let request = v1::StartAuthorizationRequest {
        completion_challenge: challenge,
        return_url: "https://app.example.com/done?tab=1".into(),
        ..start("user:ada")
    };
    let begun = oauth.begin_as(request).await;
    let page = Browser::new().get_until(&begun.authorization_url, "https://app.example.com/").await.unwrap();
    let id = begun.authorization.as_ref().unwrap().authorization_id.clone();
    assert_eq!(page.url.as_str(), format!("https://app.example.com/done?tab=1&authorization_id={id}"));
    let waiting = oauth.authorization(&begun).await;
    assert_eq!(waiting.state(), v1::AuthorizationState::AwaitingCompletion);
    let pending = oauth.connection(&waiting.connection_id).await;
    assert_eq!(pending.state(), v1::ConnectionState::Pending);
    let refused = oauth
        .world
        .grants("gateway")
        .resolve_credential(resolve_request("user:ada", &pending.connection_id))
        .await;
    assert_refused(refused, Code::FailedPrecondition, "CONNECTION_PENDING");
    let complete = |verifier: &str| v1::CompleteAuthorizationRequest {
        organization_id: ACME.into(),
        authorization_id: id.clone(),
        completion_verifier: verifier.into(),
        ..Default::default()
    };
    let wrong = oauth.world.connections().complete_authorization(complete("wrong")).await;
    assert_refused(wrong, Code::PermissionDenied, "COMPLETION_REFUSED");
    for _ in 0..2 {
        let done = oauth.world.connections().complete_authorization(complete(&verifier)).await.unwrap();
        assert_eq!(done.into_inner().authorization.unwrap().state(), v1::AuthorizationState::Completed);
    }
    let made = oauth.connection(&pending.connection_id).await;
    assert_eq!(made.state(), v1::ConnectionState::Active);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_connection_gives_its_tokens_back() {
    let oauth = OAuth::start();
    let made = oauth.connect("user:ada").await;
    let delete = v1::DeleteConnectionRequest {
        organization_id: ACME.into(),
        connection_id: made.connection_id.clone(),
        ..Default::default()
    };
    oauth.world.connections().delete_connection(delete).await.unwrap();
    crate::harness::eventually("the outcome is on record", || {
        let events = oauth.world.sql("SELECT reason FROM audit_events WHERE kind = 'TOKEN_REVOKED'");
        (events == "REVOKED").then_some(())
    });
    let history = oauth.provider.history();
    let given: Vec<_> = history.iter().filter(|call| call.endpoint == Endpoint::Revoke).collect();
    let order: Vec<_> =
        given.iter().map(|call| call.presented.as_deref().unwrap().split('-').next().unwrap()).collect();
    assert_eq!(order, ["rt", "at"], "the refresh token first (RFC 7009, section 2.1)");
    let left = oauth.world.sql("SELECT count(*) FROM revocations WHERE sealed_tokens IS NOT NULL");
    assert_eq!(left, "0");
}
