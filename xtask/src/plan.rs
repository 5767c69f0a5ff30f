//! What a run consists of, checked as a whole: the machine, the VMs on it, where everything lies, and QEMU's command line.

use crate::fail::usage;
use crate::tree::{Node, Tree};
use crate::ui;
use crate::vmfile::{BLOCK, Dtb, Vm};
use anyhow::{Result, ensure};
use hyp_abi::layout;
use hyp_core::fdt::board::{Board, BoardError};
use hyp_core::fdt::vms::Device;
use hyp_core::types::Range;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

/// Where RAM begins on QEMU's `virt`.
pub(crate) const RAM_BASE: u64 = 0x4000_0000;
/// Where QEMU puts an arm64 `Image` that asks for no offset: 2 MiB above the base of RAM.
pub(crate) const KERNEL: u64 = 0x4020_0000;
/// The least memory a machine is given.
const LEAST_MEMORY: u64 = 256 << 20;
/// What a machine has when nothing needs more.
const USUAL_MEMORY: u64 = 1 << 30;
/// The most memory a machine is given.
const MOST_MEMORY: u64 = 128 << 30;
/// The most pCPUs a machine is given.
const MOST_PCPUS: u32 = 64;
/// QEMU's device tree may take this much.
const DTB_ROOM: u64 = 2 << 20;
/// Memory that Umbra itself may take, image and tables.
const UMBRA_ROOM: u64 = 8 << 20;

/// The emulated machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// QEMU's name for the CPU.
    pub(crate) cpu: String,
    /// How many pCPUs.
    pub(crate) smp: u32,
    /// Bytes of RAM.
    pub(crate) memory: u64,
    /// One thread and one instruction a tick, instead of a thread for each pCPU.
    pub(crate) icount: bool,
    /// What the user adds to QEMU's command line.
    pub(crate) extra: Vec<String>,
}

impl Machine {
    /// QEMU's arguments for the machine itself; `options` are added to `-M`.
    fn args(&self, options: &str) -> Vec<OsString> {
        self.args_of(&format!("virt,virtualization=on,gic-version=3{options}"))
    }

    /// QEMU's arguments to boot the image of `vm` at EL1, without Umbra.
    pub(crate) fn el1_args(&self, vm: &Vm, dtb: &Path) -> Vec<OsString> {
        let mut args = self.args_of("virt,gic-version=3");
        args.extend(["-sandbox", "on,spawn=deny", "-append", &vm.bootargs].map(OsString::from));
        args.extend([OsString::from("-kernel"), vm.image.module.file.clone().into()]);
        args.extend([OsString::from("-dtb"), dtb.into()]);
        if let Some(initrd) = &vm.initrd {
            args.extend([OsString::from("-initrd"), initrd.file.clone().into()]);
        }
        args
    }

    /// QEMU's arguments to write the device tree of that machine to `file`.
    pub(crate) fn dump_el1_args(&self, file: &Path) -> Vec<OsString> {
        self.args_of(&format!("virt,gic-version=3,dumpdtb={}", escaped(file)))
    }

    fn args_of(&self, machine: &str) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        let mut add = |list: &[&str]| args.extend(list.iter().map(OsString::from));
        add(&["-M", machine]);
        if self.icount {
            add(&["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"]);
            add(&["-cpu", &format!("{},cntfrq=1000000000", self.cpu)]);
        } else {
            add(&["-accel", "tcg,thread=multi", "-cpu", &self.cpu]);
        }
        add(&["-smp", &self.smp.to_string(), "-m", &format!("{}M", self.memory >> 20)]);
        add(&[
            "-nodefaults",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-monitor",
            "none",
            "-no-reboot",
        ]);
        args
    }

    /// QEMU's arguments to write this machine's device tree to `file`.
    pub(crate) fn dump_args(&self, file: &Path) -> Vec<OsString> {
        let mut args = self.args(&format!(",dumpdtb={}", escaped(file)));
        args.extend(self.extra.iter().map(OsString::from));
        args
    }
}

/// A path inside a QEMU option, where a comma is written twice.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Where a VM's modules lie in physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Its image.
    pub(crate) image: u64,
    /// Its initial RAM disk.
    pub(crate) initrd: Option<u64>,
}

