use std::fmt::Display;

use keyholder_broker::{FieldError, Idempotency};
use keyholder_domain::{Generation, Invalid, RequestId, Timestamp};
use prost::Message;
use zeroize::Zeroizing;

use crate::problem::Problem;

/// How many things that are wrong with one request are told.
const MAX_ERRORS: usize = 20;

/// Reads the fields of a request and collects what is wrong with them.
#[derive(Debug, Default)]
pub struct Reader {
    errors: Vec<FieldError>,
}

impl Reader {
    /// Nothing is wrong yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that a field is wrong.
    pub fn wrong(&mut self, field: impl Into<String>, problem: impl Display) {
        // Enough to mend the request by; a request with a million faults must not cost a million answers.
        if self.errors.len() >= MAX_ERRORS {
            return;
        }
        self.errors.push(FieldError::invalid(field, problem.to_string()));
    }

    /// Reads a field that must be given.
    pub fn required<T>(
        &mut self,
        field: &str,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, Invalid>,
    ) -> Option<T> {
        if text.is_empty() {
            self.wrong(field, "must be given");
            return None;
        }
        self.checked(field, parse(text))
    }

    /// Reads a field that may be empty.
    pub fn optional<T>(
        &mut self,
        field: &str,
        text: &str,
        parse: impl FnOnce(&str) -> Result<T, Invalid>,
    ) -> Option<T> {
        if text.is_empty() { None } else { self.checked(field, parse(text)) }
    }

    /// Takes a value that was parsed elsewhere.
    pub fn checked<T>(&mut self, field: &str, result: Result<T, Invalid>) -> Option<T> {
        result.map_err(|error| self.wrong(field, error)).ok()
    }

    /// Reads a moment between the years 1 and 9999.
    pub fn moment(&mut self, field: &str, moment: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
        let moment = moment?;
        let whole = Timestamp::from_unix_timestamp(moment.seconds).ok().filter(|whole| whole.year() >= 1);
        // Postgres keeps microseconds, so finer time would not be read back as it was written.
        let read = whole.and_then(|whole| {
            let nanos = u32::try_from(moment.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
            whole.replace_nanosecond(nanos / 1_000 * 1_000).ok()
        });
        if read.is_none() {
            self.wrong(field, "must be a moment between the years 1 and 9999");
        }
        read
    }

    /// The value, unless anything was wrong. `None` stands for a field that was noted as wrong.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Problem> {
        match value {
            Some(value) if self.errors.is_empty() => Ok(value),
            _ => Err(Problem::fields(self.errors)),
        }
    }
}

/// Reads an etag; empty: none was given. Only what `to_etag` writes is one.
pub fn etag(reader: &mut Reader, field: &str, text: &str) -> Option<Generation> {
    reader.optional(field, text, |text| {
        let number = text.strip_prefix('g').and_then(|digits| digits.parse().ok());
        let generation = number.and_then(|number| Generation::new(number).ok());
        let rule = Invalid("must be the etag of a message that was read");
        generation.filter(|generation| to_etag(*generation) == text).ok_or(rule)
    })
}

/// Writes the etag of a generation.
pub(super) fn to_etag(generation: Generation) -> String {
    format!("g{generation}")
}

/// What makes a create idempotent: its request id, and the request without it.
pub fn idempotency<M: Message>(reader: &mut Reader, request_id: &str, without_id: &M) -> Option<Idempotency> {
    let request_id = reader.optional("request_id", request_id, RequestId::parse)?;
    // Maps are ordered, so one request has one encoding. The whole length at once: a buffer that grows
    // would leave secrets behind.
    let mut body = Zeroizing::new(Vec::with_capacity(without_id.encoded_len()));
    if without_id.encode(&mut *body).is_err() {
        reader.wrong("request_id", "cannot be used with this request");
        return None;
    }
    Some(Idempotency { request_id, body })
}
