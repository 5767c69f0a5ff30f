//! Invariants of the sources that no compiler checks. Each rule is a function from a file's text to its violations, and
//! each has a test that a violating snippet is caught.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the project's root")
        .to_path_buf()
}

/// A source file: its path from the root with forward slashes, and its text.
struct Source {
    path: String,
    text: String,
}

fn sources(extensions: &[&str]) -> Vec<Source> {
    let mut folders: Vec<PathBuf> = ["hyp", "guest", "xtask", "linker", "docs", ".ci"]
        .iter()
        .map(|d| root().join(d))
        .collect();
    let mut found = Vec::new();
    let mut files: Vec<PathBuf> = std::fs::read_dir(root())
        .expect("the root")
        .flatten()
        .map(|e| e.path())
        // In a linked work tree `.git` is a file that names a path.
        .filter(|p| p.is_file() && p.file_name().is_none_or(|n| n != ".git"))
        .collect();
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|e| e.path()) {
            if path.is_dir() {
                if path.file_name().is_none_or(|n| n != "target") {
                    folders.push(path);
                }
            } else {
                files.push(path);
            }
        }
    }
    for path in files {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
        if extensions.contains(&extension)
            && let Ok(text) = std::fs::read_to_string(&path)
        {
            let path = path
                .strip_prefix(root())
                .expect("inside the root")
                .to_string_lossy()
                .replace('\\', "/");
            found.push(Source { path, text });
        }
    }
    assert!(!found.is_empty(), "no sources found: the walk is broken");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// A file's code: without comments, strings kept. Good enough for words that appear in no string here.
fn code(text: &str) -> String {
    text.lines()
        .map(|line| line.split_once("//").map_or(line, |(code, _)| code))
        .collect::<Vec<_>>()
        .join("\n")
}

/// A file's code without its unit tests, which stand last.
fn product(text: &str) -> String {
    let code = code(text);
    code.split("#[cfg(test)]\nmod ").next().unwrap_or("").to_owned()
}

fn has_word(text: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back().is_none_or(|c| !is_word(c));
        let after = text[at + word.len()..].chars().next().is_none_or(|c| !is_word(c));
        before && after
    })
}