/// A run that has passed every check.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The machine.
    pub(crate) machine: Machine,
    /// The VMs, the host partition first.
    pub(crate) vms: Vec<Vm>,
    /// Where each VM's modules lie.
    pub(crate) placements: Vec<Placement>,
    /// Whether every image is our own, so that Umbra may end QEMU by semihosting.
    pub(crate) own: bool,
    /// What makes Umbra's verdict Umbra's.
    pub(crate) nonce: String,
    /// Umbra's own command line.
    pub(crate) bootargs: String,
}

impl Plan {
    /// Completes `vms` (pCPUs, host first) and checks them together. `smp` and the machine's `memory` are what the user asked for.
    pub(crate) fn new(mut vms: Vec<Vm>, mut machine: Machine, smp: Option<u32>, memory: Option<u64>, own: bool) -> Result<Self> {
        vms.sort_by_key(|vm| !vm.host);
        let hosts = vms.iter().filter(|vm| vm.host).count();
        ensure!(hosts <= 1, usage("there can be one host partition only"));
        if vms.len() == hosts {
            return Err(usage("there is no guest VM to run"));
        }
        let most = layout::MAX_VMS - 1;
        if vms.len() - hosts > most {
            return Err(usage(format!(
                "{} VMs; Umbra runs {most} at most, the host partition aside",
                vms.len() - hosts
            )));
        }
        for (i, vm) in vms.iter().enumerate() {
            if let Some(other) = vms[..i].iter().find(|o| o.name == vm.name) {
                return Err(usage(format!(
                    "{}: name: \"{}\" is the name of {} too",
                    vm.origin, vm.name, other.origin
                )));
            }
        }
        machine.smp = assign_pcpus(&mut vms, smp)?;
        check_sharing(&vms)?;
        let (memory, placements) = place(&vms, memory)?;
        machine.memory = memory;
        Ok(Self {
            machine,
            vms,
            placements,
            own,
            nonce: crate::verdict::nonce(),
            bootargs: String::new(),
        })
    }

    /// How many guest VMs there are.
    pub(crate) fn guests(&self) -> usize {
        self.vms.iter().filter(|vm| !vm.host).count()
    }

    /// The console channel of a VM: the host partition is VM 0, guests count from 1.
    pub(crate) fn channel_of(&self, vm: usize) -> u8 {
        let id = if self.vms.first().is_some_and(|vm| vm.host) { vm } else { vm + 1 };
        u8::try_from(id + 1).unwrap_or(u8::MAX)
    }

    /// The machine's own device tree with the VMs added to it.
    pub(crate) fn describe(&self, machine_tree: &Tree) -> Tree {
        let mut tree = machine_tree.clone();
        let chosen = tree.root.child_mut("chosen");
        chosen.cells("#address-cells", &[2]).cells("#size-cells", &[2]);
        chosen
            .strings("umbra,nonce", &[&self.nonce])
            .flag("umbra,console-mux")
            .flag("umbra,fresh-ram");
        if self.own {
            chosen.flag("umbra,semihosting");
        }
        if !self.bootargs.is_empty() {
            chosen.strings("bootargs", &[&self.bootargs]);
        }
        for (index, (vm, place)) in self.vms.iter().zip(&self.placements).enumerate() {
            chosen.children.push(vm_node(vm, index, *place));
        }
        tree
    }

    /// Checks the devices that VMs are given against the machine's own device tree, `blob`.
    pub(crate) fn check_devices(&self, blob: &[u8]) -> Result<()> {
        if self.vms.iter().all(|vm| vm.devices.is_empty()) {
            return Ok(());
        }
        let qemus = |e: BoardError| anyhow::anyhow!("the device tree that QEMU wrote: {e}");
        let tree = hyp_core::fdt::Tree::new(blob).map_err(|e| qemus(e.into()))?;
        let board = Board::discover(blob).map_err(qemus)?;
        let mut given: Vec<Device> = Vec::new();
        for vm in &self.vms {
            for (i, path) in vm.devices.iter().enumerate() {
                let device = Device::read(&tree, &board, path.as_bytes()).and_then(|device| {
                    device.fits(vm.ram)?;
                    device.apart(&given)?;
                    Ok(device)
                });
                let shown = path.escape_debug();
                given.push(device.map_err(|why| usage(format!("{}: devices[{i}]: \"{shown}\": {why}", vm.origin)))?);
            }
        }
        Ok(())
    }

