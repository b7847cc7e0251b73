//! The feed of changes.

use std::time::Duration;

use keyholder_proto::v1::connection_service_client::ConnectionServiceClient;
use keyholder_proto::v1::{self, ConnectionState};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::harness::{ACME, Server, World, assert_refused, eventually, openai};

/// How long a message may take.
const PATIENCE: Duration = Duration::from_secs(60);

type Feed = Streaming<v1::WatchConnectionsResponse>;

fn everything() -> v1::WatchConnectionsRequest {
    v1::WatchConnectionsRequest { organization_id: ACME.into(), ..Default::default() }
}

fn resumed(token: &str) -> v1::WatchConnectionsRequest {
    v1::WatchConnectionsRequest { resume_token: token.into(), ..everything() }
}

fn client(world: &World, server: &Server) -> ConnectionServiceClient<Channel> {
    ConnectionServiceClient::new(world.channel_to(server, "console"))
}

async fn watch(client: &mut ConnectionServiceClient<Channel>, request: v1::WatchConnectionsRequest) -> Feed {
    client.watch_connections(request).await.unwrap().into_inner()
}

/// The next message; `None` when the stream has ended.
async fn next(feed: &mut Feed) -> Option<v1::WatchConnectionsResponse> {
    timeout(PATIENCE, feed.message()).await.expect("no message came").unwrap()
}

/// The connections up to the marker that ends the first pass, and the marker's token.
async fn first_pass(feed: &mut Feed) -> (Vec<v1::Connection>, String) {
    let mut connections = Vec::new();
    loop {
        let message = next(feed).await.unwrap();
        match message.connection {
            Some(connection) => connections.push(connection),
            None => return (connections, message.resume_token),
        }
    }
}

/// The next change: the connection, its state and its version.
async fn change(feed: &mut Feed) -> (String, ConnectionState, i64) {
    let connection = next(feed).await.unwrap().connection.unwrap();
    (connection.connection_id.clone(), connection.state(), connection.generation)
}

fn ids(connections: &[v1::Connection]) -> Vec<&str> {
    connections.iter().map(|connection| connection.connection_id.as_str()).collect()
}

fn disable(id: &str) -> v1::DisableConnectionRequest {
    v1::DisableConnectionRequest {
        organization_id: ACME.into(),
        connection_id: id.into(),
        ..Default::default()
    }
}

fn enable(id: &str) -> v1::EnableConnectionRequest {
    v1::EnableConnectionRequest {
        organization_id: ACME.into(),
        connection_id: id.into(),
        ..Default::default()
    }
}

