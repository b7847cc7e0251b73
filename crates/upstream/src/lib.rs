//! What is said to providers. Today one thing: "is this credential good?"
//!
//! Everything leaves through egress, which decides whether an address may be called at all. Nothing that a provider
//! answers is passed on but what its definition names: what the answer says about the credential, and whose it
//! is. Providers' texts, headers and bodies end here.

mod test;

use keyholder_egress::Egress;

pub use test::Tested;

/// The way to providers.
#[derive(Debug)]
pub struct Upstream {
    egress: Egress,
}

impl Upstream {
    /// The way to providers, through an egress.
    pub const fn new(egress: Egress) -> Self {
        Self { egress }
    }

    /// The egress, to judge addresses before they are called.
    pub const fn egress(&self) -> &Egress {
        &self.egress
    }
}
