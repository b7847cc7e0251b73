use http::{HeaderValue, header};
use keyholder_catalog::oauth2::RequestFormat;
use keyholder_domain::{Scopes, Timestamp};
use keyholder_vault::{ExposeSecret as _, SecretString};
use oauth2::StandardDeviceAuthorizationResponse;

use super::{Server, TokenAnswer, TokenFault};
use crate::Upstream;

/// What a device flow begins with (RFC 8628, section 3.2). `Debug` prints nothing of it.
pub struct DeviceCode {
    /// What the token endpoint is asked with.
    pub device_code: SecretString,
    /// What the owner types in.
    pub user_code: String,
    /// Where the owner types it in.
    pub verification_uri: String,
    /// The same with the code in it; may be empty.
    pub verification_uri_complete: String,
    /// How many seconds to leave between two questions.
    pub interval: u64,
    /// How many seconds the codes are good for.
    pub expires_in: u64,
}

impl std::fmt::Debug for DeviceCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeviceCode")
    }
}

impl Upstream {
    /// Begins a device flow (RFC 8628, section 3.1).
    pub async fn ask_for_device_code(
        &self,
        server: &Server<'_>,
        scopes: &Scopes,
        now: Timestamp,
    ) -> Result<DeviceCode, TokenFault> {
        let endpoint = server.recipe.device.as_ref().ok_or(TokenFault::Unrenderable("there is no device"))?;
        let mut parameters: Vec<(String, SecretString)> = server
            .parameters(&endpoint.parameters)?
            .into_iter()
            .map(|(name, value)| (name, value.into()))
            .collect();
        if !scopes.is_empty() {
            parameters.push(("scope".to_owned(), server.joined(scopes).into()));
        }
        let proof = server.proof(0, now)?;
        parameters.extend(proof.parameters.into_iter().map(|(name, value)| (name.to_owned(), value)));
        if proof.header.is_some() {
            parameters.push(("client_id".to_owned(), server.client.id.as_str().into()));
        }
        for (name, _) in &mut parameters {
            *name = server.recipe.name(name).to_owned();
        }
        let mut request = self
            .parametrised(&server.url(&endpoint.url)?, RequestFormat::Form, &parameters)?
            .header(header::ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(proof) = proof.header {
            let value = zeroize::Zeroizing::new(proof.expose_secret().as_bytes().to_vec());
            request = request.secret_header(header::AUTHORIZATION, value)?;
        }
        let answer = self.send(request, now).await?;
        read(server, &answer, now)
    }
}

fn read(server: &Server<'_>, answer: &TokenAnswer, now: Timestamp) -> Result<DeviceCode, TokenFault> {
    if answer.status != 200 {
        // What a token endpoint says with an error, a device endpoint says with the same.
        return Err(server
            .read(answer, None, now)
            .err()
            .unwrap_or(TokenFault::Unusable("no device code came")));
    }
    let read: StandardDeviceAuthorizationResponse =
        serde_json::from_slice(&answer.body).map_err(|_| TokenFault::Unusable("no device code came"))?;
    if read.device_code().secret().is_empty() || read.user_code().secret().is_empty() {
        return Err(TokenFault::Unusable("no device code came"));
    }
    Ok(DeviceCode {
        device_code: read.device_code().secret().as_str().into(),
        user_code: read.user_code().secret().clone(),
        verification_uri: read.verification_uri().to_string(),
        verification_uri_complete: read
            .verification_uri_complete()
            .map(|uri| uri.secret().clone())
            .unwrap_or_default(),
        interval: read.interval().as_secs(),
        expires_in: read.expires_in().as_secs(),
    })
}
