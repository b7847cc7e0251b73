use keyholder_catalog::Injection;
use keyholder_domain::AuthMethod;
use keyholder_vault::{Credential, ExposeSecret, OpenError};

use super::{Chosen, ReleasedCredential};
use crate::connections::setting;
use crate::oauth::ACCESS_TOKEN;

/// The credential in the shape of its auth method, and as it goes on a request.
pub(super) fn render(
    chosen: &Chosen<'_>,
    credential: Credential,
) -> Result<(ReleasedCredential, Injection), OpenError> {
    let field = |name: &str| credential.get(name).map(ExposeSecret::expose_secret);
    let config = |name: &str| setting(&chosen.candidate.stored.connection, name);
    let method = chosen.method;
    let unexpected = |_| OpenError::UnexpectedContent;
    let http = method.render(chosen.provider, &field, &config).map_err(unexpected)?;
    let basic = method.render_basic(chosen.provider, &field, &config).map_err(unexpected)?;
    let mut fields = credential.into_fields();
    let mut take =
        |name: Option<&str>| name.and_then(|name| fields.remove(name)).ok_or(OpenError::UnexpectedContent);
    let main = method.secret_field().map(|field| field.name.as_str());
    let released = match method.method {
        AuthMethod::ApiKey => ReleasedCredential::ApiKey { api_key: take(main)?, other_fields: fields },
        AuthMethod::Bearer => ReleasedCredential::Bearer { token: take(main)? },
        AuthMethod::Basic => {
            let (username, password) = basic.ok_or(OpenError::UnexpectedContent)?;
            ReleasedCredential::Basic {
                username: username.as_str().into(),
                password: password.as_str().into(),
            }
        }
        AuthMethod::Custom => ReleasedCredential::Custom { fields },
        AuthMethod::OAuth2Code
        | AuthMethod::OAuth2Device
        | AuthMethod::OAuth2ClientCredentials
        | AuthMethod::JwtBearer => ReleasedCredential::OAuth2 { access_token: take(Some(ACCESS_TOKEN))? },
    };
    Ok((released, http))
}
