use std::collections::{BTreeMap, BTreeSet};

use keyholder_domain::{AuthMethod, Scopes};

use super::field::{check_credential, compile_fields};
use super::test::check_test;
use super::{CLIENT_ID, check_text, compile_scope_set};
use crate::definition::{HttpDefinition, MethodDefinition};
use crate::field::{check_header_name, check_token, is_cookie_text, is_header_text};
use crate::findings::Findings;
use crate::template::{Position, Reference, Source};
use crate::tree::Place;
use crate::{Basic, Field, Format, Http, KnownScope, Method, Template, check_https_url};

/// What the provider has for all of its methods.
pub(super) struct Provided<'a> {
    pub(super) has_base_url: bool,
    pub(super) scopes: &'a [KnownScope],
}

/// Compiles the ways to connect, and notes in the config's fields what carries them.
pub(super) fn compile_methods(
    definitions: Vec<MethodDefinition>,
    provided: &Provided<'_>,
    config: &mut Vec<Field>,
    findings: &mut Findings,
) -> Vec<Method> {
    let mut seen = BTreeSet::new();
    let mut methods = Vec::with_capacity(definitions.len());
    for (number, definition) in definitions.into_iter().enumerate() {
        let place = Place::default().key("auth_methods").item(number);
        if !seen.insert(definition.method.0) {
            findings.add(&place.key("method"), "is there twice");
        }
        let default_scopes = method_scopes(&definition, provided.scopes, &place, findings);
        let method = Method { default_scopes, ..compile_method(definition, &place, config, findings) };
        check_test(&method, provided.has_base_url, &place, findings);
        methods.push(method);
    }
    methods
}

/// The scopes of a method's own, if it has a say.
fn method_scopes(
    definition: &MethodDefinition,
    known: &[KnownScope],
    place: &Place,
    findings: &mut Findings,
) -> Option<Scopes> {
    let names = definition.default_scopes.as_deref()?;
    let place = place.key("default_scopes");
    if definition.method.0.is_static() {
        findings.add(&place, "must be left out: nothing is asked for where the credential is typed in");
    }
    Some(compile_scope_set(names, known, &place, findings))
}

/// Compiles the provider's own base URL, which knows the config only.
pub(super) fn compile_base_url(
    text: &str,
    place: &Place,
    config: &mut [Field],
    findings: &mut Findings,
) -> Option<Template> {
    TemplateCompiler::new(None, config, findings).base_url(text, place)
}

fn compile_method(
    definition: MethodDefinition,
    place: &Place,
    config: &mut Vec<Field>,
    findings: &mut Findings,
) -> Method {
    check_text(&definition.title, &place.key("title"), findings);
    let method = definition.method.0;
    let mut fields = compile_fields(definition.fields, &place.key("fields"), findings);
    let mut issued = issued_fields();
    let on_requests = if method.is_static() { &mut fields } else { &mut issued };
    let asks_as_client = !method.is_static() && method != AuthMethod::JwtBearer;
    if asks_as_client {
        config.push(Field::plain(CLIENT_ID));
    }
    let mut compiler = TemplateCompiler::new(Some(on_requests), config, findings);
    let http = match definition.http {
        None if !method.is_static() => compiler.http(bearer(), &place.key("http")),
        definition => compiler.http(definition.unwrap_or_default(), &place.key("http")),
    };
    let test = definition.test.and_then(|test| compiler.test(test, &http, &place.key("test")));
    let used = compiler.used;
    if asks_as_client {
        config.pop();
    }

    let method = Method {
        method,
        title: definition.title,
        fields,
        http,
        account_id: definition.account_id,
        open_fields: definition.open_fields,
        test,
        no_test: definition.no_test,
        default_scopes: None,
    };
    check_credential(&method.fields, &place.key("fields"), findings);
    if method.method.is_static() {
        check_static(&method, &used, place, findings);
    } else {
        check_issued(&method, place, findings);
    }
    check_account_id(&method, place, findings);
    method
}

