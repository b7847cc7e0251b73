//! A new migration must rebuild what embeds it.
fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
