use keyholder_proto::v1;
use keyholder_proto::v1::AuditEventKind::CredentialReleased;

use super::{create, delete, give, revoke};
use crate::harness::{ACME, World, grant_request, openai, resolve_request};

/// Asserts that ids are those that were expected, each once, in an order.
fn assert_in_order(found: &[String], expected: &[String]) {
    let mut sorted = expected.to_vec();
    sorted.sort();
    assert_eq!(found, sorted);
}

/// The pages of a list: as often as there is a token, asks for the next one. The items of each.
macro_rules! pages {
    ($client:expr, $rpc:ident, $items:ident, $request:expr) => {{
        let mut pages = Vec::new();
        let mut request = $request;
        loop {
            let page = $client.$rpc(request.clone()).await.unwrap().into_inner();
            pages.push(page.$items);
            if page.next_page_token.is_empty() {
                break pages;
            }
            request.page_token = page.next_page_token;
        }
    }};
}

#[tokio::test]
async fn pages_of_connections_are_complete_and_in_the_order_of_their_making() {
    let world = World::start();
    let mut made = Vec::new();
    for number in 0..7 {
        made.push(world.connect("user:ada", &format!("sk-{number}")).await);
    }
    let list = |page_size| v1::ListConnectionsRequest {
        organization_id: ACME.into(),
        page_size,
        ..Default::default()
    };
    for (page_size, sizes) in
        [(1, &[1; 7][..]), (3, &[3, 3, 1]), (6, &[6, 1]), (7, &[7]), (8, &[7]), (500, &[7]), (0, &[7])]
    {
        let pages = pages!(world.connections(), list_connections, connections, list(page_size));
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), sizes, "pages of {page_size}");
        let found = pages.concat();
        assert!(found.is_sorted_by_key(|connection| millis(connection.create_time)));
        let found: Vec<String> = found.into_iter().map(|connection| connection.connection_id).collect();
        assert_in_order(&found, &made);
    }
}

/// Ids are in the order of milliseconds.
fn millis(moment: Option<prost_types::Timestamp>) -> (i64, i32) {
    let moment = moment.unwrap();
    (moment.seconds, moment.nanos / 1_000_000)
}

#[tokio::test]
async fn what_comes_and_goes_between_two_pages_hides_and_repeats_nothing() {
    let world = World::start();
    let mut made = Vec::new();
    for number in 0..6 {
        made.push(world.connect("user:ada", &format!("sk-{number}")).await);
    }
    made.sort();
    let mut client = world.connections();
    let mut list =
        v1::ListConnectionsRequest { organization_id: ACME.into(), page_size: 2, ..Default::default() };
    let first = client.list_connections(list.clone()).await.unwrap().into_inner();
    // The one that the token points at, one that was shown, one that was not, and a new one.
    for id in [&made[1], &made[0], &made[2]] {
        delete(&world, id, "").await.unwrap();
    }
    let new = world.connect("user:bob", "sk-new").await;
    list.page_token = first.next_page_token;
    let rest = pages!(client, list_connections, connections, list).concat();
    let rest: Vec<&str> = rest.iter().map(|connection| connection.connection_id.as_str()).collect();
    assert_eq!(rest, [&made[3], &made[4], &made[5], &new]);
}

#[tokio::test]
async fn pages_of_grants_are_complete_and_hold_100_unless_said_otherwise() {
    let world = World::start();
    let connection_id = world.connect("user:ada", "sk-ada").await;
    let mut made = Vec::new();
    for number in 0..101 {
        made.push(world.grant(&format!("agent:a{number}"), &connection_id).await);
    }
    let list =
        |page_size| v1::ListGrantsRequest { organization_id: ACME.into(), page_size, ..Default::default() };
    for (page_size, sizes) in
        [(0, &[100, 1][..]), (100, &[100, 1]), (101, &[101]), (500, &[101]), (40, &[40, 40, 21])]
    {
        let pages = pages!(world.grants("console"), list_grants, grants, list(page_size));
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), sizes, "pages of {page_size}");
        let found = pages.concat();
        assert!(found.is_sorted_by_key(|grant| millis(grant.create_time)));
        let found: Vec<String> = found.into_iter().map(|grant| grant.grant_id).collect();
        assert_in_order(&found, &made);
    }
}

#[tokio::test]
async fn pages_of_events_are_complete_with_the_newest_first() {
    let world = World::start();
    let connection_id = create(&world, openai("user:ada", "sk-ada")).await.unwrap().connection_id;
    let grant_id = give(&world, grant_request("agent:roadie", &connection_id)).await.unwrap().grant_id;
    let mut gateway = world.grants("gateway");
    let mut released = Vec::new();
    for _ in 0..5 {
        let request = resolve_request("agent:roadie", &connection_id);
        released.push(gateway.resolve_credential(request).await.unwrap().into_inner().audit_event_id);
    }
    revoke(&world, &grant_id, "").await.unwrap();
    let list = |page_size| v1::ListAuditEventsRequest {
        organization_id: ACME.into(),
        page_size,
        ..Default::default()
    };
    for (page_size, sizes) in [(3, &[3, 3, 2][..]), (4, &[4, 4]), (0, &[8])] {
        let pages = pages!(world.audit(), list_audit_events, audit_events, list(page_size));
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), sizes, "pages of {page_size}");
        let events = pages.concat();
        assert!(events.is_sorted_by(|newer, older| newer.audit_event_id > older.audit_event_id));
        assert!(events.is_sorted_by_key(|event| std::cmp::Reverse(millis(event.create_time))));
        let released_here = events.iter().filter(|event| event.kind() == CredentialReleased);
        let mut found: Vec<String> = released_here.map(|event| event.audit_event_id.clone()).collect();
        found.reverse();
        assert_in_order(&found, &released);
    }

    // What happens between two pages belongs before the first one.
    let first = world.audit().list_audit_events(list(4)).await.unwrap().into_inner();
    world.connect("user:bob", "sk-bob").await;
    let second = v1::ListAuditEventsRequest { page_token: first.next_page_token, ..list(4) };
    let second = world.audit().list_audit_events(second).await.unwrap().into_inner();
    assert_eq!((first.audit_events.len(), second.audit_events.len()), (4, 4));
    assert!(first.audit_events[3].audit_event_id > second.audit_events[0].audit_event_id);
}

#[tokio::test]
async fn pages_of_providers_are_complete_and_in_the_order_of_their_ids() {
    let world = World::start();
    let list = |page_size| v1::ListProvidersRequest { page_size, ..Default::default() };
    let all = pages!(world.providers(), list_providers, providers, list(500));
    let [all] = all.as_slice() else { panic!("{} pages", all.len()) };
    assert!(all.is_sorted_by(|one, next| one.provider_id < next.provider_id));
    for known in ["custom", "openai", "stripe"] {
        assert!(all.iter().any(|provider| provider.provider_id == known), "{known}");
    }
    for page_size in [1, 4, all.len() as i32] {
        let pages = pages!(world.providers(), list_providers, providers, list(page_size));
        assert_eq!(pages.len(), all.len().div_ceil(page_size as usize));
        assert_eq!(&pages.concat(), all);
    }
    let get = v1::GetProviderRequest { provider_id: "openai".into() };
    let one = world.providers().get_provider(get).await.unwrap().into_inner().provider.unwrap();
    assert!(all.contains(&one));
}