/// What holds for a method whose credential is typed in.
fn check_static(method: &Method, used: &BTreeSet<String>, place: &Place, findings: &mut Findings) {
    let custom = method.method == AuthMethod::Custom;
    if method.open_fields && !custom {
        findings.add(&place.key("open_fields"), "must not be true but for the method custom");
    }
    if method.fields.is_empty() && !method.open_fields {
        findings.add(&place.key("fields"), "must not be empty: there is nothing to connect with");
    }
    let secrets = method.fields.iter().filter(|field| field.secret).count();
    if matches!(method.method, AuthMethod::ApiKey | AuthMethod::Bearer) && secrets != 1 {
        findings.add(&place.key("fields"), "must have exactly one secret field for this method");
    }
    if method.method == AuthMethod::Basic && method.http.basic.is_none() {
        findings.add(&place.key("http"), "must have the key basic for this method");
    }
    for (number, field) in method.fields.iter().enumerate() {
        if field.secret && !custom && !used.contains(&field.name) {
            let sentence = "is a secret that no template of this method uses";
            findings.add(&place.key("fields").item(number), sentence);
        }
    }
}

/// What holds for a method whose credential an OAuth server issues: where there is anything to type in, it is what
/// the credential is asked for with.
fn check_issued(method: &Method, place: &Place, findings: &mut Findings) {
    if method.open_fields {
        findings.add(&place.key("open_fields"), "must not be true but for the method custom");
    }
    let names: Vec<&str> = method.fields.iter().map(|field| field.name.as_str()).collect();
    match method.method {
        AuthMethod::OAuth2ClientCredentials
            if !names.is_empty() && names != ["client_id", "client_secret"] =>
        {
            findings.add(&place.key("fields"), "must be client_id and client_secret, or left out");
        }
        AuthMethod::OAuth2Code | AuthMethod::OAuth2Device if !names.is_empty() => {
            findings
                .add(&place.key("fields"), "must be left out: the owner types nothing in for this method");
        }
        AuthMethod::JwtBearer if names.is_empty() => {
            findings.add(&place.key("fields"), "must not be empty: there is nothing to make an assertion of");
        }
        _ => {}
    }
}

/// What an OAuth server issues, as far as it goes on a request.
fn issued_fields() -> Vec<Field> {
    let mut token = Field::plain("access_token");
    token.secret = true;
    vec![token]
}

/// How a token goes on a request unless a definition says otherwise (RFC 6750, section 2.1).
fn bearer() -> HttpDefinition {
    let header = ("Authorization".to_owned(), "Bearer {credential.access_token}".to_owned());
    HttpDefinition { headers: [header].into(), ..HttpDefinition::default() }
}

fn check_account_id(method: &Method, place: &Place, findings: &mut Findings) {
    let Some(name) = &method.account_id else { return };
    let place = place.key("account_id");
    match method.fields.iter().find(|field| field.name == *name) {
        None => findings.add(&place, "does not name a field of this method"),
        Some(field) if field.secret => findings.add(&place, "names a secret field; accounts are shown"),
        Some(field) if !field.required => findings.add(&place, "names a field that is not required"),
        Some(_) => {}
    }
}

/// What a template is for, which decides what may be referred to in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    HeaderName,
    ParameterName,
    HeaderValue,
    QueryValue,
    CookieValue,
    Username,
    Password,
    Url,
    UrlPath,
}

impl Use {
    const fn is_name(self) -> bool {
        matches!(self, Self::HeaderName | Self::ParameterName)
    }
}

/// Compiles templates against the fields that they may refer to.
pub(super) struct TemplateCompiler<'a> {
    /// The method's fields; nothing where no credential may be referred to.
    pub(super) credential: Option<&'a mut [Field]>,
    config: &'a mut [Field],
    /// The credential fields that were referred to.
    used: BTreeSet<String>,
    pub(super) findings: &'a mut Findings,
}

impl<'a> TemplateCompiler<'a> {
    pub(super) const fn new(
        credential: Option<&'a mut [Field]>,
        config: &'a mut [Field],
        findings: &'a mut Findings,
    ) -> Self {
        Self { credential, config, used: BTreeSet::new(), findings }
    }
}

