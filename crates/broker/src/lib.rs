//! The use cases: connect, grant, resolve, revoke.
