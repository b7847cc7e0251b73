use http::{HeaderValue, header};
use keyholder_catalog::oauth2::RequestFormat;
use keyholder_domain::{Scopes, Timestamp};
use keyholder_vault::{ExposeSecret as _, SecretString};
use oauth2::StandardDeviceAuthorizationResponse;

use super::client::Proof;
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
    /// Begins a device flow (RFC 8628, section 3.1). Where the server does not take the client, it is asked again with the
    /// client's other secret.
    pub async fn ask_for_device_code(
        &self,
        server: &Server<'_>,
        scopes: &Scopes,
        now: Timestamp,
    ) -> Result<DeviceCode, TokenFault> {
        let last = server.proofs() - 1;
        for number in 0..last {
            match self.ask_once(server, scopes, server.proof(number, now)?, now).await {
                Err(TokenFault::Client) => {}
                answered => return answered,
            }
        }
        self.ask_once(server, scopes, server.proof(last, now)?, now).await
    }

    async fn ask_once(
        &self,
        server: &Server<'_>,
        scopes: &Scopes,
        proof: Proof,
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
    // What a token endpoint says with an error, a device endpoint says with the same; some say it with 200.
    let refusal = || {
        let fault = server.read(answer, None, now).err();
        fault.unwrap_or(TokenFault::Unusable("no device code came"))
    };
    if answer.status != 200 {
        return Err(refusal());
    }
    let read: StandardDeviceAuthorizationResponse =
        serde_json::from_slice(&answer.body).map_err(|_| refusal())?;
    if read.device_code().secret().is_empty() || read.user_code().secret().is_empty() {
        return Err(TokenFault::Unusable("no device code came"));
    }
    let verification_uri_complete = read.verification_uri_complete().map(|uri| uri.secret().clone());
    let pages = [Some(read.verification_uri().as_str()), verification_uri_complete.as_deref()];
    if !pages.into_iter().flatten().all(is_page) {
        return Err(TokenFault::Unusable("the page to type the code in is none"));
    }
    Ok(DeviceCode {
        device_code: read.device_code().secret().as_str().into(),
        user_code: read.user_code().secret().clone(),
        verification_uri: read.verification_uri().to_string(),
        verification_uri_complete: verification_uri_complete.unwrap_or_default(),
        interval: read.interval().as_secs(),
        expires_in: read.expires_in().as_secs(),
    })
}

/// Whether somebody's browser may be sent there: apps make links of it, and a link can hold a script.
fn is_page(uri: &str) -> bool {
    url::Url::parse(uri).is_ok_and(|uri| matches!(uri.scheme(), "https" | "http") && uri.has_host())
}
