//! Secret types, sealing and the key ring.
