use keyholder_catalog::{Field, Method, Provider, Template};
use keyholder_domain::AuthMethod;
use keyholder_proto::v1;

/// A provider on the wire.
pub fn provider(provider: &Provider, is_available: impl Fn(&Method) -> bool) -> v1::Provider {
    v1::Provider {
        provider_id: provider.id.to_string(),
        name: provider.name.clone(),
        documentation_url: provider.documentation_url.clone(),
        base_url: provider
            .base_url
            .as_ref()
            .map(Template::as_str)
            .filter(|url| !url.contains('{'))
            .unwrap_or_default()
            .to_owned(),
        auth_methods: provider.auth_methods.iter().map(|it| method(it, is_available(it))).collect(),
        config_fields: provider.config.iter().map(field).collect(),
        scopes: provider
            .scopes
            .iter()
            .map(|scope| v1::ProviderScope {
                scope: scope.name.as_str().to_owned(),
                title: scope.title.clone(),
            })
            .collect(),
        default_scopes: provider.default_scopes.to_strings(),
        capabilities: provider
            .capabilities
            .iter()
            .map(|capability| v1::ProviderCapability {
                capability_id: capability.id.clone(),
                title: capability.title.clone(),
                scopes: capability.scopes.to_strings(),
                base_url: capability.base_url.clone().unwrap_or_default(),
            })
            .collect(),
        default_services: provider.services.clone(),
    }
}

fn method(method: &Method, is_available: bool) -> v1::ProviderAuthMethod {
    let availability =
        if is_available { v1::Availability::Ready } else { v1::Availability::OauthClientMissing };
    v1::ProviderAuthMethod {
        auth_method: auth_method(method.method).into(),
        title: method.title.clone(),
        fields: method.fields.iter().map(field).collect(),
        availability: availability.into(),
        open_fields: method.open_fields,
    }
}

fn field(field: &Field) -> v1::ProviderField {
    v1::ProviderField {
        name: field.name.clone(),
        title: field.title.clone(),
        help: field.help.clone(),
        secret: field.secret,
        required: field.required,
        pattern: field.pattern.as_ref().map(|pattern| pattern.as_str().to_owned()).unwrap_or_default(),
        default_value: field.default.clone().unwrap_or_default(),
        multiline: field.multiline,
    }
}

/// An auth method on the wire.
pub(super) const fn auth_method(method: AuthMethod) -> v1::AuthMethod {
    match method {
        AuthMethod::OAuth2Code => v1::AuthMethod::Oauth2Code,
        AuthMethod::OAuth2Device => v1::AuthMethod::Oauth2Device,
        AuthMethod::OAuth2ClientCredentials => v1::AuthMethod::Oauth2ClientCredentials,
        AuthMethod::JwtBearer => v1::AuthMethod::JwtBearer,
        AuthMethod::ApiKey => v1::AuthMethod::ApiKey,
        AuthMethod::Basic => v1::AuthMethod::Basic,
        AuthMethod::Bearer => v1::AuthMethod::Bearer,
        AuthMethod::Custom => v1::AuthMethod::Custom,
    }
}
