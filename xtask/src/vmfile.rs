//! VM files: the TOML schema, its defaults, and every check that needs no other VM.

use crate::fail::usage;
use crate::flatten;
use anyhow::{Context, Result};
use hyp_abi::errno::Errno;
use hyp_abi::layout;
use hyp_core::fdt::vms::{MAX_DEADLINE_MS, MAX_DEVICES};
use hyp_core::filter::{Action, Filter};
use hyp_core::image::{self, Format, HEADER_SIZE};
use hyp_core::types::Range;
use serde::Deserialize;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// RAM of a VM whose file names no size.
pub(crate) const DEFAULT_RAM: u64 = 256 << 20;
/// How long a forwarded call waits for its answer when the file does not say.
pub(crate) const DEFAULT_FORWARD_DEADLINE_MS: u32 = 5000;
/// Stage 2 maps RAM in blocks of this size.
pub(crate) const BLOCK: u64 = 2 << 20;
/// Where a raw binary goes above the base of RAM.
const RAW_OFFSET: u64 = 0x8_0000;
/// The longest VM name: lines of the console begin with it.
const MAX_NAME: usize = 24;
/// The longest command line.
const MAX_BOOTARGS: usize = 2047;
/// Room that a generated device tree may take in a VM's RAM.
pub(crate) const DTB_ROOM: u64 = 64 << 10;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    vcpus: Option<u32>,
    pcpus: Option<Vec<u32>>,
    bootargs: Option<String>,
    initrd: Option<PathBuf>,
    dtb: Option<DtbField>,
    #[serde(default)]
    strict: bool,
    on_pending: Option<bool>,
    forward_deadline_ms: Option<u32>,
    #[serde(default)]
    smccc_filter: Vec<FilterField>,
    #[serde(default)]
    devices: Vec<String>,
    #[serde(default)]
    ram: RamField,
    image: ImageField,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "\"above-image\", \"none\" or an address")]
enum DtbField {
    Address(u64),
    Word(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilterField {
    base: u32,
    count: u32,
    action: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RamField {
    base: Option<u64>,
    size: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageField {
    path: PathBuf,
    load: Option<u64>,
    entry: Option<u64>,
}

/// Where a VM's device tree goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dtb {
    /// Above its image.
    AboveImage,
    /// It gets none.
    None,
    /// At this IPA.
    At(u64),
}

/// One range of the SMCCC filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FilterEntry {
    /// The first function identifier.
    pub(crate) base: u32,
    /// How many.
    pub(crate) count: u32,
    /// What happens to them.
    pub(crate) action: Action,
}

/// A file that is loaded for a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Module {
    /// The file that QEMU loads.
    pub(crate) file: PathBuf,
    /// How long it is.
    pub(crate) size: u64,
}

/// A VM's image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// What the user named, for messages and symbols.
    pub(crate) source: PathBuf,
    /// The flat file.
    pub(crate) module: Module,
    /// Where it goes (IPA).
    pub(crate) load: u64,
    /// Where it is entered (IPA).
    pub(crate) entry: u64,
    /// How much memory it takes from `load` on.
    pub(crate) memory: u64,
}

/// One VM, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vm {
    /// What messages call its description: the file's path, or what made it.
    pub(crate) origin: String,
    /// Its name.
    pub(crate) name: String,
    /// Whether it is the host partition.
    pub(crate) host: bool,
    /// How many vCPUs.
    pub(crate) vcpus: u32,
    /// Where each runs; empty until [`crate::plan`] assigns them.
    pub(crate) pcpus: Vec<u32>,
    /// Its RAM (IPA).
    pub(crate) ram: Range,
    /// Its command line.
    pub(crate) bootargs: String,
    /// Its initial RAM disk.
    pub(crate) initrd: Option<Module>,
    /// Where its device tree goes.
    pub(crate) dtb: Dtb,
    /// Whether every `ICC_CTLR_EL1` access traps.
    pub(crate) strict: bool,
    /// Whether losers of a forwarded `CPU_ON` see `ON_PENDING`.
    pub(crate) on_pending: bool,
    /// How long a forwarded call waits for its answer.
    pub(crate) forward_deadline_ms: u32,
    /// Its SMCCC filter.
    pub(crate) filter: Vec<FilterEntry>,
    /// Its image.
    pub(crate) image: Image,
    /// Paths of the machine's devices that it is given.
    pub(crate) devices: Vec<String>,
}

impl Vm {
    /// Whether a call of this VM can reach the host partition.
    pub(crate) fn forwards(&self) -> bool {
        self.filter.iter().any(|f| f.action == Action::Forward)
    }

