use std::collections::BTreeMap;

use proptest::prelude::*;
use time::Duration;

use super::*;
use crate::{
    Account, AuthMethod, ConnectionId, Generation, GrantId, Labels, OrganizationId, ProviderId, Text, Tokens,
    WorkloadPattern,
};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn connection(owner: &str, state: ConnectionState, scopes: &[&str]) -> Connection {
    Connection {
        id: ConnectionId::new(NOW, [1; 10]),
        organization_id: OrganizationId::parse("acme").unwrap(),
        owner: Principal::parse(owner).unwrap(),
        provider_id: ProviderId::parse("openai").unwrap(),
        auth_method: AuthMethod::ApiKey,
        display_name: Text::default(),
        account: Account::default(),
        scopes: Scopes::parse(scopes).unwrap(),
        state,
        state_reason: Text::default(),
        credential_summary: BTreeMap::new(),
        config: BTreeMap::new(),
        labels: Labels::default(),
        last_test: None,
        tokens: None,
        generation: Generation::FIRST,
        create_time: NOW,
        update_time: NOW,
    }
}

fn grant(number: u8, grantee: &str, target: GrantTarget) -> Grant {
    Grant {
        id: GrantId::new(NOW, [number; 10]),
        organization_id: OrganizationId::parse("acme").unwrap(),
        grantee: Principal::parse(grantee).unwrap(),
        target,
        scopes: Scopes::default(),
        workloads: Vec::new(),
        expire_time: None,
        reason: Text::default(),
        created_by: WorkloadId::parse("spiffe://td/console").unwrap(),
        revoke_time: None,
        last_used_time: None,
        generation: Generation::FIRST,
        create_time: NOW,
    }
}

fn ask(actor: &str, scopes: &[&str], connection: &Connection, grants: &[Grant]) -> Result<Permit, Denial> {
    let question = Question {
        actor: &Principal::parse(actor).unwrap(),
        workload: &WorkloadId::parse("spiffe://td/gateway").unwrap(),
        scopes: &Scopes::parse(scopes).unwrap(),
        until: NOW,
        now: NOW,
    };
    decide(&question, connection, grants)
}

#[test]
fn a_token_is_released_only_while_it_is_good_for_as_long_as_asked() {
    let second = time::Duration::SECOND;
    let mut connection = connection("user:u", ConnectionState::Active, &[]);
    let ends = |end| Some(Tokens { expire_time: end, ..Tokens::default() });
    let asked_for = |connection: &Connection, life: time::Duration| {
        let question = Question {
            actor: &Principal::parse("user:u").unwrap(),
            workload: &WorkloadId::parse("spiffe://td/gateway").unwrap(),
            scopes: &Scopes::default(),
            until: NOW + life,
            now: NOW,
        };
        decide(&question, connection, &[]).map(drop)
    };
    connection.tokens = ends(Some(NOW + second * 60));
    assert_eq!(asked_for(&connection, second * 59), Ok(()));
    assert_eq!(asked_for(&connection, second * 60), Err(Denial::TokenExpired));
    connection.tokens = ends(Some(NOW));
    assert_eq!(asked_for(&connection, time::Duration::ZERO), Err(Denial::TokenExpired));
    connection.tokens = ends(None);
    assert_eq!(asked_for(&connection, second * 3_600), Ok(()), "an unknown end is not an end");
}

#[test]
fn the_owner_needs_no_grant() {
    let connection = connection("user:u", ConnectionState::Active, &[]);
    assert_eq!(ask("user:u", &[], &connection, &[]).unwrap().right, Right::Ownership);
    assert_eq!(ask("user:v", &[], &connection, &[]), Err(Denial::GrantMissing));
}

#[test]
fn a_selector_covers_connections_of_that_owner_at_that_provider_only() {
    let connection = connection("user:u", ConnectionState::Active, &[]);
    let selector = |owner: &str, provider: &str| GrantTarget::Selector {
        owner: Principal::parse(owner).unwrap(),
        provider_id: ProviderId::parse(provider).unwrap(),
    };
    assert!(ask("agent:a", &[], &connection, &[grant(1, "agent:a", selector("user:u", "openai"))]).is_ok());
    for target in [selector("user:v", "openai"), selector("user:u", "stripe")] {
        assert_eq!(
            ask("agent:a", &[], &connection, &[grant(1, "agent:a", target)]),
            Err(Denial::GrantMissing)
        );
    }
}

