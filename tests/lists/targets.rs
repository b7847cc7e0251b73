use std::collections::BTreeSet;

use keyholder_proto::v1;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{account, create, delete, disable, give, resolve, revoke, selector_grant};
use crate::harness::{ACME, World, assert_refused, grant_request, openai, reason, resolve_request};

/// Which connection at openai: any, or that of an owner, or that of an account.
fn at_openai(owner: &str, account_id: &str) -> v1::ProviderTarget {
    v1::ProviderTarget { provider_id: "openai".into(), owner: owner.into(), account_id: account_id.into() }
}

fn ask(actor: &str, target: v1::ProviderTarget) -> v1::ResolveCredentialRequest {
    v1::ResolveCredentialRequest {
        target: Some(v1::resolve_credential_request::Target::Provider(target)),
        ..resolve_request(actor, "")
    }
}

async fn check(world: &World, actor: &str, target: v1::ProviderTarget) -> v1::CheckAccessResponse {
    let request = v1::CheckAccessRequest {
        organization_id: ACME.into(),
        actor: actor.into(),
        target: Some(v1::check_access_request::Target::Provider(target)),
        ..Default::default()
    };
    world.grants("gateway").check_access(request).await.unwrap().into_inner()
}

/// The connections that a refusal says could be meant.
fn candidates(status: &Status) -> BTreeSet<String> {
    let failure = status.get_details_precondition_failure().unwrap();
    failure.violations.into_iter().map(|violation| violation.subject).collect()
}

fn ids<'a>(ids: impl IntoIterator<Item = &'a String>) -> BTreeSet<String> {
    ids.into_iter().cloned().collect()
}

#[tokio::test]
async fn two_connections_are_ambiguous_until_the_owner_or_the_account_is_named() {
    let world = World::start();
    let mut made = Vec::new();
    for request in [
        account("user:ada", "acct_1", "sk-1"),
        account("user:ada", "acct_2", "sk-2"),
        account("user:bob", "acct_1", "sk-3"),
        account("user:carol", "acct_4", "sk-4"),
    ] {
        let id = create(&world, request).await.unwrap().connection_id;
        if made.len() < 3 {
            give(&world, grant_request("agent:roadie", &id)).await.unwrap();
        }
        made.push(id);
    }
    for (owner, account_id, meant) in [
        ("", "", &made[..3]),
        ("user:ada", "", &made[..2]),
        ("", "acct_1", &[made[0].clone(), made[2].clone()]),
    ] {
        let refused = resolve(&world, ask("agent:roadie", at_openai(owner, account_id))).await;
        let status = assert_refused(refused, Code::FailedPrecondition, "AMBIGUOUS_CONNECTION");
        assert_eq!(candidates(&status), ids(meant), "{owner} {account_id}");
        let answer = check(&world, "agent:roadie", at_openai(owner, account_id)).await;
        assert_eq!((answer.allowed, answer.reason.as_str()), (false, "AMBIGUOUS_CONNECTION"));
        assert_eq!(answer.connection_id, "");
        assert_eq!(ids(answer.candidates.iter().map(|candidate| &candidate.connection_id)), ids(meant));
    }
    for (owner, account_id, key) in [
        ("user:bob", "", "Bearer sk-3"),
        ("", "acct_2", "Bearer sk-2"),
        ("user:ada", "acct_1", "Bearer sk-1"),
        ("user:bob", "acct_1", "Bearer sk-3"),
    ] {
        let released = resolve(&world, ask("agent:roadie", at_openai(owner, account_id))).await;
        assert_eq!(released.unwrap(), key, "{owner} {account_id}");
        assert!(check(&world, "agent:roadie", at_openai(owner, account_id)).await.allowed);
    }
    for (owner, account_id, expected) in [
        ("user:carol", "", "GRANT_MISSING"),
        ("", "acct_4", "GRANT_MISSING"),
        ("user:nobody", "", "CONNECTION_NOT_FOUND"),
        ("user:ada", "acct_4", "CONNECTION_NOT_FOUND"),
    ] {
        let refused = resolve(&world, ask("agent:roadie", at_openai(owner, account_id))).await.unwrap_err();
        assert_eq!(reason(&refused), expected, "{owner} {account_id}");
        assert_eq!(check(&world, "agent:roadie", at_openai(owner, account_id)).await.reason, expected);
    }
    // An owner's own are meant by nothing else than by being the owner's.
    let refused = resolve(&world, ask("user:ada", at_openai("", ""))).await;
    let status = assert_refused(refused, Code::FailedPrecondition, "AMBIGUOUS_CONNECTION");
    assert_eq!(candidates(&status), ids(&made[..2]));
    assert_eq!(resolve(&world, ask("user:carol", at_openai("", ""))).await.unwrap(), "Bearer sk-4");
}

