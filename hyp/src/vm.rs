//! The VMs: made once at boot from the device tree, then started, held, restarted and ended, each by itself.

use core::{
    cell::UnsafeCell,
    ptr, slice,
    sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

use hyp_abi::{
    call::{Counter, VmState},
    errno::Errno,
    layout,
    psci::CPU_ON_64,
    shadow::ShadowPage,
};
use hyp_core::{
    fdt::{
        Tree,
        board::Board,
        vms::{self, Device, Surroundings, VmDesc, Vms},
    },
    filter::{Action, Filter},
    forward::Exits,
    idreg::HostId,
    image, physmem,
    pl011::Pl011,
    policy,
    psci::{Power, Start, State, VmView},
    shadow::Ready,
    stage2::{self, Attrs, Stage2, Tables},
    text,
    text::Value,
    types::{Ipa, Pa, Range},
    vgic::{
        ctlr::CtlrView,
        dist::{Dist, Vcpus},
    },
};

use crate::{
    arch::{
        barrier::{Guard, Mutex, Once},
        cpu,
        gic::{self, Interface},
        memory,
        mmu::Window,
        timer,
    },
    boot,
    console::{error, found, info, record, warning},
    heap::{self, List},
    passed::Passed,
    percpu::{self, BootCell},
    run, system,
    vcpu::Vcpu,
};

/// One VM.
pub(crate) struct Vm {
    /// 0 for the host partition.
    pub(crate) id: usize,
    /// For people.
    pub(crate) name: &'static str,
    /// What the device tree says.
    pub(crate) desc: &'static VmDesc<'static>,
    /// Its own device tree, as it is at each start.
    tree: &'static [u8],
    /// Its RAM.
    ram: Range,
    /// The same, as it sees it.
    ipas: Range,
    /// `VTTBR_EL2`.
    pub(crate) vttbr: u64,
    /// Its vCPUs.
    pub(crate) vcpus: &'static [Vcpu],
    /// Their power states.
    pub(crate) power: &'static [Power],
    /// What the host is to be told.
    pub(crate) exits: Exits,
    /// How long it has for a verdict, in ticks.
    pub(crate) verdict_ticks: u64,
    /// Its distributor.
    pub(crate) dist: Dist,
    /// The interrupts of the devices that it is given.
    pub(crate) passed: Passed,
    /// Its UART.
    uart: Mutex<Pl011>,
    /// It has ended: every vCPU has left its pCPU, and that is counted.
    over: AtomicBool,
    /// It is to be started anew after it has ended.
    revive: AtomicBool,
    cntvoff: AtomicU64,
    /// Its vGIC is initialised.
    pub(crate) ready: Ready,
    filter: Setup<Filter>,
    /// See [`Vm::unstarted`].
    setup: Mutex<()>,
    /// Its calls that only read are answered as if there were no filter.
    short_calls: AtomicBool,
    /// See [`Vm::starts`].
    starts: AtomicUsize,
    state: AtomicU8,
    /// See [`Vm::hold_word`].
    held: AtomicU32,
    departed: AtomicU32,
    /// How often it was started anew.
    generation: AtomicU32,
}

/// What is edited while its VM does not run, and read without a lock while it does.
struct Setup<T>(UnsafeCell<T>);

// SAFETY: `Vm::edit_filter` writes only with the lock of `Vm::unstarted`; `Vm::start` reads with it and publishes what was
// written (release, with the state), and the VM's vCPUs acquire it by their start.
unsafe impl<T: Sync> Sync for Setup<T> {}

/// Every VM, the host partition first if there is one.
static VMS: Once<&'static [Vm]> = Once::new();
static BOARD: Once<Board> = Once::new();
static POOL: BootCell<Pool> = BootCell::new(Pool { next: 0, end: 0 });

/// Pages for stage-2 tables and shadow pages: RAM that EL2 maps and no VM does.
struct Pool {
    next: u64,
    end: u64,
}

/// Pages a VM may need: two at its root, a table for devices and one for the shadow pages, tables for RAM that starts or
/// ends inside a GiB, the shadow page, and room to align the root.
const POOL_PAGES_PER_VM: u64 = 12;
/// Pages that the registers of a passed device may need besides: tables where they begin and end.
const POOL_PAGES_PER_DEVICE: u64 = 4;

impl Pool {
    fn take(&mut self, pages: u64, align: u64) -> Option<u64> {
        let start = self.next.next_multiple_of(align);
        let end = start.checked_add(pages * stage2::PAGE)?;
        if end > self.end {
            return None;
        }
        self.next = end;
        // SAFETY: Pages of the pool, which EL2 maps writable and nothing uses yet.
        unsafe { memory::zero_pages(start as usize, (end - start) as usize) };
        Some(start)
    }
}

impl Tables for Pool {
    fn alloc(&mut self) -> Option<Pa> {
        self.take(1, stage2::PAGE).map(Pa::new)
    }

    fn read(&self, table: Pa, index: usize) -> u64 {
        // SAFETY: `table` is a page of the pool, `index` below 512.
        unsafe { ptr::read_volatile((table.get() as *const u64).add(index & 0x1FF)) }
    }

    fn write(&mut self, table: Pa, index: usize, descriptor: u64) {
        // SAFETY: As for reads.
        unsafe { ptr::write_volatile((table.get() as *mut u64).add(index & 0x1FF), descriptor) };
    }
}

/// Reads the VM descriptions, says which are refused, and keeps the modules of the others out of `memory`.
///
/// # Errors
/// [`physmem::Full`]: more modules than can be remembered.
#[inline(never)]
pub(crate) fn plan(
    board: &Board,
    tree: &Tree<'static>,
    blob: &'static [u8],
    memory: &mut physmem::PhysMem<'_>,
) -> Result<&'static Vms<'static>, physmem::Full> {
    let around = Surroundings {
        board,
        hyp: boot::image(),
        dtb: Range::new(blob.as_ptr() as u64, blob.len() as u64).unwrap_or(Range::EMPTY),
        head: &head,
    };
    let plan = heap::keep(Vms::new());
    vms::describe(tree, &around, plan, &mut |id, name, property, reason| {
        refuse(id, name, Value::Of(&text!("{}: {}", property, Value::Of(&reason))));
    });
    for desc in plan.iter() {
        memory.reserve(desc.image)?;
        memory.reserve(desc.initrd.unwrap_or(Range::EMPTY))?;
    }
    Ok(plan)
}

fn refuse(id: usize, name: &str, reason: Value<'_>) {
    error!("VM {} is refused: {}", name, reason);
    record!("end vm={} name={} reason=refused", id, name);
    system::refused();
}

/// How an image begins that lies there.
#[inline(never)]
fn head(image: Range) -> &'static [u8] {
    let size = (image.size() as usize).min(image::HEADER_SIZE);
    // Its loader's caches may hold it still, and ours are off.
    memory::clean_to_poc(image.start() as usize, size);
    // SAFETY: The module lies in RAM (checked by `describe`) that is given to nobody, nobody writes it, and the MMU is off:
    // every address is mapped.
    unsafe { slice::from_raw_parts(image.start() as *const u8, size) }
}

