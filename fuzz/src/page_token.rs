//! Page tokens and resume tokens: given out, kept by callers, and sent back, changed or not.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyholder_domain::OrganizationId;
use keyholder_proto::v1::ListGrantsRequest;
use keyholder_server::convert::{PageToken, Reader, resume_token, resumed};

/// A token that is accepted is one that was given out, and is good for one list only.
pub fn check(input: &[u8]) {
    let (tokens, others) = (tokens_of("acme"), tokens_of("other"));
    if let Ok(text) = str::from_utf8(input) {
        any_text(&tokens, text);
        any_place(&tokens, &others, text);
    }
    any_bytes(&tokens, input);
}

fn tokens_of(organization_id: &str) -> PageToken {
    let request = ListGrantsRequest { organization_id: organization_id.to_owned(), ..Default::default() };
    PageToken::of("ListGrants", &request)
}

/// The place in a token of a list, if the list accepts it.
fn read(tokens: &PageToken, token: &str) -> Option<String> {
    let mut reader = Reader::new();
    let page = tokens.read(&mut reader, 0, token, |place| Some(place.to_owned()));
    reader.finish(Some(page)).ok()?.after
}

/// The token of the page behind a place.
fn write(tokens: &PageToken, place: &str) -> String {
    tokens.next(vec![place, ""], 1, |place| (*place).to_owned()).1
}

fn any_text(tokens: &PageToken, text: &str) {
    if let Some(place) = read(tokens, text) {
        assert_eq!(write(tokens, &place), text);
    }
    let organization_id = OrganizationId::parse("acme").expect("a name of the alphabet");
    let mut reader = Reader::new();
    let place = resumed(&mut reader, &organization_id, text);
    if let Ok(Some(place)) = reader.finish(Some(place)) {
        assert_eq!(resume_token(&organization_id, place), text);
    }
}

fn any_place(tokens: &PageToken, others: &PageToken, place: &str) {
    let token = write(tokens, place);
    assert_eq!(read(tokens, &token).as_deref(), Some(place));
    assert_eq!(read(others, &token), None);
}

/// Bytes behind a mark that is right, as text would hardly ever have it.
fn any_bytes(tokens: &PageToken, bytes: &[u8]) {
    let mut token = URL_SAFE_NO_PAD.decode(write(tokens, "")).expect("a token is base64");
    token.extend_from_slice(bytes);
    let token = URL_SAFE_NO_PAD.encode(token);
    assert_eq!(read(tokens, &token).as_deref(), str::from_utf8(bytes).ok());

    let organization_id = OrganizationId::parse("acme").expect("a name of the alphabet");
    let mut marked = URL_SAFE_NO_PAD.decode(resume_token(&organization_id, 0)).expect("a token is base64");
    marked.pop();
    marked.extend_from_slice(bytes);
    let token = URL_SAFE_NO_PAD.encode(marked);
    let mut reader = Reader::new();
    let place = resumed(&mut reader, &organization_id, &token);
    if let Ok(Some(place)) = reader.finish(Some(place)) {
        assert_eq!(resume_token(&organization_id, place), token);
    }
}
