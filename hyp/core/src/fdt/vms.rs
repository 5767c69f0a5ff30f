//! The VMs that the device tree describes below `/chosen`, and where the parts of each go.
//!
//! `docs/devicetree.md` is the contract. A VM that breaks it is refused by itself, with the property and the reason; the
//! others are not touched by that.

mod devices;
mod error;
mod placement;

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use hyp_abi::layout;

use super::{Cells, Node, Tree, first_of, is_okay, one_cell, one_string};
pub use crate::filter::Action as FilterAction;
use crate::filter::Filter;
use crate::types::{Pa, Range};
pub use devices::{Device, MAX_DEVICES, Spi};
pub use error::{Reason, VmError};
pub use placement::Placement;

/// The longest name of a VM; what is longer is cut.
pub const MAX_NAME: usize = 32;
/// The longest `bootargs` (arm64 Linux takes 2048 bytes, its NUL included).
pub const MAX_BOOTARGS: usize = 2047;
/// The most entries of `umbra,smccc-filter`.
pub const MAX_FILTER: usize = crate::filter::MAX_RANGES;
/// Alignment of a VM's RAM and of what is placed in it.
pub const BLOCK: u64 = 2 << 20;
/// Room for a guest's device tree.
pub const DTB_SIZE: u64 = 64 << 10;
/// How many VM nodes are looked at; those above [`layout::MAX_VMS`] are refused, but heard of.
const MAX_NODES: usize = 32;

const DEFAULT_RAM_SIZE: u64 = 256 << 20;
const DEFAULT_DEADLINE_MS: u32 = 5000;
const MAX_DEADLINE_MS: u32 = 3_600_000;

/// One VM node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vm {
    /// 0 for the host partition; guests count from 1 in the tree's order, refused ones too.
    pub id: usize,
    /// The name, for messages: also there when the rest is not.
    pub name: String,
    /// What is to be built, or why nothing is.
    pub description: Result<VmDesc, VmError>,
}

/// The description of a VM that can be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmDesc {
    /// Whether it is the host partition.
    pub host: bool,
    /// At most [`MAX_NAME`] graphic ASCII characters.
    pub name: String,
    /// The pCPU of each vCPU, as a place in the board's list of CPUs. Its length is the number of vCPUs.
    pub pcpus: Vec<usize>,
    /// RAM, as IPAs.
    pub ram: Range,
    /// The guest's command line.
    pub bootargs: String,
    /// Where the guest's device tree goes.
    pub dtb: DtbPlacement,
    /// Every access to ICC_CTLR_EL1 traps.
    pub strict: bool,
    /// Losers of a forwarded CPU_ON see ON_PENDING; otherwise ALREADY_ON, as under KVM.
    pub on_pending: bool,
    /// How long a forwarded call waits for the host's answer.
    pub forward_deadline_ms: u32,
    /// The ranges of the SMCCC filter, in the tree's order.
    pub filter: Vec<FilterEntry>,
    /// The image's file.
    pub image: Range,
    /// Where the image is asked to go (IPA).
    pub load: Option<u64>,
    /// Where the first vCPU is asked to start (IPA).
    pub entry: Option<u64>,
    /// The initial RAM disk's file.
    pub initrd: Option<Range>,
    /// Devices of the board that it is given.
    pub devices: Vec<Device>,
}

impl VmDesc {
    /// How many vCPUs.
    #[must_use]
    pub fn vcpus(&self) -> usize {
        self.pcpus.len()
    }

    /// The SMCCC filter. Every range was tried when the description was read.
    #[must_use]
    pub fn smccc_filter(&self) -> Filter {
        let mut filter = Filter::new();
        for entry in &self.filter {
            let inserted = filter.insert(entry.base, entry.count, entry.action as u64);
            debug_assert!(inserted.is_ok(), "checked by `filter`");
        }
        filter
    }

    /// Where the image's file is.
    #[must_use]
    pub fn image_pa(&self) -> Pa {
        Pa::new(self.image.start())
    }
}