/// Takes the memory for stage-2 tables and shadow pages, for EL2 to map.
pub(crate) fn reserve_pool(plan: &Vms<'_>, memory: &mut physmem::PhysMem<'_>) -> Option<Range> {
    let mut pages = 0;
    for desc in plan.iter() {
        let registers: usize = desc.devices.iter().map(|device| device.registers.len()).sum();
        pages += POOL_PAGES_PER_VM + POOL_PAGES_PER_DEVICE * registers as u64;
    }
    let pages = pages.max(POOL_PAGES_PER_VM);
    let pool = memory.alloc(pages * stage2::PAGE, stage2::PAGE)?;
    // SAFETY: The boot CPU, before any other runs.
    unsafe {
        *POOL.get_mut() = Pool {
            next: pool.start(),
            end: pool.end(),
        }
    };
    Some(pool)
}

/// What the contexts of the plan's VMs take, with room for how the pCPUs begin and for what lies between two of them.
pub(crate) fn room(plan: &Vms<'_>) -> u64 {
    const SPARE: u64 = 16 << 10;
    let contexts = |desc: &VmDesc<'_>| size_of::<Vm>() + desc.vcpus() * (size_of::<Vcpu>() + size_of::<Power>());
    let room = |desc: &VmDesc<'_>| (contexts(desc) + desc.tree_size) as u64;
    SPARE + plan.iter().map(room).sum::<u64>()
}

