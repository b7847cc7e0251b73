use std::collections::BTreeSet;

use serde_json::Value;

use super::check_text;
use super::method::{TemplateCompiler, Use};
use crate::definition::{AccountDefinition, AnswerDefinition, Constant, ErrorDefinition, TestDefinition};
use crate::field::{check_header_name, is_header_text};
use crate::findings::Findings;
use crate::template::Source;
use crate::test::{AccountPointers, Answer, ErrorCodes, Expected};
use crate::tree::Place;
use crate::{Http, HttpMethod, Method, Template, Test, check_https_url};

/// The longest JSON pointer, in bytes.
const MAX_POINTER_LEN: usize = 256;

/// What holds for a method's test, and for the reason that it has none.
pub(super) fn check_test(method: &Method, has_base_url: bool, place: &Place, findings: &mut Findings) {
    if let Some(reason) = &method.no_test {
        let place = place.key("no_test");
        check_text(reason, &place, findings);
        if method.test.is_some() {
            findings.add(&place, "must be left out where there is a test");
        }
    }
    let needs_base_url = method.test.as_ref().is_some_and(|test| !test.is_absolute());
    if needs_base_url && !has_base_url && method.http.base_url.is_none() {
        findings
            .add(&place.key("test").key("request"), "has a path, but there is no base_url to put it behind");
    }
}

impl TemplateCompiler<'_> {
    /// Compiles the test of a method that puts its credential on requests like this.
    pub(super) fn test(&mut self, definition: TestDefinition, http: &Http, place: &Place) -> Option<Test> {
        let request = self.test_request(&definition.request, &place.key("request"));
        check_headers(&definition, http, place, self.findings);
        check_statuses(&definition, place, self.findings);
        check_account(&definition.account, &place.key("account"), self.findings);
        if let Some((http_method, _)) = request {
            check_bodies(http_method, &definition, place, self.findings);
        }
        let answer =
            definition.answer.map(|answer| compile_answer(answer, &place.key("answer"), self.findings));
        let ((http_method, target), account) = (request?, definition.account);
        Some(Test {
            http_method,
            target,
            headers: definition.headers.into_iter().collect(),
            body: definition.body,
            good: definition.good,
            dead: definition.dead,
            forbidden: definition.forbidden,
            answer,
            account: AccountPointers { id: account.id, name: account.name, email: account.email },
        })
    }

    fn test_request(&mut self, text: &str, place: &Place) -> Option<(HttpMethod, Template)> {
        let (method, target) = text.split_once(' ').unwrap_or((text, ""));
        let method = HttpMethod::ALL.into_iter().find(|known| known.as_str() == method);
        let Some(method) = method else {
            self.findings.add(place, "must begin with GET, HEAD or POST and a space");
            return None;
        };
        Some((method, self.test_target(target, place)?))
    }

    fn test_target(&mut self, text: &str, place: &Place) -> Option<Template> {
        let target = self.findings.accept(place, Template::parse_url(text))?;
        if let Some(reference) = target.sole_reference() {
            self.reference(reference, place, Use::UrlPath, true);
            return Some(target);
        }
        if !text.starts_with('/') && !text.starts_with("https://") {
            self.findings.add(place, "must go to a path that begins with a slash, or to an https URL");
            return None;
        }
        for reference in target.references() {
            if reference.source == Source::Credential && self.has_secret(&reference.field) {
                self.findings.add(place, "must not refer to a secret; a base_url under http can");
            }
            self.reference(reference, place, Use::Url, false);
        }
        self.check_sample_target(&target, place);
        Some(target)
    }

    /// Checks the text around the references, by filling in what each of them could be.
    fn check_sample_target(&mut self, target: &Template, place: &Place) {
        let Ok(text) = target.render(&|_| Some("x")) else { return };
        let url =
            if text.starts_with('/') { format!("https://host.example{}", *text) } else { text.to_string() };
        self.findings.accept(place, check_https_url(&url));
    }
}

