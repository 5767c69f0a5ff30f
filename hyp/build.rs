//! Hands the linker script and the position-independent link to the linker.

fn main() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let script = root.join("linker").join("hyp.ld");
    println!("cargo:rerun-if-changed={}", script.display());
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        for arg in [
            &format!("-T{}", script.display()),
            "-pie",
            "--no-dynamic-linker",
            // The core library is compiled for static relocation: pointers in its read-only data are relocated too,
            // by boot.s, before the data becomes read-only.
            "-znotext",
            "-znorelro",
            "--apply-dynamic-relocs",
        ] {
            println!("cargo:rustc-link-arg-bins={arg}");
        }
    }
}