/// The machine is `board`.
pub(crate) fn know(board: &'static Board) {
    BOARD.set(board);
}

/// The machine.
pub(crate) fn board() -> Option<&'static Board> {
    BOARD.get()
}

/// Every VM that was built.
pub(crate) fn all() -> &'static [Vm] {
    VMS.get().copied().unwrap_or(&[])
}

/// The VM with this number: at its place among them, if none was refused.
#[inline(never)]
pub(crate) fn find(id: u64) -> Option<&'static Vm> {
    let vms = all();
    match vms.get(usize::try_from(id).ok()?) {
        Some(vm) if vm.id as u64 == id => Some(vm),
        _ => vms.iter().find(|vm| vm.id as u64 == id),
    }
}

/// Builds every VM of the plan: memory, tables, vCPUs, first contents. A VM that cannot be built is refused; the others
/// are built.
#[inline(never)]
pub(crate) fn build(board: &'static Board, plan: &'static Vms<'static>, memory: &mut physmem::PhysMem<'_>) {
    // SAFETY: The boot CPU, before any other runs.
    let pool = unsafe { POOL.get_mut() };
    let mut shadows = [0; layout::MAX_VMS];
    for desc in plan.iter() {
        shadows[desc.id % layout::MAX_VMS] = pool.take(1, stage2::PAGE).unwrap_or(0);
    }
    let mut built = List::new(plan.iter().count());
    for desc in plan.iter() {
        match make(board, desc, memory, pool, &shadows, &mut built) {
            Ok(()) => {}
            Err(reason) => refuse(desc.id, desc.name(), reason.into()),
        }
    }
    let vms: &'static [Vm] = built.leak();
    let fresh = board.chosen.fresh_ram;
    for vm in vms {
        vm.contents(!fresh);
        found!(
            "vm vm={} name={} vcpus={} ram={:#x} pa={:#x}",
            vm.id,
            vm.name,
            vm.vcpus.len(),
            vm.ram.size(),
            vm.ram.start()
        );
        info!(
            "VM {}    {}: {} vCPUs, {} MiB at {:#x}",
            vm.id,
            vm.name,
            vm.vcpus.len(),
            vm.ram.size() >> 20,
            vm.ipas.start()
        );
    }
    if vms.is_empty() {
        warning!("no VM to run: describe one below /chosen (docs/devicetree.md)");
    }
    VMS.set(heap::keep(vms));
    let host = vms.iter().find(|vm| vm.id == 0);
    system::built(vms.iter().filter(|vm| vm.id != 0).count(), host);
}