impl TemplateCompiler<'_> {
    /// The URL of an endpoint.
    pub(super) fn url(&mut self, text: &str, place: &Place) -> Option<Template> {
        let template = self.findings.accept(place, Template::parse_url(text))?;
        if template.start_is_open() {
            self.findings.add(place, "must have a slash behind a reference that is the URL's beginning");
        }
        for reference in template.references() {
            if reference.source == Source::Credential && self.has_secret(&reference.field) {
                self.findings.add(place, "must not refer to a secret");
            }
            self.reference(reference, place, Use::Url, false);
        }
        self.sample(&template, place, Use::Url);
        Some(template)
    }

    /// A text that may be nothing but a reference to a field that is not given.
    pub(super) fn optional_template(&mut self, text: &str, place: &Place) -> Option<Template> {
        let template = self.findings.accept(place, Template::parse(text))?;
        let may_be_absent = template.sole_reference().is_some();
        for reference in template.references() {
            self.reference(reference, place, Use::QueryValue, may_be_absent);
        }
        Some(template)
    }

    /// Whether there is such a field of the credential, and it is secret.
    pub(super) fn has_secret(&self, name: &str) -> bool {
        self.credential.iter().flat_map(|fields| fields.iter()).any(|it| it.name == name && it.secret)
    }

    fn http(&mut self, definition: HttpDefinition, place: &Place) -> Http {
        let headers = &place.key("headers");
        let basic_at = place.key("basic");
        self.check_header_clashes(&definition, headers);
        Http {
            headers: self.pairs(definition.headers, headers, Use::HeaderName, Use::HeaderValue),
            query_parameters: self.pairs(
                definition.query_parameters,
                &place.key("query_parameters"),
                Use::ParameterName,
                Use::QueryValue,
            ),
            cookies: self.pairs(
                definition.cookies,
                &place.key("cookies"),
                Use::ParameterName,
                Use::CookieValue,
            ),
            base_url: definition.base_url.and_then(|text| self.base_url(&text, &place.key("base_url"))),
            basic: definition.basic.and_then(|basic| {
                let username = self.template(&basic.username, &basic_at.key("username"), Use::Username);
                let password = self.template(&basic.password, &basic_at.key("password"), Use::Password);
                Some(Basic { username: username?, password: password? })
            }),
        }
    }

    fn check_header_clashes(&mut self, definition: &HttpDefinition, place: &Place) {
        let mut seen: BTreeSet<String> =
            definition.basic.iter().map(|_| "authorization".to_owned()).collect();
        for name in definition.headers.keys() {
            if !seen.insert(name.to_ascii_lowercase()) {
                self.findings.add(&place.key(name), "is a header that is set twice");
            }
        }
    }

    fn pairs(
        &mut self,
        definitions: BTreeMap<String, String>,
        place: &Place,
        name_use: Use,
        value_use: Use,
    ) -> Vec<(Template, Template)> {
        let mut pairs = Vec::with_capacity(definitions.len());
        for (name, value) in definitions {
            let place = place.key(&name);
            let name = self.template(&name, &place, name_use);
            let value = self.template(&value, &place, value_use);
            pairs.extend(name.zip(value));
        }
        pairs
    }

    fn base_url(&mut self, text: &str, place: &Place) -> Option<Template> {
        let template = self.findings.accept(place, Template::parse_url(text))?;
        if template.start_is_open() {
            self.findings.add(place, "must have a slash behind a reference that is the URL's beginning");
        }
        // The provider's own base URL may be left to an optional field; a method's holds its credential.
        let may_be_absent = self.credential.is_none() && template.sole_reference().is_some();
        for reference in template.references() {
            self.reference(reference, place, Use::Url, may_be_absent);
        }
        self.sample(&template, place, Use::Url);
        Some(template)
    }

    pub(super) fn template(&mut self, text: &str, place: &Place, used_as: Use) -> Option<Template> {
        let template = self.findings.accept(place, Template::parse(text))?;
        if used_as.is_name() && template.references().next().is_some() && template.sole_reference().is_none()
        {
            self.findings.add(place, "has a name that is partly text and partly a reference");
        }
        for reference in template.references() {
            self.reference(reference, place, used_as, false);
        }
        self.sample(&template, place, used_as);
        Some(template)
    }

    /// Checks one reference, and notes in the field what carries it.
    pub(super) fn reference(
        &mut self,
        reference: &Reference,
        place: &Place,
        used_as: Use,
        may_be_absent: bool,
    ) {
        let name = &reference.field;
        let fields = match reference.source {
            Source::Config => &mut *self.config,
            Source::Credential => match &mut self.credential {
                Some(fields) if !used_as.is_name() => &mut **fields,
                _ => {
                    let sentence =
                        format!("must not refer to {{credential.{name}}}: this place is not secret");
                    return self.findings.add(place, sentence);
                }
            },
        };
        let Some(field) = fields.iter_mut().find(|field| field.name == *name) else {
            return self.findings.add(place, format!("refers to {name}, which is not among its fields"));
        };
        match used_as {
            Use::HeaderValue => field.carriers.header = true,
            Use::CookieValue => field.carriers.cookie = true,
            Use::Username => field.carriers.username = true,
            Use::Url => field.carriers.path |= reference.position == Position::Path,
            Use::HeaderName | Use::ParameterName | Use::QueryValue | Use::Password | Use::UrlPath => {}
        }
        for sentence in reference_problems(field, reference, used_as, may_be_absent) {
            self.findings.add(place, format!("refers to {name}, which {sentence}"));
        }
        if reference.source == Source::Credential {
            self.used.insert(name.clone());
        }
    }

    /// Checks the text around the references, by filling in what each of them could be.
    fn sample(&mut self, template: &Template, place: &Place, used_as: Use) {
        let filled = template.render(&|reference| {
            Some(if reference.position == Position::UrlStart { "https://host.example" } else { "x" })
        });
        let Ok(text) = filled else { return };
        let problem = match used_as {
            Use::HeaderName => check_header_name(&text).err(),
            Use::ParameterName => check_token(&text).err(),
            Use::Url | Use::UrlPath => check_https_url(&text).err(),
            Use::HeaderValue => (!is_header_text(&text)).then_some("must be ASCII, since it is a header"),
            Use::CookieValue => {
                (!is_cookie_text(&text)).then_some("has characters that a cookie cannot carry")
            }
            Use::QueryValue | Use::Password => {
                text.chars().any(char::is_control).then_some("must not contain control characters")
            }
            Use::Username => (text.contains(':') || text.chars().any(char::is_control))
                .then_some("must not contain colons and control characters"),
        };
        if let Some(sentence) = problem {
            self.findings.add(place, sentence);
        }
    }
}

