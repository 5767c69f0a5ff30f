//! The VMs that the device tree describes below `/chosen`, and where the parts of each go.
//!
//! `docs/devicetree.md` is the contract. A VM that breaks it is refused by itself, with the property and the reason; the
//! others are not touched by that.

mod devices;
mod placement;

use arrayvec::{ArrayString, ArrayVec};
use hyp_abi::layout;

use super::board::{Board, MAX_CPUS};
use super::guest::GuestTree;
use super::{Cells, Node, Tree, cut, is_string, one_cell, one_string};
pub use crate::filter::Action as FilterAction;
use crate::filter::Filter;
use crate::text;
use crate::text::Text;
use crate::types::Range;
pub use devices::{Device, MAX_DEVICES, Spi};
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

/// The host partition is compatible with this, too.
const HOST: &str = "umbra,host";
/// The properties of a VM's node that are ours.
const PROPERTIES: [&str; 10] = [
    "umbra,name",
    "umbra,vcpus",
    "umbra,pcpus",
    "umbra,ram",
    "umbra,dtb",
    "umbra,strict",
    "umbra,no-on-pending",
    "umbra,forward-deadline-ms",
    "umbra,smccc-filter",
    "umbra,devices",
];
const DEFAULT_RAM_SIZE: u64 = 256 << 20;
const DEFAULT_DEADLINE_MS: u32 = 5000;
/// The longest that a forwarded call waits for its verdict.
pub const MAX_DEADLINE_MS: u32 = 3_600_000;

/// The VMs that the tree describes.
#[derive(Clone, Debug, Default)]
pub struct Vms<'a> {
    /// Those of which each can be built by itself, the host partition first.
    list: ArrayVec<VmDesc<'a>, { layout::MAX_VMS }>,
}

impl<'a> Vms<'a> {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            list: ArrayVec::new_const(),
        }
    }

    fn has_host(&self) -> bool {
        self.list.first().is_some_and(VmDesc::is_host)
    }

    /// Those that can be built, the host partition first: without it nobody answers what is forwarded.
    pub fn iter(&self) -> impl Iterator<Item = &VmDesc<'a>> {
        let host = self.has_host();
        self.list.iter().filter(move |vm| host || !vm.forwards)
    }
}

/// The description of a VM that can be built. Texts are where the tree has them.
#[derive(Clone, Debug)]
pub struct VmDesc<'a> {
    /// 0 for the host partition; guests count from 1 in the tree's order, refused ones too.
    pub id: usize,
    /// At most [`MAX_NAME`] graphic ASCII characters.
    name: ArrayString<MAX_NAME>,
    /// The pCPU of each vCPU, as a place in the board's list of CPUs. Its length is the number of vCPUs.
    pub pcpus: ArrayVec<u8, { layout::MAX_VCPUS }>,
    /// RAM, as IPAs.
    pub ram: Range,
    /// The guest's command line.
    pub bootargs: &'a [u8],
    /// Where the guest's device tree goes.
    pub dtb: DtbPlacement,
    /// Every access to ICC_CTLR_EL1 traps.
    pub strict: bool,
    /// Losers of a forwarded CPU_ON see ON_PENDING; otherwise ALREADY_ON, as under KVM.
    pub on_pending: bool,
    /// How long a forwarded call waits for the host's answer.
    pub forward_deadline_ms: u32,
    /// `umbra,smccc-filter`, as it stands.
    filter: &'a [u8],
    /// Whether the filter forwards any call.
    pub forwards: bool,
    /// The image's file.
    pub image: Range,
    /// Where the image is asked to go (IPA).
    pub load: Option<u64>,
    /// Where the first vCPU is asked to start (IPA).
    pub entry: Option<u64>,
    /// The initial RAM disk's file.
    pub initrd: Option<Range>,
    /// Where all of this goes in its RAM.
    pub placement: Placement,
    /// How many bytes its own device tree takes.
    pub tree_size: usize,
    /// Devices of the board that it is given.
    pub devices: ArrayVec<Device<'a>, MAX_DEVICES>,
}

