//! From the first instruction to the first guest, in reading order. `boot.s` calls [`primary`] on the boot CPU with the
//! MMU off, and [`secondary`] on every other with it on.

use core::{
    arch::global_asm,
    mem::{offset_of, size_of},
    slice,
    sync::atomic::{AtomicU64, Ordering},
};

use hyp_abi::psci;
use hyp_core::{
    fdt::{
        Tree,
        board::{self, Board, BoardError, Chosen, Console, PsciMethod},
        vms::Vms,
    },
    physmem::PhysMem,
    policy, stacks, stage1, text,
    text::Value,
    types::Range,
};

use crate::{
    arch::{
        barrier, cpu,
        gic::{self, Distributor, Interface, Redistributor},
        memory,
        mmio::Mmio,
        mmu::{Access, Map, Registers},
        smc, timer,
        uart::Uart,
    },
    console::{self, error, found, info, warning},
    heap, input,
    percpu::{BOOT, EMERGENCY, Local, PerCpu, Stacks},
    run::{self, Run},
    vm,
};

global_asm!(
    include_str!("boot.s"),
    boot_cpu = sym BOOT,
    emergency = const EMERGENCY,
    primary = sym primary,
);

/// A pCPU's stack, its guard page and its emergency stack.
const GUARD: u64 = 4096;
const STACK: u64 = if cfg!(debug_assertions) { 28 << 10 } else { stacks::PCPU };
const EMERGENCY_STACK: u64 = if cfg!(debug_assertions) { 4 << 10 } else { stacks::EMERGENCY };
const TOO_MANY: &str = "the device tree reserves more pieces of memory than Umbra can remember";
const AREA: u64 = GUARD + STACK + EMERGENCY_STACK;
/// How long a secondary may take to come up.
pub(crate) const SECONDARY_MS: u64 = 2000;

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __file_end: u8;
    static __heap_end: u8;
    static __boot_guard: u8;
    static __boot_stack: u8;
    static __boot_stack_top: u8;
    static __image_end: u8;
    fn secondary_entry();
    static el2_vectors: u8;
}

/// What [`secondary`]'s entry in `trap.s` reads with the MMU off.
#[repr(C)]
struct SecondaryBoot {
    hcr: u64,
    vbar: u64,
    stack_top: u64,
    percpu: u64,
    mmu: Registers,
}

const _: () = assert!(
    offset_of!(SecondaryBoot, stack_top) == 16 && offset_of!(SecondaryBoot, mmu) == 32,
    "trap.s reads it in this order"
);

/// Which pCPUs are up, a bit each; and all of them, once it is decided which VMs go on without theirs: who finds its bit there is too late.
static ONLINE: AtomicU64 = AtomicU64::new(0);
/// `ICH_VTR_EL2` of the boot CPU: the others must be like it.
static BOOT_VTR: AtomicU64 = AtomicU64::new(0);

/// The sizes of the running image, in bytes.
pub(crate) struct Sizes {
    /// As loaded.
    pub(crate) image: usize,
    /// Code.
    pub(crate) text: usize,
    /// What is written at run time: `.data`, `.bss`, the heap and the boot CPU's stacks. The first of them is in the image, too.
    pub(crate) fixed: usize,
}

fn at(symbol: *const u8) -> u64 {
    symbol as u64
}

#[inline(never)]
fn span(from: *const u8, to: *const u8) -> Range {
    between(at(from), at(to))
}

/// From `start` up to `end`.
fn between(start: u64, end: u64) -> Range {
    Range::new(start, end.saturating_sub(start)).unwrap_or(Range::EMPTY)
}

/// The running image's sizes.
pub(crate) fn sizes() -> Sizes {
    Sizes {
        image: span(&raw const __image_start, &raw const __file_end).size() as usize,
        text: span(&raw const __image_start, &raw const __text_end).size() as usize,
        fixed: span(&raw const __rodata_end, &raw const __image_end).size() as usize,
    }
}

