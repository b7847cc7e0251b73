//! Facts about whole calls: real name servers, real sockets, real TLS, on loopback. The only thing that is
//! not real is where a public address leads: the tap sends the socket to a server of the test instead.

mod corpus;
mod dns;
mod documentation;
mod hostile;
mod local;
mod log;
mod never_dialled;
mod resolver;
mod reuse;
mod server;
pub(crate) mod tap;
