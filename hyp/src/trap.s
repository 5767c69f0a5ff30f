// EL2's vectors. A guest's exit finds SP_EL2 at its pCPU's frame (see Frame in trap.rs), where ERET left it.

.macro save_caller_saved
    stp     x0, x1, [sp, #0]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    str     x18, [sp, #144]
    str     x30, [sp, #240]
.endm

// What save_caller_saved saves but x1 and x2, and x0 = frame, for a call of Rust.
.macro save_most
    str     x0, [sp]
    mov     x0, sp
    stp     x3, x4, [sp, #24]
    stp     x5, x6, [sp, #40]
    stp     x7, x8, [sp, #56]
    stp     x9, x10, [sp, #72]
    stp     x11, x12, [sp, #88]
    stp     x13, x14, [sp, #104]
    stp     x15, x16, [sp, #120]
    stp     x17, x18, [sp, #136]
    str     x30, [sp, #240]
.endm

.macro save_callee_saved
    str     x19, [sp, #152]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
.endm

.macro restore_callee_saved
    ldr     x19, [sp, #152]
    ldp     x20, x21, [sp, #160]
    ldp     x22, x23, [sp, #176]
    ldp     x24, x25, [sp, #192]
    ldp     x26, x27, [sp, #208]
    ldp     x28, x29, [sp, #224]
.endm

// For a short way in Rust that has few registers to put anything in: x0, x1 and x8 to \last (xtask looks for others in what it builds).
// x30 is saved for the call. x1 is saved already. The guest's x0 is behind its x30, where the frame has no register.
.macro save_few last
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
.if \last > 13
    stp     x14, x15, [sp, #112]
.endif
.if \last > 15
    stp     x16, x17, [sp, #128]
.endif
    stp     x30, x0, [sp, #240]
.endm

.macro restore_few last
.if \last > 15
    ldp     x16, x17, [sp, #128]
.endif
.if \last > 13
    ldp     x14, x15, [sp, #112]
.endif
    ldp     x12, x13, [sp, #96]
    ldp     x10, x11, [sp, #80]
    ldp     x8, x9, [sp, #64]
.endm

// Calls a short way that has few registers. In an image that nobody checks for that, it is the long way.
.macro short_way function, otherwise
.if {unchecked}
    b       \otherwise
.else
    bl      \function
.endif
.endm

// One of EL2's own vectors. Behind its branch there is room for 29 instructions of another way.
.macro unexpected, kind
    .org    el2_vectors + \kind * 128
    msr     sp_el0, x0              // the guest's SP_EL0 is lost: EL2 is not coming back
    mov     x0, #\kind
    b       el2_fault
.endm

.section .vectors, "ax"
.balign 2048
.global el2_vectors
el2_vectors:
    unexpected 0                    // current EL, SP_EL0: synchronous
// An exception taken at EL2 itself. x0 = which vector; the real x0 is in SP_EL0. Nothing may be pushed on a stack that
// may be the cause: the pCPU's emergency stack takes over.
el2_fault:
    msr     tpidr_el0, x1           // the guest's TPIDR_EL0 is lost, too
    mrs     x1, tpidr_el2
    ldr     x1, [x1, {emergency}]
    sub     x1, x1, {frame_size}
    stp     x2, x3, [x1, #16]
    stp     x4, x5, [x1, #32]
    stp     x6, x7, [x1, #48]
    stp     x8, x9, [x1, #64]
    stp     x10, x11, [x1, #80]
    stp     x12, x13, [x1, #96]
    stp     x14, x15, [x1, #112]
    stp     x16, x17, [x1, #128]
    stp     x18, x19, [x1, #144]
    stp     x20, x21, [x1, #160]
    stp     x22, x23, [x1, #176]
    stp     x24, x25, [x1, #192]
    stp     x26, x27, [x1, #208]
    stp     x28, x29, [x1, #224]
    str     x30, [x1, #240]
    mrs     x2, sp_el0
    mrs     x3, tpidr_el0
    stp     x2, x3, [x1, #0]
    mov     x2, sp                  // where the stack stood
    mov     sp, x1
    // x0 = vector, x1 = frame, x2 = SP at the fault
    mov     x29, xzr
    bl      {fault}
0:  wfi
    b       0b

    unexpected 1                    // IRQ
short_affinity:
    stp     x3, x4, [sp, #24]
    ldp     x1, x3, [sp, #8]        // target affinity and level
    cbnz    w3, 2f
    tbnz    w0, #30, 1f
    mov     w1, w1
1:  mrs     x4, tpidr_el2
    ldp     x4, x3, [x4, #{short_power}]
    cmp     x1, x3                  // a vCPU's affinity is its number
    b.hs    2f
    mov     w3, #{power_size}
    madd    x4, x1, x3, x4
    add     x4, x4, #{power_word}
    ldar    x3, [x4]
    and     w3, w3, #3
    lsl     w3, w3, #1
    mov     w0, #{affinity_of_state}
    lsr     w0, w0, w3
    and     x0, x0, #3
    ldp     x3, x4, [sp, #24]
    b       short_done
2:  ldp     x3, x4, [sp, #24]
    b       not_short

    unexpected 2                    // FIQ
// The kick. x0 and x1 are saved.
kicked:
    save_few 15
    short_way {kick}, 1f
    cbnz    w0, 1f
    restore_few 15
    ldr     x30, [sp, #240]
    ldp     x0, x1, [sp]
    eret
    dsb     nsh
    isb
1:  stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x16, x17, [sp, #128]
    str     x18, [sp, #144]
    mov     x0, sp
    mov     x1, #0
    bl      {irq}
    cbz     w0, resume
    b       leave

    unexpected 3                    // SError
// The vCPU leaves this pCPU: the rest of its registers join the frame, and the run loop takes over until one is to run.
leave:
    save_callee_saved
leave_saved:
    mov     x0, sp
    bl      {run}
    restore_callee_saved
    b       resume

    unexpected 4                    // current EL, SP_EL2
// A secondary pCPU, from PSCI CPU_ON: x0 = its SecondaryBoot, written and cleaned to the point of coherency.
.global secondary_entry
secondary_entry:
    msr     daifset, #0xf
    mov     x1, #1
    msr     spsel, x1
    ldp     x1, x2, [x0]            // hcr, vbar
    msr     hcr_el2, x1             // E2H = 0 before any register that it would redirect
    msr     vbar_el2, x2
    ldp     x19, x20, [x0, #16]     // stack top, percpu
    msr     tpidr_el2, x20
    isb
    ldp     x2, x3, [x0, #48]       // ttbr0, sctlr
    ldp     x0, x1, [x0, #32]       // mair, tcr
    bl      enable_mmu
    mov     sp, x19
    mov     x0, x20
    mov     x29, xzr
    bl      {secondary}
0:  wfi
    b       0b

    unexpected 5
// Turns a pCPU's MMU and caches on: x0 = mair, x1 = tcr, x2 = ttbr0, x3 = sctlr. The map is the identity here.
.global enable_mmu
enable_mmu:
    mov     x6, x30
    bl      quiet_extensions
    msr     mair_el2, x0
    msr     tcr_el2, x1
    msr     ttbr0_el2, x2
    dsb     sy
    tlbi    alle2
    ic      iallu
    dsb     sy
    isb
    msr     sctlr_el2, x3
    isb
    ret     x6

    unexpected 6
// What extensions have that Umbra does not use, as if they were not there: at reset these registers are UNKNOWN. With E2H = 0, before
// the MMU is on. Changes x4 and x5.
quiet_extensions:
    mrs     x4, S3_0_C0_C7_3        // ID_AA64MMFR3_EL1
    tst     x4, #{tcrx}
    b.eq    1f
    msr     S3_4_C2_C0_3, xzr       // TCR2_EL2
1:  tst     x4, #{sctlrx}
    b.eq    2f
    msr     S3_4_C1_C0_3, xzr       // SCTLR2_EL2
2:  mrs     x4, id_aa64mmfr0_el1
    tst     x4, #{fgt2}
    b.eq    3f
    msr     S3_4_C3_C1_2, xzr       // HFGRTR2_EL2
    msr     S3_4_C3_C1_3, xzr       // HFGWTR2_EL2
    msr     S3_4_C3_C1_7, xzr       // HFGITR2_EL2
    msr     S3_4_C3_C1_0, xzr       // HDFGRTR2_EL2
    msr     S3_4_C3_C1_1, xzr       // HDFGWTR2_EL2
3:  mrs     x4, id_aa64pfr0_el1
    mrs     x5, id_aa64pfr1_el1
    and     x4, x4, #{mpam}
    and     x5, x5, #{mpam_frac}
    orr     x4, x4, x5
    cbz     x4, 4f
    msr     S3_0_C10_C5_0, xzr      // MPAM1_EL1
    msr     S3_0_C10_C5_1, xzr      // MPAM0_EL1
    mrs     x4, S3_0_C10_C4_4       // MPAMIDR_EL1
    tbz     x4, #{has_hcr}, 4f
    msr     S3_4_C10_C4_0, xzr      // MPAMHCR_EL2
4:  ret

    unexpected 7
sync_any:
    save_callee_saved
    b       sync_saved
// What it stores may be in any register, and most of what is stored goes the long way.
sync_store:
    save_most
    save_callee_saved
    bl      {store}
    cbz     w0, resume
    b       sync_saved

    .org    el2_vectors + 0x400     // lower EL, AArch64: synchronous
guest_sync:
    stp     x1, x2, [sp, #8]
    mrs     x1, esr_el2
    mov     w2, #{hvc0}
    subs    x2, x1, x2
    b.eq    short_call
    tbnz    w1, #31, sync_abort     // exception classes from 0x20
    tbnz    w1, #29, sync_sysreg    // 0x18 to 0x1F, and what is as rare as these
    tst     x2, #~(1 << 26)         // SMC #0 differs from HVC #0 in this bit
    b.eq    short_smc
other_sync:
    save_most
    lsr     w2, w1, #26
    cmp     w2, #{ec_hvc}
    b.ne    sync_any
    b       sync_call

    .balign 128                     // IRQ
guest_irq:
    stp     x0, x1, [sp, #0]
    mrs     x1, S3_0_C12_C12_0      // ICC_IAR1_EL1
    dsb     sy
    cmp     w1, #{vtimer}
    b.eq    short_timer
other_irq:
    cbz     w1, kicked              // INTID 0 is the kick
    stp     x2, x3, [sp, #16]
not_shown:
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    str     x18, [sp, #144]
    str     x30, [sp, #240]
    mov     x0, sp
    bl      {irq}
    cbz     w0, resume
    b       leave

    .balign 128                     // FIQ: group 0 never reaches EL2 here, but it has the same answer
    b       guest_irq
// Applies the relocations of the image, which is linked at 0 and lies at x20: an even entry is the address of a pointer, an odd one a bit for
// each of the 63 doublewords after the last. Every pointer holds its place in the image.
.global relocate
relocate:
    adrp    x0, __relr_start
    add     x0, x0, :lo12:__relr_start
    adrp    x1, __relr_end
    add     x1, x1, :lo12:__relr_end
4:  cmp     x0, x1
    b.hs    5f
    ldr     x3, [x0], #8
    tbnz    x3, #0, 6f
    add     x4, x3, x20
    ldr     x5, [x4]
    add     x5, x5, x20
    str     x5, [x4], #8
    b       4b
6:  mov     x6, x4
    add     x4, x4, #63 * 8
    lsr     x3, x3, #1
7:  cbz     x3, 4b
    rbit    x5, x3
    clz     x5, x5
    ldr     x7, [x6, x5, lsl #3]
    add     x7, x7, x20
    str     x7, [x6, x5, lsl #3]
    sub     x5, x3, #1              // the lowest bit is done
    and     x3, x3, x5
    b       7b
5:  ret

    .org    el2_vectors + 0x580     // SError
guest_serror:
    save_caller_saved
    save_callee_saved
    mov     x0, sp
    bl      {sync}
    b       leave_saved

    .balign 128                     // lower EL, AArch32: EL1 is AArch64, EL0 may be AArch32 and gets here too
    b       guest_sync
not_short:
    mrs     x1, esr_el2
    tbz     w1, #26, other_hvc
    mrs     x2, elr_el2
    sub     x2, x2, #4
    msr     elr_el2, x2
    b       other_sync

short_version:
    mov     w0, #({smccc_1_1} & 0xFFFF)
    movk    w0, #({smccc_1_1} >> 16), lsl #16
    b       short_done

short_psci_version:
    mov     w0, #({psci_1_3} & 0xFFFF)
    movk    w0, #({psci_1_3} >> 16), lsl #16
    b       short_done

// The first entry to the run loop: x0 = top of this pCPU's stack, from which the frame is taken. Does not return.
.global enter_run_loop
enter_run_loop:
    sub     x0, x0, {frame_size}
    mov     sp, x0
    b       leave_saved

    .org    el2_vectors + 0x680
aarch32_irq:                        // a name of its own: xtask follows what code runs on into
    b       guest_irq
other_hvc:
    save_most
sync_call:
    mrs     x2, tpidr_el2
    ldr     x2, [x2, #{short_starts}]
    cbz     x2, call
    ldr     w3, [sp]
    mov     w4, #({cpu_on} & 0xFFFF)
    movk    w4, #({cpu_on} >> 16), lsl #16
    cmp     w3, w4
    b.ne    call
    tbnz    w2, #{forwards}, 4f
    bl      {on}
    cbz     w0, resume
    mov     x0, sp
    mrs     x1, esr_el2
    b       call
4:  bl      {forwarded}
    cbz     w0, resume
    b       leave

    .org    el2_vectors + 0x700
    b       guest_irq
// A call that only reads, by HVC #0 or SMC #0, of a guest whose filter leaves such calls alone: answered as psci::smccc does. x1
// and x2 are saved, x0 is the guest's, x1 is ESR_EL2. Anything else goes on as if nothing had been.
//
// The address to go on at is the SMC's own: past it, unless there is more to do than that (PSTATE.BTYPE, PSTATE.SS).
short_smc:
    mrs     x2, spsr_el2
    tbnz    w2, #21, other_sync
    tst     w2, #(3 << 10)
    b.ne    other_sync
    mrs     x2, elr_el2
    add     x2, x2, #4
    msr     elr_el2, x2
short_call:
    mrs     x2, tpidr_el2
    ldr     x2, [x2, #{short_calls}]
    cbz     x2, not_short
    tbz     w0, #25, short_service  // of the services, Arm's and the standard secure ones are among those without this bit
    tbnz    w0, #15, short_uid      // of the functions of the others, the UID and the revision are among those with this one
short_unknown:
    mov     x0, #-1                 // NOT_SUPPORTED
short_done:
    ldr     x1, [x2, #{count_calls}]
    add     x1, x1, #1
    str     x1, [x2, #{count_calls}]
    ldp     x1, x2, [sp, #8]
    eret
    dsb     nsh
    isb
short_service:
    eor     w1, w0, #{smccc_version}
    cbz     w1, short_version
    eor     w1, w1, #({psci_version} ^ {smccc_version})
    cbz     w1, short_psci_version
    and     w1, w1, #~(1 << 30)     // either width
    cmp     w1, #({affinity_info} ^ {psci_version})
    b.eq    short_affinity
    and     w1, w0, #~(1 << 26)     // PSCI's service and Arm's differ in this bit
    ubfx    w1, w1, #24, #6
    cbnz    w1, short_unknown
    b       not_short

    .org    el2_vectors + 0x780
    b       guest_serror
// The end of short_timer: its interrupt is shown again.
short_shown:
    mov     x1, #{vtimer}
    msr     S3_0_C12_C12_1, x1      // ICC_EOIR1_EL1
    isb
    ldp     x1, x2, [x0, #{gic_latch}]
    orr     x1, x1, #(1 << {vtimer})
    orr     x2, x2, #(1 << {vtimer})
    stp     x1, x2, [x0, #{gic_latch}]
    mrs     x0, tpidr_el2
    ldr     x0, [x0, #{short_gic} + 8]
    ldr     x1, [x0, #{count_interrupts}]
    add     x1, x1, #1
    str     x1, [x0, #{count_interrupts}]
    ldp     x2, x3, [sp, #16]
    ldp     x0, x1, [sp, #0]
    eret
    dsb     nsh
    isb
    .org    el2_vectors + 0x800

.section .text.trap, "ax"
// The ways through Rust. What is common is tried first; if it is something else, nothing has happened yet. A long way has the frame in
// x0, and a call, which can name x0 to x17 only, ESR_EL2 in x1, as the short ways of a store and of CPU_ON do. The other short ways have
// ESR_EL2 in x0, or what the guest wrote.
sync_abort:
    tbnz    w1, #6, sync_store
    save_few 17
    mov     x0, x1
    short_way {load}, sync_few
    tbz     x1, #63, loaded
sync_few:
    ldr     x0, [sp, #248]
    str     x0, [sp]
    stp     x3, x4, [sp, #24]
    stp     x5, x6, [sp, #40]
    str     x7, [sp, #56]
    str     x18, [sp, #144]
    save_callee_saved
sync_saved:
    mov     x0, sp
    bl      {sync}
    cbnz    w0, leave_saved
    restore_callee_saved
    b       resume
// x0 = what the guest has read, x1 = the number of the register that it goes to.
loaded:
    ldp     x16, x17, [sp, #128]
    ldp     x14, x15, [sp, #112]
id_loaded:
    restore_few 13
    ldr     x30, [sp, #240]
    adr     x2, 1f
    add     x2, x2, x1, lsl #3
    br      x2
1:  str     x0, [sp, #248]
    b       2f
    str     x0, [sp, #8]
    b       2f
    str     x0, [sp, #16]
    b       2f
    .irp rt, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15, x16, x17, x18, x19, x20, x21, x22, x23, x24, x25, x26, x27, x28, x29, x30
    mov     \rt, x0
    b       2f
    .endr
    nop
2:  ldr     x0, [sp, #248]
    ldp     x1, x2, [sp, #8]
    eret
    dsb     nsh
    isb

sync_sysreg:
    tbz     w1, #0, 1f              // a write
    save_few 13
    mov     x0, x1
    short_way {id}, id_few
    tbz     x1, #63, id_loaded
    b       id_few
1:  save_few 15
    mov     w2, #({sgi1r} & 0xFFFF)
    movk    w2, #({sgi1r} >> 16), lsl #16
    eor     x2, x1, x2
    tst     x2, #~(31 << 5)
    b.ne    sgi_few
    ubfx    x1, x1, #5, #5          // the register whose value it writes
    adr     x2, 1f
    add     x2, x2, x1, lsl #3
    br      x2
1:  nop
    b       2f
    ldr     x0, [sp, #8]
    b       2f
    ldr     x0, [sp, #16]
    b       2f
    .irp rt, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15, x16, x17, x18, x19, x20, x21, x22, x23, x24, x25, x26, x27, x28, x29, x30
    mov     x0, \rt
    b       2f
    .endr
    mov     x0, xzr
2:  short_way {sgi}, sgi_few
    cbnz    w0, sgi_few
    restore_few 15
    ldp     x30, x0, [sp, #240]
    ldp     x1, x2, [sp, #8]
    eret
    dsb     nsh
    isb

id_few:
    stp     x14, x15, [sp, #112]
sgi_few:
    stp     x16, x17, [sp, #128]
    b       sync_few

// The virtual timer's interrupt, when all is as at the last one: VcpuGic::show_again says what that means. x0 and x1 are saved.
short_timer:
    stp     x2, x3, [sp, #16]
    mrs     x0, tpidr_el2
    ldr     x0, [x0, #{short_gic}]
    ldrb    w3, [x0, #{gic_slot}]
    add     x1, x0, x3, lsl #3
    ldr     x2, [x1, #{gic_image}]
    cmp     w2, #{vtimer}           // whose image it is
    b.ne    3f
    mrs     x1, S3_4_C12_C11_5      // ICH_ELRSR_EL2
    lsr     x1, x1, x3
    tbz     w1, #0, 3f
    adr     x1, 4f
    add     x1, x1, x3, lsl #3
    br      x1
4:  .irp lr, C12_0, C12_1, C12_2, C12_3, C12_4, C12_5, C12_6, C12_7, C13_0, C13_1, C13_2, C13_3, C13_4, C13_5, C13_6, C13_7
    msr     S3_4_C12_\lr, x2
    b       short_shown
    .endr
3:  mov     x1, #{vtimer}
    b       not_shown

short_uid:
    mov     w1, #({hyp_uid} & 0xFFFF)
    movk    w1, #({hyp_uid} >> 16), lsl #16
    eor     w1, w1, w0
    tst     w1, #~2                 // the revision differs from the UID in this bit
    b.ne    short_unknown
    b       not_short

// Any other call. x0 = frame, x1 = ESR_EL2.
call:
    bl      {call}
    cbnz    w0, leave
resume:
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldr     x18, [sp, #144]
    ldr     x30, [sp, #240]
    ldp     x0, x1, [sp, #0]
    eret
    dsb     nsh                     // no speculation past ERET
    isb