/// Makes one VM and adds it to `built`. `shadows` are the VMs' shadow pages, by their numbers; 0 is none.
#[inline(always)]
fn make(
    board: &'static Board,
    desc: &'static VmDesc<'static>,
    memory: &mut physmem::PhysMem<'_>,
    pool: &mut Pool,
    shadows: &[u64; layout::MAX_VMS],
    built: &mut List<Vm>,
) -> Result<(), &'static str> {
    let id = desc.id;
    const BLOCK: u64 = stage2::BLOCK_2M;
    const NO_TABLES: &str = "no memory is left for its stage-2 tables";
    let ram = memory
        .alloc(desc.ram.size(), BLOCK)
        .ok_or("the machine has not enough free RAM in one piece")?;
    let host = HostId::read(run::hardware_value);
    let (ipa_bits, pa_bits) = (policy::ipa_bits(&host), host.pa_bits());
    let roots = stage2::root_tables(ipa_bits) as u64;
    let root = pool.take(roots, roots * stage2::PAGE).ok_or(NO_TABLES)?;
    let tables = Stage2::new(Pa::new(root), ipa_bits, pa_bits).ok_or("its stage-2 tables cannot be made on this CPU")?;
    let mut map = |ipa: u64, pa: u64, size: u64, attrs: Attrs| {
        tables
            .map(pool, Ipa::new(ipa), Pa::new(pa), size, attrs)
            .map_err(|_| "its RAM cannot be mapped")
    };
    map(desc.ram.start(), ram.start(), desc.ram.size(), Attrs::Ram)?;
    for page in desc.devices.iter().flat_map(Device::pages) {
        // The guest has them where the machine has them.
        map(page.start(), page.start(), page.size(), Attrs::Device).map_err(|_| "a passed device's registers cannot be mapped")?;
    }
    if id == 0 {
        for (vm, page) in (0..).zip(shadows).filter(|(vm, page)| *vm != 0 && **page != 0) {
            map(layout::SHADOW_BASE + vm * layout::SHADOW_STRIDE, *page, stage2::PAGE, Attrs::RoData)?;
        }
    }
    let page = shadows[id % layout::MAX_VMS];
    if page == 0 {
        return Err("no memory is left for its shadow page");
    }
    // SAFETY: A zeroed page of the pool, which lives for ever; `ShadowPage` is made of atomics and fits a page. Guests
    // that see it see it read-only.
    let shadow: &'static ShadowPage = unsafe { &*(page as *const ShadowPage) };
    if desc.tree_size as u64 > vms::DTB_SIZE {
        return Err("its device tree is too large");
    }
    let tree = desc.tree(board).write(heap::words(desc.tree_size.div_ceil(4)));
    let tree = tree.ok_or("its device tree cannot be written")?;
    let view = CtlrView::new(gic::vtr(), gic::physical_ctlr());
    let affinity = |pcpu: u8| board.cpus.get(usize::from(pcpu)).map_or(0, |cpu| cpu.affinity);
    let dist = Dist::new(&view);
    let first = desc.pcpus.first().map_or(0, |pcpu| affinity(*pcpu));
    let passed = Passed::new(desc, &dist, first).ok_or("the machine has no distributor")?;
    let mut power = List::new(desc.vcpus());
    (0..desc.vcpus()).for_each(|_| power.push(Power::new()));
    let power: &'static [Power] = power.leak();
    let mut vcpus = List::new(desc.vcpus());
    let shown = power.iter().zip(shadow.slots());
    for (index, (pcpu, shown)) in desc.pcpus.iter().zip(shown).enumerate() {
        let on = (usize::from(*pcpu), affinity(*pcpu));
        vcpus.push(Vcpu::new((index, index + 1 == desc.vcpus()), on, shown, view, desc.strict));
    }
    built.push(Vm {
        id,
        name: desc.name(),
        desc,
        tree,
        ram,
        ipas: desc.ram,
        vttbr: run::vttbr(id, root),
        vcpus: vcpus.leak(),
        power,
        exits: Exits::new(id as u8),
        verdict_ticks: timer::ticks(u64::from(desc.forward_deadline_ms)),
        dist,
        passed,
        uart: Mutex::new(Pl011::new()),
        over: AtomicBool::new(false),
        revive: AtomicBool::new(false),
        cntvoff: AtomicU64::new(0),
        ready: Ready::new(),
        filter: Setup(UnsafeCell::new(desc.smccc_filter())),
        setup: Mutex::new(()),
        short_calls: AtomicBool::new(false),
        starts: AtomicUsize::new(0),
        state: AtomicU8::new(VmState::Built as u8),
        held: AtomicU32::new(0),
        departed: AtomicU32::new(0),
        generation: AtomicU32::new(0),
    });
    Ok(())
}

/// Starts what starts by itself: the host partition, or, without one, every VM.
pub(crate) fn start_all() {
    // A host partition that was refused, because its pCPU did not come up, starts nobody.
    if find(0).is_none_or(|host| host.start().is_err()) {
        start_guests();
    }
}

/// Refuses each VM one of whose pCPUs did not come up.
pub(crate) fn refuse_without_pcpus(online: impl Fn(usize) -> bool) {
    for vm in all() {
        if let Some(vcpu) = vm.vcpus.iter().find(|vcpu| !online(vcpu.pcpu))
            && vm.change(VmState::Built, VmState::Off)
        {
            refuse(vm.id, vm.name, Value::Of(&text!("umbra,pcpus: pCPU {} did not come up", vcpu.pcpu)));
            system::never_built(vm.id);
        }
    }
}

/// Starts every VM that has not been started.
pub(crate) fn start_guests() {
    static STARTED: AtomicBool = AtomicBool::new(false);
    // Once is enough: none is ever to be started again.
    if STARTED.load(Ordering::Relaxed) {
        return;
    }
    STARTED.store(true, Ordering::Relaxed);
    for vm in all() {
        let _ = vm.start();
    }
}

impl Vm {
    /// What it is doing.
    pub(crate) fn state(&self) -> VmState {
        VmState::from_u8(self.state.load(Ordering::Acquire)).unwrap_or(VmState::Crashed)
    }