#[test]
fn a_grant_of_another_organization_counts_for_nothing() {
    let connection = connection("user:u", ConnectionState::Active, &[]);
    let mut foreign = grant(1, "agent:a", GrantTarget::Connection(connection.id));
    foreign.organization_id = OrganizationId::parse("other").unwrap();
    assert_eq!(ask("agent:a", &[], &connection, &[foreign]), Err(Denial::GrantMissing));
}

#[test]
fn refuses_a_grant_from_the_moment_it_expires() {
    let connection = connection("user:u", ConnectionState::Active, &[]);
    let mut grant = grant(1, "agent:a", GrantTarget::Connection(connection.id));
    grant.expire_time = Some(NOW + Duration::microseconds(1));
    assert!(ask("agent:a", &[], &connection, &[grant.clone()]).is_ok());
    grant.expire_time = Some(NOW);
    assert_eq!(ask("agent:a", &[], &connection, &[grant]), Err(Denial::GrantExpired));
}

#[test]
fn whoever_has_no_right_is_not_told_the_state() {
    for state in
        [ConnectionState::Pending, ConnectionState::Disabled, ConnectionState::ReauthorizationRequired]
    {
        let connection = connection("user:u", state, &[]);
        assert_eq!(ask("agent:a", &[], &connection, &[]), Err(Denial::GrantMissing));
        assert_ne!(ask("user:u", &[], &connection, &[]), Err(Denial::GrantMissing));
    }
}

#[test]
fn tells_a_scope_the_grant_lacks_from_a_scope_the_connection_lacks() {
    let connection = connection("user:u", ConnectionState::Active, &["read"]);
    let mut narrow = grant(1, "agent:a", GrantTarget::Connection(connection.id));
    narrow.scopes = Scopes::parse(["read"]).unwrap();
    assert!(ask("agent:a", &["read"], &connection, &[narrow.clone()]).is_ok());
    assert_eq!(ask("agent:a", &["write"], &connection, &[narrow]), Err(Denial::ScopeNotGranted));
    assert_eq!(ask("user:u", &["write"], &connection, &[]), Err(Denial::ScopeMissing));
}

#[test]
fn of_several_dead_grants_the_furthest_reason_is_given() {
    let connection = connection("user:u", ConnectionState::Active, &[]);
    let target = || GrantTarget::Connection(connection.id);
    let revoked = Grant { revoke_time: Some(NOW), ..grant(1, "agent:a", target()) };
    let elsewhere = Grant {
        workloads: vec![WorkloadPattern::parse("spiffe://td/worker").unwrap()],
        ..grant(2, "agent:a", target())
    };
    let grants = [elsewhere, revoked];
    assert_eq!(ask("agent:a", &[], &connection, &grants), Err(Denial::WorkloadNotGranted));
    assert_eq!(ask("agent:a", &[], &connection, &grants[1..]), Err(Denial::GrantRevoked));
}

#[test]
fn only_an_active_connection_is_ever_permitted() {
    for state in ConnectionState::ALL {
        let connection = connection("user:u", state, &[]);
        assert_eq!(ask("user:u", &[], &connection, &[]).is_ok(), state == ConnectionState::Active, "{state}");
    }
}

prop_compose! {
    fn any_scopes()(picked in proptest::sample::subsequence(vec!["a", "b", "c"], 0..=3)) -> Scopes {
        Scopes::parse(picked).unwrap()
    }
}

prop_compose! {
    fn any_connection()(
        id in 0_u8..2,
        owner in proptest::sample::select(vec!["user:u", "user:v", "agent:a"]),
        state in proptest::sample::select(ConnectionState::ALL.to_vec()),
        scopes in any_scopes(),
    ) -> Connection {
        Connection { id: ConnectionId::new(NOW, [id; 10]), scopes, ..connection(owner, state, &[]) }
    }
}

