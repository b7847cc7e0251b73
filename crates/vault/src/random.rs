use ring::rand::{SecureRandom as _, SystemRandom};

/// Random bytes from the operating system, fit for keys, states and ids.
///
/// # Panics
///
/// If the operating system has no random bytes to give; nothing can be kept safe then.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_draws_differ() {
        assert_ne!(random_bytes::<32>(), random_bytes::<32>());
    }
}
