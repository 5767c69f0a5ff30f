//! Hands the linker script to the guests' binaries, and lets programs outside of this workspace find it.

fn main() {
    println!("cargo::rerun-if-changed=../linker/guest.ld");
    let target = std::env::var("TARGET").unwrap_or_default();
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    if target.starts_with("aarch64-unknown-none") {
        println!("cargo::rustc-link-arg-bins=-T{here}/../linker/guest.ld");
        println!("cargo::rustc-link-search=native={here}/../linker");
    }
}