prop_compose! {
    fn any_grant()(
        number in any::<u8>(),
        organization in proptest::sample::select(vec!["acme", "other"]),
        grantee in proptest::sample::select(vec!["user:u", "agent:a", "agent:b"]),
        connection in proptest::option::of(0_u8..2),
        owner in proptest::sample::select(vec!["user:u", "user:v"]),
        scopes in any_scopes(),
        workload in proptest::option::of(proptest::sample::select(vec!["spiffe://td/*", "spiffe://td/worker"])),
        revoked in any::<bool>(),
        expires in proptest::option::of(-1_i64..2),
    ) -> Grant {
        let target = match connection {
            Some(id) => GrantTarget::Connection(ConnectionId::new(NOW, [id; 10])),
            None => GrantTarget::Selector {
                owner: Principal::parse(owner).unwrap(),
                provider_id: ProviderId::parse("openai").unwrap(),
            },
        };
        Grant {
            organization_id: OrganizationId::parse(organization).unwrap(),
            scopes,
            workloads: workload.map(|text| WorkloadPattern::parse(text).unwrap()).into_iter().collect(),
            expire_time: expires.map(|seconds| NOW + Duration::seconds(seconds)),
            revoke_time: revoked.then_some(NOW),
            ..grant(number, grantee, target)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nothing_is_allowed_without_ownership_or_a_live_grant(
        connection in any_connection(),
        grants in proptest::collection::vec(any_grant(), 0..5),
        actor in proptest::sample::select(vec!["user:u", "agent:a", "agent:b"]),
        scopes in any_scopes(),
    ) {
        let actor = Principal::parse(actor).unwrap();
        let workload = WorkloadId::parse("spiffe://td/gateway").unwrap();
        let question = Question { actor: &actor, workload: &workload, scopes: &scopes, until: NOW, now: NOW };
        if let Ok(permit) = decide(&question, &connection, &grants) {
            prop_assert_eq!(connection.state, ConnectionState::Active);
            prop_assert!(scopes.is_subset(&connection.scopes) && scopes.is_subset(&permit.scopes));
            match permit.right {
                Right::Ownership => prop_assert_eq!(&connection.owner, &actor),
                Right::Grant(id, generation) => {
                    let live = grants.iter().any(|grant| {
                        grant.id == id
                            && grant.generation == generation
                            && grant.grantee == actor
                            && grant.organization_id == connection.organization_id
                            && grant.revoke_time.is_none()
                            && grant.expire_time.is_none_or(|end| end > NOW)
                            && grant.covers_workload(&workload)
                    });
                    prop_assert!(live);
                }
            }
        }
    }

    #[test]
    fn a_denial_is_of_right_exactly_where_there_is_no_right_whatever_the_state(
        connection in any_connection(),
        grants in proptest::collection::vec(any_grant(), 0..5),
        actor in proptest::sample::select(vec!["user:u", "agent:a", "agent:b"]),
        scopes in any_scopes(),
    ) {
        prop_assume!(connection.state != ConnectionState::Deleted);
        let actor = Principal::parse(actor).unwrap();
        let workload = WorkloadId::parse("spiffe://td/gateway").unwrap();
        let question = Question { actor: &actor, workload: &workload, scopes: &scopes, until: NOW, now: NOW };
        let of_right = decide(&question, &connection, &grants).err().is_some_and(Denial::is_of_right);
        prop_assert_eq!(of_right, right_to_use(&question, &connection, &grants).is_err());
    }

    #[test]
    fn adding_a_grant_never_removes_access_and_removing_one_never_adds_any(
        connection in any_connection(),
        mut grants in proptest::collection::vec(any_grant(), 0..5),
        another in any_grant(),
        place in any::<prop::sample::Index>(),
        actor in proptest::sample::select(vec!["user:u", "agent:a", "agent:b"]),
        scopes in any_scopes(),
    ) {
        let actor = Principal::parse(actor).unwrap();
        let workload = WorkloadId::parse("spiffe://td/gateway").unwrap();
        let question = Question { actor: &actor, workload: &workload, scopes: &scopes, until: NOW, now: NOW };
        let fewer = decide(&question, &connection, &grants).is_ok();
        grants.insert(place.index(grants.len() + 1), another);
        let more = decide(&question, &connection, &grants).is_ok();
        prop_assert!(!fewer || more);
    }
}
