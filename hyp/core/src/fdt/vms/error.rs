//! Why a VM is refused. The texts are part of `docs/devicetree.md`.

use core::fmt;

use hyp_abi::layout;

use crate::image::ImageError;

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
        write!(f, "{}: {}", self.property, self.reason)
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
            Self::Form { expected } => write!(f, "must be {expected}"),
            Self::OutOfRange { value, least, most } => write!(f, "{value} is not in {least}..={most}"),
            Self::TooLong { length, most } => write!(f, "{length} bytes are too long ({most} are allowed)"),
            Self::Count { found, expected } => write!(f, "{found} given for {expected} vCPUs"),
            Self::NoPcpu { pcpu, cpus } => write!(f, "no pCPU {pcpu}: the board has {cpus}"),
            Self::NameTaken => f.write_str("an earlier VM has this name"),
            Self::SecondHost => f.write_str("there already is a host partition"),
            Self::TooManyVms { most } => write!(f, "there can be no more than {most} guests"),
            Self::Unaligned { value, align } => write!(f, "{value:#x} is not a multiple of {align:#x}"),
            Self::Empty => f.write_str("has no bytes"),
            Self::Wraps => f.write_str("goes beyond the end of the address space"),
            Self::OnDevice { device } => write!(f, "overlaps the guest's {device}"),
            Self::AboveIpa { end } => write!(f, "ends at {end:#x}, above the guest's {} address bits", layout::IPA_BITS),
            Self::NotInBoardRam { start, end } => write!(f, "{start:#x}..{end:#x} is not in the board's RAM"),
            Self::Overlaps { what, start, end } => write!(f, "{start:#x}..{end:#x} overlaps {what}"),
            Self::NotInRam { start, size } => write!(f, "{size:#x} bytes at {start:#x} are not in the VM's RAM"),
            Self::OverlapsInRam { what } => write!(f, "overlaps the {what} in the VM's RAM"),
            Self::EntryOutside { entry } => write!(f, "{entry:#x} is not in the image"),
            Self::LoadOffset { load, text_offset } => {
                write!(
                    f,
                    "{load:#x} is not {text_offset:#x} (the image's text_offset) above a multiple of 2 MiB"
                )
            }
            Self::Image(error) => error.fmt(f),
            Self::NoIdentifiers => f.write_str("a range has no identifiers"),
            Self::BeyondIdentifiers => f.write_str("a range goes beyond 0xffffffff"),
            Self::RangeTaken { base } => write!(f, "the range from {base:#x} overlaps an earlier one or a reserved one"),
            Self::Action { action } => write!(f, "no action {action} (0 handle, 1 deny, 2 forward)"),
            Self::NoHost => f.write_str("calls are to be forwarded, and there is no host partition"),
            Self::HostForwards => f.write_str("the host partition cannot forward to itself"),
            Self::TooManyDevices { most } => write!(f, "a VM is given {most} devices at most"),
            Self::Device { index, why } => write!(f, "entry {index}: {why}"),
        }
    }
}
