//! Hands the linker script and the position-independent link to the linker.

/// Bytes of the boot heap in the image: `boot.rs` says what must fit into it.
const HEAP: usize = 96 << 10;

fn main() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let script = root.join("linker").join("hyp.ld");
    println!("cargo:rerun-if-changed={}", script.display());
    println!("cargo:rustc-env=UMBRA_BOOT_HEAP={HEAP}");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        // Without optimisation every temporary has its place.
        let optimised = std::env::var("OPT_LEVEL").is_ok_and(|level| level != "0");
        let stack = if optimised { 12 << 10 } else { 128 << 10 };
        for arg in [
            &format!("-T{}", script.display()),
            &format!("--defsym=__boot_stack_size={stack}"),
            &format!("--defsym=__boot_heap_size={HEAP}"),
            "-pie",
            "--no-dynamic-linker",
            // The core library is compiled for static relocation: pointers in its read-only data are relocated too,
            // by boot.s, before the data becomes read-only.
            "-znotext",
            "-znorelro",
            "--apply-dynamic-relocs",
            // All of them are of one kind, and so take a bit each instead of 24 bytes.
            "--pack-dyn-relocs=relr",
            // Cortex-A53 up to r0p4: what the compiler gives is mended where it lies so; xtask looks at what is in assembly, too.
            "--fix-cortex-a53-843419",
        ] {
            println!("cargo:rustc-link-arg-bins={arg}");
        }
    }
}