/// Where a guest's device tree goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DtbPlacement {
    /// At the first 2 MiB boundary above the image and the initial RAM disk.
    AboveImage,
    /// The guest gets none; its `x0` is 0.
    None,
    /// At this IPA.
    At(u64),
}

/// One range of SMCCC function identifiers. It is not empty, does not wrap, and overlaps neither another one nor a reserved one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterEntry {
    /// The first function identifier.
    pub base: u32,
    /// How many.
    pub count: u32,
    /// What is done with them.
    pub action: FilterAction,
}

/// What modules and vCPUs must respect.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'s> {
    /// The board's RAM, neighbours merged.
    pub ram: &'s [Range],
    /// The board's reserved memory.
    pub reserved: &'s [Range],
    /// Umbra itself, with everything that it uses already.
    pub hyp: Range,
    /// The board's device tree.
    pub dtb: Range,
    /// How many CPUs the board has.
    pub cpus: usize,
}

/// Every VM node below `/chosen`, in the tree's order; those whose `status` is not `okay` are passed over.
#[must_use]
pub fn describe(tree: &Tree<'_>, around: &Surroundings<'_>) -> Vec<Vm> {
    let mut plan = Plan {
        tree,
        around,
        vms: Vec::new(),
        pending: Vec::new(),
        guests: 0,
        hosts: 0,
    };
    if let Some(chosen) = tree.chosen() {
        let mut left = MAX_NODES;
        for node in chosen.children() {
            let said = Said(node.properties(&Key::NAMES));
            if left > 0 && is_okay(said.get(Key::Status)) && (said.is("umbra,vm") || said.is("umbra,host")) {
                left -= 1;
                plan.add(&chosen, &node, &said);
            }
        }
    }
    plan.fill_pcpus();
    plan.require_host();
    plan.vms
}

/// What is read of a VM's node.
#[derive(Clone, Copy)]
enum Key {
    Compatible,
    Status,
    AddressCells,
    SizeCells,
    Name,
    Vcpus,
    Pcpus,
    Ram,
    Bootargs,
    Dtb,
    Strict,
    NoOnPending,
    Deadline,
    Filter,
    Devices,
}

/// The values of a VM node's properties, by [`Key`].
struct Said<'a>([Option<&'a [u8]>; Key::NAMES.len()]);

impl Key {
    /// The properties' names, in the order of the keys.
    const NAMES: [&str; 15] = [
        "compatible",
        "status",
        "#address-cells",
        "#size-cells",
        "umbra,name",
        "umbra,vcpus",
        "umbra,pcpus",
        "umbra,ram",
        "bootargs",
        "umbra,dtb",
        "umbra,strict",
        "umbra,no-on-pending",
        "umbra,forward-deadline-ms",
        "umbra,smccc-filter",
        "umbra,devices",
    ];
}

impl<'a> Said<'a> {
    fn get(&self, key: Key) -> Option<&'a [u8]> {
        *self.0.get(key as usize)?
    }

    fn is(&self, kind: &'static str) -> bool {
        self.get(Key::Compatible).is_some_and(|list| first_of(list, &[kind]).is_some())
    }
}

/// What has been read so far. Earlier VMs have what they asked for; a later one that wants the same is refused.
struct Plan<'s> {
    tree: &'s Tree<'s>,
    around: &'s Surroundings<'s>,
    vms: Vec<Vm>,
    /// Index in `vms` and number of vCPUs of those that leave the choice of pCPUs to us.
    pending: Vec<(usize, usize)>,
    guests: usize,
    hosts: usize,
}

