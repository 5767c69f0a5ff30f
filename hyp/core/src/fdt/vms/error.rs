//! Why a VM is refused. The texts are part of `docs/devicetree.md`.

use core::fmt;

use hyp_abi::layout;

use crate::{image::ImageError, put, text::Value};

/// Why a VM is refused: the property (or the child node) and what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmError {
    /// The property's or child node's name.
    pub property: &'static str,
    /// What is wrong.
    pub reason: Reason,
}

impl fmt::Display for VmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        put!(f, "{}: {}", self.property, Value::Of(&self.reason))
    }
}

impl core::error::Error for VmError {}

/// What is wrong with a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is not there, and has no default.
    Missing,
    /// Its value has another form than this one.
    Form {
        /// What it must be.
        expected: &'static str,
    },
    /// A number is out of bounds.
    OutOfRange {
        /// The number.
        value: u64,
        /// The lowest that is allowed.
        least: u64,
        /// The highest that is allowed.
        most: u64,
    },
    /// A text is too long.
    TooLong {
        /// Its length.
        length: usize,
        /// The longest that is allowed.
        most: usize,
    },
    /// `umbra,pcpus` has another length than `umbra,vcpus` says.
    Count {
        /// Its length.
        found: usize,
        /// The number of vCPUs.
        expected: usize,
    },
    /// The board has no such CPU.
    NoPcpu {
        /// The number given.
        pcpu: u64,
        /// How many the board has.
        cpus: usize,
    },
    /// An earlier VM has that name.
    NameTaken,
    /// There already is a host partition.
    SecondHost,
    /// Too many VMs.
    TooManyVms {
        /// How many guests there can be.
        most: usize,
    },
    /// An address or size is not a multiple of what it must be.
    Unaligned {
        /// The number.
        value: u64,
        /// What it must be a multiple of.
        align: u64,
    },
    /// A range has no bytes.
    Empty,
    /// A range goes beyond the end of the address space.
    Wraps,
    /// RAM lies where an emulated device is.
    OnDevice {
        /// Which device.
        device: &'static str,
    },
    /// RAM ends above the highest IPA.
    AboveIpa {
        /// Its end.
        end: u64,
    },
    /// A module is not in the board's RAM.
    NotInBoardRam {
        /// Where it begins.
        start: u64,
        /// Where it ends (exclusive).
        end: u64,
    },
    /// A module overlaps something else in the board's memory.
    Overlaps {
        /// What.
        what: &'static str,
        /// Where the module begins.
        start: u64,
        /// Where it ends (exclusive).
        end: u64,
    },
    /// Something does not fit in the VM's RAM.
    NotInRam {
        /// Where it begins (IPA).
        start: u64,
        /// How many bytes it needs.
        size: u64,
    },
    /// Two things that go into the VM's RAM overlap there.
    OverlapsInRam {
        /// The other one.
        what: &'static str,
    },
    /// The entry is not in the image.
    EntryOutside {
        /// The address.
        entry: u64,
    },
    /// The arm64 `Image` is not `text_offset` bytes above a 2 MiB boundary.
    LoadOffset {
        /// The address.
        load: u64,
        /// The header's `text_offset`.
        text_offset: u64,
    },
    /// The image cannot run as it stands.
    Image(ImageError),
    /// A range of the filter has no function identifiers.
    NoIdentifiers,
    /// A range of the filter goes beyond the last function identifier.
    BeyondIdentifiers,
    /// A range of the filter overlaps an earlier one, or a reserved one.
    RangeTaken {
        /// Its first function identifier.
        base: u32,
    },
    /// An action of the filter that does not exist.
    Action {
        /// The number given.
        action: u32,
    },
    /// Calls are to be forwarded, and there is no (valid) host partition.
    NoHost,
    /// The host partition would forward to itself.
    HostForwards,
    /// More devices than a VM is given.
    TooManyDevices {
        /// How many it can have.
        most: usize,
    },
    /// A device cannot be passed to the VM.
    Device {
        /// Its place in the list.
        index: usize,
        /// What is the matter with it.
        why: &'static str,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Missing => f.write_str("missing"),
            Self::Form { expected } => put!(f, "must be {}", expected),
            Self::OutOfRange { value, least, most } => put!(f, "{} is not in {}..={}", value, least, most),
            Self::TooLong { length, most } => put!(f, "{} bytes are too long ({} are allowed)", length, most),
            Self::Count { found, expected } => put!(f, "{} given for {} vCPUs", found, expected),
            Self::NoPcpu { pcpu, cpus } => put!(f, "no pCPU {}: the board has {}", pcpu, cpus),
            Self::NameTaken => f.write_str("an earlier VM has this name"),
            Self::SecondHost => f.write_str("there already is a host partition"),
            Self::TooManyVms { most } => put!(f, "there can be no more than {} guests", most),
            Self::Unaligned { value, align } => put!(f, "{:#x} is not a multiple of {:#x}", value, align),
            Self::Empty => f.write_str("has no bytes"),
            Self::Wraps => f.write_str("goes beyond the end of the address space"),
            Self::OnDevice { device } => put!(f, "overlaps the guest's {}", device),
            Self::AboveIpa { end } => put!(f, "ends at {:#x}, above the guest's {} address bits", end, layout::IPA_BITS),
            Self::NotInBoardRam { start, end } => put!(f, "{:#x}..{:#x} is not in the board's RAM", start, end),
            Self::Overlaps { what, start, end } => put!(f, "{:#x}..{:#x} overlaps {}", start, end, what),
            Self::NotInRam { start, size } => put!(f, "{:#x} bytes at {:#x} are not in the VM's RAM", size, start),
            Self::OverlapsInRam { what } => put!(f, "overlaps the {} in the VM's RAM", what),
            Self::EntryOutside { entry } => put!(f, "{:#x} is not in the image", entry),
            Self::LoadOffset { load, text_offset } => {
                put!(
                    f,
                    "{:#x} is not {:#x} (the image's text_offset) above a multiple of 2 MiB",
                    load,
                    text_offset
                )
            }
            Self::Image(error) => error.fmt(f),
            Self::NoIdentifiers => f.write_str("a range has no identifiers"),
            Self::BeyondIdentifiers => f.write_str("a range goes beyond 0xffffffff"),
            Self::RangeTaken { base } => put!(f, "the range from {:#x} overlaps an earlier one or a reserved one", base),
            Self::Action { action } => put!(f, "no action {} (0 handle, 1 deny, 2 forward)", action),
            Self::NoHost => f.write_str("calls are to be forwarded, and there is no host partition"),
            Self::HostForwards => f.write_str("the host partition cannot forward to itself"),
            Self::TooManyDevices { most } => put!(f, "a VM is given {} devices at most", most),
            Self::Device { index, why } => put!(f, "entry {}: {}", index, why),
        }
    }
}