/// The boot CPU, MMU off: `dtb` from the boot loader, `base` where the image was loaded, `el` the exception level.
extern "C" fn primary(dtb: usize, _base: usize, el: u64) -> ! {
    // SAFETY: First thing on the boot CPU.
    unsafe { heap::init() };
    let blob = device_tree(dtb);
    let tree = Tree::new(blob);
    let chosen = tree.as_ref().map(board::chosen).unwrap_or_default();
    let uart = tree.as_ref().ok().and_then(board::console);
    early_console(&chosen, uart);
    if el != 2 {
        error!(
            "Umbra was entered at EL{}; it needs EL2 (QEMU: -M virt,virtualization=on). Parked.",
            el
        );
        park();
    }
    if !cpu::leave_vhe(policy::HCR_IDLE) {
        error!("HCR_EL2.E2H cannot be cleared on this CPU; Umbra needs non-VHE EL2. Parked.");
        park();
    }
    let found = tree
        .as_ref()
        .map_err(|error| BoardError::Tree(*error))
        .and_then(|tree| Ok((tree, keep(tree, chosen, uart)?)));
    let (tree, board) = match found {
        Ok(found) => found,
        Err(reason) => fail_for(Value::Of(&reason)),
    };
    gic::use_system_registers();
    let boot_index = board.cpus.iter().position(|cpu| cpu.affinity == cpu::affinity()).unwrap_or(0);
    introduce(board, el);

    let Some(memory) = free_memory(board, blob) else { fail(TOO_MANY) };
    let Ok(plan) = vm::plan(board, tree, blob, memory) else {
        fail(TOO_MANY)
    };
    let others = board.cpus.len() as u64 - 1;
    // A page more, so that there is something to take also when the boot CPU is alone.
    let Some(areas) = memory.alloc(AREA * others + GUARD, GUARD) else {
        fail("no RAM is left for the pCPUs' stacks")
    };
    let room = (vm::room(plan) + others * size_of::<PerCpu>() as u64).next_multiple_of(GUARD);
    let Some(room) = memory.alloc(room, GUARD) else {
        fail("no RAM is left for the VMs' contexts")
    };
    let registers = match translate(board, blob, areas, room, plan, memory) {
        Ok(registers) => registers,
        Err(range) => {
            let what = text!("EL2's map cannot hold {:#x}..{:#x}", range.start(), range.end());
            fail_for(Value::Of(&what))
        }
    };
    // SAFETY: Taken above, mapped by `translate`.
    unsafe { heap::extend(room) };
    console::lockable();
    vm::know(board);

    distributor(board).enable();
    let maintenance = board.gic.maintenance.unwrap_or(25);
    let boot_stacks = Stacks {
        guard: at(&raw const __boot_guard),
        top: at(&raw const __boot_stack_top),
        emergency: at(&raw const __image_end),
    };
    let boot_cpu = pcpu(board, boot_index, boot_stacks);
    cpu::set_per_cpu(core::ptr::from_ref(boot_cpu) as usize);
    join(board, boot_cpu, maintenance);

    vm::build(board, plan, memory);
    ONLINE.store(1 << (boot_index & 63), Ordering::Release);
    bring_up(board, boot_index, areas, &registers);
    let up = ONLINE.swap(u64::MAX, Ordering::AcqRel);
    vm::refuse_without_pcpus(|pcpu| up >> (pcpu & 63) & 1 != 0);
    let [(used, size), (vms_used, vms)] = heap::usage();
    let sizes = sizes();
    found!(
        "size image={} text={} static={} heap_used={} heap={} vms_used={} vms={} percpu={}",
        sizes.image,
        sizes.text,
        sizes.fixed,
        used,
        size,
        vms_used,
        vms,
        AREA + size_of::<PerCpu>() as u64
    );
    heap::seal();
    memory::drop_all_guest_tlb();
    if let Some(intid) = board.console.and_then(|console| console.interrupt) {
        distributor(board).route(intid, boot_cpu.affinity);
        input::listen(intid);
    }
    vm::start_all();
    run::begin(boot_cpu.stacks.top)
}

/// A secondary pCPU, on its own stack with translation on.
pub(crate) extern "C" fn secondary(cpu: &'static PerCpu) -> ! {
    let Some(board) = vm::board() else { park() };
    join(board, cpu, board.gic.maintenance.unwrap_or(25));
    #[cfg(feature = "test-triggers")]
    crate::trigger::come_late(cpu.index);
    let bit = 1 << (cpu.index & 63);
    if ONLINE.fetch_or(bit, Ordering::AcqRel) & bit != 0 {
        park();
    }
    run::begin(cpu.stacks.top)
}

