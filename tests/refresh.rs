//! Connections that are refreshed: no token lost, none late, none twice.

mod ahead;