fn check(extensions: &[&str], rule: impl Fn(&str, &str) -> Vec<String>) {
    let problems: Vec<String> = sources(extensions)
        .iter()
        .flat_map(|s| rule(&s.path, &s.text).into_iter().map(move |p| format!("{}: {p}", s.path)))
        .collect();
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

// ---- instructions and registers

/// Where instructions and system registers may be named in code.
fn may_touch_the_machine(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or("");
    let stem = name.split('.').next().unwrap_or("");
    // The guest package is bare-metal code throughout: its runtime and its tests poke what they test.
    path.starts_with("hyp/src/arch/")
        || path.starts_with("guest/")
        || path.starts_with("hyp/src/") && matches!(stem, "arch" | "boot" | "trap")
}

/// Files whose volatile accesses go to memory, not to a device: stage-2 tables, and the fault that a test asks for.
const VOLATILE_MEMORY: [&str; 2] = ["hyp/src/vm.rs", "hyp/src/trigger.rs"];

fn machine_rule(path: &str, text: &str) -> Vec<String> {
    if may_touch_the_machine(path) || !path.ends_with(".rs") || path.starts_with("xtask/") {
        return Vec::new();
    }
    let code = product(text);
    let mut problems = Vec::new();
    for word in ["asm!", "global_asm!", "naked_asm!", "aarch64_cpu"] {
        if has_word(&code, word.trim_end_matches('!')) && (!word.ends_with('!') || code.contains(word)) {
            problems.push(format!("`{word}` outside of hyp/src/arch, boot and trap"));
        }
    }
    for access in ["read_volatile", "write_volatile"] {
        if code.contains(access) && !VOLATILE_MEMORY.contains(&path) {
            problems.push(format!("`{access}`: MMIO outside of hyp/src/arch, boot and trap"));
        }
    }
    problems
}

#[test]
fn instructions_and_registers_stay_in_arch_boot_and_trap() {
    check(&["rs"], machine_rule);
}

#[test]
fn an_instruction_in_the_run_loop_is_caught() {
    assert_eq!(machine_rule("hyp/src/run.rs", "fn f() { unsafe { asm!(\"wfi\") } }").len(), 1);
    assert_eq!(machine_rule("hyp/core/src/psci.rs", "use aarch64_cpu::registers::*;").len(), 1);
    assert_eq!(machine_rule("hyp/src/host.rs", "unsafe { p.read_volatile() }").len(), 1);
    assert!(machine_rule("hyp/src/arch/cpu.rs", "asm!(\"wfi\")").is_empty());
    assert!(machine_rule("hyp/src/run.rs", "// asm!(\"wfi\") would not do").is_empty());
}

// ---- arrows between the packages

/// What each package may depend on, of ours.
const ARROWS: [(&str, &[&str]); 5] = [
    ("hyp/abi", &[]),
    ("hyp/core", &["hyp-abi"]),
    ("hyp", &["hyp-abi", "hyp-core"]),
    ("guest", &["hyp-abi"]),
    ("xtask", &["hyp-abi", "hyp-core"]),
];

const OURS: [&str; 5] = ["hyp-abi", "hyp-core", "hyp", "guest", "xtask"];

fn arrow_rule(path: &str, text: &str) -> Vec<String> {
    let Some(folder) = path.strip_suffix("/Cargo.toml") else {
        return Vec::new();
    };
    let allowed = ARROWS.iter().find(|(f, _)| *f == folder).map_or(&[][..], |(_, a)| a);
    let mut section = String::new();
    let mut problems = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned();
        } else if section.ends_with("dependencies") {
            let name = line.split(['=', '.', ' ']).next().unwrap_or("").trim_matches('"');
            if OURS.contains(&name) && !allowed.contains(&name) {
                problems.push(format!("[{section}] names {name}; {folder} may depend on {allowed:?} of ours"));
            }
        }
    }
    problems
}

#[test]
fn arrows_between_the_packages_point_one_way() {
    check(&["toml"], arrow_rule);
}

#[test]
fn an_arrow_the_wrong_way_is_caught() {
    assert_eq!(arrow_rule("hyp/core/Cargo.toml", "[dependencies]\nhyp.workspace = true\n").len(), 1);
    assert_eq!(
        arrow_rule(
            "guest/Cargo.toml",
            "[target.'cfg(x)'.dependencies]\nhyp-core = { path = \"../hyp/core\" }\n"
        )
        .len(),
        1
    );
    assert!(arrow_rule("hyp/Cargo.toml", "[dependencies]\nhyp-core.workspace = true\n").is_empty());
}

#[test]
fn every_package_has_its_arrows_listed() {
    for (folder, _) in ARROWS {
        assert!(root().join(folder).join("Cargo.toml").is_file(), "{folder}");
    }
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("the workspace");
    let members = manifest.lines().find(|l| l.starts_with("members")).expect("members");
    assert_eq!(members.matches('"').count() / 2, ARROWS.len(), "{members}");
}

// ---- rooms of hyp-core

/// Modules of hyp-core that do not know each other.
const ROOMS: [&str; 4] = ["vgic", "psci", "stage2", "fdt"];