fn park() -> ! {
    loop {
        barrier::wfi();
    }
}

#[inline(never)]
fn fail(reason: &str) -> ! {
    fail_for(reason.into())
}

fn fail_for(reason: Value<'_>) -> ! {
    error!("Umbra cannot run here: {}. Parked.", reason);
    park()
}

/// The device tree as the boot loader left it. An address that holds none gives an empty slice, which no parser accepts.
fn device_tree(dtb: usize) -> &'static [u8] {
    const MAGIC: u32 = 0xD00D_FEED;
    const MOST: usize = 2 << 20;
    if dtb == 0 || !dtb.is_multiple_of(8) {
        return &[];
    }
    // The boot protocol does not say that the loader's caches hold nothing of it, and it is read with ours off.
    memory::clean_to_poc(dtb, 8);
    // SAFETY: The boot protocol gives the physical address of a device tree in x0; its header is read as bytes.
    let header = unsafe { slice::from_raw_parts(dtb as *const u8, 8) };
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let size = word(4) as usize;
    if word(0) != MAGIC || size > MOST {
        return &[];
    }
    memory::clean_to_poc(dtb, size);
    // SAFETY: The header's magic is right; the blob is `size` bytes of RAM that is ours until Umbra gives RAM out, and
    // `free_memory` reserves it.
    unsafe { slice::from_raw_parts(dtb as *const u8, size) }
}

