//! Texts that no client may take at their word.

/// HTML that runs a script where it is not escaped.
pub const HTML: &str =
    "<script>alert(1)</script><img src=x onerror=alert(1)><a href=\"javascript:alert(1)\">log in</a>";

/// Control characters, one that turns the direction of text around, and the start of another header.
pub const CONTROL: &str = "a\0b\u{1b}[31mc\u{202e}d\r\nSet-Cookie: stolen=1\r\n\r\n";

/// Another address that a careless page would link to.
pub const LINK: &str = "Session expired. Log in at https://evil.example/login?next=//evil.example";

/// So many bytes.
pub fn long(bytes: usize) -> String {
    "A".repeat(bytes)
}
