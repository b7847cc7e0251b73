//! Who is on the other end of mTLS: rustls configuration, peer identity from the certificate, workload policy.