/// What the boot CPU learns of the board, kept for ever. Like other steps of [`primary`] not a part of it, so that its large
/// values are not on the stack during all the others.
#[inline(never)]
fn keep(tree: &Tree<'_>, chosen: Chosen, uart: Option<Console>) -> Result<&'static Board, BoardError> {
    let board = heap::keep(Board::new(chosen, uart));
    board.read(tree)?;
    Ok(board)
}

fn early_console(chosen: &Chosen, found: Option<Console>) {
    // SAFETY: Not yet mapped, because the MMU is off, and `translate` maps it.
    let uart = found.map_or(Uart::NONE, |found| unsafe { Uart::new(found) });
    console::init(uart, chosen.console_mux, chosen.loglevel);
}

/// The boot lines: what was found.
#[inline(never)]
fn introduce(board: &Board, el: u64) {
    info!(
        "Umbra {} at EL{}, loaded at {:#x}",
        env!("CARGO_PKG_VERSION"),
        el,
        at(&raw const __image_start)
    );
    info!("CPU     MIDR {:#x}, {} pCPUs", cpu::midr(), board.cpus.len());
    for (index, cpu) in board.cpus.iter().enumerate() {
        info!("        pCPU {}: affinity {:#x}", index, cpu.affinity);
    }
    let lrs = (gic::vtr() & 0x1F) + 1;
    info!(
        "GICv3   distributor {:#x}, {} list registers, ICH_VTR_EL2 {:#x}",
        board.gic.gicd.start(),
        lrs,
        gic::vtr()
    );
    for region in &board.gic.gicr {
        info!("        redistributors {:#x}..{:#x}", region.start(), region.end());
    }
    info!("timer   {} Hz", timer::frequency());
    match board.psci {
        Some(PsciMethod::Smc) => {
            let version = smc::smc(psci::VERSION, 0, 0, 0);
            info!("PSCI    {}.{} by SMC", version >> 16 & 0xFFFF, version & 0xFFFF);
        }
        Some(_) => warning!("PSCI    by HVC: nothing answers below EL2; only this pCPU will run"),
        None => warning!("PSCI    none; only this pCPU will run"),
    }
    for region in board.ram.as_slice() {
        info!("RAM     {:#x}..{:#x} ({} MiB)", region.start(), region.end(), region.size() >> 20);
    }
    found!(
        "boot el={} pcpus={} lrs={} cntfrq={} gicd={:#x} ram={}",
        el,
        board.cpus.len(),
        lrs,
        timer::frequency(),
        board.gic.gicd.start(),
        board.ram.size()
    );
}

/// RAM without the image, the device tree, and what the tree reserves.
#[inline(never)]
fn free_memory(board: &'static Board, blob: &[u8]) -> Option<&'static mut PhysMem<'static>> {
    let memory = heap::keep(PhysMem::new(&board.ram));
    for reserved in board.reserved.as_slice() {
        memory.reserve(*reserved).ok()?;
    }
    memory.reserve(image()).ok()?;
    memory.reserve(Range::new(blob.as_ptr() as u64, blob.len() as u64)?).ok()?;
    Some(memory)
}

/// Where the running image lies.
pub(crate) fn image() -> Range {
    span(&raw const __image_start, &raw const __image_end)
}

/// The stacks of the pCPU that comes up as number `nth`, from 1; the boot CPU has its own.
fn area_stacks(areas: Range, nth: usize) -> Stacks {
    let guard = areas.start() + (nth as u64 - 1) * AREA;
    Stacks {
        guard,
        top: guard + GUARD + STACK,
        emergency: guard + AREA,
    }
}

/// What lies in the image's part of the heap before EL2's tables do.
const KEPT: usize = size_of::<Board>() + size_of::<PhysMem<'_>>() + size_of::<Vms<'_>>();
const TABLES: usize = stage1::MOST_TABLES * GUARD as usize;
const _: () = assert!(
    KEPT.next_multiple_of(GUARD as usize) + GUARD as usize + TABLES <= heap::SIZE,
    "the boot heap is too small"
);

/// EL2's address space: the image by its parts, the pCPUs' stacks without their guard pages, devices, and the memory for the
/// VMs' contexts and tables; the device tree, where their descriptions have their texts. No VM's RAM, and no module.
#[inline(never)]
fn translate(board: &Board, blob: &[u8], areas: Range, room: Range, plan: &Vms<'_>, memory: &mut PhysMem<'_>) -> Result<Registers, Range> {
    let mut map = Map::new();
    map.identity(span(&raw const __image_start, &raw const __text_end), Access::Execute);
    map.identity(span(&raw const __text_end, &raw const __rodata_end), Access::Read);
    map.identity(span(&raw const __rodata_end, &raw const __heap_end), Access::Write);
    map.identity(span(&raw const __boot_stack, &raw const __image_end), Access::Write);
    for index in 1..board.cpus.len() {
        let stacks = area_stacks(areas, index);
        map.identity(between(stacks.guard + GUARD, stacks.emergency), Access::Write);
    }
    map.identity(room, Access::Write);
    map.identity(between(at(blob.as_ptr()), at(blob.as_ptr()) + blob.len() as u64), Access::Read);
    map.identity(board.gic.gicd, Access::Device);
    for region in &board.gic.gicr {
        let end = redistributors(board, *region).last().map_or(region.start(), |(_, next)| next);
        map.identity(between(region.start(), end), Access::Device);
    }
    if let Some(console) = board.console {
        let base = console.base.get();
        map.identity(between(base, base.saturating_add(0x1000)), Access::Device);
    }
    let pool = vm::reserve_pool(plan, memory).ok_or(Range::EMPTY)?;
    map.identity(pool, Access::Write);
    // SAFETY: The map shows the image with its own permissions, the stack we run on, and the heap.
    unsafe { map.activate() }
}

fn pcpu(board: &Board, index: usize, stacks: Stacks) -> &'static PerCpu {
    let affinity = board.cpus.get(index).map_or(0, |cpu| cpu.affinity);
    heap::keep(PerCpu::new(index, affinity, stacks))
}

/// The machine's distributor, once EL2's translation is on.
fn distributor(board: &Board) -> Distributor {
    // SAFETY: The frame as the device tree gives it, mapped by `translate`.
    Distributor::new(unsafe { Mmio::new(board.gic.gicd.start() as usize) })
}