    /// QEMU's arguments for the run: Umbra's image `kernel` and the merged device tree `dtb`.
    pub(crate) fn qemu_args(&self, kernel: &Path, dtb: &Path) -> Vec<OsString> {
        let mut args = self.machine.args("");
        if self.own {
            args.extend(["-semihosting-config", "enable=on,target=native"].map(OsString::from));
        } else {
            args.extend(["-sandbox", "on,spawn=deny"].map(OsString::from));
        }
        args.extend([OsString::from("-kernel"), kernel.into(), OsString::from("-dtb"), dtb.into()]);
        for (vm, place) in self.vms.iter().zip(&self.placements) {
            args.extend(load(&vm.image.module.file, place.image));
            if let (Some(initrd), Some(at)) = (&vm.initrd, place.initrd) {
                args.extend(load(&initrd.file, at));
            }
        }
        args.extend(self.machine.extra.iter().map(OsString::from));
        args
    }
}

/// QEMU's arguments to put `file` into the machine's memory.
pub(crate) fn load(file: &Path, at: u64) -> [OsString; 2] {
    [
        "-device".into(),
        format!("loader,file={},addr={at:#x},force-raw=on", escaped(file)).into(),
    ]
}

fn vm_node(vm: &Vm, index: usize, place: Placement) -> Node {
    let mut node = Node::new(if vm.host {
        "umbra-host".to_owned()
    } else {
        format!("umbra-vm-{index}")
    });
    node.strings("compatible", if vm.host { &["umbra,host", "umbra,vm"] } else { &["umbra,vm"] });
    node.cells("#address-cells", &[2]).cells("#size-cells", &[2]);
    node.strings("umbra,name", &[&vm.name]);
    node.cells("umbra,vcpus", &[vm.vcpus]).cells("umbra,pcpus", &vm.pcpus);
    node.longs("umbra,ram", &[vm.ram.start(), vm.ram.size()]);
    if !vm.bootargs.is_empty() {
        node.strings("bootargs", &[&vm.bootargs]);
    }
    match vm.dtb {
        Dtb::AboveImage => node.strings("umbra,dtb", &["above-image"]),
        Dtb::None => node.strings("umbra,dtb", &["none"]),
        Dtb::At(at) => node.longs("umbra,dtb", &[at]),
    };
    if vm.strict {
        node.flag("umbra,strict");
    }
    if !vm.on_pending {
        node.flag("umbra,no-on-pending");
    }
    node.cells("umbra,forward-deadline-ms", &[vm.forward_deadline_ms]);
    if !vm.filter.is_empty() {
        let triples: Vec<u32> = vm.filter.iter().flat_map(|f| [f.base, f.count, f.action as u32]).collect();
        node.cells("umbra,smccc-filter", &triples);
    }
    if !vm.devices.is_empty() {
        let paths: Vec<&str> = vm.devices.iter().map(String::as_str).collect();
        node.strings("umbra,devices", &paths);
    }
    let image = node.child_mut(&format!("image@{:x}", place.image));
    image
        .strings("compatible", &["umbra,image"])
        .longs("reg", &[place.image, vm.image.module.size]);
    image.longs("umbra,load", &[vm.image.load]).longs("umbra,entry", &[vm.image.entry]);
    if let (Some(initrd), Some(at)) = (&vm.initrd, place.initrd) {
        node.child_mut(&format!("initrd@{at:x}"))
            .strings("compatible", &["umbra,initrd"])
            .longs("reg", &[at, initrd.size]);
    }
    node
}

