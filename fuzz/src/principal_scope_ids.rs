//! The small texts of a request: principals, scopes, ids, names, words for people.

use keyholder_domain::{
    AuditEventId, ConnectionId, GrantId, Labels, OrganizationId, Principal, PrincipalType, ProviderId,
    RequestId, Scope, Scopes, Text,
};
use keyholder_server::convert::{Reader, etag};

/// What is accepted is written back unchanged, and is free of what could break a line of a log or a query.
pub fn check(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    principal(text);
    let written = [
        ConnectionId::parse(text).ok().map(|id| id.to_string()),
        GrantId::parse(text).ok().map(|id| id.to_string()),
        AuditEventId::parse(text).ok().map(|id| id.to_string()),
        OrganizationId::parse(text).ok().map(|id| id.to_string()),
        ProviderId::parse(text).ok().map(|id| id.to_string()),
        RequestId::parse(text).ok().map(|id| id.as_str().to_owned()),
        Scope::parse(text).ok().map(|scope| scope.as_str().to_owned()),
    ];
    for written in written.into_iter().flatten() {
        assert_eq!(written, text);
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
    }
    if let Ok(words) = Text::parse(text) {
        assert_eq!(words.as_str(), text);
        assert!(!text.chars().any(char::is_control));
    }
    scopes(text);
    labels(text);
    an_etag(text);
}

fn principal(text: &str) {
    let owner = Principal::parse_owner(text);
    let Ok(principal) = Principal::parse(text) else {
        assert!(owner.is_err(), "an owner is a principal");
        return;
    };
    assert_eq!((principal.as_str(), principal.to_string().as_str()), (text, text));
    assert_eq!(format!("{}:{}", principal.kind().as_str(), principal.id()), text);
    assert_eq!(owner.is_ok(), principal.kind() != PrincipalType::Session);
}

/// The words of the text as a set of scopes.
fn scopes(text: &str) {
    let Ok(scopes) = Scopes::parse(text.split_whitespace()) else { return };
    let words = scopes.to_strings();
    assert!(words.is_sorted() && words.len() <= Scopes::MAX);
    assert_eq!(Scopes::parse(&words).as_ref(), Ok(&scopes));
    assert!(scopes.is_subset(&scopes) && scopes.intersection(&scopes) == scopes);
}

/// The lines of the text as `key=value`.
fn labels(text: &str) {
    let pairs: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let Ok(labels) = Labels::parse(pairs.iter().copied()) else { return };
    for (key, value) in labels.as_map() {
        assert!(pairs.contains(&(key.as_str(), value.as_str())));
    }
}

/// A spelling of an etag that nobody wrote could get around a comparison of texts.
fn an_etag(text: &str) {
    let mut reader = Reader::new();
    let read = etag(&mut reader, "etag", text);
    if let Ok(Some(generation)) = reader.finish(Some(read)) {
        assert_eq!(format!("g{generation}"), text);
    }
}