    /// What `VM_INFO` says: like [`Vm::state`], and whether it is held.
    pub(crate) fn shown_state(&self) -> VmState {
        match self.state() {
            VmState::Running if self.held() => VmState::Stopped,
            state => state,
        }
    }

    fn change(&self, from: VmState, to: VmState) -> bool {
        self.state
            .compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// The filter.
    pub(crate) fn filter(&self) -> &Filter {
        // SAFETY: Written only before the VM is started (`edit_filter`); readers are its vCPUs, and `start` with the lock that
        // writing takes.
        unsafe { &*self.filter.0.get() }
    }

    /// Whether the calls that only read can be answered in the vectors: nobody changes the filter any more.
    pub(crate) fn calls_are_short(&self) -> bool {
        self.short_calls.load(Ordering::Relaxed)
    }

    /// What becomes of its `CPU_ON`, in the 64-bit form, where the vectors can tell: see [`percpu::FORWARDS`].
    pub(crate) fn starts(&self) -> usize {
        self.starts.load(Ordering::Relaxed)
    }

    /// The right to set up a VM that has not been started, and to start it: the host partition and the monitor may want to at
    /// once, each on its own pCPU. Nobody holds it for long. `None`: it was started, and its vCPUs' locks may be held for ever.
    #[inline(never)]
    fn unstarted(&self) -> Option<Guard<'_, ()>> {
        let guard = self.setup.lock();
        (self.state() == VmState::Built).then_some(guard)
    }

    /// Adds a range to the filter, before the VM first ran.
    ///
    /// # Errors
    /// KVM's: `EBUSY` once it ran, `EINVAL`, `EEXIST`, `E2BIG`.
    pub(crate) fn edit_filter(&self, base: u64, count: u64, action: u64) -> Result<(), Errno> {
        Filter::check(base, count, action)?;
        let _unstarted = self.unstarted().ok_or(Errno::Busy)?;
        // SAFETY: The VM's vCPUs have never run, and whoever starts it, or edits too, has this lock.
        unsafe { (*self.filter.0.get()).insert_before_run(false, base, count, action) }
    }

    /// Initialises the vGIC of a VM that has not been started: every vCPU's reset template is published, and reading becomes
    /// possible.
    ///
    /// # Errors
    /// `EBUSY`: it is being reset, or was refused after all.
    #[inline(never)]
    pub(crate) fn init_vgic(&self) -> Result<(), Errno> {
        if let Some(unstarted) = self.unstarted() {
            self.publish_templates(&unstarted);
        }
        if self.ready.is_ready() { Ok(()) } else { Err(Errno::Busy) }
    }

    /// No pCPU keeps a vCPU's lock: the VM has not been started.
    fn publish_templates(&self, _unstarted: &Guard<'_, ()>) {
        if !self.ready.is_ready() {
            #[cfg(feature = "test-triggers")]
            crate::trigger::linger();
            for vcpu in self.vcpus {
                vcpu.publish_template();
            }
            self.ready.publish();
        }
    }

    /// Starts it: vCPU 0 at the image's entry, with the device tree's address.
    ///
    /// # Errors
    /// `EEXIST`: it was started before.
    pub(crate) fn start(&self) -> Result<(), Errno> {
        let unstarted = self.unstarted().ok_or(Errno::Exists)?;
        self.publish_templates(&unstarted);
        // The host partition's own calls are of a service that nobody else implements.
        self.short_calls
            .store(self.id != 0 && self.filter().leaves_reads_alone(), Ordering::Relaxed);
        let starts = match self.filter().lookup(CPU_ON_64) {
            Action::Handle if self.id != 0 => percpu::HANDLES,
            Action::Forward => percpu::FORWARDS,
            Action::Handle | Action::Deny => 0,
        };
        self.starts.store(starts, Ordering::Relaxed);
        self.start_boot_vcpu();
        // Now, and not before, it can be ended, and started anew by another pCPU than this: nothing is left to do for this start.
        self.state.store(VmState::Running as u8, Ordering::Release);
        drop(unstarted);
        #[cfg(feature = "test-triggers")]
        crate::trigger::linger();
        // Those that are off take their locks and wait for their starts.
        self.wake();
        Ok(())
    }

