use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use keyholder_domain::Timestamp;
use keyholder_vault::{ExposeSecret as _, SecretString};
use serde_json::Value;

use super::Server;

/// How far a provider's clock may be off, in seconds.
const SKEW: i64 = 300;

/// The claims of an ID token that came straight from the token endpoint (OpenID Connect Core 1.0, section 3.1.3.7): TLS
/// has proven who sent it, so its signature is not needed (number 6); that it is for us, and for this flow, is.
pub(super) fn claims_of(
    server: &Server<'_>,
    token: &str,
    nonce: Option<&SecretString>,
    now: Timestamp,
) -> Result<Value, &'static str> {
    let payload = token.split('.').nth(1).ok_or("the ID token is no token")?;
    let bytes =
        URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).map_err(|_| "the ID token is no token")?;
    let claims: Value = serde_json::from_slice(&bytes).map_err(|_| "the ID token is no token")?;
    let audience = &claims["aud"];
    let ours = |value: &Value| value.as_str() == Some(server.client.id.as_str());
    if !ours(audience) && !audience.as_array().is_some_and(|all| all.iter().any(ours)) {
        return Err("the ID token is for another client");
    }
    if claims["exp"].as_i64().is_none_or(|end| end + SKEW < now.unix_timestamp()) {
        return Err("the ID token has ended");
    }
    if let Some(nonce) = nonce
        && claims["nonce"].as_str() != Some(nonce.expose_secret())
    {
        return Err("the ID token is for another flow");
    }
    let issuer = server.recipe.issuer.as_ref().map(|issuer| server.text(issuer)).transpose();
    match (issuer, claims["iss"].as_str()) {
        (Ok(None), _) => Ok(claims),
        (Ok(Some(expected)), Some(issuer)) if expected == issuer => Ok(claims),
        _ => Err("the ID token is of another issuer"),
    }
}
