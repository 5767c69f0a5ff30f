//! Guests that others wrote: Debian's arm64 kernel with BusyBox, and Debian's U-Boot for `virt`.

use crate::cpio::Archive;
use crate::fail::usage;
use crate::fetch::{self, Apt};
use crate::run::bare_vm;
use crate::vmfile::{self, Dtb, FilterEntry, Module, NoImage, Vm};
use anyhow::{Context, Result};
use clap::ValueEnum;
use hyp_abi::{layout, psci};
use hyp_core::filter::Action;
use hyp_core::types::Range;
use std::path::{Path, PathBuf};

/// A guest that is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Guest {
    /// Debian's arm64 kernel with a shell
    Linux,
    /// Debian's U-Boot for QEMU's virt
    UBoot,
}

/// What can be asked of one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wish<'a> {
    /// Another kernel, or another U-Boot.
    pub(crate) kernel: Option<&'a Path>,
    /// Another initramfs.
    pub(crate) initrd: Option<&'a Path>,
    /// How many vCPUs; [`VCPUS`] for Linux and one for U-Boot.
    pub(crate) vcpus: Option<u32>,
    /// Bytes of RAM.
    pub(crate) ram: Option<u64>,
    /// Added to the command line.
    pub(crate) bootargs: &'a str,
}

/// vCPUs of a Linux guest.
const VCPUS: u32 = 4;
/// RAM of a Linux guest.
const LINUX_RAM: u64 = 512 << 20;
/// RAM of a U-Boot guest.
const UBOOT_RAM: u64 = 128 << 20;
/// U-Boot finds its device tree at the base of RAM; itself it may lie anywhere above.
const UBOOT_OFFSET: u64 = 2 << 20;
/// The command line of a Linux guest, before what the user adds.
pub(crate) const LINUX_BOOTARGS: &str = "console=ttyAMA0";

/// Packages of the kernel, the smallest first.
const KERNELS: [&str; 2] = ["linux-image-cloud-arm64", "linux-image-arm64"];
/// BusyBox' table of what to run, for its own `init`.
const INITTAB: &[u8] = b"ttyAMA0::respawn:-/bin/sh\n::ctrlaltdel:/bin/reboot\n";
/// The first process of the initramfs.
const INIT: &[u8] = include_bytes!("../../guest/linux/init");

/// What to do where nothing can be fetched.
const LINUX_INSTEAD: &str = "give an arm64 Image and an initramfs of your own with --kernel PATH --initrd PATH";
const UBOOT_INSTEAD: &str = "give a u-boot.bin of your own (qemu_arm64_defconfig) with --kernel PATH";

impl Guest {
    /// The guest as a VM. Files that are made for it go to `scratch`.
    pub(crate) fn vm(self, wish: &Wish<'_>, scratch: &Path) -> Result<Vm> {
        let vm = match self {
            Self::Linux => linux_vm(wish, scratch)?,
            Self::UBoot => uboot_vm(wish, scratch)?,
        };
        vmfile::check_room(&vm).map_err(|e| usage(format!("--memory: {e}")))?;
        Ok(vm)
    }
}

fn linux_vm(wish: &Wish<'_>, scratch: &Path) -> Result<Vm> {
    let ram = ram(wish.ram.unwrap_or(LINUX_RAM))?;
    let (kernel, initrd) = linux_files(wish.kernel, wish.initrd, scratch)?;
    let image = vmfile::load_image(&kernel, None, None, ram, scratch, "linux").map_err(wrong)?;
    let mut vm = bare_vm("--guest linux", "linux", vcpus(wish.vcpus.unwrap_or(VCPUS))?, ram, image);
    vm.initrd = Some(initrd);
    vm.bootargs = format!("{LINUX_BOOTARGS} {}", wish.bootargs).trim_end().to_owned();
    vmfile::check_bootargs(&vm.bootargs).map_err(|e| usage(format!("--bootargs: {e}")))?;
    Ok(vm)
}