    /// `CNTVOFF_EL2`: a guest's virtual counter begins at 0 with each start of its VM; the host partition's is the physical
    /// one, in which the shadow's stamps are.
    pub(crate) fn cntvoff(&self) -> u64 {
        self.cntvoff.load(Ordering::Relaxed)
    }

    /// The interface of one of its vCPUs that is not resident.
    pub(crate) const fn absent(&self) -> Interface {
        Interface::absent(self.passed.distributor)
    }

    /// Its boot vCPU is on, and its devices' interrupts can come. Whoever calls this has all its pCPUs look next.
    fn start_boot_vcpu(&self) {
        if self.id != 0 {
            self.cntvoff.store(timer::now(), Ordering::Relaxed);
        }
        self.passed.open();
        let start = Start {
            entry: self.desc.placement.entry,
            context: self.desc.placement.dtb.unwrap_or(0),
            big_endian: false,
        };
        if let (Some(power), Some(vcpu)) = (self.power.first(), self.vcpus.first()) {
            let _ = power.turn_on(start);
            vcpu.count_remote(Counter::Starts);
        }
    }

    /// Ends or resets it: every vCPU leaves its pCPU, and the last one to leave does the rest. Only the first reason
    /// counts.
    #[inline(never)]
    pub(crate) fn end(&self, how: VmState) {
        if self.change(VmState::Running, how) {
            self.wake();
        }
    }

    /// Has the pCPU of each of its vCPUs look at it.
    #[inline(never)]
    fn wake(&self) {
        for vcpu in self.vcpus {
            vcpu.wake();
        }
    }

    /// Changes with each restart, after everything of it is in place.
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether its vCPUs are to leave their pCPUs for good.
    pub(crate) fn ending(&self) -> bool {
        self.state() != VmState::Running
    }

    /// One of its vCPUs has left its pCPU because the VM is ending. The last one finishes it. `Some`: it is to be restarted in this vCPU's
    /// turns, beginning with this piece.
    pub(crate) fn depart(&self, vcpu: &Vcpu) -> Option<Piece> {
        if self.departed.fetch_add(1, Ordering::AcqRel) + 1 < self.vcpus.len() as u32 {
            return None;
        }
        self.passed.close();
        let state = self.state();
        if state == VmState::Resetting {
            return Some(self.begin_restart());
        }
        let reason = if state == VmState::Crashed { "crashed" } else { "off" };
        info!("VM {} ({}) ended on pCPU {}: {}", self.id, self.name, vcpu.pcpu, reason);
        record!("end vm={} name={} reason={}", self.id, self.name, reason);
        self.exits.ended(state == VmState::Crashed);
        system::ended(self.id, state == VmState::Crashed);
        self.over.store(true, Ordering::Release);
        None
    }

    /// Every vCPU has left its pCPU: everything is to be as it was at the first start, a piece at a time.
    fn begin_restart(&self) -> Piece {
        self.ready.reset();
        Piece { segment: 0, done: 0 }
    }

    /// In a turn of the vCPU that restarts it: does one piece, however many vCPUs share that pCPU. Gives the next one; after the last, it
    /// runs.
    pub(crate) fn rebuild(&self, at: Piece) -> Option<Piece> {
        let next = self.write_piece(at);
        if next.is_none() {
            self.finish_restart();
        }
        next
    }

    /// Its RAM is as at the first start: so is the rest, and it starts.
    fn finish_restart(&self) {
        for (vcpu, power) in self.vcpus.iter().zip(self.power) {
            power.reset();
            vcpu.reset();
        }
        // Its line falls with it.
        let _ = self.uart(Pl011::reset);
        self.dist.reset();
        self.departed.store(0, Ordering::Relaxed);
        self.exits.reset();
        for vcpu in self.vcpus {
            vcpu.publish_template();
        }
        self.ready.publish();
        self.start_boot_vcpu();
        self.state.store(VmState::Running as u8, Ordering::Release);
        // Now, and not before, those who departed take part again: none of them can miss the next reset.
        self.generation.fetch_add(1, Ordering::Release);
        info!("VM {} ({}) was reset", self.id, self.name);
        self.wake();
        system::wake_host();
    }

