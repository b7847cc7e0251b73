use keyholder_broker::{BrowserAnswer, Completion, StartAuthorization};
use keyholder_domain::{
    Authorization, AuthorizationFailure, AuthorizationState, ConnectionId, Principal, ProviderId, Scopes,
    Text,
};
use keyholder_proto::v1;

use super::connection::{read_auth_method, read_labels, secrets};
use super::provider::auth_method;
use super::reader::{Reader, idempotency};
use super::timestamp;
use crate::problem::Problem;

/// The longest URL, in bytes.
const MAX_URL_LEN: usize = 2048;

/// An authorization on the wire.
pub fn authorization(authorization: Authorization) -> v1::Authorization {
    let failure = authorization.failure;
    v1::Authorization {
        authorization_id: authorization.id.to_string(),
        organization_id: authorization.organization_id.to_string(),
        owner: authorization.owner.to_string(),
        provider_id: authorization.provider_id.to_string(),
        auth_method: auth_method(authorization.auth_method).into(),
        connection_id: authorization.connection_id.map(|id| id.to_string()).unwrap_or_default(),
        scopes: authorization.scopes.to_strings(),
        state: state(authorization.state).into(),
        failure: failure.map(AuthorizationFailure::as_str).unwrap_or_default().to_owned(),
        failure_sentence: failure.map(AuthorizationFailure::sentence).unwrap_or_default().to_owned(),
        user_code: authorization.user_code.as_str().to_owned(),
        verification_uri: authorization.verification_uri,
        verification_uri_complete: authorization.verification_uri_complete,
        create_time: Some(timestamp(authorization.create_time)),
        expire_time: Some(timestamp(authorization.expire_time)),
    }
}

const fn state(state: AuthorizationState) -> v1::AuthorizationState {
    match state {
        AuthorizationState::Pending => v1::AuthorizationState::Pending,
        AuthorizationState::Exchanging => v1::AuthorizationState::Exchanging,
        AuthorizationState::AwaitingCompletion => v1::AuthorizationState::AwaitingCompletion,
        AuthorizationState::Completed => v1::AuthorizationState::Completed,
        AuthorizationState::Failed => v1::AuthorizationState::Failed,
    }
}

/// Reads a request to ask an owner for consent.
pub fn start_authorization(
    mut request: v1::StartAuthorizationRequest,
) -> Result<StartAuthorization, Problem> {
    let mut reader = Reader::new();
    let request_id = std::mem::take(&mut request.request_id);
    let idempotency = idempotency(&mut reader, &request_id, &request);
    let owner = reader.optional("owner", &request.owner, Principal::parse_owner);
    let provider_id = reader.optional("provider_id", &request.provider_id, ProviderId::parse);
    let connection_id = reader.optional("connection_id", &request.connection_id, ConnectionId::parse);
    let auth_method = read_auth_method(&mut reader, request.auth_method);
    let display_name = reader.checked("display_name", Text::parse(&request.display_name));
    let labels = read_labels(&mut reader, "labels", &request.labels);
    let scopes = reader.checked("scopes", Scopes::parse(&request.scopes));
    if request.capabilities.len() > 32 {
        reader.wrong("capabilities", "must be at most 32 ids");
    }
    let completion_challenge =
        reader.checked("completion_challenge", Text::parse(&request.completion_challenge));
    let return_url = url(&mut reader, "return_url", request.return_url);
    let redirect_uri = url(&mut reader, "redirect_uri", request.redirect_uri);
    let start = (|| {
        Some(StartAuthorization {
            owner,
            provider_id,
            connection_id,
            auth_method,
            config: request.config,
            display_name: display_name?,
            labels: labels?,
            scopes: scopes?,
            capabilities: request.capabilities,
            return_url,
            redirect_uri,
            completion_challenge: completion_challenge?,
            idempotency,
        })
    })();
    reader.finish(start)
}

fn url(reader: &mut Reader, field: &str, text: String) -> Option<String> {
    if text.len() > MAX_URL_LEN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        reader.wrong(field, "must be a URL of at most 2048 visible ASCII characters");
        return None;
    }
    (!text.is_empty()).then_some(text)
}

/// Reads what completes an authorization.
pub fn completion(request: v1::CompleteAuthorizationRequest) -> Completion {
    let forwarded = secrets(request.redirect_parameters);
    Completion {
        verifier: (!request.completion_verifier.is_empty()).then(|| request.completion_verifier.into()),
        forwarded: (!forwarded.is_empty()).then(|| BrowserAnswer::new(forwarded)),
    }
}
