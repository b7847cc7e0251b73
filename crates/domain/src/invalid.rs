/// A value from outside that cannot be what it claims to be.
///
/// Carries the rule that was broken, never the value: a value may be a secret in the wrong field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub &'static str);