#[tokio::test]
async fn one_that_is_switched_off_is_still_meant_and_one_that_is_deleted_is_not() {
    let world = World::start();
    let one = world.connect("user:ada", "sk-1").await;
    let two = world.connect("user:ada", "sk-2").await;
    disable(&world, &one, "", "").await.unwrap();
    let any = || ask("user:ada", at_openai("", ""));
    let refused = resolve(&world, any()).await;
    let status = assert_refused(refused, Code::FailedPrecondition, "AMBIGUOUS_CONNECTION");
    assert_eq!(candidates(&status), ids([&one, &two]));
    delete(&world, &one, "").await.unwrap();
    assert_eq!(resolve(&world, any()).await.unwrap(), "Bearer sk-2");
    disable(&world, &two, "", "").await.unwrap();
    assert_refused(resolve(&world, any()).await, Code::FailedPrecondition, "CONNECTION_DISABLED");
    delete(&world, &two, "").await.unwrap();
    assert_refused(resolve(&world, any()).await, Code::NotFound, "CONNECTION_NOT_FOUND");
}

#[tokio::test]
async fn a_new_connection_makes_a_provider_ambiguous_at_once_on_every_replica() {
    let world = World::start();
    let second = world.server("second");
    let any = || ask("agent:roadie", at_openai("", ""));
    let mut replicas = Vec::new();
    for server in [&world.server, &second] {
        let channel = world.channel_to(server, "gateway");
        replicas.push(v1::grant_service_client::GrantServiceClient::new(channel));
    }
    let one = world.connect("user:ada", "sk-1").await;
    give(&world, selector_grant("agent:roadie", "user:ada", "openai")).await.unwrap();
    for replica in &mut replicas {
        for _ in 0..3 {
            let released = replica.resolve_credential(any()).await.unwrap().into_inner();
            assert_eq!(released.connection_id, one);
        }
    }
    let two = world.connect("user:ada", "sk-2").await;
    for replica in &mut replicas {
        let refused = replica.resolve_credential(any()).await;
        let status = assert_refused(refused, Code::FailedPrecondition, "AMBIGUOUS_CONNECTION");
        assert_eq!(candidates(&status), ids([&one, &two]));
    }
    delete(&world, &one, "").await.unwrap();
    for replica in &mut replicas {
        assert_eq!(replica.resolve_credential(any()).await.unwrap().into_inner().connection_id, two);
    }
    // So does a new grant for what was there before.
    let bobs = world.connect("user:bob", "sk-3").await;
    for replica in &mut replicas {
        assert_eq!(replica.resolve_credential(any()).await.unwrap().into_inner().connection_id, two);
    }
    world.grant("agent:roadie", &bobs).await;
    for replica in &mut replicas {
        let refused = replica.resolve_credential(any()).await;
        let status = assert_refused(refused, Code::FailedPrecondition, "AMBIGUOUS_CONNECTION");
        assert_eq!(candidates(&status), ids([&two, &bobs]));
    }
}

#[tokio::test]
async fn a_selector_grant_covers_connections_that_come_later_and_none_of_another_owner_or_provider() {
    let world = World::start();
    let grant = give(&world, selector_grant("agent:roadie", "user:ada", "openai")).await.unwrap();
    let any = || ask("agent:roadie", at_openai("", ""));
    assert_refused(resolve(&world, any()).await, Code::NotFound, "CONNECTION_NOT_FOUND");

    let later = world.connect("user:ada", "sk-1").await;
    assert_eq!(resolve(&world, any()).await.unwrap(), "Bearer sk-1");
    assert_eq!(resolve(&world, resolve_request("agent:roadie", &later)).await.unwrap(), "Bearer sk-1");
    let others = [openai("user:bob", "sk-2"), super::bearer("user:ada", "t-1")];
    for request in others {
        let id = create(&world, request).await.unwrap().connection_id;
        let refused = resolve(&world, resolve_request("agent:roadie", &id)).await;
        assert_refused(refused, Code::PermissionDenied, "GRANT_MISSING");
    }
    delete(&world, &later, "").await.unwrap();
    let again = world.connect("user:ada", "sk-3").await;
    assert_eq!(resolve(&world, any()).await.unwrap(), "Bearer sk-3");
    revoke(&world, &grant.grant_id, "").await.unwrap();
    for request in [any(), resolve_request("agent:roadie", &again)] {
        assert_refused(resolve(&world, request).await, Code::PermissionDenied, "GRANT_REVOKED");
    }
}

#[tokio::test]
async fn an_answer_about_very_many_candidates_still_arrives() {
    let world = World::start();
    for number in 0..40 {
        world.connect("user:ada", &format!("sk-{number}")).await;
    }
    let request = v1::ResolveCredentialRequest {
        organization_id: ACME.into(),
        actor: "user:ada".into(),
        target: Some(v1::resolve_credential_request::Target::Provider(v1::ProviderTarget {
            provider_id: "openai".into(),
            ..Default::default()
        })),
        ..Default::default()
    };
    let refused = world.grants("gateway").resolve_credential(request).await;
    let status = assert_refused(refused, Code::FailedPrecondition, "AMBIGUOUS_CONNECTION");
    assert!(status.details().len() < 6_000, "{} bytes", status.details().len());
}
