use keyholder_proto::v1;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::{account, bearer, create, delete, disable, get, give, replace, revoke};
use crate::harness::{ACME, World, assert_refused, grant_request, openai};

fn with_id(request_id: &str, request: v1::CreateConnectionRequest) -> v1::CreateConnectionRequest {
    v1::CreateConnectionRequest { request_id: request_id.into(), ..request }
}

#[tokio::test]
async fn the_same_create_with_the_same_request_id_is_done_once() {
    let world = World::start();
    let request = || v1::CreateConnectionRequest {
        labels: [("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())].into(),
        ..with_id("r-1", openai("user:ada", "sk-1"))
    };
    let made = create(&world, request()).await.unwrap();
    assert_eq!(create(&world, request()).await.unwrap(), made);
    for other in [
        v1::CreateConnectionRequest { display_name: "x".into(), ..request() },
        v1::CreateConnectionRequest { owner: "user:bob".into(), ..request() },
        with_id("r-1", openai("user:ada", "sk-2")),
        v1::CreateConnectionRequest { labels: [].into(), ..request() },
    ] {
        assert_refused(create(&world, other).await, Code::AlreadyExists, "REQUEST_ID_REUSED");
    }
    // The answer is the connection as it is now, to its end.
    disable(&world, &made.connection_id, "", "").await.unwrap();
    assert_eq!(create(&world, request()).await.unwrap(), get(&world, &made.connection_id).await);
    delete(&world, &made.connection_id, "").await.unwrap();
    assert_eq!(create(&world, request()).await.unwrap().state(), v1::ConnectionState::Deleted);
    assert_eq!(world.sql("SELECT count(*) FROM connections"), "1");

    let request = || v1::CreateGrantRequest {
        request_id: "r-1".into(),
        ..grant_request("agent:roadie", &made.connection_id)
    };
    let gone = give(&world, request()).await;
    assert_refused(gone, Code::NotFound, "CONNECTION_NOT_FOUND");
}

#[tokio::test]
async fn the_same_grant_with_the_same_request_id_is_given_once() {
    let world = World::start();
    let connection_id = world.connect("user:ada", "sk-1").await;
    let request = || v1::CreateGrantRequest {
        request_id: "r-1".into(),
        ..grant_request("agent:roadie", &connection_id)
    };
    let made = give(&world, request()).await.unwrap();
    assert_eq!(give(&world, request()).await.unwrap(), made);
    let other = v1::CreateGrantRequest { grantee: "agent:other".into(), ..request() };
    assert_refused(give(&world, other).await, Code::AlreadyExists, "REQUEST_ID_REUSED");
    let revoked = revoke(&world, &made.grant_id, "").await.unwrap();
    assert_eq!(
        give(&world, request()).await.unwrap(),
        revoked,
        "a repeat gives nothing back that was revoked"
    );
    assert_eq!(world.sql("SELECT count(*) FROM grants"), "1");
    // A connection and a grant may go by the same request id.
    create(&world, with_id("r-1", openai("user:ada", "sk-2"))).await.unwrap();
}

#[tokio::test]
async fn of_many_creates_at_once_with_one_request_id_one_is_done() {
    let world = World::start();
    let second = world.server("second");
    let mut answers = tokio::task::JoinSet::new();
    for number in 0..16 {
        let server = if number % 2 == 0 { &world.server } else { &second };
        let channel = world.channel_to(server, "console");
        answers.spawn(async move {
            let mut client = v1::connection_service_client::ConnectionServiceClient::new(channel);
            let request = with_id("r-1", openai("user:ada", "sk-1"));
            client.create_connection(request).await.unwrap().into_inner().connection.unwrap()
        });
    }
    let answers = answers.join_all().await;
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(world.sql("SELECT count(*) FROM connections"), "1");
    assert_eq!(world.sql("SELECT count(*) FROM audit_events"), "1");
}

#[tokio::test]
async fn of_many_creates_at_once_of_one_account_one_is_done() {
    let world = World::start();
    let second = world.server("second");
    let mut answers = tokio::task::JoinSet::new();
    for number in 0..16 {
        let server = if number % 2 == 0 { &world.server } else { &second };
        let channel = world.channel_to(server, "console");
        answers.spawn(async move {
            let mut client = v1::connection_service_client::ConnectionServiceClient::new(channel);
            client.create_connection(account("user:ada", "acct_1", &format!("sk-{number}"))).await
        });
    }
    let (made, refused): (Vec<_>, Vec<_>) = answers.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (1, 15));
    for refused in refused {
        assert_refused(refused, Code::AlreadyExists, "CONNECTION_EXISTS");
    }
}

#[tokio::test]
async fn the_same_account_is_connected_once_and_again_after_it_was_deleted() {
    let world = World::start();
    for (first, same, others) in [
        // The account is known.
        (
            account("user:ada", "acct_1", "sk-1"),
            account("user:ada", "acct_1", "sk-2"),
            [
                account("user:ada", "acct_2", "sk-1"),
                account("user:bob", "acct_1", "sk-1"),
                openai("user:ada", "sk-1"),
            ],
        ),
        // It is not; then the same credential is the same account.
        (
            openai("user:carol", "sk-1"),
            v1::CreateConnectionRequest { display_name: "again".into(), ..openai("user:carol", "sk-1") },
            [openai("user:carol", "sk-2"), openai("user:dan", "sk-1"), bearer("user:carol", "sk-1")],
        ),
    ] {
        let made = create(&world, first).await.unwrap();
        for other in others {
            create(&world, other).await.unwrap();
        }
        let status =
            assert_refused(create(&world, same.clone()).await, Code::AlreadyExists, "CONNECTION_EXISTS");
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.metadata["connection_id"], made.connection_id);

        disable(&world, &made.connection_id, "", "").await.unwrap();
        assert_refused(create(&world, same.clone()).await, Code::AlreadyExists, "CONNECTION_EXISTS");
        delete(&world, &made.connection_id, "").await.unwrap();
        let again = create(&world, same).await.unwrap();
        assert_ne!(again.connection_id, made.connection_id);
    }
}

