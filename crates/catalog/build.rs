//! Makes a definition that was added or removed count as a change of the crate: the macro that embeds
//! the directory sees only the files that were there when it ran.

fn main() {
    println!("cargo::rerun-if-changed=providers");
}