    /// Holds every vCPU, or lets them go on. Returns the word that each pCPU acknowledges once it has let go. The host
    /// partition and the monitor call this.
    pub(crate) fn hold(&self, held: bool) -> u32 {
        let word = self.hold_word();
        let next = if held == (word & 1 == 1) { word } else { word.wrapping_add(1) };
        // The monitor and the host at once: one of them has its way, and the other's word is never acknowledged too early.
        let _ = self.held.compare_exchange(word, next, Ordering::AcqRel, Ordering::Relaxed);
        self.wake();
        next
    }

    /// Whether its vCPUs are held.
    pub(crate) fn held(&self) -> bool {
        self.hold_word() & 1 == 1
    }

    /// Changes with each hold and each resume; odd while held.
    pub(crate) fn hold_word(&self) -> u32 {
        self.held.load(Ordering::Acquire)
    }

    /// Puts image, initial RAM disk and device tree into its RAM, after scrubbing it if something may be there.
    fn contents(&self, scrub: bool) {
        let mut at = Piece {
            segment: usize::from(!scrub),
            done: 0,
        };
        while let Some(next) = self.write_piece(at) {
            at = next;
        }
    }

    /// What goes into its RAM, one thing after the other: offset, size, and where it comes from. Behind an image's file is what
    /// the first thing left: zeroes, or RAM that holds them already.
    fn segment(&self, index: usize) -> Option<(u64, u64, Source<'_>)> {
        let (image, file) = (self.desc.placement.image, self.desc.image);
        let offset = |ipa: u64| ipa - self.ipas.start();
        let nothing = (0, 0, Source::Zero);
        Some(match index {
            0 => (0, self.ram.size(), Source::Zero),
            1 => (offset(image.start()), file.size(), Source::Memory(file.start())),
            2 => match (self.desc.placement.initrd, self.desc.initrd) {
                (Some(at), Some(file)) => (offset(at.start()), file.size(), Source::Memory(file.start())),
                _ => nothing,
            },
            3 => self
                .desc
                .placement
                .dtb
                .map_or(nothing, |at| (offset(at), self.tree.len() as u64, Source::Bytes(self.tree))),
            _ => return None,
        })
    }

    /// Writes one piece, of 2 MiB at most, and cleans it to the point of coherency: the guest starts with its caches off. Gives
    /// the next one; after the last, no pCPU has an old instruction cached.
    fn write_piece(&self, at: Piece) -> Option<Piece> {
        let Some((offset, size, source)) = self.segment(at.segment) else {
            memory::drop_instructions();
            return None;
        };
        if at.done >= size {
            return Some(Piece {
                segment: at.segment + 1,
                done: 0,
            });
        }
        let pcpu = crate::percpu::this().index;
        // SAFETY: This VM's own RAM, where no Rust object lives; its vCPUs do not run. Window 0 of this pCPU is open only here
        // and in `clean_by_set_way`, and a pCPU does not come here twice at once.
        let mut to = unsafe { Window::open(pcpu, 0, self.ram.start() + offset + at.done) };
        let mut room = to.size().min((size - at.done) as usize);
        match source {
            Source::Zero => to.zero(room),
            Source::Bytes(bytes) => to.copy_bytes(bytes.get(at.done as usize..).unwrap_or(&[])),
            Source::Memory(start) => {
                // SAFETY: The module's memory: RAM that no VM is given and no object lives in. Window 1 as window 0.
                let from = unsafe { Window::open(pcpu, 1, start + at.done) };
                room = room.min(from.size());
                to.copy(&from, room);
            }
        }
        to.clean(room);
        Some(Piece {
            segment: at.segment,
            done: at.done + room as u64,
        })
    }

    /// SPIs wait for these vCPUs: their pCPUs are to look.
    pub(crate) fn kick_spis(&self, mut vcpus: Vcpus) {
        while vcpus != 0 {
            if let Some(vcpu) = self.vcpus.get(vcpus.trailing_zeros() as usize) {
                vcpu.kick_for(Counter::KicksIrq);
            }
            vcpus &= vcpus - 1;
        }
    }

    /// Does something to its PL011, and lets the interrupt's line follow. Says besides which vCPU is to look at its SPIs.
    pub(crate) fn uart<R>(&self, action: impl FnOnce(&mut Pl011) -> R) -> (R, Vcpus) {
        let mut uart = self.uart.lock();
        let result = action(&mut uart);
        // Under the lock, so that lines change in the order of their causes.
        (result, self.follow(&uart))
    }

