//! Where the parts of a VM go in its RAM.

use super::{BLOCK, DTB_SIZE, DtbPlacement, Reason, VmDesc, VmError, refuse};
use crate::image::{Format, Image};
use crate::types::Range;

/// Where a raw binary goes when nothing says so, from the beginning of RAM: where `virt` machines' programs are linked.
const RAW_OFFSET: u64 = 0x8_0000;

/// Where everything goes in a VM's RAM. All addresses are IPAs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The image with its `.bss`; the file is copied to the beginning.
    pub image: Range,
    /// The first instruction.
    pub entry: u64,
    /// The initial RAM disk.
    pub initrd: Option<Range>,
    /// The device tree: [`DTB_SIZE`] bytes are free there.
    pub dtb: Option<u64>,
}

impl Placement {
    /// Places the parts of `vm`, whose image's first bytes are `head` ([`crate::image::HEADER_SIZE`] of them, or all).
    ///
    /// # Errors
    /// The property to change and why, as for the rest of the description.
    pub fn new(vm: &VmDesc, head: &[u8]) -> Result<Self, VmError> {
        let header = Image::parse(head, vm.image.size()).map_err(|error| VmError {
            property: "image",
            reason: Reason::Image(error),
        })?;
        let image = place_image(vm, &header)?;
        let entry = vm.entry.unwrap_or(image.start());
        if !image.contains(entry) {
            return refuse("umbra,entry", Reason::EntryOutside { entry });
        }
        if !entry.is_multiple_of(4) {
            return refuse("umbra,entry", Reason::Unaligned { value: entry, align: 4 });
        }
        let initrd = match vm.initrd {
            Some(file) => Some(in_ram(vm, above(image), file.size(), "initrd")?),
            None => None,
        };
        let dtb = place_dtb(vm, image, initrd)?;
        Ok(Self { image, entry, initrd, dtb })
    }
}

fn place_image(vm: &VmDesc, image: &Image) -> Result<Range, VmError> {
    let offset = match image.format {
        Format::Arm64 { text_offset, .. } => text_offset,
        Format::Raw => RAW_OFFSET,
    };
    let load = vm.load.or_else(|| vm.ram.start().checked_add(offset));
    if let (Format::Arm64 { text_offset, .. }, Some(load)) = (image.format, vm.load)
        && load.checked_sub(text_offset).is_none_or(|base| base % BLOCK != 0)
    {
        return refuse("umbra,load", Reason::LoadOffset { load, text_offset });
    }
    in_ram(vm, load, image.memory_size, if vm.load.is_some() { "umbra,load" } else { "image" })
}

fn place_dtb(vm: &VmDesc, image: Range, initrd: Option<Range>) -> Result<Option<u64>, VmError> {
    const PROPERTY: &str = "umbra,dtb";
    let start = match vm.dtb {
        DtbPlacement::None => return Ok(None),
        DtbPlacement::AboveImage => above(initrd.unwrap_or(image)),
        DtbPlacement::At(address) => Some(address),
    };
    let dtb = in_ram(vm, start, DTB_SIZE, PROPERTY)?;
    if dtb.start() % 8 != 0 {
        return refuse(
            PROPERTY,
            Reason::Unaligned {
                value: dtb.start(),
                align: 8,
            },
        );
    }
    if dtb.overlaps(image) {
        return refuse(PROPERTY, Reason::OverlapsInRam { what: "image" });
    }
    if initrd.is_some_and(|initrd| initrd.overlaps(dtb)) {
        return refuse(PROPERTY, Reason::OverlapsInRam { what: "initrd" });
    }
    Ok(Some(dtb.start()))
}

/// The first 2 MiB boundary that is not below the end of `range`.
fn above(range: Range) -> Option<u64> {
    range.end().checked_next_multiple_of(BLOCK)
}

/// `size` bytes from `start`, if the VM's RAM has them.
fn in_ram(vm: &VmDesc, start: Option<u64>, size: u64, property: &'static str) -> Result<Range, VmError> {
    let start = start.ok_or(VmError {
        property,
        reason: Reason::Wraps,
    })?;
    let range = Range::new(start, size).ok_or(VmError {
        property,
        reason: Reason::Wraps,
    })?;
    if vm.ram.covers(range) {
        Ok(range)
    } else {
        refuse(property, Reason::NotInRam { start, size })
    }
}