/// Gives every vCPU a pCPU and returns how many pCPUs the machine has. A vCPU has a pCPU of its own unless the VM files
/// name one twice, or `smp` is less than there are vCPUs: then those without a named pCPU are dealt out in turn, and the
/// host partition keeps the first pCPU for itself if there is more than one.
fn assign_pcpus(vms: &mut [Vm], smp: Option<u32>) -> Result<u32> {
    let mut taken: Vec<u32> = Vec::new();
    for vm in vms.iter() {
        for (index, &pcpu) in vm.pcpus.iter().enumerate() {
            if let Some(smp) = smp.filter(|smp| pcpu >= *smp) {
                return Err(usage(format!(
                    "{}: pcpus: pCPU {pcpu} is not one of the machine's {smp} (--smp {smp}: 0 to {})",
                    vm.origin,
                    smp - 1
                )));
            }
            // Two vCPUs of one VM on one pCPU is slow and allowed; on 64 or more it is a mistake.
            if pcpu >= MOST_PCPUS {
                return Err(usage(format!(
                    "{}: pcpus: vCPU {index} on pCPU {pcpu}; a machine has {MOST_PCPUS} at most",
                    vm.origin
                )));
            }
            taken.push(pcpu);
        }
    }
    let open: u32 = vms.iter().filter(|vm| vm.pcpus.is_empty()).map(|vm| vm.vcpus).sum();
    let free = |smp: u32| (0..smp).filter(|p| !taken.contains(p)).count();
    if let Some(smp) = smp.filter(|smp| free(*smp) < open as usize) {
        // The host partition is first.
        let alone = u32::from(smp > 1 && vms.first().is_some_and(|vm| vm.host && vm.pcpus.is_empty()));
        let mut turn = 0;
        for vm in vms.iter_mut().filter(|vm| vm.pcpus.is_empty()) {
            if vm.host {
                vm.pcpus = vec![0; vm.vcpus as usize];
                continue;
            }
            while vm.pcpus.len() < vm.vcpus as usize {
                vm.pcpus.push(alone + turn % (smp - alone));
                turn += 1;
            }
        }
        return Ok(smp);
    }
    let mut next = 0;
    for vm in vms.iter_mut().filter(|vm| vm.pcpus.is_empty()) {
        while vm.pcpus.len() < vm.vcpus as usize {
            if !taken.contains(&next) {
                vm.pcpus.push(next);
                taken.push(next);
            }
            next += 1;
        }
    }
    let needed = taken.iter().map(|p| p + 1).max().unwrap_or(1);
    if needed > MOST_PCPUS {
        return Err(usage(format!(
            "{needed} vCPUs, host partition included, and a machine has {MOST_PCPUS} pCPUs at most: have them share with --smp"
        )));
    }
    Ok(smp.unwrap_or(needed))
}

/// A pCPU has places for so many vCPUs.
fn check_sharing(vms: &[Vm]) -> Result<()> {
    let mut load = BTreeMap::new();
    for vm in vms {
        for pcpu in &vm.pcpus {
            let count = load.entry(pcpu).or_insert(0);
            *count += 1;
            if *count > layout::MAX_SHARING {
                return Err(usage(format!(
                    "{}: pcpus: pCPU {pcpu} would run more than {} vCPUs; give the machine more pCPUs with --smp, or name others",
                    vm.origin,
                    layout::MAX_SHARING
                )));
            }
        }
    }
    Ok(())
}

/// Places the modules from the top of RAM downward, and makes sure that the VMs' RAM fits beside them.
fn place(vms: &[Vm], asked: Option<u64>) -> Result<(u64, Vec<Placement>)> {
    if let Some(asked) = asked {
        if asked < LEAST_MEMORY || !asked.is_multiple_of(1 << 20) {
            return Err(usage(format!(
                "--machine-memory: {}, which must be a whole number of MiB, and at least {}",
                ui::bytes(asked),
                ui::bytes(LEAST_MEMORY)
            )));
        }
        return try_place(vms, asked).map(|p| (asked, p)).ok_or_else(|| {
            let ram: u64 = vms.iter().map(|vm| vm.ram.size()).sum();
            let enough = enough(vms).map_or(String::new(), |m| format!("; {} is enough", ui::bytes(m)));
            usage(format!(
                "--machine-memory: {} cannot hold the VMs' RAM ({} in all), their images and Umbra{enough}",
                ui::bytes(asked),
                ui::bytes(ram)
            ))
        });
    }
    let memory = enough(vms).ok_or_else(|| {
        let wishes = vms.iter().map(|vm| format!("{}: {}", vm.origin, ui::bytes(vm.ram.size())));
        usage(format!(
            "the VMs' RAM does not fit into a machine of {}, the largest there is ({})",
            ui::bytes(MOST_MEMORY),
            wishes.collect::<Vec<_>>().join(", ")
        ))
    })?;
    let placements = try_place(vms, memory).ok_or_else(|| usage("the VMs' RAM does not fit"))?;
    Ok((memory, placements))
}

/// The usual memory or the next power of two that holds `vms`.
fn enough(vms: &[Vm]) -> Option<u64> {
    std::iter::successors(Some(USUAL_MEMORY), |memory| memory.checked_mul(2))
        .take_while(|memory| *memory <= MOST_MEMORY)
        .find(|memory| try_place(vms, *memory).is_some())
}