/// This pCPU takes part: its interrupts, its vCPU.
fn join(board: &'static Board, cpu: &'static PerCpu, maintenance: u32) {
    let Some(redistributor) = redistributor_of(board, cpu::affinity()) else {
        error!(
            "pCPU {}: no redistributor serves affinity {:#x}; parked",
            cpu.index,
            cpu::affinity()
        );
        park();
    };
    if timer::frequency() == 0 {
        error!(
            "pCPU {}: the firmware has not set CNTFRQ_EL0, and no guest could tell the time; parked",
            cpu.index
        );
        park();
    }
    if cpu::serror_pending() {
        warning!(
            "pCPU {}: an SError is pending from before Umbra; its first guest will crash of it",
            cpu.index
        );
    }
    gic::use_system_registers();
    // Priority and preemption bits are what EL2 saves by: a PE that has others would not keep a vCPU's state.
    const BITS: u64 = 0x3F << 26;
    let boot_vtr = BOOT_VTR.load(Ordering::Acquire);
    if boot_vtr == 0 {
        BOOT_VTR.store(gic::vtr(), Ordering::Release);
    } else if (boot_vtr ^ gic::vtr()) & BITS != 0 {
        error!(
            "pCPU {}: its GIC CPU interface differs from the boot CPU's (ICH_VTR_EL2 {:#x}); parked",
            cpu.index,
            gic::vtr()
        );
        park();
    }
    redistributor.enable(maintenance);
    gic::enable_cpu_interface();
    timer::disarm();
    timer::remind(None);
    let run = Run::new(cpu.index, Interface::new(redistributor, distributor(board)));
    // SAFETY: This pCPU, once, before it takes an exit.
    unsafe { cpu.set_local(Local { run }) };
}

/// The redistributors of a region, each with the address of the next one: up to the one that says that it is the last.
fn redistributors(board: &Board, region: Range) -> impl Iterator<Item = (Redistributor, u64)> {
    let stride = board.gic.stride;
    let mut base = region.start();
    core::iter::from_fn(move || {
        if base >= region.end() {
            return None;
        }
        // SAFETY: Inside a redistributor region of the device tree; mapped by `translate`, which asks first.
        let found = Redistributor::new(unsafe { Mmio::new(base as usize) });
        let size = if found.has_vlpi_frames() { 0x4_0000 } else { 0x2_0000 };
        let next = base.saturating_add(stride.unwrap_or(size).max(0x2_0000)).min(region.end());
        base = if found.identity().1 { region.end() } else { next };
        Some((found, next))
    })
}

/// The redistributor of a PE is found by the affinity in its GICR_TYPER, never by a PE's number.
fn redistributor_of(board: &Board, affinity: u64) -> Option<Redistributor> {
    for region in &board.gic.gicr {
        for (found, _) in redistributors(board, *region) {
            if found.identity().0 == affinity {
                return Some(found);
            }
        }
    }
    None
}

fn online(index: usize) -> bool {
    ONLINE.load(Ordering::Acquire) >> (index & 63) & 1 != 0
}

/// Starts every other pCPU, one after the other, from this one alone.
#[inline(never)]
fn bring_up(board: &'static Board, boot_index: usize, areas: Range, registers: &Registers) {
    if board.psci != Some(PsciMethod::Smc) {
        return;
    }
    let others = board.cpus.iter().enumerate().filter(|(index, _)| *index != boot_index);
    for (nth, (index, described)) in others.enumerate() {
        let cpu = pcpu(board, index, area_stacks(areas, nth + 1));
        let boot = heap::keep(SecondaryBoot {
            hcr: policy::HCR_IDLE,
            vbar: at(&raw const el2_vectors),
            stack_top: cpu.stacks.top,
            percpu: core::ptr::from_ref(cpu) as u64,
            mmu: *registers,
        });
        memory::clean_to_poc(core::ptr::from_ref(boot) as usize, size_of::<SecondaryBoot>());
        let result = smc::smc(
            psci::CPU_ON_64,
            described.affinity,
            secondary_entry as *const () as u64,
            core::ptr::from_ref(boot) as u64,
        );
        if result != 0 {
            warning!("pCPU {}: the firmware's CPU_ON returned {}", index, result as i64);
            continue;
        }
        let deadline = timer::now() + timer::ticks(SECONDARY_MS);
        while !online(index) && timer::now() < deadline {
            barrier::relax();
        }
        if !online(index) {
            warning!("pCPU {}: did not come up in {} ms", index, SECONDARY_MS);
        }
    }
}