impl VmDesc<'_> {
    /// What a VM is of which nothing is known but its number.
    fn new(id: usize) -> Self {
        Self {
            id,
            name: ArrayString::new(),
            pcpus: ArrayVec::new(),
            ram: Range::EMPTY,
            bootargs: &[],
            dtb: DtbPlacement::AboveImage,
            strict: false,
            on_pending: true,
            forward_deadline_ms: DEFAULT_DEADLINE_MS,
            filter: &[],
            forwards: false,
            image: Range::EMPTY,
            load: None,
            entry: None,
            initrd: None,
            placement: Placement::default(),
            tree_size: 0,
            devices: ArrayVec::new(),
        }
    }

    /// For people.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is the host partition.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.id == 0
    }

    /// How many vCPUs.
    #[must_use]
    pub fn vcpus(&self) -> usize {
        self.pcpus.len()
    }

    /// The SMCCC filter. Every range was tried when the description was read.
    #[must_use]
    pub fn smccc_filter(&self) -> Filter {
        let mut filter = Filter::new();
        let mut cells = Cells(self.filter);
        while let Some((base, count, action)) = triple(&mut cells) {
            let inserted = filter.insert(base, count, action.into());
            debug_assert!(inserted.is_ok(), "checked by `Reader::filter`");
        }
        filter
    }

    /// Its own device tree, on this board.
    #[must_use]
    pub fn tree(&self, board: &Board) -> GuestTree<'_> {
        // Each VM has a seed of its own; it has to do for every start of it.
        let other = (self.id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        GuestTree {
            ram: self.ram,
            vcpus: self.vcpus(),
            bootargs: self.bootargs,
            initrd: self.placement.initrd,
            seed: board.chosen.seed.map(|seed| seed ^ other),
            devices: &self.devices,
        }
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

/// What modules and vCPUs must respect.
#[derive(Clone, Copy)]
pub struct Surroundings<'s> {
    /// The machine.
    pub board: &'s Board,
    /// Umbra itself, with everything that it uses already.
    pub hyp: Range,
    /// The board's device tree.
    pub dtb: Range,
    /// How the image that lies somewhere begins: [`crate::image::HEADER_SIZE`] bytes of it, or all.
    pub head: &'s dyn Fn(Range) -> &'static [u8],
}

/// Is told of each VM that is refused: its number, its name, the property (or the child node), and what is wrong with that.
/// `docs/devicetree.md` lists all of it.
pub type Refused<'r> = &'r mut dyn FnMut(usize, &str, &str, Text<'_>);

/// Adds the VMs that the nodes below `/chosen` describe to `vms`, which is empty, and tells `refused` of those that cannot be
/// built. Nodes whose `status` is not `okay` are passed over.
pub fn describe<'a>(tree: &Tree<'a>, around: &Surroundings<'_>, vms: &mut Vms<'a>, refused: Refused<'_>) {
    let Some(chosen) = tree.chosen() else { return };
    let (mut left, mut guests, mut hosts) = (MAX_NODES, 0, 0);
    for node in chosen.children() {
        if left == 0 || node.compatible_with(&[HOST, "umbra,vm"]).is_none() || !node.available() {
            continue;
        }
        left -= 1;
        let host = node.compatible_with(&[HOST]).is_some();
        let count = if host { &mut hosts } else { &mut guests };
        *count += 1;
        let mut reader = Reader {
            tree,
            chosen,
            around,
            node,
            others: &vms.list,
            refused: &mut *refused,
            property: "",
            vm: VmDesc::new(if host { 0 } else { guests }),
        };
        if reader.read(hosts).is_some() {
            let vm = reader.vm;
            // Of a host and seven guests, all that are admitted, there is room for each.
            let _ = vms.list.try_push(vm);
            // The host partition moves to the front.
            let mut front: &mut [VmDesc<'_>] = if host { &mut vms.list } else { &mut [] };
            while let [before @ .., last] = front
                && let Some(other) = before.last_mut()
            {
                core::mem::swap(other, last);
                front = before;
            }
        }
    }
    fill_pcpus(&mut vms.list, around.board.cpus.len());
    for vm in vms.list.iter().filter(|vm| vm.forwards && !vms.has_host()) {
        let why = text!("calls are to be forwarded, and there is no host partition");
        refused(vm.id, vm.name(), "umbra,smccc-filter", why);
    }
}

/// What one VM's node is read with. Earlier VMs have what they asked for; a later one that wants the same is refused. Where a step
/// gives `None`, the VM is refused, and that has been told.
struct Reader<'r, 't, 'a> {
    tree: &'t Tree<'a>,
    chosen: Node<'t, 'a>,
    around: &'r Surroundings<'r>,
    node: Node<'t, 'a>,
    others: &'r [VmDesc<'a>],
    refused: Refused<'r>,
    /// What is being read: the property, or the child node.
    property: &'static str,
    /// What has been read.
    vm: VmDesc<'a>,
}