    /// What to say about devices that are passed to it.
    pub(crate) fn device_warning(&self) -> Option<String> {
        (!self.devices.is_empty()).then(|| {
            format!(
                "{}: devices: there is no SMMU: a device that does DMA could write anywhere, Umbra included; only those that do none can be passed",
                self.origin
            )
        })
    }

    /// What to say about calls that the filter treats in one width only.
    pub(crate) fn one_width_warnings(&self) -> Vec<String> {
        const PAIRS: [(&str, u32); 6] = [
            ("CPU_SUSPEND", hyp_abi::psci::CPU_SUSPEND_32),
            ("CPU_ON", hyp_abi::psci::CPU_ON_32),
            ("AFFINITY_INFO", hyp_abi::psci::AFFINITY_INFO_32),
            ("SYSTEM_SUSPEND", hyp_abi::psci::SYSTEM_SUSPEND_32),
            ("SYSTEM_RESET2", hyp_abi::psci::SYSTEM_RESET2_32),
            ("SYSTEM_OFF2", hyp_abi::psci::SYSTEM_OFF2_32),
        ];
        let action = |id: u32| {
            self.filter
                .iter()
                .find(|f| id.checked_sub(f.base).is_some_and(|d| d < f.count))
                .map(|f| f.action)
        };
        PAIRS
            .iter()
            .filter_map(|&(name, narrow)| {
                let wide = narrow | 0x4000_0000;
                let (a, b) = (action(narrow), action(wide));
                (a.unwrap_or(Action::Handle) != b.unwrap_or(Action::Handle)).then(|| {
                    format!(
                        "{}: smccc_filter treats {name} differently as SMC32 ({narrow:#x}) and SMC64 ({wide:#x}): a guest can choose; list both",
                        self.origin
                    )
                })
            })
            .collect()
    }
}

/// Says what is wrong with a field of a VM file.
fn bad(origin: &str, field: &str, reason: impl std::fmt::Display) -> anyhow::Error {
    usage(format!("{origin}: {field}: {reason}"))
}

/// Reads and checks one VM file. Flattened images go to `scratch`.
pub(crate) fn read(path: &Path, scratch: &Path) -> Result<Vm> {
    let origin = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|e| usage(format!("{origin}: cannot read this VM file: {e}")))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    parse(&origin, &text, folder, scratch)
}

/// Checks the `text` of a VM file whose relative paths are meant from `folder`.
pub(crate) fn parse(origin: &str, text: &str, folder: &Path, scratch: &Path) -> Result<Vm> {
    let file: File = toml::from_str(text).map_err(|e| usage(format!("{origin}: {}", e.to_string().trim_end())))?;
    let bad = |field: &str, reason: String| bad(origin, field, reason);

    check_name(&file.name).map_err(|e| bad("name", e))?;
    let vcpus = match (&file.vcpus, &file.pcpus) {
        (Some(n), _) => *n,
        (None, Some(list)) => u32::try_from(list.len()).unwrap_or(u32::MAX),
        (None, None) => 1,
    };
    if vcpus == 0 || vcpus as usize > layout::MAX_VCPUS {
        return Err(bad("vcpus", format!("{vcpus} vCPUs; a VM has 1 to {}", layout::MAX_VCPUS)));
    }
    let pcpus = file.pcpus.unwrap_or_default();
    if !pcpus.is_empty() && pcpus.len() != vcpus as usize {
        return Err(bad(
            "pcpus",
            format!("{} entries for {vcpus} vCPUs; name one pCPU for each vCPU", pcpus.len()),
        ));
    }
    let bootargs = file.bootargs.unwrap_or_default();
    check_bootargs(&bootargs).map_err(|e| bad("bootargs", e))?;
    let ram = check_ram(file.ram.base, file.ram.size).map_err(|(field, reason)| bad(field, reason))?;
    let deadline = file.forward_deadline_ms.unwrap_or(DEFAULT_FORWARD_DEADLINE_MS);
    if deadline == 0 {
        return Err(bad(
            "forward_deadline_ms",
            "0 would fail every forwarded call; give at least 1".to_owned(),
        ));
    }
    if deadline > MAX_DEADLINE_MS {
        return Err(bad(
            "forward_deadline_ms",
            format!("{deadline} is too long; give at most {MAX_DEADLINE_MS}, an hour"),
        ));
    }
    let filter = check_filter(&file.smccc_filter).map_err(|(field, reason)| bad(&field, reason))?;
    let image = load_image(
        &folder.join(&file.image.path),
        file.image.load,
        file.image.entry,
        ram,
        scratch,
        &file.name,
    )
    .map_err(|e| e.called(|field| format!("{origin}: {field}")))?;
    let initrd = match &file.initrd {
        Some(path) => Some(module(&folder.join(path)).map_err(|e| bad("initrd", e))?),
        None => None,
    };
    let dtb = check_dtb(file.dtb, ram, &image, initrd.as_ref()).map_err(|e| bad("dtb", e))?;

    let vm = Vm {
        origin: origin.to_owned(),
        name: file.name,
        host: false,
        vcpus,
        pcpus,
        ram,
        bootargs,
        initrd,
        dtb,
        strict: file.strict,
        on_pending: file.on_pending.unwrap_or(true),
        forward_deadline_ms: deadline,
        filter,
        image,
        devices: file.devices,
    };
    check_devices(&vm.devices).map_err(|(field, reason)| bad(&field, reason))?;
    check_room(&vm).map_err(|e| bad("ram.size", e))?;
    Ok(vm)
}