#[tokio::test]
async fn a_credential_cannot_be_replaced_by_that_of_another_connection_of_the_same_owner() {
    let world = World::start();
    let one = world.connect("user:ada", "sk-1").await;
    let two = world.connect("user:ada", "sk-2").await;
    let refused = replace(&world, &two, &[("api_key", "sk-1")], "").await;
    let status = assert_refused(refused, Code::AlreadyExists, "CONNECTION_EXISTS");
    assert_eq!(status.get_details_error_info().unwrap().metadata["connection_id"], one);
    // By its own it can, as somebody does who is not sure.
    assert_eq!(replace(&world, &two, &[("api_key", "sk-2")], "").await.unwrap().generation, 2);
}

#[tokio::test]
async fn a_new_connection_and_a_new_grant_are_what_was_asked_for() {
    let world = World::start();
    let request = v1::CreateConnectionRequest {
        provider_id: "github".into(),
        auth_method: v1::AuthMethod::Bearer.into(),
        credentials: [("token".to_owned(), "ghp_1".to_owned())].into(),
        config: [("api_version".to_owned(), "2022-11-28".to_owned())].into(),
        display_name: "Ada's GitHub".into(),
        account: Some(v1::Account { id: "1".into(), name: "ada".into(), email: "ada@example.com".into() }),
        scopes: vec!["repo".into(), "gist".into(), "repo".into()],
        labels: [("team.example/x".to_owned(), "a b".to_owned())].into(),
        ..openai("user:ada", "")
    };
    let made = create(&world, request.clone()).await.unwrap();
    let expected = v1::Connection {
        connection_id: made.connection_id.clone(),
        organization_id: ACME.into(),
        owner: "user:ada".into(),
        provider_id: "github".into(),
        auth_method: v1::AuthMethod::Bearer.into(),
        display_name: "Ada's GitHub".into(),
        account: request.account,
        scopes: vec!["gist".into(), "repo".into()],
        state: v1::ConnectionState::Active.into(),
        state_reason: String::new(),
        credential_summary: [("token".to_owned(), "configured...[REDACTED]".to_owned())].into(),
        config: request.config,
        labels: request.labels,
        generation: 1,
        create_time: made.create_time,
        update_time: made.create_time,
        etag: "g1".into(),
        last_test: None,
        tokens: None,
        refresh: None,
    };
    assert_eq!(made, expected);
    assert_eq!(get(&world, &made.connection_id).await, made, "what is read is what was answered");
    let defaults = v1::CreateConnectionRequest {
        scopes: vec![],
        account: None,
        credentials: [("token".to_owned(), "ghp_2".to_owned())].into(),
        auth_method: 0,
        ..openai("user:ada", "")
    };
    let defaults = v1::CreateConnectionRequest { provider_id: "github".into(), ..defaults };
    assert_eq!(create(&world, defaults).await.unwrap().scopes, ["read:user"]);

    let request = v1::CreateGrantRequest {
        scopes: vec!["gist".into()],
        workloads: vec!["spiffe://test.example/*".into()],
        expire_time: Some(prost_types::Timestamp { seconds: 4_000_000_000, nanos: 123_456_789 }),
        reason: "for the release".into(),
        ..grant_request("session:s_9", &made.connection_id)
    };
    let grant = give(&world, request).await.unwrap();
    let expected = v1::Grant {
        grant_id: grant.grant_id.clone(),
        organization_id: ACME.into(),
        grantee: "session:s_9".into(),
        target: Some(v1::grant::Target::ConnectionId(made.connection_id)),
        scopes: vec!["gist".into()],
        workloads: vec!["spiffe://test.example/*".into()],
        expire_time: Some(prost_types::Timestamp { seconds: 4_000_000_000, nanos: 123_456_000 }),
        reason: "for the release".into(),
        created_by: "spiffe://test.example/console".into(),
        revoke_time: None,
        last_used_time: None,
        state: v1::GrantState::Active.into(),
        create_time: grant.create_time,
        etag: "g1".into(),
    };
    assert_eq!(grant, expected);
    assert_eq!(super::get_grant(&world, &grant.grant_id).await, grant, "what is read is what was answered");
}