fn room_rule(path: &str, text: &str) -> Vec<String> {
    let Some(inside) = path.strip_prefix("hyp/core/src/") else {
        return Vec::new();
    };
    let room = inside.split(['/', '.']).next().unwrap_or("");
    if !ROOMS.contains(&room) {
        return Vec::new();
    }
    let code = product(text);
    let others = ROOMS.iter().filter(|other| **other != room);
    others
        .filter(|other| {
            let listed = code
                .lines()
                .any(|l| l.trim_start().starts_with("use crate::{") && has_word(l, other));
            listed
                || code
                    .match_indices(&format!("crate::{other}"))
                    .any(|(at, path)| !code[at + path.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        })
        .map(|other| format!("{room} imports {other}"))
        .collect()
}

#[test]
fn vgic_psci_stage2_and_fdt_do_not_import_each_other() {
    check(&["rs"], room_rule);
}

#[test]
fn a_psci_that_imports_the_vgic_is_caught() {
    assert_eq!(room_rule("hyp/core/src/psci.rs", "use crate::vgic::Dist;"), ["psci imports vgic"]);
    assert_eq!(
        room_rule("hyp/core/src/psci/on.rs", "use crate::{types::Ipa, stage2};"),
        ["psci imports stage2"]
    );
    assert_eq!(
        room_rule("hyp/core/src/vgic/lr.rs", "fn f() { crate::fdt::parse() }"),
        ["vgic imports fdt"]
    );
    assert!(room_rule("hyp/core/src/vgic/lr.rs", "use crate::vgic::redist; use hyp_abi::psci;").is_empty());
    assert!(room_rule("hyp/core/src/forward.rs", "use crate::psci;").is_empty());
}

// ---- unsafe

/// Files of the EL2 image that may say `unsafe`, beside hyp/src/arch, boot and trap. Each has a reason of its own, given
/// in its first lines or at the block.
const UNSAFE: [&str; 0] = [];

fn unsafe_rule(path: &str, text: &str) -> Vec<String> {
    // hyp-core and hyp-abi forbid it in the compiler; the guests are bare-metal programs.
    if path.starts_with("guest/")
        || UNSAFE.contains(&path)
        || path.starts_with("hyp/src/") && (may_touch_the_machine(path) || declares_unsafe(path))
    {
        return Vec::new();
    }
    if has_word(&product(text), "unsafe") && !path.starts_with("xtask/tests/") {
        vec!["`unsafe` in a file that is not listed".to_owned()]
    } else {
        Vec::new()
    }
}

/// `hyp/src/main.rs` marks the modules that may say `unsafe`: `#[allow(unsafe_code)]` before `mod name;`.
fn declares_unsafe(path: &str) -> bool {
    let main = std::fs::read_to_string(root().join("hyp/src/main.rs")).unwrap_or_default();
    marked_modules(&main)
        .iter()
        .any(|module| path == format!("hyp/src/{module}.rs") || path.starts_with(&format!("hyp/src/{module}/")))
        || path == "hyp/src/main.rs" && has_word(&main, "unsafe_code")
}

fn marked_modules(main: &str) -> Vec<String> {
    let lines: Vec<&str> = main.lines().map(str::trim).collect();
    let mut found = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let module = line
            .trim_start_matches("pub(crate) ")
            .strip_prefix("mod ")
            .and_then(|l| l.strip_suffix(';'));
        let marked = lines[..i]
            .iter()
            .rev()
            .take_while(|l| l.starts_with("#[") || l.starts_with("//"))
            .any(|l| l.contains("allow(unsafe_code"));
        if let (Some(module), true) = (module, marked) {
            found.push(module.to_owned());
        }
    }
    found
}

#[test]
fn unsafe_stays_in_the_listed_modules() {
    check(&["rs"], unsafe_rule);
}

#[test]
fn an_unsafe_block_elsewhere_is_caught() {
    assert_eq!(unsafe_rule("xtask/src/run.rs", "fn f() { unsafe { g() } }").len(), 1);
    assert!(unsafe_rule("hyp/src/arch/mmu.rs", "unsafe { g() }").is_empty());
    assert!(unsafe_rule("xtask/src/run.rs", "// unsafe would be wrong\n#![forbid(unsafe_code)]").is_empty());
    assert_eq!(
        marked_modules("#[allow(unsafe_code, reason = \"x\")]\nmod heap;\nmod run;\n"),
        ["heap"]
    );
}

#[test]
fn the_decisions_forbid_unsafe_in_the_compiler() {
    for file in ["hyp/abi/src/lib.rs", "hyp/core/src/lib.rs", "xtask/src/main.rs"] {
        let text = std::fs::read_to_string(root().join(file)).expect(file);
        assert!(text.contains("#![forbid(unsafe_code)]"), "{file}");
    }
}

// ---- words

/// Paths of one machine, and the like, that would mean nothing to a reader elsewhere. Written in two parts, so that this
/// file does not break its own rule.
fn private_words() -> Vec<String> {
    [("/wo", "rk/"), ("/tmp/", "umbra"), ("/home", "/"), ("/ro", "ot/")]
        .iter()
        .map(|(a, b)| format!("{a}{b}"))
        .collect()
}

fn word_rule(_: &str, text: &str) -> Vec<String> {
    private_words()
        .into_iter()
        .filter(|word| text.contains(word.as_str()))
        .map(|word| format!("mentions {word}"))
        .collect()
}

#[test]
fn nothing_refers_to_one_persons_machine() {
    check(&["rs", "s", "ld", "toml", "md", "sh", ""], word_rule);
}

#[test]
fn a_private_path_is_caught() {
    for word in private_words() {
        assert_eq!(word_rule("README.md", &format!("see {word}x")).len(), 1);
    }
    assert!(word_rule("README.md", "see docs/devicetree.md").is_empty());
}

// ---- the first lines

fn first_line_rule(path: &str, text: &str) -> Vec<String> {
    let first = text.lines().find(|l| !l.trim().is_empty()).unwrap_or("");
    let fine = match path.rsplit('.').next() {
        Some("rs") => first.starts_with("//!"),
        Some("s") => first.starts_with("//") || first.starts_with("/*"),
        Some("ld") => first.starts_with("/*"),
        _ => true,
    };
    if fine {
        Vec::new()
    } else {
        vec![format!("does not say first what it is: {first:?}")]
    }
}

#[test]
fn every_file_says_first_what_it_is() {
    check(&["rs", "s", "ld"], first_line_rule);
}

#[test]
fn a_file_that_begins_with_code_is_caught() {
    assert_eq!(first_line_rule("a.rs", "use x;").len(), 1);
    assert_eq!(first_line_rule("a.s", ".section x").len(), 1);
    assert!(first_line_rule("a.rs", "\n//! A.\nuse x;").is_empty());
}

// ---- links

/// Files that Markdown links to must be there.
fn link_rule(path: &str, text: &str) -> Vec<String> {
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    let mut problems = Vec::new();
    for part in text.split("](").skip(1) {
        let target = part.split([')', '#']).next().unwrap_or("");
        if target.is_empty() || target.contains("://") {
            continue;
        }
        if !root().join(folder).join(target).exists() {
            problems.push(format!("links to {target}, which is not there"));
        }
    }
    problems
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut by_file: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let documents = || {
        let mut found = Vec::new();
        for folder in ["", "docs"] {
            for path in std::fs::read_dir(root().join(folder))
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.path())
            {
                if path.extension().is_some_and(|e| e == "md") {
                    found.push(path);
                }
            }
        }
        found
    };
    for path in documents() {
        let text = std::fs::read_to_string(&path).expect("a document");
        let name = path.strip_prefix(root()).expect("inside the root").to_string_lossy().into_owned();
        let problems = link_rule(&name, &text);
        if !problems.is_empty() {
            by_file.insert(name, problems);
        }
    }
    assert!(by_file.is_empty(), "{by_file:?}");
}

#[test]
fn a_link_to_nowhere_is_caught() {
    assert_eq!(link_rule("README.md", "see [this](docs/no-such-page.md)").len(), 1);
    assert!(
        link_rule(
            "README.md",
            "see [this](Cargo.toml) and [that](https://example.org/x) and [here](#top)"
        )
        .is_empty()
    );
}