impl Plan<'_> {
    fn add(&mut self, chosen: &Node<'_, '_>, node: &Node<'_, '_>, said: &Said<'_>) {
        let given = said.get(Key::Name).and_then(one_string).filter(|name| !name.is_empty());
        let name = shown(given.unwrap_or(node.base_name()));
        let host = said.is("umbra,host");
        let id = if host { 0 } else { self.guests + 1 };
        let description = self.admit(chosen, node, said, host, &name);
        if host {
            self.hosts += 1;
        } else {
            self.guests += 1;
        }
        if let Ok((desc, vcpus)) = &description
            && desc.pcpus.is_empty()
        {
            self.pending.push((self.vms.len(), *vcpus));
        }
        self.vms.push(Vm {
            id,
            name,
            description: description.map(|(desc, _)| desc),
        });
    }

    /// The description and its number of vCPUs; its `pcpus` are empty when the tree does not give any.
    fn admit(
        &self,
        chosen: &Node<'_, '_>,
        node: &Node<'_, '_>,
        said: &Said<'_>,
        host: bool,
        name: &str,
    ) -> Result<(VmDesc, usize), VmError> {
        if host && self.hosts > 0 {
            return refuse("compatible", Reason::SecondHost);
        }
        if !host && self.guests + 1 >= layout::MAX_VMS {
            return refuse("compatible", Reason::TooManyVms { most: layout::MAX_VMS - 1 });
        }
        if said.get(Key::Name).is_some_and(|name| one_string(name).is_none_or(str::is_empty)) {
            return refuse(
                "umbra,name",
                Reason::Form {
                    expected: "one string that is not empty",
                },
            );
        }
        if self.accepted().any(|vm| vm.name == name) {
            return refuse("umbra,name", Reason::NameTaken);
        }
        let (pcpus, vcpus) = self.pcpus(said)?;
        let ram = ram(said.get(Key::Ram))?;
        let devices = self.devices(said.get(Key::Devices), ram)?;
        let filter = filter(said.get(Key::Filter))?;
        if host && filter.iter().any(|entry| entry.action == FilterAction::Forward) {
            return refuse("umbra,smccc-filter", Reason::HostForwards);
        }
        let image_node = module(node, "umbra,image").ok_or(VmError {
            property: "image",
            reason: Reason::Missing,
        })?;
        // A node's cells are counted by its parent; where the VM's node does not, `/chosen` does, and where it does not: two.
        let count = |key, name| said.get(key).and_then(one_cell).or_else(|| chosen.cell(name)).unwrap_or(2);
        let cells = (count(Key::AddressCells, "#address-cells"), count(Key::SizeCells, "#size-cells"));
        let image = self.module_range(&image_node, cells, "image")?;
        let initrd = match module(node, "umbra,initrd") {
            Some(initrd) => Some(self.module_range(&initrd, cells, "initrd")?),
            None => None,
        };
        if initrd.is_some_and(|initrd| initrd.overlaps(image)) {
            return refuse("initrd", overlap(initrd.unwrap_or(image), "the image"));
        }
        let desc = VmDesc {
            host,
            name: name.to_owned(),
            pcpus,
            ram,
            bootargs: bootargs(said.get(Key::Bootargs))?,
            dtb: dtb(said.get(Key::Dtb))?,
            strict: said.get(Key::Strict).is_some(),
            on_pending: said.get(Key::NoOnPending).is_none(),
            forward_deadline_ms: deadline(said.get(Key::Deadline))?,
            filter,
            image,
            load: address(&image_node, "umbra,load")?,
            entry: address(&image_node, "umbra,entry")?,
            initrd,
            devices,
        };
        Ok((desc, vcpus))
    }

    /// The devices that the VM is to be given: nodes of the board's tree.
    fn devices(&self, value: Option<&[u8]>, ram: Range) -> Result<Vec<Device>, VmError> {
        const PROPERTY: &str = "umbra,devices";
        let value = value.unwrap_or_default();
        let paths = match (value.split_last(), core::str::from_utf8(value)) {
            (None, _) => return Ok(Vec::new()),
            (Some((0, _)), Ok(text)) => text,
            _ => {
                return refuse(
                    PROPERTY,
                    Reason::Form {
                        expected: "a list of device-tree paths",
                    },
                );
            }
        };
        let mut devices: Vec<Device> = Vec::new();
        for (index, path) in paths.split_terminator('\0').enumerate() {
            if index >= MAX_DEVICES {
                return refuse(PROPERTY, Reason::TooManyDevices { most: MAX_DEVICES });
            }
            let others = self.accepted().flat_map(|vm| vm.devices.iter());
            let device = Device::read(self.tree, path).and_then(|device| {
                device.fits(ram, others.chain(&devices))?;
                Ok(device)
            });
            match device {
                Ok(device) => devices.push(device),
                Err(why) => return refuse(PROPERTY, Reason::Device { index, why }),
            }
        }
        Ok(devices)
    }

    fn accepted(&self) -> impl Iterator<Item = &VmDesc> {
        self.vms.iter().filter_map(|vm| vm.description.as_ref().ok())
    }

    /// The pCPUs that the tree gives, and the number of vCPUs. Every pCPU runs one vCPU.
    fn pcpus(&self, said: &Said<'_>) -> Result<(Vec<usize>, usize), VmError> {
        let listed = said.get(Key::Pcpus);
        if listed.is_some_and(|list| list.len() % 4 != 0) {
            return refuse(
                "umbra,pcpus",
                Reason::Form {
                    expected: "a list of cells",
                },
            );
        }
        let count = match said.get(Key::Vcpus) {
            Some(value) => u64::from(cell(value, "umbra,vcpus")?),
            None => listed.map_or(1, |list| list.len() as u64 / 4),
        };
        let most = layout::MAX_VCPUS as u64;
        if !(1..=most).contains(&count) {
            return refuse(
                "umbra,vcpus",
                Reason::OutOfRange {
                    value: count,
                    least: 1,
                    most,
                },
            );
        }
        let vcpus = count as usize;
        let Some(list) = listed else { return Ok((Vec::new(), vcpus)) };
        if list.len() / 4 != vcpus {
            return refuse(
                "umbra,pcpus",
                Reason::Count {
                    found: list.len() / 4,
                    expected: vcpus,
                },
            );
        }
        let (mut cells, mut pcpus) = (Cells(list), Vec::with_capacity(vcpus));
        while let Some(number) = cells.take(1) {
            let cpus = self.around.cpus;
            if number >= cpus as u64 {
                return refuse("umbra,pcpus", Reason::NoPcpu { pcpu: number, cpus });
            }
            let pcpu = number as usize;
            pcpus.push(pcpu);
        }
        Ok((pcpus, vcpus))
    }

    /// Where a module is in the board's memory.
    fn module_range(&self, node: &Node<'_, '_>, (address, size): (u32, u32), name: &'static str) -> Result<Range, VmError> {
        let reg = node.property("reg").ok_or(VmError {
            property: name,
            reason: Reason::Missing,
        })?;
        let mut cells = Cells(reg);
        let (start, length) = (cells.take(address), cells.take(size));
        let (Some(start), Some(length), []) = (start, length, cells.0) else {
            return refuse(
                name,
                Reason::Form {
                    expected: "one address and one size in `reg`",
                },
            );
        };
        let range = Range::new(start, length).ok_or(VmError {
            property: name,
            reason: Reason::Wraps,
        })?;
        self.free_for_module(range).map_err(|reason| VmError { property: name, reason })?;
        Ok(range)
    }

    fn free_for_module(&self, range: Range) -> Result<(), Reason> {
        if range.size() == 0 {
            return Err(Reason::Empty);
        }
        if !self.around.ram.iter().any(|ram| ram.covers(range)) {
            return Err(Reason::NotInBoardRam {
                start: range.start(),
                end: range.end(),
            });
        }
        let reserved = self.around.reserved.iter().any(|other| other.overlaps(range));
        let module = self
            .accepted()
            .any(|vm| vm.image.overlaps(range) || vm.initrd.is_some_and(|initrd| initrd.overlaps(range)));
        let obstacles = [
            (self.around.hyp.overlaps(range), "Umbra itself"),
            (self.around.dtb.overlaps(range), "the board's device tree"),
            (reserved, "reserved memory"),
            (module, "another module"),
        ];
        match obstacles.iter().find(|(there, _)| *there) {
            Some((_, what)) => Err(overlap(range, what)),
            None => Ok(()),
        }
    }

    /// Gives the VMs that left the choice to us the lowest pCPUs that nobody asked for.
    fn fill_pcpus(&mut self) {
        for (index, vcpus) in core::mem::take(&mut self.pending) {
            // The pCPUs that run least come first; once each runs as much as another, they are shared in their order.
            let mut load: Vec<usize> = (0..self.around.cpus)
                .map(|pcpu| self.accepted().map(|vm| vm.pcpus.iter().filter(|own| **own == pcpu).count()).sum())
                .collect();
            let mut pcpus = Vec::with_capacity(vcpus);
            for _ in 0..vcpus {
                let Some((pcpu, count)) = load.iter_mut().enumerate().min_by_key(|(_, count)| **count) else {
                    break;
                };
                *count += 1;
                pcpus.push(pcpu);
            }
            let Some(vm) = self.vms.get_mut(index) else { continue };
            if let Ok(desc) = &mut vm.description {
                desc.pcpus = pcpus;
            }
        }
    }

    /// Refuses the VMs that forward when there is nobody to forward to.
    fn require_host(&mut self) {
        if self.accepted().any(|vm| vm.host) {
            return;
        }
        for vm in &mut self.vms {
            let forwards = |desc: &VmDesc| desc.filter.iter().any(|entry| entry.action == FilterAction::Forward);
            if vm.description.as_ref().is_ok_and(forwards) {
                vm.description = refuse("umbra,smccc-filter", Reason::NoHost);
            }
        }
    }
}

