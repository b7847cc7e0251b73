use std::fmt;

use keyholder_catalog::oauth2::ClientAuthentication;
use keyholder_domain::Timestamp;
use keyholder_vault::{ExposeSecret as _, SecretString, SigningAlgorithm, SigningKey, random_bytes};
use serde_json::json;

use super::{Server, TokenFault};

/// How long an assertion of the client is good (RFC 7523, section 3).
const ASSERTION_SECONDS: i64 = 300;

/// How Keyholder is known to a provider. `Debug` prints the public id only.
pub struct Client {
    /// The public id.
    pub id: String,
    /// The secrets, the newest first. During a change there are two.
    pub secrets: Vec<SecretString>,
    /// The key of `private_key_jwt`.
    pub key: Option<ClientKey>,
}

/// The key with which a client signs who it is.
#[derive(Debug)]
pub struct ClientKey {
    /// The key's algorithm.
    pub algorithm: SigningAlgorithm,
    /// The key.
    pub key: SigningKey,
    /// Its id at the provider; may be empty.
    pub id: String,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.id)
    }
}

/// How a client proves who it is in one request: exactly one way (RFC 6749, section 2.3).
pub(super) struct Proof {
    /// The `Authorization` header.
    pub(super) header: Option<SecretString>,
    /// Parameters, by their standard names.
    pub(super) parameters: Vec<(&'static str, SecretString)>,
}

impl Server<'_> {
    /// How many different proofs there are to try.
    pub(super) fn proofs(&self) -> usize {
        match self.recipe.client_authentication {
            ClientAuthentication::Basic | ClientAuthentication::BasicRaw | ClientAuthentication::Body => {
                self.client.secrets.len().max(1)
            }
            ClientAuthentication::PrivateKeyJwt | ClientAuthentication::None => 1,
        }
    }

    /// One of the client's proofs.
    pub(super) fn proof(&self, number: usize, now: Timestamp) -> Result<Proof, TokenFault> {
        let secret = self.client.secrets.get(number);
        let id = ("client_id", SecretString::from(self.client.id.as_str()));
        let parameters = |parameters| Ok(Proof { header: None, parameters });
        if self.client.id.is_empty() {
            // An assertion said who asks, and there is no client.
            return parameters(Vec::new());
        }
        match (self.recipe.client_authentication, secret) {
            (ClientAuthentication::PrivateKeyJwt, _) => {
                let assertion = ("client_assertion", self.client_assertion(now)?);
                let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
                parameters(vec![id, ("client_assertion_type", kind.into()), assertion])
            }
            // A public client, or one without a secret, says who it is and no more.
            (ClientAuthentication::None, _) | (_, None) => parameters(vec![id]),
            (ClientAuthentication::Body, Some(secret)) => {
                parameters(vec![id, ("client_secret", secret.clone())])
            }
            (ClientAuthentication::Basic, Some(secret)) => Ok(Proof {
                header: Some(basic(&form(&self.client.id), &form(secret.expose_secret()))),
                parameters: Vec::new(),
            }),
            (ClientAuthentication::BasicRaw, Some(secret)) => Ok(Proof {
                header: Some(basic(&self.client.id, secret.expose_secret())),
                parameters: Vec::new(),
            }),
        }
    }

    /// The client's id and one of its secrets behind `Basic`, as they are.
    pub(super) fn basic_proof(&self, number: usize) -> Result<SecretString, TokenFault> {
        let secret =
            self.client.secrets.get(number).ok_or(TokenFault::Unrenderable("the client has no secret"))?;
        Ok(basic(&self.client.id, secret.expose_secret()))
    }

    fn client_assertion(&self, now: Timestamp) -> Result<SecretString, TokenFault> {
        let key = self.client.key.as_ref().ok_or(TokenFault::Unrenderable("the client has no key"))?;
        // The issuer where it is known: a token endpoint that an attacker chose could use the assertion elsewhere.
        let audience = match &self.recipe.issuer {
            Some(issuer) => self.text(issuer)?,
            None => self.url(&self.recipe.token.url)?.to_string(),
        };
        let seconds = now.unix_timestamp();
        let id: String = random_bytes::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
        let mut header = json!({ "alg": key.algorithm.as_str(), "typ": "JWT" });
        if !key.id.is_empty() {
            header["kid"] = key.id.clone().into();
        }
        let claims = json!({
            "iss": self.client.id, "sub": self.client.id, "aud": audience, "jti": id,
            "iat": seconds, "exp": seconds + ASSERTION_SECONDS,
        });
        Ok(key.key.sign(&header.to_string(), &claims.to_string()))
    }
}

/// The value in form encoding (RFC 6749, appendix B).
fn form(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn basic(id: &str, secret: &str) -> SecretString {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    SecretString::from(format!(
        "Basic {}",
        STANDARD.encode(zeroize::Zeroizing::new(format!("{id}:{secret}")).as_bytes())
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c29_basic_is_form_encoded_first() {
        let header = basic(&form("a:b%c"), &form("d+e fé"));
        // a%3Ab%25c:d%2Be+f%C3%A9
        assert_eq!(header.expose_secret(), "Basic YSUzQWIlMjVjOmQlMkJlK2YlQzMlQTk=");
        assert_eq!(basic("a", "b").expose_secret(), "Basic YTpi");
    }
}
