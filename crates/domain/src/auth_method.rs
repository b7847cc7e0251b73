use std::fmt;

use crate::Invalid;

/// One way to connect to a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuthMethod {
    /// OAuth 2.0 authorization code with PKCE (RFC 6749 section 4.1, RFC 7636).
    OAuth2Code,
    /// OAuth 2.0 device authorization (RFC 8628).
    OAuth2Device,
    /// OAuth 2.0 client credentials (RFC 6749 section 4.4).
    OAuth2ClientCredentials,
    /// OAuth 2.0 JWT bearer grant (RFC 7523).
    JwtBearer,
    /// A key that the provider issued.
    ApiKey,
    /// A user name and a password (RFC 7617).
    Basic,
    /// A token that goes behind `Bearer` (RFC 6750).
    Bearer,
    /// Fields of the owner's own making.
    Custom,
}

impl AuthMethod {
    /// Every method.
    pub const ALL: [Self; 8] = [
        Self::OAuth2Code,
        Self::OAuth2Device,
        Self::OAuth2ClientCredentials,
        Self::JwtBearer,
        Self::ApiKey,
        Self::Basic,
        Self::Bearer,
        Self::Custom,
    ];

    /// The method's name in the API, in provider definitions and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OAuth2Code => "oauth2_code",
            Self::OAuth2Device => "oauth2_device",
            Self::OAuth2ClientCredentials => "oauth2_client_credentials",
            Self::JwtBearer => "jwt_bearer",
            Self::ApiKey => "api_key",
            Self::Basic => "basic",
            Self::Bearer => "bearer",
            Self::Custom => "custom",
        }
    }

    /// Reads a method's name.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|known| known.as_str() == text).ok_or(Invalid(
            "must be one of oauth2_code, oauth2_device, oauth2_client_credentials, jwt_bearer, api_key, basic, \
             bearer, custom",
        ))
    }

    /// Whether the credential is typed in once, rather than issued by an OAuth server.
    pub const fn is_static(self) -> bool {
        matches!(self, Self::ApiKey | Self::Basic | Self::Bearer | Self::Custom)
    }
}

impl fmt::Display for AuthMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_read_back_from_its_name() {
        for method in AuthMethod::ALL {
            assert_eq!(AuthMethod::parse(method.as_str()), Ok(method));
        }
        assert!(AuthMethod::parse("API_KEY").is_err());
    }
}