fn refuse<T>(property: &'static str, reason: Reason) -> Result<T, VmError> {
    Err(VmError { property, reason })
}

fn overlap(range: Range, what: &'static str) -> Reason {
    Reason::Overlaps {
        what,
        start: range.start(),
        end: range.end(),
    }
}

/// A VM's name as it is shown: graphic ASCII, cut to [`MAX_NAME`] characters. It goes into records, whose values have no spaces.
fn shown(name: &str) -> String {
    name.chars()
        .take(MAX_NAME)
        .map(|c| if c.is_ascii_graphic() { c } else { '_' })
        .collect()
}

fn module<'t, 'a>(vm: &Node<'t, 'a>, compatible: &'static str) -> Option<Node<'t, 'a>> {
    vm.children().find(|node| node.compatible_with(&[compatible]).is_some())
}

fn cell(value: &[u8], property: &'static str) -> Result<u32, VmError> {
    one_cell(value).ok_or(VmError {
        property,
        reason: Reason::Form { expected: "one cell" },
    })
}

/// A property of two cells.
fn address(node: &Node<'_, '_>, property: &'static str) -> Result<Option<u64>, VmError> {
    let Some(value) = node.property(property) else { return Ok(None) };
    match <[u8; 8]>::try_from(value) {
        Ok(bytes) => Ok(Some(u64::from_be_bytes(bytes))),
        Err(_) => refuse(
            property,
            Reason::Form {
                expected: "an address of two cells",
            },
        ),
    }
}