impl<'a> Reader<'_, '_, 'a> {
    #[inline(never)]
    fn tell(&mut self, reason: Text<'_>) {
        (self.refused)(self.vm.id, self.vm.name(), self.property, reason);
    }

    /// Refuses the VM for what is being read.
    #[inline(always)]
    fn refuse<T>(&mut self, reason: Text<'_>) -> Option<T> {
        self.tell(reason);
        None
    }

    /// Reads a property of the node.
    #[inline(never)]
    fn value(&mut self, property: &'static str) -> Option<&'a [u8]> {
        self.property = property;
        self.node.property(property)
    }

    /// Reads everything, of the host partition or a guest; with it there are so many hosts.
    fn read(&mut self, hosts: usize) -> Option<()> {
        let name = self.value("umbra,name");
        let text = name.and_then(one_string).filter(|name| !name.is_empty());
        self.vm.name = shown(text.unwrap_or(self.node.base_name()));
        self.property = "compatible";
        if self.vm.is_host() && hosts > 1 {
            return self.refuse(text!("there already is a host partition"));
        }
        if self.vm.id >= layout::MAX_VMS {
            let most = layout::MAX_VMS - 1;
            return self.refuse(text!("there can be no more than {} guests", most));
        }
        self.property = "umbra,name";
        if name.is_some() && text.is_none() {
            return self.refuse(text!("must be one string that is not empty"));
        }
        if self.others.iter().any(|other| other.name == self.vm.name) {
            return self.refuse(text!("an earlier VM has this name"));
        }
        let node = self.node;
        self.known(&node, &PROPERTIES)?;
        self.pcpus()?;
        self.ram()?;
        self.devices()?;
        self.filter()?;
        self.modules()?;
        self.bootargs()?;
        self.dtb()?;
        self.vm.strict = self.value("umbra,strict").is_some();
        self.vm.on_pending = self.value("umbra,no-on-pending").is_none();
        self.vm.forward_deadline_ms = self.number("umbra,forward-deadline-ms", DEFAULT_DEADLINE_MS, MAX_DEADLINE_MS)?;
        self.place()?;
        self.vm.tree_size = self.vm.tree(self.around.board).size();
        Some(())
    }

    /// That a node has no property of ours which we do not know: a filter that is spelt wrong is no filter.
    #[inline(never)]
    fn known(&mut self, node: &Node<'_, '_>, known: &[&'static str]) -> Option<()> {
        let Some(name) = node.unknown(known) else { return Some(()) };
        (self.refused)(self.vm.id, self.vm.name(), &shown(name), text!("Umbra knows no such property"));
        None
    }

    /// A property of one cell, 1 to `most`.
    fn number(&mut self, property: &'static str, default: u32, most: u32) -> Option<u32> {
        let value = match self.value(property).map(one_cell) {
            None => default,
            Some(Some(value)) => value,
            Some(None) => return self.refuse(text!("must be one cell")),
        };
        if (1..=most).contains(&value) {
            return Some(value);
        }
        self.refuse(text!("{} is not in 1..={}", value, most))
    }

    /// The pCPUs that the tree gives; as many of [`UNSET`] as there are vCPUs where it leaves them to us.
    fn pcpus(&mut self) -> Option<()> {
        let (list, cpus) = (self.value("umbra,pcpus"), self.around.board.cpus.len());
        let listed = list.map_or(4, <[u8]>::len);
        if !listed.is_multiple_of(4) {
            return self.refuse(text!("must be a list of cells"));
        }
        let listed = listed / 4;
        let vcpus = self.number("umbra,vcpus", listed as u32, layout::MAX_VCPUS as u32)? as usize;
        self.property = "umbra,pcpus";
        if list.is_some() && listed != vcpus {
            return self.refuse(text!("{} given for {} vCPUs", listed, vcpus));
        }
        let mut cells = Cells(list.unwrap_or_default());
        for _ in 0..vcpus {
            let pcpu = cells.take(1);
            if let Some(pcpu) = pcpu.filter(|pcpu| *pcpu >= cpus as u64) {
                return self.refuse(text!("no pCPU {}: the board has {}", pcpu, cpus));
            }
            let _ = self.vm.pcpus.try_push(pcpu.map_or(UNSET, |pcpu| pcpu as u8));
        }
        self.sharing(cpus)
    }

    /// No pCPU is to run more vCPUs than it has places for: neither of those that name theirs, nor after [`fill_pcpus`], which evens out.
    fn sharing(&mut self, cpus: usize) -> Option<()> {
        const MOST: usize = layout::MAX_SHARING;
        let mut load = [0; MAX_CPUS];
        let all = count_vcpus(self.others, &mut load) + count_vcpus(core::slice::from_ref(&self.vm), &mut load);
        if all > MOST * cpus || load.iter().any(|count| usize::from(*count) > MOST) {
            return self.refuse(text!("a pCPU would run more than {} vCPUs", MOST));
        }
        Some(())
    }

    fn ram(&mut self) -> Option<()> {
        let (mut base, mut size) = (layout::RAM_BASE, DEFAULT_RAM_SIZE);
        if let Some(value) = self.value("umbra,ram") {
            let mut cells = Cells(value);
            match (cells.take(2), cells.take(2), cells.0) {
                (Some(first), Some(second), []) => (base, size) = (first, second),
                _ => return self.refuse(text!("must be base and size, two cells each")),
            }
        }
        if size == 0 {
            return self.refuse(text!("has no bytes"));
        }
        self.aligned(base, BLOCK)?;
        self.aligned(size, BLOCK)?;
        let Some(ram) = Range::new(base, size) else {
            return self.refuse(text!("goes beyond the end of the address space"));
        };
        if ram.end() > 1 << layout::IPA_BITS {
            let (end, bits) = (ram.end(), layout::IPA_BITS);
            return self.refuse(text!("ends at {:#x}, above the guest's {} address bits", end, bits));
        }
        if let Some((_, device)) = DEVICES.iter().find(|(range, _)| range.overlaps(ram)) {
            return self.refuse(text!("overlaps the guest's {}", *device));
        }
        self.vm.ram = ram;
        Some(())
    }

    /// The devices that the VM is to be given: nodes of the board's tree.
    fn devices(&mut self) -> Option<()> {
        let mut paths = self.value("umbra,devices").unwrap_or_default();
        if paths.last().is_some_and(|end| *end != 0) {
            return self.refuse(text!("must be a list of device-tree paths"));
        }
        while !paths.is_empty() {
            let index = self.vm.devices.len();
            if index == MAX_DEVICES {
                return self.refuse(text!("a VM is given {} devices at most", MAX_DEVICES));
            }
            let device = Device::read(self.tree, self.around.board, cut(&mut paths, 0)).and_then(|device| {
                device.fits(self.vm.ram)?;
                for other in self.others {
                    device.apart(&other.devices)?;
                }
                device.apart(&self.vm.devices)?;
                Ok(device)
            });
            match device {
                // There is room, as seen above.
                Ok(device) => drop(self.vm.devices.try_push(device)),
                Err(why) => return self.refuse(text!("entry {}: {}", index, why)),
            }
        }
        Some(())
    }

    fn filter(&mut self) -> Option<()> {
        let value = self.value("umbra,smccc-filter").unwrap_or_default();
        if !value.len().is_multiple_of(12) {
            return self.refuse(text!("must be triples of cells: base, count, action"));
        }
        if value.len() / 12 > MAX_FILTER {
            let triples = value.len() / 12;
            return self.refuse(text!("{} is not in 0..={}", triples, MAX_FILTER));
        }
        let (mut cells, mut filter) = (Cells(value), Filter::new());
        while let Some((base, count, action)) = triple(&mut cells) {
            if action > FilterAction::Forward as u32 {
                return self.refuse(text!("no action {} (0 handle, 1 deny, 2 forward)", action));
            }
            if count == 0 {
                return self.refuse(text!("a range has no identifiers"));
            }
            if base.checked_add(count - 1).is_none() {
                return self.refuse(text!("a range goes beyond 0xffffffff"));
            }
            if filter.insert(base, count, action.into()).is_err() {
                let why = text!("the range from {:#x} overlaps an earlier one or a reserved one", base);
                return self.refuse(why);
            }
            self.vm.forwards |= action == FilterAction::Forward as u32;
        }
        self.vm.filter = value;
        if self.vm.is_host() && self.vm.forwards {
            return self.refuse(text!("the host partition cannot forward to itself"));
        }
        Some(())
    }

    /// Image and initial RAM disk.
    fn modules(&mut self) -> Option<()> {
        self.property = IMAGE;
        let Some(image) = module(&self.node, "umbra,image") else {
            return self.refuse(text!("missing"));
        };
        self.known(&image, &["umbra,load", "umbra,entry"])?;
        self.vm.image = self.module_range(&image)?;
        self.vm.load = self.address(&image, "umbra,load")?;
        self.vm.entry = self.address(&image, "umbra,entry")?;
        self.property = INITRD;
        if let Some(initrd) = module(&self.node, "umbra,initrd") {
            self.known(&initrd, &[])?;
            let initrd = self.module_range(&initrd)?;
            if initrd.overlaps(self.vm.image) {
                return self.overlap(initrd, "the image");
            }
            self.vm.initrd = Some(initrd);
        }
        Some(())
    }

    /// How many cells a module's `reg` has of a kind. A node's cells are counted by its parent; where the VM's node does not,
    /// `/chosen` does, and where it does not: two.
    #[inline(never)]
    fn count(&self, property: &str) -> u32 {
        self.node.cell(property).or_else(|| self.chosen.cell(property)).unwrap_or(2)
    }

    /// Where a module is in the board's memory.
    fn module_range(&mut self, module: &Node<'_, '_>) -> Option<Range> {
        let Some(reg) = module.property("reg") else {
            return self.refuse(text!("missing"));
        };
        let mut cells = Cells(reg);
        let (start, length) = (cells.take(self.count("#address-cells")), cells.take(self.count("#size-cells")));
        let (Some(start), Some(length), []) = (start, length, cells.0) else {
            return self.refuse(text!("must be one address and one size in `reg`"));
        };
        let Some(range) = Range::new(start, length) else {
            return self.refuse(text!("goes beyond the end of the address space"));
        };
        if length == 0 {
            return self.refuse(text!("has no bytes"));
        }
        // EL2 reads a module through whole blocks, and a processor may reach ahead of time for all that is mapped as memory: it must be RAM, and
        // not reserved (Devicetree Specification, `no-map`).
        let blocks = range.outward(BLOCK);
        let around = self.around;
        if !around.board.ram.covers(blocks) {
            let (start, end) = (blocks.start(), blocks.end());
            return self.refuse(text!("{:#x}..{:#x} is not in the board's RAM", start, end));
        }
        let given = |other: &VmDesc<'_>| other.image.overlaps(range) || other.initrd.is_some_and(|initrd| initrd.overlaps(range));
        let what = if around.hyp.overlaps(range) {
            "Umbra itself"
        } else if around.dtb.overlaps(range) {
            "the board's device tree"
        } else if blocks.overlaps_any(around.board.reserved.as_slice()) {
            "reserved memory"
        } else if self.others.iter().any(given) {
            "another module"
        } else {
            return Some(range);
        };
        self.overlap(range, what)
    }

    fn overlap<T>(&mut self, range: Range, what: &str) -> Option<T> {
        let (start, end) = (range.start(), range.end());
        self.refuse(text!("{:#x}..{:#x} overlaps {}", start, end, what))
    }

    /// A property of two cells of the image's node, if it is there.
    fn address(&mut self, image: &Node<'_, '_>, property: &'static str) -> Option<Option<u64>> {
        self.property = property;
        match image.property(property).map(two_cells) {
            Some(None) => self.refuse(text!("must be an address of two cells")),
            address => Some(address.flatten()),
        }
    }

    fn bootargs(&mut self) -> Option<()> {
        let Some(value) = self.value("bootargs") else { return Some(()) };
        let Some(text) = one_string(value) else {
            return self.refuse(text!("must be one string"));
        };
        if text.len() > MAX_BOOTARGS {
            let length = text.len();
            return self.refuse(text!("{} bytes are too long ({} are allowed)", length, MAX_BOOTARGS));
        }
        self.vm.bootargs = text;
        Some(())
    }

    fn dtb(&mut self) -> Option<()> {
        self.vm.dtb = match self.value("umbra,dtb") {
            None => DtbPlacement::AboveImage,
            Some(value) if is_string(value, "above-image") => DtbPlacement::AboveImage,
            Some(value) if is_string(value, "none") => DtbPlacement::None,
            Some(value) => match two_cells(value) {
                Some(address) => DtbPlacement::At(address),
                None => return self.refuse(text!("must be \"above-image\", \"none\" or an address of two cells")),
            },
        };
        Some(())
    }
}

/// The modules' names in messages.
const IMAGE: &str = "image";
const INITRD: &str = "initrd";

/// A pCPU that is left to us.
const UNSET: u8 = u8::MAX;

/// How many vCPUs `vms` have; those whose pCPU is known are added to what that runs.
#[inline(never)]
fn count_vcpus(vms: &[VmDesc<'_>], load: &mut [u8; MAX_CPUS]) -> usize {
    let mut all = 0;
    for vm in vms {
        all += vm.pcpus.len();
        for pcpu in &vm.pcpus {
            if let Some(count) = load.get_mut(usize::from(*pcpu)) {
                *count += 1;
            }
        }
    }
    all
}

/// Gives the vCPUs whose pCPUs are left to us those that run least.
fn fill_pcpus(vms: &mut [VmDesc<'_>], cpus: usize) {
    let mut load = [0; MAX_CPUS];
    let _ = count_vcpus(vms, &mut load);
    for pcpu in vms.iter_mut().flat_map(|vm| &mut vm.pcpus).filter(|pcpu| **pcpu == UNSET) {
        // Once each runs as much as another, they are shared in their order.
        let least = load.iter_mut().take(cpus).enumerate().min_by_key(|(_, count)| **count);
        if let Some((least, count)) = least {
            *count += 1;
            *pcpu = least as u8;
        }
    }
}

/// A VM's name as it is shown: graphic ASCII, cut to [`MAX_NAME`] characters. It goes into records, whose values have no spaces.
fn shown(name: &[u8]) -> ArrayString<MAX_NAME> {
    let mut shown = ArrayString::new();
    // A character is what begins with a byte of another kind than those that go on with it.
    for byte in name.iter().filter(|byte| **byte & 0xC0 != 0x80) {
        if shown
            .try_push(if byte.is_ascii_graphic() { char::from(*byte) } else { '_' })
            .is_err()
        {
            break;
        }
    }
    shown
}

fn module<'t, 'a>(vm: &Node<'t, 'a>, compatible: &'static str) -> Option<Node<'t, 'a>> {
    vm.children().find(|node| node.compatible_with(&[compatible]).is_some())
}

/// The next three cells: base, count and action of a range of the filter.
fn triple(cells: &mut Cells<'_>) -> Option<(u32, u32, u32)> {
    let mut cell = || cells.take(1).map(|cell| cell as u32);
    Some((cell()?, cell()?, cell()?))
}

/// A value of two cells.
#[inline(never)]
fn two_cells(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
}

const fn range(start: u64, size: u64) -> Range {
    match Range::new(start, size) {
        Some(range) => range,
        None => Range::EMPTY,
    }
}

/// Where devices are in every VM, and the shadow pages in the host partition.
const DEVICES: [(Range, &str); 5] = [
    (range(0, layout::FLASH_END), "flash"),
    (range(layout::GICD_BASE, layout::GICD_SIZE), "GIC distributor"),
    (
        range(layout::GICR_BASE, layout::GICR_STRIDE * layout::MAX_VCPUS as u64),
        "GIC redistributors",
    ),
    (range(layout::UART_BASE, layout::UART_SIZE), "PL011"),
    (
        range(layout::SHADOW_BASE, layout::SHADOW_STRIDE * layout::MAX_VMS as u64),
        "shadow pages",
    ),
];
