//! The bytes of a request, as each message that is converted before anything else is done with it.

use std::fmt::Debug;

use keyholder_domain::{OrganizationId, Timestamp};
use keyholder_proto::v1;
use keyholder_server::convert::{self, AskFields, Page, Reader};
use keyholder_server::problem::Problem;
use prost::Message;
use tonic_types::StatusExt as _;

/// What stands for every secret of a request, and must not be seen again.
const SECRET: &str = "a secret that nobody else writes";

/// Every message is either converted or refused with what is wrong; no secret is in a `Debug` print or a refusal.
pub fn check(input: &[u8]) {
    as_message(input, |mut request: v1::CreateConnectionRequest| {
        request.credentials.values_mut().for_each(|value| SECRET.clone_into(value));
        prints_no_secret(&request);
        let (owner, provider_id) = (request.owner.clone(), request.provider_id.clone());
        let made = answer(convert::create_connection(request));
        if let Some(made) = made {
            prints_no_secret(&made);
            assert_eq!((made.owner.as_str(), made.provider_id.as_str()), (&*owner, &*provider_id));
        }
    });
    as_message(input, |mut request: v1::ReplaceCredentialsRequest| {
        request.credentials.values_mut().for_each(|value| SECRET.clone_into(value));
        prints_no_secret(&request);
        prints_no_secret(&convert::secrets(request.credentials));
    });
    as_message(input, |request: v1::UpdateConnectionRequest| {
        let mut reader = Reader::new();
        let connection = request.connection.unwrap_or_default();
        let update = convert::connection_update(&mut reader, &connection, request.update_mask.as_ref());
        answer(reader.finish(Some(update)));
    });
    as_message(input, |request| is_page(answer(convert::connection_filter(request)), |(_, _, page)| page));
    as_message(input, |request: v1::WatchConnectionsRequest| {
        if let Ok(organization_id) = OrganizationId::parse(&request.organization_id) {
            let watched = answer(convert::change_filter(&request, &organization_id));
            assert!(watched.is_none_or(|(_, place)| place.is_none_or(|place| place >= 0)));
        }
    });
    as_message(input, |request: v1::CreateGrantRequest| {
        let grantee = request.grantee.clone();
        let made = answer(convert::create_grant(request));
        assert!(made.is_none_or(|made| made.grantee.as_str() == grantee && made.workloads.len() <= 32));
    });
    as_message(input, |request| {
        is_page(answer(convert::grant_filter(request, Timestamp::UNIX_EPOCH)), |(_, _, page)| page)
    });
    as_message(input, |request| is_page(answer(convert::audit_filter(request)), |(_, _, page)| page));
    as_message(input, check_access);
    as_message(input, resolve);
}

fn check_access(request: v1::CheckAccessRequest) {
    use v1::check_access_request::Target;
    ask(&AskFields {
        actor: &request.actor,
        connection_id: match &request.target {
            Some(Target::ConnectionId(id)) => Some(id),
            _ => None,
        },
        provider: match &request.target {
            Some(Target::Provider(target)) => Some(target),
            _ => None,
        },
        scopes: &request.scopes,
        min_ttl: None,
        purpose: "",
    });
}

fn resolve(request: v1::ResolveCredentialRequest) {
    use v1::resolve_credential_request::Target;
    ask(&AskFields {
        actor: &request.actor,
        connection_id: match &request.target {
            Some(Target::ConnectionId(id)) => Some(id),
            _ => None,
        },
        provider: match &request.target {
            Some(Target::Provider(target)) => Some(target),
            _ => None,
        },
        scopes: &request.scopes,
        min_ttl: request.min_ttl,
        purpose: &request.purpose,
    });
}

fn ask(fields: &AskFields<'_>) {
    let mut reader = Reader::new();
    let read = convert::ask(&mut reader, fields);
    let read = answer(reader.finish(read));
    assert!(read.is_none_or(|ask| ask.actor.as_str() == fields.actor));
}

/// Reads the input as a message and checks it, if it is one.
fn as_message<M: Message + Default>(input: &[u8], check: impl FnOnce(M)) {
    if let Ok(message) = M::decode(input) {
        check(message);
    }
}

/// The value, or none if the request was refused properly: with a reason, and with the fields that are wrong.
fn answer<T>(result: Result<T, Problem>) -> Option<T> {
    let problem = match result {
        Ok(value) => return Some(value),
        Err(problem) => problem,
    };
    prints_no_secret(&problem);
    let status = problem.into_status();
    prints_no_secret(&status);
    let fields = status.get_details_bad_request().expect("a refused request says which fields are wrong");
    assert!(!fields.field_violations.is_empty());
    for violation in fields.field_violations {
        assert!(!violation.field.is_empty() && !violation.description.is_empty());
        assert!(!violation.field.contains(char::is_control), "{:?}", violation.field);
    }
    None
}

fn is_page<T, I>(read: Option<T>, page: impl FnOnce(T) -> Page<I>) {
    assert!(read.is_none_or(|read| (1..=500).contains(&page(read).size)));
}

fn prints_no_secret(value: &impl Debug) {
    let printed = format!("{value:?}");
    assert!(!printed.contains(SECRET), "a secret is printed: {printed}");
}