/// Whether a list of devices can be one; the machine's tree is not known yet.
fn check_devices(devices: &[String]) -> Result<(), (String, String)> {
    if devices.len() > MAX_DEVICES {
        return Err((
            "devices".to_owned(),
            format!("{} devices; a VM is given {MAX_DEVICES} at most", devices.len()),
        ));
    }
    match devices.iter().position(|path| !path.starts_with('/') || path.contains('\0')) {
        Some(i) => Err((
            format!("devices[{i}]"),
            format!(
                "\"{}\" is not a device-tree path, such as /pl031@9010000",
                devices[i].escape_debug()
            ),
        )),
        None => Ok(()),
    }
}

/// Whether a VM's RAM holds what goes into it.
pub(crate) fn check_room(vm: &Vm) -> Result<(), String> {
    // As Umbra places them: initrd and device tree each from the next 2 MiB on.
    let parts = [
        vm.initrd.as_ref().map(|initrd| initrd.size),
        (vm.dtb == Dtb::AboveImage).then_some(DTB_ROOM),
    ];
    let image = (vm.image.load - vm.ram.start()).checked_add(vm.image.memory);
    let needed = parts.into_iter().flatten().fold(image, |end, part| {
        let start = end?.checked_next_multiple_of(BLOCK)?;
        start.checked_add(part)
    });
    let needed = needed.unwrap_or(u64::MAX);
    if needed > vm.ram.size() {
        return Err(format!(
            "{:#x} bytes do not hold image, device tree and initrd, which need {needed:#x} from ram.base on",
            vm.ram.size()
        ));
    }
    Ok(())
}

