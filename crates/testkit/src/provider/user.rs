/// An account at the provider. Every name is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// What the provider calls it, such as `user-ada`. It never changes.
    pub id: String,
    /// Its name, such as `Ada Lovelace`.
    pub name: String,
    /// Its e-mail address, such as `ada@example.com`.
    pub email: String,
}

/// Whom the page offers.
pub(super) const OFFERED: [&str; 3] = ["ada", "bob", "eve"];

impl User {
    /// The account of a name, such as `ada`.
    pub fn of(account: &str) -> Self {
        let name = match account {
            "ada" => "Ada Lovelace",
            "bob" => "Bob Kahn",
            "eve" => "Eve Moneypenny",
            other => other,
        };
        Self { id: format!("user-{account}"), name: name.to_owned(), email: format!("{account}@example.com") }
    }
}