fn delete(id: &str) -> v1::DeleteConnectionRequest {
    v1::DeleteConnectionRequest {
        organization_id: ACME.into(),
        connection_id: id.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn sends_every_connection_then_a_marker_then_every_change_to_the_last() {
    let world = World::start();
    let one = world.connect("user:ada", "sk-1").await;
    let two = world.connect("user:bob", "sk-2").await;
    let mut console = world.connections();
    let mut feed = watch(&mut console, everything()).await;
    let (connections, _) = first_pass(&mut feed).await;
    assert_eq!(ids(&connections), [&one, &two]);
    let get = v1::GetConnectionRequest { organization_id: ACME.into(), connection_id: one.clone() };
    assert_eq!(connections[0], console.get_connection(get).await.unwrap().into_inner().connection.unwrap());

    console.disable_connection(disable(&one)).await.unwrap();
    assert_eq!(change(&mut feed).await, (one.clone(), ConnectionState::Disabled, 2));
    console.enable_connection(enable(&one)).await.unwrap();
    assert_eq!(change(&mut feed).await, (one.clone(), ConnectionState::Active, 3));
    let replace = v1::ReplaceCredentialsRequest {
        organization_id: ACME.into(),
        connection_id: two.clone(),
        credentials: [("api_key".to_owned(), "sk-3".to_owned())].into(),
        ..Default::default()
    };
    console.replace_credentials(replace).await.unwrap();
    assert_eq!(change(&mut feed).await, (two.clone(), ConnectionState::Active, 2));
    let update = v1::UpdateConnectionRequest {
        connection: Some(v1::Connection {
            organization_id: ACME.into(),
            connection_id: two.clone(),
            display_name: "Bob's".into(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["display_name".into()] }),
    };
    console.update_connection(update).await.unwrap();
    assert_eq!(next(&mut feed).await.unwrap().connection.unwrap().display_name, "Bob's");
    let three = world.connect("user:bob", "sk-4").await;
    assert_eq!(change(&mut feed).await, (three.clone(), ConnectionState::Active, 1));
    console.delete_connection(delete(&one)).await.unwrap();
    let gone = next(&mut feed).await.unwrap().connection.unwrap();
    assert_eq!((gone.connection_id.as_str(), gone.state()), (one.as_str(), ConnectionState::Deleted));
    assert!(gone.credential_summary.is_empty());
}

#[tokio::test]
async fn an_empty_organization_gets_the_marker_at_once_and_its_first_connection_when_it_comes() {
    let world = World::start();
    let mut feed = watch(&mut world.connections(), everything()).await;
    let (connections, token) = first_pass(&mut feed).await;
    assert_eq!(ids(&connections), Vec::<&str>::new());
    let one = world.connect("user:ada", "sk-1").await;
    assert_eq!(change(&mut feed).await, (one.clone(), ConnectionState::Active, 1));
    let mut again = watch(&mut world.connections(), resumed(&token)).await;
    assert_eq!(change(&mut again).await.0, one);
}

#[tokio::test]
async fn a_resumed_watch_sends_only_what_changed_since() {
    let world = World::start();
    let one = world.connect("user:ada", "sk-1").await;
    let two = world.connect("user:bob", "sk-2").await;
    let mut console = world.connections();
    let mut feed = watch(&mut console, everything()).await;
    let behind_one = next(&mut feed).await.unwrap().resume_token;
    let (rest, behind_all) = first_pass(&mut feed).await;
    assert_eq!(ids(&rest), [&two]);
    drop(feed);

    let (rest, _) = first_pass(&mut watch(&mut console, resumed(&behind_one)).await).await;
    assert_eq!(ids(&rest), [&two], "resumed in the middle of the first pass");
    console.disable_connection(disable(&two)).await.unwrap();
    console.enable_connection(enable(&two)).await.unwrap();
    let three = world.connect("user:carol", "sk-3").await;
    console.delete_connection(delete(&one)).await.unwrap();
    let mut feed = watch(&mut console, resumed(&behind_all)).await;
    let (changed, now) = first_pass(&mut feed).await;
    assert_eq!(ids(&changed), [&two, &three, &one]);
    assert_eq!(changed[0].generation, 3);
    assert_eq!(changed[2].state(), ConnectionState::Deleted);
    let (nothing, _) = first_pass(&mut watch(&mut console, resumed(&now)).await).await;
    assert_eq!(ids(&nothing), Vec::<&str>::new());
    // A token can be used again, as after a crash between working on a message and keeping its token.
    let (again, _) = first_pass(&mut watch(&mut console, resumed(&behind_all)).await).await;
    assert_eq!(again, changed);
}

#[tokio::test]
async fn a_watch_of_an_owner_or_a_provider_sends_no_other() {
    let world = World::start();
    let mut console = world.connections();
    let bearer = |owner: &str, token: &str| v1::CreateConnectionRequest {
        provider_id: "bearer".into(),
        credentials: [("token".to_owned(), token.to_owned())].into(),
        ..openai(owner, "")
    };
    let mut made = Vec::new();
    for request in [
        openai("user:ada", "sk-1"),
        bearer("user:ada", "t-1"),
        openai("user:bob", "sk-2"),
        bearer("user:bob", "t-2"),
    ] {
        let connection = console.create_connection(request).await.unwrap().into_inner().connection;
        made.push(connection.unwrap().connection_id);
    }
    let request = |owner: &str, provider: &str| v1::WatchConnectionsRequest {
        owner: owner.into(),
        provider_id: provider.into(),
        ..everything()
    };
    let mut feeds = Vec::new();
    for (owner, provider, expected) in [
        ("user:ada", "", vec![0, 1]),
        ("", "bearer", vec![1, 3]),
        ("user:bob", "openai", vec![2]),
        ("user:nobody", "", vec![]),
    ] {
        let mut feed = watch(&mut console, request(owner, provider)).await;
        let (connections, _) = first_pass(&mut feed).await;
        let expected: Vec<&str> = expected.into_iter().map(|number: usize| made[number].as_str()).collect();
        assert_eq!(ids(&connections), expected, "{owner} {provider}");
        feeds.push(feed);
    }
    for id in [&made[3], &made[2], &made[0], &made[1]] {
        console.disable_connection(disable(id)).await.unwrap();
    }
    assert_eq!(change(&mut feeds[0]).await.0, made[0]);
    assert_eq!(change(&mut feeds[0]).await.0, made[1]);
    assert_eq!(change(&mut feeds[1]).await.0, made[3]);
    assert_eq!(change(&mut feeds[1]).await.0, made[1]);
    assert_eq!(change(&mut feeds[2]).await.0, made[2]);
}

#[tokio::test]
async fn the_first_pass_is_complete_however_many_there_are() {
    let world = World::start();
    let mut console = world.connections();
    let mut made = Vec::new();
    for number in 0..401 {
        let request = openai("user:ada", &format!("sk-{number}"));
        let connection = console.create_connection(request).await.unwrap().into_inner().connection;
        made.push(connection.unwrap().connection_id);
    }
    let (connections, _) = first_pass(&mut watch(&mut console, everything()).await).await;
    assert_eq!(ids(&connections), made);
}

#[tokio::test]
async fn a_change_through_one_replica_is_seen_through_the_other() {
    let world = World::start();
    let second = world.server("second");
    let mut feeds = Vec::new();
    for server in [&world.server, &second] {
        let mut feed = watch(&mut client(&world, server), everything()).await;
        first_pass(&mut feed).await;
        feeds.push(feed);
    }
    let one = world.connect("user:ada", "sk-1").await;
    for feed in &mut feeds {
        assert_eq!(change(feed).await, (one.clone(), ConnectionState::Active, 1));
    }
    client(&world, &second).disable_connection(disable(&one)).await.unwrap();
    for feed in &mut feeds {
        assert_eq!(change(feed).await, (one.clone(), ConnectionState::Disabled, 2));
    }
}

#[tokio::test]
async fn a_stream_ends_when_its_server_is_told_to_stop_and_resumes_on_the_other_without_a_gap() {
    let mut world = World::start();
    let second = world.server("second");
    let one = world.connect("user:ada", "sk-1").await;
    let mut feed = watch(&mut world.connections(), everything()).await;
    let (_, mut token) = first_pass(&mut feed).await;

    world.server.signal("TERM");
    let mut console = client(&world, &second);
    let two = openai("user:ada", "sk-2");
    let two = console.create_connection(two).await.unwrap().into_inner().connection.unwrap().connection_id;
    let mut seen = Vec::new();
    while let Some(message) = next(&mut feed).await {
        token = message.resume_token;
        seen.extend(message.connection.map(|connection| connection.connection_id));
    }
    let status = eventually("the end of the server", || world.server.child.try_wait().unwrap());
    assert!(status.success());
    console.disable_connection(disable(&one)).await.unwrap();
    let mut feed = watch(&mut console, resumed(&token)).await;
    let (rest, _) = first_pass(&mut feed).await;
    seen.extend(rest.into_iter().map(|connection| connection.connection_id));
    assert_eq!(seen, [two, one]);
}

#[tokio::test]
async fn a_token_from_beyond_the_last_change_is_refused_as_after_a_restore() {
    let world = World::start();
    world.connect("user:ada", "sk-1").await;
    let one = world.connect("user:ada", "sk-2").await;
    let mut console = world.connections();
    let (_, token) = first_pass(&mut watch(&mut console, everything()).await).await;
    world
        .sql(&format!("DELETE FROM connections WHERE connection_id = '{}'", one.trim_start_matches("conn_")));
    world.sql("UPDATE organizations SET change = change - 1");
    let refused: Result<_, Status> = console.watch_connections(resumed(&token)).await;
    assert_refused(refused.map(drop), Code::InvalidArgument, "INVALID_FIELD");
}