fn bootargs(value: Option<&[u8]>) -> Result<String, VmError> {
    let Some(value) = value else { return Ok(String::new()) };
    let Some(text) = one_string(value) else {
        return refuse("bootargs", Reason::Form { expected: "one string" });
    };
    if text.len() > MAX_BOOTARGS {
        return refuse(
            "bootargs",
            Reason::TooLong {
                length: text.len(),
                most: MAX_BOOTARGS,
            },
        );
    }
    Ok(text.to_owned())
}

fn dtb(value: Option<&[u8]>) -> Result<DtbPlacement, VmError> {
    let Some(value) = value else { return Ok(DtbPlacement::AboveImage) };
    match (one_string(value), <[u8; 8]>::try_from(value)) {
        (Some("above-image"), _) => Ok(DtbPlacement::AboveImage),
        (Some("none"), _) => Ok(DtbPlacement::None),
        (_, Ok(bytes)) => Ok(DtbPlacement::At(u64::from_be_bytes(bytes))),
        _ => refuse(
            "umbra,dtb",
            Reason::Form {
                expected: "\"above-image\", \"none\" or an address of two cells",
            },
        ),
    }
}

fn deadline(value: Option<&[u8]>) -> Result<u32, VmError> {
    const PROPERTY: &str = "umbra,forward-deadline-ms";
    let Some(value) = value else { return Ok(DEFAULT_DEADLINE_MS) };
    let value = cell(value, PROPERTY)?;
    if (1..=MAX_DEADLINE_MS).contains(&value) {
        return Ok(value);
    }
    refuse(
        PROPERTY,
        Reason::OutOfRange {
            value: value.into(),
            least: 1,
            most: MAX_DEADLINE_MS.into(),
        },
    )
}