/// Whether a command line can be given to a guest.
pub(crate) fn check_bootargs(bootargs: &str) -> Result<(), String> {
    if bootargs.len() > MAX_BOOTARGS || bootargs.contains('\0') {
        return Err(format!("longer than {MAX_BOOTARGS} bytes, or with a NUL byte inside"));
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(fine) {
        return Err(format!(
            "\"{}\" is not 1 to {MAX_NAME} of the characters A-Z a-z 0-9 - _ . +",
            name.escape_debug()
        ));
    }
    if name == "host" || name == "umbra" {
        return Err(format!("\"{name}\" is taken; choose another"));
    }
    Ok(())
}

/// Whether a VM's RAM can be there and that large.
pub(crate) fn check_ram(base: Option<u64>, size: Option<u64>) -> Result<Range, (&'static str, String)> {
    let base = base.unwrap_or(layout::RAM_BASE);
    let size = size.unwrap_or(DEFAULT_RAM);
    if !base.is_multiple_of(BLOCK) {
        return Err(("ram.base", format!("{base:#x} is not a multiple of 2 MiB")));
    }
    if base < layout::RAM_BASE {
        return Err((
            "ram.base",
            format!("{base:#x} is below {:#x}, where the devices are", layout::RAM_BASE),
        ));
    }
    if size == 0 || !size.is_multiple_of(BLOCK) {
        return Err(("ram.size", format!("{size:#x} is not a multiple of 2 MiB, at least one")));
    }
    Range::new(base, size).filter(|r| r.end() <= 1 << layout::IPA_BITS).ok_or_else(|| {
        (
            "ram.size",
            format!(
                "{base:#x} + {size:#x} is beyond the {} bits of a guest's addresses",
                layout::IPA_BITS
            ),
        )
    })
}

fn check_filter(fields: &[FilterField]) -> Result<Vec<FilterEntry>, (String, String)> {
    let mut filter = Filter::new();
    let mut entries = Vec::new();
    for (i, field) in fields.iter().enumerate() {
        let at = |name: &str| format!("smccc_filter[{i}]{name}");
        let action = match field.action.as_str() {
            "handle" => Action::Handle,
            "deny" => Action::Deny,
            "forward" => Action::Forward,
            other => {
                return Err((
                    at(".action"),
                    format!("\"{}\" is not \"handle\", \"deny\" or \"forward\"", other.escape_debug()),
                ));
            }
        };
        filter.insert(field.base, field.count, action as u64).map_err(|errno| {
            let (base, count) = (field.base, field.count);
            let why = match errno {
                Errno::Exists => {
                    "overlaps an earlier entry or a range that cannot be filtered (0x80000000..=0x8000ffff, 0xc0000000..=0xc000ffff)"
                }
                Errno::Invalid => "has count 0 or runs past 0xffffffff",
                _ => "does not fit: a filter holds 32 ranges",
            };
            (at(""), format!("base {base:#x} count {count} {why}"))
        })?;
        entries.push(FilterEntry {
            base: field.base,
            count: field.count,
            action,
        });
    }
    Ok(entries)
}

fn check_dtb(field: Option<DtbField>, ram: Range, image: &Image, initrd: Option<&Module>) -> Result<Dtb, String> {
    match field {
        None => Ok(Dtb::AboveImage),
        Some(DtbField::Word(word)) => match word.as_str() {
            "above-image" => Ok(Dtb::AboveImage),
            "none" => Ok(Dtb::None),
            other => Err(format!(
                "\"{}\" is not \"above-image\", \"none\" or an address",
                other.escape_debug()
            )),
        },
        Some(DtbField::Address(at)) => {
            if !at.is_multiple_of(8) {
                return Err(format!("{at:#x} is not a multiple of 8"));
            }
            let place = Range::new(at, DTB_ROOM).filter(|r| ram.covers(*r));
            let place = place.ok_or_else(|| format!("{at:#x} + 64 KiB is not inside RAM ({:#x}..{:#x})", ram.start(), ram.end()))?;
            if Range::new(image.load, image.memory).is_some_and(|i| i.overlaps(place)) {
                let end = image.load + image.memory;
                return Err(format!("{at:#x} + 64 KiB overlaps the image ({:#x}..{end:#x})", image.load));
            }
            // Umbra places it at the first 2 MiB boundary above the image.
            let above = image
                .load
                .checked_add(image.memory)
                .and_then(|end| end.checked_next_multiple_of(BLOCK));
            let initrd = above.zip(initrd).and_then(|(start, initrd)| Range::new(start, initrd.size));
            if let Some(initrd) = initrd.filter(|initrd| initrd.overlaps(place)) {
                let (start, end) = (initrd.start(), initrd.end());
                return Err(format!("{at:#x} + 64 KiB overlaps the initrd ({start:#x}..{end:#x})"));
            }
            Ok(Dtb::At(at))
        }
    }
}

/// A file that is loaded as it is.
pub(crate) fn module(path: &Path) -> Result<Module, String> {
    let shown = path.display();
    let data = std::fs::metadata(path).map_err(|e| format!("{shown}: {e}"))?;
    if !data.is_file() {
        return Err(format!("{shown} is not a file"));
    }
    if data.len() == 0 {
        return Err(format!("{shown} is empty"));
    }
    let file = std::path::absolute(path).map_err(|e| format!("{shown}: {e}"))?;
    if file.to_str().is_none_or(|s| s.contains('\n')) {
        return Err(format!("{shown} has a name that QEMU cannot be given"));
    }
    Ok(Module { file, size: data.len() })
}

/// Why there is no image.
#[derive(Debug)]
pub(crate) enum NoImage {
    /// What the user gave is wrong: the field of a VM file, and how.
    Field(&'static str, String),
    /// The disk failed.
    Disk(anyhow::Error),
}

impl From<(&'static str, String)> for NoImage {
    fn from((field, reason): (&'static str, String)) -> Self {
        Self::Field(field, reason)
    }
}

impl NoImage {
    /// A file that cannot be read.
    fn unreadable(path: &Path, error: std::io::Error) -> Self {
        let shown = path.display();
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::PermissionDenied => Self::Field("image.path", format!("{shown}: {error}")),
            _ => Self::Disk(anyhow::Error::new(error).context(format!("cannot read {shown}"))),
        }
    }

    /// The error, with what `name` makes of the field in front.
    pub(crate) fn called(self, name: impl FnOnce(&'static str) -> String) -> anyhow::Error {
        match self {
            Self::Field(field, reason) => usage(format!("{}: {reason}", name(field))),
            Self::Disk(error) => error,
        }
    }
}

/// Looks at an image: arm64 `Image`, ELF (made flat into `scratch`) or raw binary.
pub(crate) fn load_image(
    path: &Path,
    asked_load: Option<u64>,
    asked_entry: Option<u64>,
    ram: Range,
    scratch: &Path,
    name: &str,
) -> Result<Image, NoImage> {
    let shown = path.display();
    let mut found = module(path).map_err(|e| ("image.path", e))?;
    let mut head = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| std::io::Read::read_to_end(&mut std::io::Read::take(file, HEADER_SIZE as u64), &mut head))
        .map_err(|e| NoImage::unreadable(path, e))?;
    if let Some((how, unpack)) = flatten::compression(&head) {
        return Err((
            "image.path",
            format!("{shown} is compressed ({how}), and Umbra unpacks nothing; unpack it first ({unpack})"),
        )
            .into());
    }
    let mut elf = None;
    if flatten::is_elf(&head) {
        let bytes = std::fs::read(path).map_err(|e| NoImage::unreadable(path, e))?;
        let flat = flatten::flatten(&bytes).map_err(|e| ("image.path", format!("{shown}: {e:#}")))?;
        if let Some(asked) = asked_load.filter(|asked| *asked != flat.base) {
            return Err((
                "image.load",
                format!(
                    "{asked:#x}, but the ELF {shown} is linked at {:#x}; leave this field out",
                    flat.base
                ),
            )
                .into());
        }
        let file = scratch.join(format!("{name}.bin"));
        let write = std::fs::create_dir_all(scratch).and_then(|()| std::fs::write(&file, &flat.bytes));
        write
            .with_context(|| format!("cannot write {}", file.display()))
            .map_err(NoImage::Disk)?;
        found = Module {
            file,
            size: flat.bytes.len() as u64,
        };
        head = flat.bytes[..flat.bytes.len().min(HEADER_SIZE)].to_vec();
        elf = Some((flat.base, flat.entry, flat.memory));
    }
    // As Umbra looks at it.
    let image = image::Image::parse(&head, found.size).map_err(|e| ("image.path", format!("{shown}: {e}")))?;
    let offset = match image.format {
        Format::Arm64 { text_offset, .. } => text_offset,
        Format::Raw => RAW_OFFSET,
    };
    let (load, entry, memory) = elf.unwrap_or_else(|| {
        let load = asked_load.unwrap_or(ram.start().saturating_add(offset));
        (load, load, image.memory_size)
    });
    let entry = asked_entry.unwrap_or(entry);
    if image.format != Format::Raw && load.checked_sub(offset).is_none_or(|base| !base.is_multiple_of(BLOCK)) {
        return Err((
            "image.load",
            format!("{load:#x} is not {offset:#x} (the text_offset of {shown}) above a multiple of 2 MiB; leave it out for what {shown} asks for"),
        )
            .into());
    }
    let limits = format!("RAM ({:#x}..{:#x})", ram.start(), ram.end());
    let place = Range::new(load, memory).filter(|r| ram.covers(*r));
    let Some(place) = place else {
        return Err((
            "image.load",
            format!("{shown} takes {memory:#x} bytes from {load:#x} on, which is not inside {limits}"),
        )
            .into());
    };
    if !load.is_multiple_of(4) || !entry.is_multiple_of(4) {
        return Err(("image.entry", format!("load {load:#x} and entry {entry:#x} must be multiples of 4")).into());
    }
    if !place.contains(entry) {
        return Err((
            "image.entry",
            format!("{entry:#x} is not inside the image ({:#x}..{:#x})", place.start(), place.end()),
        )
            .into());
    }
    Ok(Image {
        source: path.to_owned(),
        module: found,
        load,
        entry,
        memory,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flatten::tests::elf_with;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let place = Self(tempfile::tempdir().expect("a folder"));
            place.file("raw.bin", &[0u8; 4096]);
            place.file("initrd.gz", &[1u8; 100]);
            place
        }
        fn file(&self, name: &str, bytes: &[u8]) {
            std::fs::write(self.0.path().join(name), bytes).expect("written");
        }
        fn parse(&self, text: &str) -> Result<Vm> {
            parse("vm.toml", text, self.0.path(), &self.0.path().join("scratch"))
        }
        fn refused(&self, text: &str) -> String {
            let error = self.parse(text).expect_err(text);
            assert_eq!(crate::fail::status_of(&error), crate::fail::USAGE);
            error.to_string()
        }
    }

    const IMAGE: &str = "[image]\npath = \"raw.bin\"\n";

    #[test]
    fn name_and_image_are_enough() {
        let vm = Place::new().parse(&format!("name = \"a\"\n{IMAGE}")).expect("a VM");
        assert_eq!(
            (vm.vcpus, vm.pcpus.len(), vm.ram.start(), vm.ram.size()),
            (1, 0, 0x4000_0000, DEFAULT_RAM)
        );
        assert_eq!((vm.image.load, vm.image.entry), (0x4008_0000, 0x4008_0000));
        assert_eq!(
            (vm.dtb, vm.on_pending, vm.strict, vm.forwards()),
            (Dtb::AboveImage, true, false, false)
        );
        assert_eq!(vm.forward_deadline_ms, 5000);
    }

    #[test]
    fn the_files_that_are_shown_to_users_are_taken_as_they_are() {
        let (readme, help) = (include_str!("../../README.md"), crate::QEMU_HELP);
        let place = Place::new();
        let mut image = vec![0u8; 128];
        image[16..24].copy_from_slice(&0x30_0000u64.to_le_bytes());
        image[56..60].copy_from_slice(b"ARM\x64");
        place.file("Image", &image);
        place.file("initramfs.cpio.gz", &[1u8; 100]);
        for (text, begins, ends) in [(readme, "```toml\n", "```"), (help, "has defaults:\n", "\n\n")] {
            let (_, file) = text.split_once(begins).expect("a VM file");
            let (file, _) = file.split_once(ends).expect("its end");
            let vm = place.parse(file).expect(file);
            assert_eq!((vm.vcpus, vm.image.load, vm.forwards()), (4, 0x4000_0000, true));
        }
    }

    #[test]
    fn what_is_no_device_tree_path_is_refused() {
        let refused = |list: &str| Place::new().refused(&format!("name = \"a\"\ndevices = {list}\n{IMAGE}"));
        let relative = refused("[\"/a\", \"pl031\"]");
        assert_eq!(
            relative,
            "vm.toml: devices[1]: \"pl031\" is not a device-tree path, such as /pl031@9010000"
        );
        let many = refused(&format!("{:?}", ["/a"; 9]));
        assert_eq!(many, "vm.toml: devices: 9 devices; a VM is given 8 at most");
    }

    #[test]
    fn every_field_is_taken() {
        let text = r#"
            name = "guest"
            vcpus = 4
            pcpus = [1, 2, 3, 4]
            bootargs = "console=ttyAMA0"
            initrd = "initrd.gz"
            dtb = 0x48000000
            strict = true
            on_pending = false
            forward_deadline_ms = 7
            devices = ["/pl031@9010000"]
            smccc_filter = [
              { base = 0x84000003, count = 1, action = "forward" },
              { base = 0xC4000003, count = 1, action = "forward" },
            ]
            [ram]
            base = 0x40000000
            size = 0x10000000
            [image]
            path = "raw.bin"
            load = 0x40200000
            entry = 0x40200010
        "#;
        let vm = Place::new().parse(text).expect("a VM");
        assert_eq!(
            (vm.pcpus.as_slice(), vm.dtb, vm.strict, vm.on_pending),
            ([1, 2, 3, 4].as_slice(), Dtb::At(0x4800_0000), true, false)
        );
        assert_eq!(
            (vm.image.load, vm.image.entry, vm.forward_deadline_ms),
            (0x4020_0000, 0x4020_0010, 7)
        );
        assert_eq!(vm.initrd.as_ref().map(|m| m.size), Some(100));
        assert_eq!(vm.devices, ["/pl031@9010000"]);
        assert!(vm.forwards());
        assert!(vm.one_width_warnings().is_empty());
    }

    #[test]
    fn mistakes_are_named_by_file_field_and_reason() {
        let place = Place::new();
        place.file("vmlinuz.gz", &[0x1f, 0x8b, 8, 0]);
        place.file("empty", &[]);
        let image = "[image]\npath = \"raw.bin\"";
        for (text, parts) in [
            (format!("name = \"a\"\ncolour = 1\n{image}"), vec!["colour", "unknown field"]),
            (image.to_owned(), vec!["name", "missing field"]),
            ("name = \"a\"".to_owned(), vec!["image", "missing field"]),
            (format!("name = \"a b\"\n{image}"), vec!["name:", "characters"]),
            (format!("name = \"host\"\n{image}"), vec!["name:", "taken"]),
            (format!("name = \"a\"\nvcpus = 0\n{image}"), vec!["vcpus:", "1 to 16"]),
            (format!("name = \"a\"\nvcpus = 17\n{image}"), vec!["vcpus:", "1 to 16"]),
            (
                format!("name = \"a\"\nvcpus = 2\npcpus = [1]\n{image}"),
                vec!["pcpus:", "1 entries for 2"],
            ),
            (format!("name = \"a\"\ndtb = \"below\"\n{image}"), vec!["dtb:", "below"]),
            (format!("name = \"a\"\ndtb = 0x1000\n{image}"), vec!["dtb:", "not inside RAM"]),
            (
                format!("name = \"a\"\ndtb = 0x40080000\n{image}"),
                vec!["dtb:", "overlaps the image"],
            ),
            (
                format!("name = \"a\"\ninitrd = \"gone\"\n{image}"),
                vec!["initrd:", "gone", "No such file"],
            ),
            (
                format!("name = \"a\"\nforward_deadline_ms = 0\n{image}"),
                vec!["forward_deadline_ms:"],
            ),
            (
                format!("name = \"a\"\nforward_deadline_ms = 3600001\n{image}"),
                vec!["forward_deadline_ms:", "at most 3600000"],
            ),
            (
                format!("name = \"a\"\nforward_deadline_ms = 3600001\n{image}"),
                vec!["forward_deadline_ms:", "3600000"],
            ),
            (
                format!("name = \"a\"\n[ram]\nbase = 0x40001000\n{image}"),
                vec!["ram.base:", "2 MiB"],
            ),
            (
                format!("name = \"a\"\n[ram]\nbase = 0x8000000\n{image}"),
                vec!["ram.base:", "devices"],
            ),
            (format!("name = \"a\"\n[ram]\nsize = 0x1000\n{image}"), vec!["ram.size:", "2 MiB"]),
            (
                format!("name = \"a\"\n[ram]\nsize = 0x7fffffffffe00000\n{image}"),
                vec!["ram.size:", "40 bits"],
            ),
            (
                "name = \"a\"\n[image]\npath = \"gone\"".to_owned(),
                vec!["image.path:", "gone", "No such file"],
            ),
            ("name = \"a\"\n[image]\npath = \".\"".to_owned(), vec!["image.path:", "not a file"]),
            ("name = \"a\"\n[image]\npath = \"empty\"".to_owned(), vec!["image.path:", "empty"]),
            (
                "name = \"a\"\n[image]\npath = \"vmlinuz.gz\"".to_owned(),
                vec!["image.path:", "gunzip"],
            ),
            (
                format!("name = \"a\"\n{image}\nload = 0x30000000"),
                vec!["image.load:", "not inside RAM"],
            ),
            (
                format!("name = \"a\"\n{image}\nload = 0x4ffff800"),
                vec!["image.load:", "not inside RAM"],
            ),
            (
                format!("name = \"a\"\n{image}\nentry = 0x40081000"),
                vec!["image.entry:", "not inside the image"],
            ),
            (
                format!("name = \"a\"\n{image}\nentry = 0x40080002"),
                vec!["image.entry:", "multiples of 4"],
            ),
        ] {
            let message = place.refused(&text);
            assert!(message.starts_with("vm.toml: "), "{message}");
            for part in parts {
                assert!(message.contains(part), "no {part:?} in {message:?}");
            }
        }
    }

    #[test]
    fn filters_follow_kvms_rules() {
        let place = Place::new();
        let entry = |e: &str| format!("name = \"a\"\nsmccc_filter = [{e}]\n{IMAGE}");
        for (text, part) in [
            ("{ base = 0x84000003, count = 0, action = \"deny\" }", "count 0"),
            ("{ base = 0xffffffff, count = 2, action = \"deny\" }", "0xffffffff"),
            ("{ base = 0x80000000, count = 1, action = \"deny\" }", "cannot be filtered"),
            (
                "{ base = 0x84000003, count = 1, action = \"drop\" }",
                "smccc_filter[0].action: \"drop\"",
            ),
            (
                "{ base = 0x84000000, count = 4, action = \"deny\" }, { base = 0x84000003, count = 1, action = \"handle\" }",
                "smccc_filter[1]",
            ),
        ] {
            let message = place.refused(&entry(text));
            assert!(message.contains(part), "no {part:?} in {message:?}");
        }
    }

    #[test]
    fn a_call_filtered_in_one_width_is_warned_about() {
        let one = format!("name = \"a\"\nsmccc_filter = [{{ base = 0x84000003, count = 1, action = \"forward\" }}]\n{IMAGE}");
        let warnings = Place::new().parse(&one).expect("a VM").one_width_warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("CPU_ON") && warnings[0].contains("0xc4000003"), "{warnings:?}");
    }

    #[test]
    fn an_elf_is_flattened_and_says_itself_where_it_goes() {
        let place = Place::new();
        place.file("guest.elf", &elf_with(0x4008_0004, &[(0x4008_0000, b"0123456789abcdef", 0x2000)]));
        let vm = place.parse("name = \"a\"\n[image]\npath = \"guest.elf\"").expect("a VM");
        assert_eq!((vm.image.load, vm.image.entry, vm.image.memory), (0x4008_0000, 0x4008_0004, 0x2000));
        assert_eq!(std::fs::read(&vm.image.module.file).expect("flat file"), b"0123456789abcdef");
        let message = place.refused("name = \"a\"\n[image]\npath = \"guest.elf\"\nload = 0x40000000");
        assert!(
            message.contains("image.load") && message.contains("linked at 0x40080000"),
            "{message}"
        );
    }

    #[test]
    fn an_arm64_image_goes_where_its_header_says() {
        let place = Place::new();
        let mut image = vec![0u8; 128];
        image[8..16].copy_from_slice(&0x1_0000u64.to_le_bytes());
        image[16..24].copy_from_slice(&0x30_0000u64.to_le_bytes());
        image[56..60].copy_from_slice(b"ARM\x64");
        place.file("Image", &image);
        let vm = place.parse("name = \"a\"\n[image]\npath = \"Image\"").expect("a VM");
        assert_eq!(
            (vm.image.load, vm.image.entry, vm.image.memory),
            (0x4001_0000, 0x4001_0000, 0x30_0000)
        );
        let small = place.refused("name = \"a\"\n[ram]\nsize = 0x200000\n[image]\npath = \"Image\"");
        assert!(small.contains("not inside RAM"), "{small}");
    }

    #[test]
    fn what_umbra_would_refuse_is_refused_before_it_is_started() {
        let place = Place::new();
        let header = |offset: u64, flags: u64| {
            let mut image = vec![0u8; 128];
            image[8..16].copy_from_slice(&offset.to_le_bytes());
            image[16..24].copy_from_slice(&0x30_0000u64.to_le_bytes());
            image[24..32].copy_from_slice(&flags.to_le_bytes());
            image[56..60].copy_from_slice(b"ARM\x64");
            image
        };
        place.file("big", &header(0, 1));
        place.file("offset", &header(0x8_0000, 0));
        place.file("legacy", &[0x27, 0x05, 0x19, 0x56, 0, 0]);
        place.file("fit", &[0xd0, 0x0d, 0xfe, 0xed, 0, 0]);
        place.file("offset.elf", &elf_with(0x4000_0000, &[(0x4000_0000, &header(0x8_0000, 0), 0x1000)]));
        for (rest, part) in [
            ("path = \"big\"", "image.path: DIR/big: the image is a big-endian kernel"),
            ("path = \"legacy\"", "image.path: DIR/legacy: the image is a U-Boot legacy image"),
            (
                "path = \"fit\"",
                "image.path: DIR/fit: the image is a U-Boot FIT image or a device tree",
            ),
            (
                "path = \"offset\"\nload = 0x40200000",
                "image.load: 0x40200000 is not 0x80000 (the text_offset of DIR/offset) above",
            ),
            ("path = \"offset\"\nload = 0x0", "image.load: 0x0 is not 0x80000"),
            ("path = \"offset.elf\"", "image.load: 0x40000000 is not 0x80000"),
        ] {
            let message = place.refused(&format!("name = \"a\"\n[image]\n{rest}"));
            let part = part.replace("DIR", &place.0.path().display().to_string());
            assert!(message.contains(&part), "no {part:?} in {message:?}");
        }
        let dtb = |at: u64| format!("name = \"a\"\ninitrd = \"initrd.gz\"\ndtb = {at:#x}\n{IMAGE}");
        let message = place.refused(&dtb(0x401f_8000));
        assert!(
            message.ends_with("dtb: 0x401f8000 + 64 KiB overlaps the initrd (0x40200000..0x40200064)"),
            "{message}"
        );
        assert!(place.parse(&dtb(0x4020_0068)).is_ok());
    }

    #[test]
    fn a_disk_that_fails_is_not_the_users_mistake() {
        let place = Place::new();
        place.file("guest.elf", &elf_with(0x4008_0000, &[(0x4008_0000, b"0123", 4)]));
        let text = "name = \"a\"\n[image]\npath = \"guest.elf\"";
        let error = parse("vm.toml", text, place.0.path(), &place.0.path().join("raw.bin")).expect_err("no folder");
        assert_eq!(crate::fail::status_of(&error), crate::fail::FAILED);
        let message = format!("{error:#}");
        assert!(
            message.starts_with("cannot write ") && message.contains("raw.bin/a.bin: "),
            "{message}"
        );
    }

    #[test]
    fn ram_must_hold_the_initrd_too() {
        let place = Place::new();
        place.file("big.gz", &vec![0u8; 2 << 20]);
        let message = place.refused(&format!("name = \"a\"\ninitrd = \"big.gz\"\n[ram]\nsize = 0x200000\n{IMAGE}"));
        assert!(message.contains("ram.size") && message.contains("initrd"), "{message}");
    }
}
