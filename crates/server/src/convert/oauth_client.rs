use keyholder_broker::{OAuthClient, SetOAuthClient};
use keyholder_domain::{ProviderId, Text};
use keyholder_proto::v1;

use super::reader::Reader;
use super::timestamp;
use crate::problem::Problem;

/// An OAuth client on the wire.
pub fn oauth_client(client: OAuthClient) -> v1::OAuthClient {
    v1::OAuthClient {
        provider_id: client.provider_id.to_string(),
        client_id: client.client_id.as_str().to_owned(),
        secret_count: client.secret_count,
        create_time: Some(timestamp(client.create_time)),
        update_time: Some(timestamp(client.update_time)),
    }
}

/// Reads a request to set an OAuth client.
pub fn set_oauth_client(request: v1::SetOAuthClientRequest) -> Result<SetOAuthClient, Problem> {
    let mut reader = Reader::new();
    let provider_id = reader.required("provider_id", &request.provider_id, ProviderId::parse);
    let client_id = reader.required("client_id", &request.client_id, Text::parse);
    let set = (|| {
        Some(SetOAuthClient {
            provider_id: provider_id?,
            client_id: client_id?,
            client_secret: (!request.client_secret.is_empty()).then(|| request.client_secret.into()),
            keep_previous_secret: request.keep_previous_secret,
        })
    })();
    reader.finish(set)
}
