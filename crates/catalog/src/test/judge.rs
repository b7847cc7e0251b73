//! From an answer to what it says. Pure: the same answer always says the same.

use keyholder_domain::{TestClass, Text};
use serde_json::Value;

use crate::test::{AccountPointers, Answer, ErrorCodes, Expected};
use crate::{Test, TestOutcome, TestedAccount};

/// The longest body that is read, in bytes.
const MAX_BODY_LEN: usize = 1024 * 1024;

impl Test {
    /// What an answer says about the credential.
    ///
    /// 429 is always [`TestClass::Limited`] and 5xx always [`TestClass::Unavailable`]; a status that the
    /// definition does not name is [`TestClass::Unclear`]. Of the body, nothing but the account's id, name
    /// and e-mail address ever comes out. A body over 1 MiB is not read.
    pub fn judge(&self, status: u16, body: &[u8]) -> TestOutcome {
        let by_status = self.class_of(status);
        let says_something = matches!(by_status, TestClass::Good | TestClass::Dead | TestClass::Forbidden);
        if !says_something {
            return TestOutcome { class: by_status, account: None };
        }
        let body: Option<Value> =
            (body.len() <= MAX_BODY_LEN).then(|| serde_json::from_slice(body).ok()).flatten();
        let class = match (&self.answer, &body) {
            (None, _) => by_status,
            (Some(_), None) => TestClass::Unclear,
            (Some(answer), Some(body)) => answer.refine(by_status, body),
        };
        let account = body.filter(|_| class == TestClass::Good).and_then(|body| self.account.read(&body));
        TestOutcome { class, account }
    }

    fn class_of(&self, status: u16) -> TestClass {
        match status {
            429 => TestClass::Limited,
            500..=599 => TestClass::Unavailable,
            _ if self.good.contains(&status) => TestClass::Good,
            _ if self.dead.contains(&status) => TestClass::Dead,
            _ if self.forbidden.contains(&status) => TestClass::Forbidden,
            _ => TestClass::Unclear,
        }
    }
}

impl Answer {
    /// What the body makes of what the status says. In doubt nothing: a credential that is wrongly called
    /// dead costs its owner more than one that stays in use until the next refusal.
    fn refine(&self, by_status: TestClass, body: &Value) -> TestClass {
        if let Some(ok) = &self.ok
            && ok.holds_in(body)
        {
            return if by_status == TestClass::Good { TestClass::Good } else { TestClass::Unclear };
        }
        if let Some(named) = self.error.as_ref().and_then(|error| error.class_in(body)) {
            return named;
        }
        let must_be_named = self.error.as_ref().is_some_and(|error| !error.codes(by_status).is_empty());
        let must_be_ok = self.ok.is_some() && by_status == TestClass::Good;
        if must_be_named || must_be_ok { TestClass::Unclear } else { by_status }
    }
}

impl Expected {
    fn holds_in(&self, body: &Value) -> bool {
        body.pointer(&self.pointer) == Some(&self.equals)
    }
}

impl ErrorCodes {
    /// What the body's code says, if it is one of those that are listed.
    fn class_in(&self, body: &Value) -> Option<TestClass> {
        let code = body.pointer(&self.pointer)?;
        [TestClass::Dead, TestClass::Forbidden, TestClass::Limited]
            .into_iter()
            .find(|class| self.codes(*class).contains(code))
    }

    fn codes(&self, class: TestClass) -> &[Value] {
        match class {
            TestClass::Dead => &self.dead,
            TestClass::Forbidden => &self.forbidden,
            TestClass::Limited => &self.limited,
            TestClass::Good | TestClass::Unavailable | TestClass::Unclear | TestClass::Refused => &[],
        }
    }
}

impl AccountPointers {
    pub(crate) fn read(&self, body: &Value) -> Option<TestedAccount> {
        let word = |pointer: &Option<String>| word(body.pointer(pointer.as_deref()?)?);
        let account = TestedAccount { id: word(&self.id), name: word(&self.name), email: word(&self.email) };
        (account.id.is_some() || account.name.is_some() || account.email.is_some()).then_some(account)
    }
}

/// A text or a number as words for people; nothing of what could break a line or deceive a reader.
fn word(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    let text = Text::parse(&text).ok().filter(|text| !text.is_empty())?;
    Some(text.as_str().to_owned())
}