    /// The PL011's interrupt line is what `uart` says. Gives the vCPU that is to look.
    #[inline(never)]
    fn follow(&self, uart: &Pl011) -> Vcpus {
        let looks = self.dist.set_line(32 + layout::UART_SPI, uart.line());
        looks.map_or(0, |index| 1 << index)
    }

    /// A byte was typed for it. False: its FIFO is full.
    pub(crate) fn type_in(&self, byte: u8) -> bool {
        let (taken, looks) = self.uart(|uart| uart.receive(byte));
        self.kick_spis(looks);
        taken
    }

    /// Starts a VM anew that has ended: its boot vCPU's pCPU does it. Not while a vCPU of it is still on its way out.
    pub(crate) fn revive(&self) -> bool {
        if !self.over.swap(false, Ordering::AcqRel) {
            return false;
        }
        let ended = [VmState::Off, VmState::Crashed];
        let revived = ended.into_iter().find(|state| self.change(*state, VmState::Resetting));
        if let Some(state) = revived {
            system::revived(self.id, state == VmState::Crashed);
            self.revive.store(true, Ordering::Release);
            if let Some(vcpu) = self.vcpus.first() {
                vcpu.wake();
            }
        }
        revived.is_some()
    }

    /// For the boot vCPU's pCPU: what [`Vm::revive`] asked for, as [`Vm::depart`] gives it.
    pub(crate) fn revive_if_asked(&self) -> Option<Piece> {
        self.revive.swap(false, Ordering::AcqRel).then(|| self.begin_restart())
    }

    /// vCPU `index` has been turned on: its pCPU is to look.
    pub(crate) fn wake_started(&self, index: usize) {
        if let Some(vcpu) = self.vcpus.get(index) {
            vcpu.count_remote(Counter::Starts);
            vcpu.kick_plainly();
        }
    }

    /// A guest's cache maintenance by set and way, answered by VA over the VM's RAM (DDI 0487: set/way operations reach one
    /// PE's caches, and lines of any VM). A guest goes through every set and way; the whole RAM is cleaned once in a pass,
    /// when level 1, set 0, way 0 comes by.
    ///
    /// Starts `done` bytes into the RAM. `Some`: an interrupt is pending, and so much is done; the instruction is to be run
    /// again.
    pub(crate) fn clean_by_set_way(&self, operand: u64, mut done: u64) -> Option<u64> {
        if operand & 0xFFFF_FFFF != 0 {
            return None;
        }
        let pcpu = crate::percpu::this().index;
        while done < self.ram.size() {
            // SAFETY: This VM's own RAM, where no Rust object lives; only cache maintenance is done through the window.
            let window = unsafe { Window::open(pcpu, 0, self.ram.start() + done) };
            window.clean(window.size());
            done += window.size() as u64;
            if cpu::interrupt_pending() {
                return Some(done);
            }
        }
        None
    }

    /// Whether it runs, held or not.
    pub(crate) fn is_running(&self) -> bool {
        self.state() == VmState::Running
    }

    /// The sum of a counter over its vCPUs.
    #[inline(never)]
    pub(crate) fn sum(&self, counter: Counter) -> u64 {
        self.vcpus.iter().map(|vcpu| vcpu.counter(counter)).sum()
    }
}

/// How far the writing of a VM's RAM has got.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    segment: usize,
    done: u64,
}

enum Source<'a> {
    Zero,
    Bytes(&'a [u8]),
    /// Physical address.
    Memory(u64),
}

/// A VM as one of its callers sees it.
pub(crate) struct View {
    /// The VM.
    pub(crate) vm: &'static Vm,
}

impl VmView for View {
    fn vcpus(&self) -> usize {
        self.vm.vcpus.len()
    }

    fn find(&self, affinity: u64) -> Option<usize> {
        let index = (affinity >> 8 & 0xFF) * 16 + (affinity & 0xF);
        (index < self.vm.vcpus.len() as u64 && layout::affinity_of(index as usize) == affinity).then_some(index as usize)
    }

    fn in_ram(&self, ipa: u64) -> bool {
        self.vm.ipas.contains(ipa)
    }

    fn power(&self, index: usize) -> State {
        self.vm.power.get(index).map_or(State::Off, Power::state)
    }

    fn big_endian(&self) -> bool {
        run::guest_is_big_endian()
    }
}