fn filter(value: Option<&[u8]>) -> Result<Vec<FilterEntry>, VmError> {
    const PROPERTY: &str = "umbra,smccc-filter";
    let value = value.unwrap_or_default();
    if !value.len().is_multiple_of(12) {
        return refuse(
            PROPERTY,
            Reason::Form {
                expected: "triples of cells: base, count, action",
            },
        );
    }
    if value.len() / 12 > MAX_FILTER {
        return refuse(
            PROPERTY,
            Reason::OutOfRange {
                value: value.len() as u64 / 12,
                least: 0,
                most: MAX_FILTER as u64,
            },
        );
    }
    let mut scratch = Filter::new();
    let entries = value.chunks_exact(12).map(|entry| {
        let entry = filter_entry(entry)?;
        let inserted = scratch.insert(entry.base, entry.count, entry.action as u64);
        inserted.map_err(|_| Reason::RangeTaken { base: entry.base })?;
        Ok(entry)
    });
    entries.collect::<Result<_, _>>().map_err(|reason| VmError {
        property: PROPERTY,
        reason,
    })
}

fn filter_entry(value: &[u8]) -> Result<FilterEntry, Reason> {
    let mut cells = Cells(value);
    let mut next = || cells.take(1).unwrap_or(0) as u32;
    let (base, count, action) = (next(), next(), next());
    let action = u8::try_from(action)
        .ok()
        .and_then(FilterAction::from_u8)
        .ok_or(Reason::Action { action })?;
    match count.checked_sub(1).map(|last| base.checked_add(last)) {
        None => Err(Reason::NoIdentifiers),
        Some(None) => Err(Reason::BeyondIdentifiers),
        Some(Some(_)) => Ok(FilterEntry { base, count, action }),
    }
}

/// Where devices are in every VM, and the shadow pages in the host partition.
const DEVICES: [(u64, u64, &str); 5] = [
    (0, layout::FLASH_END, "flash"),
    (layout::GICD_BASE, layout::GICD_SIZE, "GIC distributor"),
    (
        layout::GICR_BASE,
        layout::GICR_STRIDE * layout::MAX_VCPUS as u64,
        "GIC redistributors",
    ),
    (layout::UART_BASE, layout::UART_SIZE, "PL011"),
    (layout::SHADOW_BASE, layout::SHADOW_STRIDE * layout::MAX_VMS as u64, "shadow pages"),
];

fn ram(value: Option<&[u8]>) -> Result<Range, VmError> {
    const PROPERTY: &str = "umbra,ram";
    let error = |reason| VmError {
        property: PROPERTY,
        reason,
    };
    let (base, size) = match value {
        None => (layout::RAM_BASE, DEFAULT_RAM_SIZE),
        Some(value) => {
            let mut cells = Cells(value);
            let (Some(base), Some(size), []) = (cells.take(2), cells.take(2), cells.0) else {
                return refuse(
                    PROPERTY,
                    Reason::Form {
                        expected: "base and size, two cells each",
                    },
                );
            };
            (base, size)
        }
    };
    if size == 0 {
        return refuse(PROPERTY, Reason::Empty);
    }
    if let Some(value) = [base, size].into_iter().find(|value| value % BLOCK != 0) {
        return refuse(PROPERTY, Reason::Unaligned { value, align: BLOCK });
    }
    let ram = Range::new(base, size).ok_or(error(Reason::Wraps))?;
    if ram.end() > 1 << layout::IPA_BITS {
        return refuse(PROPERTY, Reason::AboveIpa { end: ram.end() });
    }
    let on = |start, size| Range::new(start, size).is_some_and(|device| device.overlaps(ram));
    match DEVICES.iter().find(|(start, size, _)| on(*start, *size)) {
        Some((_, _, device)) => refuse(PROPERTY, Reason::OnDevice { device }),
        None => Ok(ram),
    }
}
