//! Where the parts of a VM go in its RAM.

use super::{BLOCK, DTB_SIZE, DtbPlacement, IMAGE, INITRD, Reader};
use crate::image::{Format, Image};
use crate::text;
use crate::text::Value;
use crate::types::Range;

/// Where a raw binary goes when nothing says so, from the beginning of RAM: where `virt` machines' programs are linked.
const RAW_OFFSET: u64 = 0x8_0000;

/// Where everything goes in a VM's RAM. All addresses are IPAs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

impl Reader<'_, '_, '_> {
    /// Places the parts of the VM, of which everything else has been read.
    pub(super) fn place(&mut self) -> Option<()> {
        let file = self.vm.image;
        self.property = IMAGE;
        let image = match Image::parse((self.around.head)(file), file.size()) {
            Ok(image) => self.place_image(&image)?,
            Err(error) => return self.refuse(text!("{}", Value::Of(&error))),
        };
        self.property = "umbra,entry";
        let entry = self.vm.entry.unwrap_or(image.start());
        if !image.contains(entry) {
            return self.refuse(text!("{:#x} is not in the image", entry));
        }
        self.aligned(entry, 4)?;
        self.property = INITRD;
        let initrd = match self.vm.initrd {
            Some(file) => Some(self.in_ram(above(image), file.size())?),
            None => None,
        };
        let dtb = match self.vm.dtb {
            DtbPlacement::None => None,
            DtbPlacement::AboveImage => Some(self.place_dtb(above(initrd.unwrap_or(image)), image, initrd)?),
            DtbPlacement::At(address) => Some(self.place_dtb(Some(address), image, initrd)?),
        };
        self.vm.placement = Placement { image, entry, initrd, dtb };
        Some(())
    }

    fn place_image(&mut self, image: &Image) -> Option<Range> {
        let (offset, header) = match image.format {
            Format::Arm64 { text_offset, .. } => (text_offset, true),
            Format::Raw => (RAW_OFFSET, false),
        };
        let Some(load) = self.vm.load else {
            return self.in_ram(self.vm.ram.start().checked_add(offset), image.memory_size);
        };
        self.property = "umbra,load";
        if header && load.checked_sub(offset).is_none_or(|base| base % BLOCK != 0) {
            let why = text!(
                "{:#x} is not {:#x} (the image's text_offset) above a multiple of 2 MiB",
                load,
                offset
            );
            return self.refuse(why);
        }
        self.in_ram(Some(load), image.memory_size)
    }

    fn place_dtb(&mut self, start: Option<u64>, image: Range, initrd: Option<Range>) -> Option<u64> {
        self.property = "umbra,dtb";
        let dtb = self.in_ram(start, DTB_SIZE)?;
        self.aligned(dtb.start(), 8)?;
        let what = if dtb.overlaps(image) {
            IMAGE
        } else if initrd.is_some_and(|initrd| initrd.overlaps(dtb)) {
            INITRD
        } else {
            return Some(dtb.start());
        };
        self.refuse(text!("overlaps the {} in the VM's RAM", what))
    }

    /// `size` bytes from `start`, which is `None` above all addresses, if the VM's RAM has them.
    fn in_ram(&mut self, start: Option<u64>, size: u64) -> Option<Range> {
        let Some(range) = start.and_then(|start| Range::new(start, size)) else {
            return self.refuse(text!("goes beyond the end of the address space"));
        };
        if !self.vm.ram.covers(range) {
            let start = range.start();
            return self.refuse(text!("{:#x} bytes at {:#x} are not in the VM's RAM", size, start));
        }
        Some(range)
    }

    /// `value` must be a multiple of `align`.
    pub(super) fn aligned(&mut self, value: u64, align: u64) -> Option<()> {
        if !value.is_multiple_of(align) {
            return self.refuse(text!("{:#x} is not a multiple of {:#x}", value, align));
        }
        Some(())
    }
}

/// The first 2 MiB boundary that is not below the end of `range`.
fn above(range: Range) -> Option<u64> {
    range.end().checked_next_multiple_of(BLOCK)
}