/// The kernel and the initramfs of a Linux guest: the user's, or Debian's.
pub(crate) fn linux_files(kernel: Option<&Path>, initrd: Option<&Path>, scratch: &Path) -> Result<(PathBuf, Module)> {
    let debian = match (kernel, initrd) {
        (Some(_), Some(_)) => None,
        _ => Some(debian_linux()?),
    };
    let kernel = kernel.map(Path::to_path_buf);
    let kernel = kernel.or_else(|| debian.as_ref().map(|d| d.kernel.clone()));
    let kernel = kernel.context("no kernel")?;
    let initrd = match (initrd, debian) {
        (Some(path), _) => path.to_path_buf(),
        (None, Some(debian)) => {
            let path = scratch.join("linux-initramfs.cpio");
            std::fs::create_dir_all(scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
            std::fs::write(&path, initramfs(&std::fs::read(&debian.busybox)?))
                .with_context(|| format!("cannot write {}", path.display()))?;
            path
        }
        (None, None) => return Err(usage("no initramfs")),
    };
    let initrd = vmfile::module(&initrd).map_err(|e| usage(format!("--initrd: {e}")))?;
    Ok((kernel, initrd))
}

fn uboot_vm(wish: &Wish<'_>, scratch: &Path) -> Result<Vm> {
    if wish.initrd.is_some() {
        return Err(usage("--initrd: U-Boot takes none"));
    }
    let ram = ram(wish.ram.unwrap_or(UBOOT_RAM))?;
    let path = match wish.kernel {
        Some(path) => path.to_path_buf(),
        None => debian_uboot()?,
    };
    let load = ram.start() + UBOOT_OFFSET;
    let image = vmfile::load_image(&path, Some(load), None, ram, scratch, "u-boot").map_err(wrong)?;
    let mut vm = bare_vm("--guest u-boot", "u-boot", vcpus(wish.vcpus.unwrap_or(1))?, ram, image);
    vm.dtb = Dtb::At(ram.start());
    vm.bootargs = wish.bootargs.to_owned();
    vmfile::check_bootargs(&vm.bootargs).map_err(|e| usage(format!("--bootargs: {e}")))?;
    Ok(vm)
}

/// What is wrong with an image, by the option that would mend it.
fn wrong(error: NoImage) -> anyhow::Error {
    error.called(|field| if field == "image.path" { "--kernel" } else { "--memory" }.to_owned())
}

/// The RAM that `--memory` asks for.
pub(crate) fn ram(size: u64) -> Result<Range> {
    vmfile::check_ram(None, Some(size)).map_err(|(_, e)| usage(format!("--memory: {e}")))
}

fn vcpus(count: u32) -> Result<u32> {
    if count == 0 || count as usize > layout::MAX_VCPUS {
        return Err(usage(format!("--vcpus: {count} vCPUs; a VM has 1 to {}", layout::MAX_VCPUS)));
    }
    Ok(count)
}

// ---- forwarded calls

/// PSCI's calls by the names that `--forward` takes, with their SMC32 identifiers, and whether there is an SMC64 one.
const CALLS: [(&str, u32, bool); 9] = [
    ("cpu_on", psci::CPU_ON_32, true),
    ("cpu_off", psci::CPU_OFF, false),
    ("cpu_suspend", psci::CPU_SUSPEND_32, true),
    ("affinity_info", psci::AFFINITY_INFO_32, true),
    ("system_off", psci::SYSTEM_OFF, false),
    ("system_reset", psci::SYSTEM_RESET, false),
    ("system_reset2", psci::SYSTEM_RESET2_32, true),
    ("system_suspend", psci::SYSTEM_SUSPEND_32, true),
    ("system_off2", psci::SYSTEM_OFF2_32, true),
];

/// Filter entries that forward the named calls, in both widths where there are two.
pub(crate) fn forward(names: &[String]) -> Result<Vec<FilterEntry>> {
    let mut entries: Vec<FilterEntry> = Vec::new();
    for name in names {
        let name = name.trim().to_ascii_lowercase();
        let Some((_, narrow, wide)) = CALLS.iter().find(|(n, _, _)| *n == name) else {
            let known: Vec<_> = CALLS.iter().map(|(n, _, _)| *n).collect();
            return Err(usage(format!(
                "--forward: \"{}\" is not one of {}",
                name.escape_debug(),
                known.join(", ")
            )));
        };
        for base in std::iter::once(*narrow).chain(wide.then_some(*narrow | psci_smc64())) {
            if entries.iter().all(|e| e.base != base) {
                entries.push(FilterEntry {
                    base,
                    count: 1,
                    action: Action::Forward,
                });
            }
        }
    }
    Ok(entries)
}

/// What tells an SMC64 identifier from the SMC32 one of the same call.
const fn psci_smc64() -> u32 {
    psci::CPU_ON_64 ^ psci::CPU_ON_32
}

// ---- Debian's files

struct Debian {
    kernel: PathBuf,
    busybox: PathBuf,
}

/// Debian's kernel and BusyBox, fetched once.
fn debian_linux() -> Result<Debian> {
    let folder = fetch::cache().join("linux");
    let found = || {
        let debian = Debian {
            kernel: first(&folder, "vmlinuz-")?,
            busybox: folder.join("busybox"),
        };
        debian.busybox.is_file().then_some(debian)
    };
    if let Some(debian) = found() {
        return Ok(debian);
    }
    let apt = Apt::begin("Debian's arm64 kernel and BusyBox (about 35 MB)", LINUX_INSTEAD)?;
    let unpacked = apt.unpack(&KERNELS, LINUX_INSTEAD)?;
    let kernel = first(&unpacked.join("boot"), "vmlinuz-").context("the kernel's package has no boot/vmlinuz-*")?;
    let busybox = apt.unpack(&["busybox-static"], LINUX_INSTEAD)?;
    let busybox = ["bin/busybox", "usr/bin/busybox"]
        .map(|p| busybox.join(p))
        .into_iter()
        .find(|p| p.is_file());
    keep(
        &busybox.context("the package busybox-static has no busybox")?,
        &folder.join("busybox"),
    )?;
    let name = kernel.file_name().context("a kernel without a name")?.to_owned();
    keep(&kernel, &folder.join(name))?;
    drop(apt);
    found().context("the fetched files are gone again")
}

/// Debian's U-Boot, fetched once.
fn debian_uboot() -> Result<PathBuf> {
    let kept = fetch::cache().join("u-boot").join("u-boot.bin");
    if kept.is_file() {
        return Ok(kept);
    }
    let apt = Apt::begin("Debian's U-Boot for virt (about 16 MB)", UBOOT_INSTEAD)?;
    let unpacked = apt.unpack(&["u-boot-qemu"], UBOOT_INSTEAD)?;
    keep(&unpacked.join("usr/lib/u-boot/qemu_arm64/u-boot.bin"), &kept)?;
    Ok(kept)
}

/// Copies a file into the cache in one step, so that what is there is whole.
fn keep(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().context("a file without a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let part = to.with_extension(format!("part-{}", std::process::id()));
    std::fs::copy(from, &part).with_context(|| format!("cannot copy {}", from.display()))?;
    std::fs::rename(&part, to).with_context(|| format!("cannot write {}", to.display()))
}

/// The file in `folder` whose name begins with `prefix`.
fn first(folder: &Path, prefix: &str) -> Option<PathBuf> {
    let names = std::fs::read_dir(folder).ok()?.flatten().map(|e| e.path());
    names
        .filter(|p| {
            let name = p.file_name().and_then(|n| n.to_str()).unwrap_or("");
            name.starts_with(prefix) && !name.contains(".part-")
        })
        .min()
}

// ---- the initramfs

/// The first file system: BusyBox, the first process, and a program that tells the time in ticks.
fn initramfs(busybox: &[u8]) -> Vec<u8> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
        archive.directory(folder);
    }
    archive.device("dev/console", 5, 1).device("dev/null", 1, 3);
    archive.program("etc/inittab", INITTAB);
    archive
        .program("bin/busybox", busybox)
        .program("bin/ticks", &ticks())
        .program("init", INIT);
    archive.finish()
}