fn try_place(vms: &[Vm], memory: u64) -> Option<Vec<Placement>> {
    let mut top = RAM_BASE + memory;
    let mut down = |size: u64| {
        top = top.checked_sub(size)? & !0xfff;
        (top > RAM_BASE).then_some(top)
    };
    let mut placements = Vec::new();
    for vm in vms {
        let image = down(vm.image.module.size)?;
        let initrd = match &vm.initrd {
            Some(initrd) => Some(down(initrd.size)?),
            None => None,
        };
        placements.push(Placement { image, initrd });
    }
    // QEMU's own device tree goes to the middle of RAM, 128 MiB up at most.
    let dtb = RAM_BASE + (memory / 2).min(128 << 20);
    let dtb = Range::new(dtb, DTB_ROOM)?;
    let mut free = [(KERNEL + UMBRA_ROOM, dtb.start()), (dtb.end(), top & !(BLOCK - 1))];
    if top < dtb.end() {
        return None;
    }
    for vm in vms {
        let gap = free
            .iter_mut()
            .find(|(start, end)| end.checked_sub(*start).is_some_and(|room| room >= vm.ram.size()))?;
        gap.0 += vm.ram.size();
    }
    Some(placements)
}

/// A command line as a shell would take it.
pub(crate) fn shell(program: &Path, args: &[OsString]) -> String {
    let quoted = |text: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
        if !text.is_empty() && text.chars().all(plain) {
            text.to_owned()
        } else {
            format!("'{}'", text.replace('\'', "'\\''"))
        }
    };
    let words = std::iter::once(program.as_os_str()).chain(args.iter().map(OsString::as_os_str));
    words.map(|w| quoted(&w.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::vmfile::{DEFAULT_FORWARD_DEADLINE_MS, FilterEntry, Image, Module};
    use hyp_core::filter::Action;

    pub(crate) fn vm(name: &str, vcpus: u32, pcpus: &[u32], ram: u64) -> Vm {
        Vm {
            origin: format!("{name}.toml"),
            name: name.to_owned(),
            host: false,
            vcpus,
            pcpus: pcpus.to_vec(),
            ram: Range::new(0x4000_0000, ram).expect("a range"),
            bootargs: "console=ttyAMA0".to_owned(),
            initrd: Some(Module {
                file: "/x/init,rd".into(),
                size: 5000,
            }),
            dtb: Dtb::AboveImage,
            strict: true,
            on_pending: false,
            forward_deadline_ms: DEFAULT_FORWARD_DEADLINE_MS,
            filter: vec![FilterEntry {
                base: 0x8400_0003,
                count: 1,
                action: Action::Forward,
            }],
            image: Image {
                source: "/x/Image".into(),
                module: Module {
                    file: "/x/Image".into(),
                    size: 0x1_2345,
                },
                load: 0x4008_0000,
                entry: 0x4008_0000,
                memory: 0x1_2345,
            },
            devices: Vec::new(),
        }
    }

    fn host() -> Vm {
        let mut vm = vm("host", 1, &[0], 16 << 20);
        vm.host = true;
        vm
    }

    fn machine() -> Machine {
        Machine {
            cpu: "cortex-a72".to_owned(),
            smp: 0,
            memory: 0,
            icount: false,
            extra: Vec::new(),
        }
    }

    fn plan(vms: Vec<Vm>, smp: Option<u32>, memory: Option<u64>) -> Result<Plan> {
        Plan::new(vms, machine(), smp, memory, true)
    }

    fn refused(vms: Vec<Vm>, smp: Option<u32>, memory: Option<u64>) -> String {
        plan(vms, smp, memory).expect_err("refused").to_string()
    }

    #[test]
    fn pcpus_are_assigned_in_order_around_those_that_are_named() {
        let plan = plan(vec![vm("a", 2, &[], 2 << 20), vm("b", 2, &[1, 4], 2 << 20), host()], None, None).expect("a plan");
        let pcpus: Vec<_> = plan.vms.iter().map(|vm| (vm.name.as_str(), vm.pcpus.clone())).collect();
        assert_eq!(pcpus, [("host", vec![0]), ("a", vec![2, 3]), ("b", vec![1, 4])]);
        assert_eq!(plan.machine.smp, 5);
        assert_eq!((plan.channel_of(0), plan.channel_of(1), plan.guests()), (1, 2, 2));
    }

    #[test]
    fn without_a_host_guests_begin_on_the_first_pcpu_and_keep_their_channel() {
        let plan = plan(vec![vm("a", 2, &[], 2 << 20)], None, None).expect("a plan");
        assert_eq!(
            (plan.vms[0].pcpus.as_slice(), plan.machine.smp, plan.channel_of(0)),
            ([0, 1].as_slice(), 2, 2)
        );
    }

    #[test]
    fn vcpus_share_pcpus_when_files_say_so_or_the_machine_is_small() {
        let pcpus = |vms: Vec<Vm>, smp| -> Vec<Vec<u32>> {
            let plan = plan(vms, smp, None).expect("a plan");
            plan.vms.iter().map(|vm| vm.pcpus.clone()).collect()
        };
        let named = vec![vm("a", 2, &[0, 1], 2 << 20), vm("b", 2, &[0, 1], 2 << 20)];
        assert_eq!(pcpus(named, None), [[0, 1], [0, 1]]);
        let open = || vec![vm("a", 2, &[], 2 << 20), vm("b", 3, &[], 2 << 20)];
        assert_eq!(pcpus(open(), Some(2)), [vec![0, 1], vec![0, 1, 0]]);
        assert_eq!(pcpus(open(), Some(5)), [vec![0, 1], vec![2, 3, 4]]);
        let mut with_host = open();
        with_host.push(host_anywhere());
        assert_eq!(pcpus(with_host.clone(), Some(3)), [vec![0], vec![1, 2], vec![1, 2, 1]]);
        assert_eq!(pcpus(with_host, Some(1)), [vec![0], vec![0, 0], vec![0, 0, 0]]);
    }

    fn host_anywhere() -> Vm {
        let mut vm = host();
        vm.pcpus.clear();
        vm
    }

    #[test]
    fn clashes_between_vms_are_named() {
        let far = refused(vec![vm("a", 1, &[64], 2 << 20)], None, None);
        assert_eq!(far, "a.toml: pcpus: vCPU 0 on pCPU 64; a machine has 64 at most");
        let twice = refused(vec![vm("a", 1, &[], 2 << 20), vm("a", 1, &[], 2 << 20)], None, None);
        assert!(twice.contains("a.toml: name: \"a\" is the name of"), "{twice}");
        let beyond = refused(vec![vm("a", 1, &[4], 2 << 20)], Some(4), None);
        assert!(beyond.contains("a.toml: pcpus: pCPU 4") && beyond.contains("0 to 3"), "{beyond}");
        let many = refused((0..8).map(|i| vm(&format!("v{i}"), 1, &[], 2 << 20)).collect(), None, None);
        assert!(many.contains("7 at most"), "{many}");
        assert!(refused(vec![host()], None, None).contains("no guest"));
        let crowd = || vec![vm("a", 16, &[], 2 << 20), vm("b", 1, &[], 2 << 20)];
        let crowded = refused(crowd(), Some(1), None);
        assert!(crowded.contains("b.toml: pcpus: pCPU 0 would run more than 16 vCPUs"), "{crowded}");
        assert!(plan(crowd(), Some(2), None).is_ok());
    }

    #[test]
    fn memory_that_does_not_suffice_is_refused_with_what_would() {
        let message = refused(vec![vm("a", 1, &[], 512 << 20)], None, Some(512 << 20));
        assert!(
            message.contains("--machine-memory") && message.contains("1 GiB is enough"),
            "{message}"
        );
        let little = refused(vec![vm("a", 1, &[], 2 << 20)], None, Some(64 << 20));
        assert_eq!(
            little,
            "--machine-memory: 64 MiB, which must be a whole number of MiB, and at least 256 MiB"
        );
        let big = plan(vec![vm("a", 1, &[], 3 << 30)], None, None).expect("a plan");
        assert_eq!(big.machine.memory, 4 << 30);
        let many = refused(vec![vm("a", 1, &[], 1 << 30), vm("b", 1, &[], 127 << 30)], None, None);
        assert!(many.contains("128 GiB") && many.contains("b.toml: 127 GiB"), "{many}");
    }

    #[test]
    fn modules_lie_apart_from_each_other_umbra_and_qemus_device_tree() {
        for memory in [256 << 20, 512 << 20, 4u64 << 30] {
            let plan = plan(vec![vm("a", 1, &[], 32 << 20), vm("b", 1, &[], 32 << 20)], None, Some(memory)).expect("a plan");
            let mut taken = vec![
                Range::new(KERNEL, UMBRA_ROOM).expect("umbra"),
                Range::new(RAM_BASE + (memory / 2).min(128 << 20), DTB_ROOM).expect("dtb"),
            ];
            for (vm, place) in plan.vms.iter().zip(&plan.placements) {
                let initrd = (place.initrd.expect("an initrd"), vm.initrd.as_ref().expect("an initrd").size);
                for (at, size) in [(place.image, vm.image.module.size), initrd] {
                    let range = Range::new(at, size).expect("a module");
                    assert!(at.is_multiple_of(0x1000) && range.end() <= RAM_BASE + memory);
                    assert!(taken.iter().all(|t| !t.overlaps(range)), "{range:?} of {taken:?}");
                    taken.push(range);
                }
            }
        }
    }

    #[test]
    fn the_tree_gets_one_node_for_each_vm() {
        let mut plan = plan(vec![vm("a", 2, &[], 32 << 20), host()], None, None).expect("a plan");
        plan.bootargs = "loglevel=2".to_owned();
        let mut root = Node::new("");
        root.child_mut("chosen").strings("stdout-path", &["/pl011@9000000"]);
        let tree = plan.describe(&Tree {
            root,
            reserved: Vec::new(),
            boot_cpu: 0,
        });
        let tree = Tree::parse(&tree.flatten().expect("written")).expect("read");
        let chosen = tree.root.children.iter().find(|n| n.name == "chosen").expect("chosen");
        assert_eq!(chosen.property("stdout-path"), Some(b"/pl011@9000000\0".as_slice()));
        assert_eq!(chosen.property("umbra,nonce").map(<[u8]>::len), Some(33));
        assert!(chosen.property("umbra,semihosting").is_some() && chosen.property("umbra,console-mux").is_some());
        let names: Vec<_> = chosen.children.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["umbra-host", "umbra-vm-1"]);
        let a = &chosen.children[1];
        assert_eq!(a.property("compatible"), Some(b"umbra,vm\0".as_slice()));
        assert_eq!(a.property("umbra,pcpus"), Some([0, 0, 0, 1, 0, 0, 0, 2].as_slice()));
        assert_eq!(
            a.property("umbra,ram"),
            Some([0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0].as_slice())
        );
        assert!(a.property("umbra,strict").is_some() && a.property("umbra,no-on-pending").is_some());
        assert_eq!(a.children[0].name, format!("image@{:x}", plan.placements[1].image));
        assert_eq!(a.children.len(), 2);
    }

    #[test]
    fn a_command_line_with_quotes_is_in_the_guests_tree_as_it_is_in_the_vm_file() {
        use hyp_core::fdt::guest::GuestTree;
        use hyp_core::fdt::vms::{Surroundings, Vms, describe};
        const LINE: &str = r#"console=ttyAMA0 title="two  words" path='a b' back\slash 100% tab	end=ä,;#$(x)`y`"#;
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("raw.bin"), [0u8; 4096]).expect("written");
        // TOML's way to write a string with both kinds of quotes as it is.
        let text = format!("name = \"a\"\nbootargs = '''{LINE}'''\n[image]\npath = \"raw.bin\"\n");
        std::fs::write(at("vm.toml"), text).expect("written");
        let vm = crate::vmfile::read(&at("vm.toml"), &at("scratch")).expect("a VM");
        let plan = plan(vec![vm], None, None).expect("a plan");
        let qemus = Tree::parse(include_bytes!("../../hyp/core/tests/data/qemu-virt-gicv3.dtb")).expect("a tree");
        let merged = plan.describe(&qemus).flatten().expect("written");
        let range = |start, size| Range::new(start, size).expect("a range");
        let mut board = Board::discover(&merged).expect("a board");
        board.ram.insert(range(RAM_BASE, 1 << 30)).expect("room");
        let around = Surroundings {
            board: &board,
            hyp: range(KERNEL, UMBRA_ROOM),
            dtb: range(RAM_BASE + (128 << 20), DTB_ROOM),
            head: &|_| &[0; 64],
        };
        let mut read = Vms::new();
        let tree = hyp_core::fdt::Tree::new(&merged).expect("a tree");
        describe(&tree, &around, &mut read, &mut |_, name, property, reason| {
            panic!("{name}: {property}: {reason}")
        });
        let vm = read.iter().next().expect("a description");
        let tree = GuestTree {
            ram: vm.ram,
            vcpus: vm.vcpus(),
            bootargs: vm.bootargs,
            initrd: None,
            seed: None,
            devices: &[],
        };
        let mut words = vec![0; tree.size().div_ceil(4)];
        let tree = Tree::parse(tree.write(&mut words).expect("written")).expect("a tree");
        let chosen = tree.root.children.iter().find(|n| n.name == "chosen").expect("chosen");
        assert_eq!(chosen.property("bootargs"), Some(format!("{LINE}\0").as_bytes()));
    }

    #[test]
    fn devices_are_checked_against_the_machine_and_named_with_file_field_and_path() {
        let blob = include_bytes!("../../hyp/core/tests/data/qemu-virt-gicv3.dtb").to_vec();
        let given = |a: &[&str], b: &[&str]| {
            let mut vms = vec![vm("a", 1, &[], 2 << 20), vm("b", 1, &[], 2 << 20)];
            for (vm, paths) in vms.iter_mut().zip([a, b]) {
                vm.devices = paths.iter().map(|path| (*path).to_owned()).collect();
            }
            plan(vms, None, None).expect("a plan")
        };
        let refused = |a: &[&str], b: &[&str]| given(a, b).check_devices(&blob).expect_err("refused").to_string();
        let fine = given(&["/pl031@9010000"], &["/pl061@9030000"]);
        fine.check_devices(&blob).expect("both can be passed");
        let node = vm_node(&fine.vms[0], 1, fine.placements[0]);
        assert_eq!(node.property("umbra,devices"), Some(b"/pl031@9010000\0".as_slice()));
        assert_eq!(
            refused(&[], &["/nothing"]),
            "b.toml: devices[0]: \"/nothing\": the board has no such node"
        );
        let twice = refused(&["/pl031@9010000"], &["/pl061@9030000", "/pl031@9010000"]);
        assert!(
            twice.starts_with("b.toml: devices[1]: \"/pl031@9010000\"") && twice.contains("already"),
            "{twice}"
        );
        let dma = refused(&["/virtio_mmio@a000000"], &[]);
        assert!(dma.contains("DMA") && dma.contains("SMMU"), "{dma}");
        assert!(refused(&["/pl011@9000000"], &[]).contains("Umbra needs it"));
        let warning = fine.vms[0].device_warning().expect("a warning");
        assert!(warning.starts_with("a.toml: devices:") && warning.contains("SMMU"), "{warning}");
        assert!(given(&[], &[]).vms[0].device_warning().is_none());
    }

    #[test]
    fn foreign_images_run_without_semihosting_and_in_a_sandbox() {
        let mut plan = plan(vec![vm("a", 1, &[], 32 << 20)], None, None).expect("a plan");
        let own = shell(Path::new("qemu"), &plan.qemu_args(Path::new("k"), Path::new("d")));
        assert!(
            own.contains("-semihosting-config enable=on,target=native") && !own.contains("-sandbox"),
            "{own}"
        );
        assert!(own.contains("file=/x/init,,rd,addr=0x"), "commas are doubled: {own}");
        plan.own = false;
        let foreign = shell(Path::new("qemu"), &plan.qemu_args(Path::new("k"), Path::new("d")));
        assert!(
            !foreign.contains("semihosting") && foreign.contains("-sandbox on,spawn=deny"),
            "{foreign}"
        );
        let chosen = plan.describe(&Tree::default()).root.children.remove(0);
        assert!(chosen.property("umbra,semihosting").is_none());
    }

    #[test]
    fn icount_runs_one_thread_with_a_tick_for_each_instruction() {
        let mut machine = machine();
        machine.icount = true;
        let text = shell(Path::new("qemu"), &machine.args(""));
        assert!(
            text.contains("-accel tcg,thread=single -icount shift=0,sleep=off -cpu cortex-a72,cntfrq=1000000000"),
            "{text}"
        );
        machine.icount = false;
        assert!(shell(Path::new("qemu"), &machine.args("")).contains("tcg,thread=multi"));
    }
}
