use std::collections::BTreeMap;

use keyholder_broker::{Released, ReleasedCredential};
use keyholder_catalog::Injection;
use keyholder_proto::v1::{self, credential::Kind};
use keyholder_vault::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::connection::account;
use super::timestamp;

/// A released credential on the wire. From here on, the secret is in the hands of the gRPC library.
pub fn resolve_response(released: Released) -> v1::ResolveCredentialResponse {
    v1::ResolveCredentialResponse {
        connection_id: released.connection_id.to_string(),
        grant_id: released.grant_id.map(|id| id.to_string()).unwrap_or_default(),
        provider_id: released.provider_id.to_string(),
        account: Some(account(&released.account)),
        credential: Some(v1::Credential { kind: Some(kind(released.credential)) }),
        http: Some(http(released.http)),
        scopes: released.scopes.to_strings(),
        valid_until: released.valid_until.map(timestamp),
        generation: released.generation.get(),
        audit_event_id: released.audit_event_id.to_string(),
    }
}

fn kind(credential: ReleasedCredential) -> Kind {
    match credential {
        ReleasedCredential::OAuth2 { access_token } => Kind::Oauth2(v1::OAuth2Credential {
            access_token: access_token.expose_secret().to_owned(),
            token_type: "Bearer".to_owned(),
        }),
        ReleasedCredential::ApiKey { api_key, other_fields } => Kind::ApiKey(v1::ApiKeyCredential {
            api_key: api_key.expose_secret().to_owned(),
            other_fields: exposed(&other_fields),
        }),
        ReleasedCredential::Basic { username, password } => Kind::Basic(v1::BasicCredential {
            username: username.expose_secret().to_owned(),
            password: password.expose_secret().to_owned(),
        }),
        ReleasedCredential::Bearer { token } => {
            Kind::Bearer(v1::BearerCredential { token: token.expose_secret().to_owned() })
        }
        ReleasedCredential::Custom { fields } => {
            Kind::Custom(v1::CustomCredential { fields: exposed(&fields) })
        }
    }
}

fn exposed(fields: &BTreeMap<String, SecretString>) -> BTreeMap<String, String> {
    fields.iter().map(|(name, value)| (name.clone(), value.expose_secret().to_owned())).collect()
}

fn http(injection: Injection) -> v1::HttpInjection {
    // Moved, not copied: what is left behind is empty.
    let text = |mut text: Zeroizing<String>| std::mem::take(&mut *text);
    let map = |pairs: Vec<(String, Zeroizing<String>)>| {
        pairs.into_iter().map(|(name, value)| (name, text(value))).collect()
    };
    v1::HttpInjection {
        headers: map(injection.headers),
        query_parameters: map(injection.query_parameters),
        cookies: map(injection.cookies),
        base_url: injection.base_url.map(text).unwrap_or_default(),
    }
}