fn reference_problems(
    field: &Field,
    reference: &Reference,
    used_as: Use,
    may_be_absent: bool,
) -> Vec<&'static str> {
    let mut problems = Vec::new();
    if !field.required && !field.learned && field.default.is_none() && !may_be_absent {
        problems.push("is neither required nor has a default");
    }
    if field.multiline {
        problems.push("may hold line breaks");
    }
    if field.allow_empty && (matches!(used_as, Use::Url | Use::UrlPath) || used_as.is_name()) {
        problems.push("may be empty");
    }
    let wanted = match (used_as, reference.position) {
        (Use::HeaderName, _) => Some((Format::HeaderName, "must have the format header_name")),
        (Use::ParameterName, _) => Some((Format::ParameterName, "must have the format parameter_name")),
        (Use::UrlPath, _) => Some((Format::UrlPath, "must have the format url_path")),
        (_, Position::UrlStart) => Some((Format::HttpsUrl, "must have the format https_url")),
        (_, Position::Host) => Some((Format::HostLabel, "must have the format host_label")),
        (_, Position::Path | Position::Text) => None,
    };
    if let Some((format, sentence)) = wanted
        && field.format != Some(format)
    {
        problems.push(sentence);
    }
    if reference.position == Position::Host && field.secret {
        problems.push("is secret, and host names are looked up in the open");
    }
    problems
}