fn check_headers(definition: &TestDefinition, http: &Http, place: &Place, findings: &mut Findings) {
    let headers = place.key("headers");
    let mut seen: BTreeSet<String> =
        http.headers.iter().map(|(name, _)| name.as_str().to_ascii_lowercase()).collect();
    seen.extend(http.basic.iter().map(|_| "authorization".to_owned()));
    for (name, value) in &definition.headers {
        let place = headers.key(name);
        findings.accept(&place, check_header_name(name));
        if !is_header_text(value) {
            findings.add(&place, "must be ASCII, since it is a header");
        }
        if !seen.insert(name.to_ascii_lowercase()) {
            findings.add(&place, "is a header that is set twice");
        }
    }
    if definition.body.is_some() && !seen.contains("content-type") {
        findings.add(&headers, "must have the Content-Type of the body");
    }
}

/// That there is a body only where one is sent, and that one is read only where there is one.
fn check_bodies(
    http_method: HttpMethod,
    definition: &TestDefinition,
    place: &Place,
    findings: &mut Findings,
) {
    if http_method != HttpMethod::Post && definition.body.is_some() {
        findings.add(&place.key("body"), "must be left out but for POST");
    }
    let reads = [("answer", definition.answer.is_some()), ("account", !definition.account.is_empty())];
    for (key, present) in reads {
        if present && http_method == HttpMethod::Head {
            findings.add(&place.key(key), "must be left out for HEAD, whose answer has no body");
        }
    }
}

/// That each status says one thing; that it is in its list's range, the schema has said.
fn check_statuses(definition: &TestDefinition, place: &Place, findings: &mut Findings) {
    let lists =
        [("good", &definition.good), ("dead", &definition.dead), ("forbidden", &definition.forbidden)];
    let mut seen = BTreeSet::new();
    for (key, statuses) in lists {
        for (number, status) in statuses.iter().enumerate() {
            let place = place.key(key).item(number);
            if *status == 429 {
                findings.add(&place, "must not be 429, which is always a limit");
            }
            if !seen.insert(*status) {
                findings.add(&place, "is there twice");
            }
        }
    }
}

fn check_account(definition: &AccountDefinition, place: &Place, findings: &mut Findings) {
    for (key, pointer) in definition.pointers() {
        if let Some(pointer) = pointer {
            check_pointer(pointer, &place.key(key), findings);
        }
    }
}

fn compile_answer(definition: AnswerDefinition, place: &Place, findings: &mut Findings) -> Answer {
    if definition.ok.is_none() && definition.error.is_none() {
        findings.add(place, "must have the key ok or the key error");
    }
    let ok = definition.ok.map(|ok| {
        check_pointer(&ok.pointer, &place.key("ok").key("pointer"), findings);
        Expected { pointer: ok.pointer, equals: ok.equals.0 }
    });
    let error = definition.error.map(|error| compile_error(error, &place.key("error"), findings));
    Answer { ok, error }
}

fn compile_error(definition: ErrorDefinition, place: &Place, findings: &mut Findings) -> ErrorCodes {
    check_pointer(&definition.pointer, &place.key("pointer"), findings);
    let lists =
        [("dead", &definition.dead), ("forbidden", &definition.forbidden), ("limited", &definition.limited)];
    let mut seen = BTreeSet::new();
    for (key, codes) in lists {
        for (number, code) in codes.iter().enumerate() {
            if !seen.insert(code.0.to_string()) {
                findings.add(&place.key(key).item(number), "is there twice");
            }
        }
    }
    if seen.is_empty() {
        findings.add(place, "must list a code");
    }
    ErrorCodes {
        pointer: definition.pointer,
        dead: values(definition.dead),
        forbidden: values(definition.forbidden),
        limited: values(definition.limited),
    }
}

pub(super) fn values(codes: Vec<Constant>) -> Vec<Value> {
    codes.into_iter().map(|code| code.0).collect()
}

/// Checks a JSON pointer to something inside a document (RFC 6901, section 3).
pub(super) fn check_pointer(pointer: &str, place: &Place, findings: &mut Findings) {
    let escapes = pointer.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    if !pointer.starts_with('/') || !escapes {
        findings.add(place, "must be a JSON pointer, such as /user/id, with ~0 for ~ and ~1 for /");
    }
    if pointer.len() > MAX_POINTER_LEN {
        findings.add(place, "must be at most 256 bytes");
    }
}