/// A Linux program for AArch64 that prints `CNTVCT_EL0` and a line end, and exits with 0.
fn ticks() -> Vec<u8> {
    const CODE: [u32; 21] = [
        0xd503_3fdf, // isb
        0xd53b_e041, // mrs x1, cntvct_el0
        0xd280_0144, // mov x4, #10
        0x9100_03e2, // mov x2, sp
        0x5280_0143, // mov w3, #'\n'
        0x381f_fc43, // strb w3, [x2, #-1]!
        0x9ac4_0825, // 1: udiv x5, x1, x4
        0x9b04_84a3, // msub x3, x5, x4, x1
        0x1100_c063, // add w3, w3, #'0'
        0x381f_fc43, // strb w3, [x2, #-1]!
        0xaa05_03e1, // mov x1, x5
        0xb5ff_ff61, // cbnz x1, 1b
        0xaa02_03e1, // mov x1, x2
        0x9100_03e3, // mov x3, sp
        0xcb01_0062, // sub x2, x3, x1
        0xd280_0020, // mov x0, #1
        0xd280_0808, // mov x8, #64 (write)
        0xd400_0001, // svc #0
        0xd280_0000, // mov x0, #0
        0xd280_0ba8, // mov x8, #93 (exit)
        0xd400_0001, // svc #0
    ];
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let size = HEADERS + 4 * CODE.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let halves = |elf: &mut Vec<u8>, list: &[u16]| list.iter().for_each(|n| elf.extend(n.to_le_bytes()));
    let words = |elf: &mut Vec<u8>, list: &[u32]| list.iter().for_each(|n| elf.extend(n.to_le_bytes()));
    let longs = |elf: &mut Vec<u8>, list: &[u64]| list.iter().for_each(|n| elf.extend(n.to_le_bytes()));
    // An executable (2) for AArch64 (183), version 1; entry, program headers behind this one, no sections; flags 0.
    halves(&mut elf, &[2, 183]);
    words(&mut elf, &[1]);
    longs(&mut elf, &[BASE + HEADERS, 64, 0]);
    words(&mut elf, &[0]);
    halves(&mut elf, &[64, 56, 1, 64, 0, 0]);
    // One segment to load (1), readable and executable (5): the whole file.
    words(&mut elf, &[1, 5]);
    longs(&mut elf, &[0, BASE, BASE, size, size, 0x1_0000]);
    words(&mut elf, &CODE);
    elf
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::{Object, ObjectSegment};

    #[test]
    fn calls_are_forwarded_in_both_widths() {
        let names = ["cpu_on", "CPU_OFF", "cpu_on"].map(str::to_owned);
        let bases: Vec<u32> = forward(&names).expect("known").iter().map(|e| e.base).collect();
        assert_eq!(bases, [0x8400_0003, 0xC400_0003, 0x8400_0002]);
        let error = forward(&["cpu_in".to_owned()]).expect_err("unknown").to_string();
        assert!(error.contains("cpu_in") && error.contains("system_reset2"), "{error}");
    }

    #[test]
    fn the_program_that_tells_the_time_is_an_aarch64_executable() {
        let bytes = ticks();
        let file = object::File::parse(bytes.as_slice()).expect("an ELF file");
        assert_eq!((file.architecture(), file.entry()), (object::Architecture::Aarch64, 0x40_0078));
        let segment = file.segments().next().expect("a segment");
        assert_eq!((segment.address(), segment.size()), (0x40_0000, bytes.len() as u64));
    }

    #[test]
    fn the_initramfs_has_the_first_process_and_busybox() {
        let bytes = initramfs(b"BUSY");
        let text = String::from_utf8_lossy(&bytes);
        for part in ["bin/busybox\0", "dev/console\0", "init\0", "BUSY", "ttyAMA0::respawn"] {
            assert!(text.contains(part), "{part}");
        }
    }

    #[test]
    fn a_guest_of_ones_own_needs_nothing_fetched() {
        let folder = tempfile::tempdir().expect("a folder");
        let kernel = folder.path().join("k.bin");
        std::fs::write(&kernel, [0u8; 4096]).expect("written");
        let wish = Wish {
            kernel: Some(&kernel),
            initrd: Some(&kernel),
            vcpus: Some(2),
            ram: Some(64 << 20),
            bootargs: "quiet",
        };
        let vm = Guest::Linux.vm(&wish, folder.path()).expect("a VM");
        assert_eq!((vm.vcpus, vm.bootargs.as_str()), (2, "console=ttyAMA0 quiet"));
        assert_eq!(vm.ram.size(), 64 << 20);
        assert_eq!(vm.initrd.map(|m| m.size), Some(4096));
        // Image, initrd and device tree each begin at the next 2 MiB.
        for (ram, holds) in [(4 << 20, false), (6 << 20, true)] {
            let wish = Wish {
                ram: Some(ram),
                ..wish.clone()
            };
            assert_eq!(Guest::Linux.vm(&wish, folder.path()).is_ok(), holds, "{ram:#x}");
        }
        let wish = Wish { initrd: None, ..wish };
        let vm = Guest::UBoot.vm(&wish, folder.path()).expect("a VM");
        assert_eq!((vm.image.load, vm.dtb), (0x4020_0000, Dtb::At(0x4000_0000)));
        // Too small for the image, not whole blocks, beyond what a guest can address.
        for size in [2 << 20, (64 << 20) + 4096, 1 << 40] {
            let odd = Wish {
                ram: Some(size),
                ..wish.clone()
            };
            let message = Guest::UBoot.vm(&odd, folder.path()).expect_err("refused").to_string();
            assert!(message.starts_with("--memory: "), "{message}");
        }
    }
}
