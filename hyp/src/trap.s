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

.macro unexpected, kind
    .balign 128
    msr     sp_el0, x0              // the guest's SP_EL0 is lost: EL2 is not coming back
    mov     x0, #\kind
    b       el2_fault
.endm

.section .vectors, "ax"
.balign 2048
.global el2_vectors
el2_vectors:
    unexpected 0                    // current EL, SP_EL0
    unexpected 1
    unexpected 2
    unexpected 3
    unexpected 4                    // current EL, SP_EL2
    unexpected 5
    unexpected 6
    unexpected 7

    .balign 128                     // lower EL, AArch64: synchronous
guest_sync:
    save_caller_saved
    mrs     x1, esr_el2
    lsr     x2, x1, #26
    cmp     x2, #0x16               // HVC from AArch64: only x0 to x17 can matter
    b.ne    guest_sync_full
    mov     x0, sp
    bl      {sync}
    cbnz    x0, leave
    b       resume

    .balign 128                     // IRQ
guest_irq:
    save_caller_saved
    mov     x0, sp
    bl      {irq}
    cbnz    x0, leave
    b       resume

    .balign 128                     // FIQ: group 0 never reaches EL2 here, but it has the same answer
    b       guest_irq

    .balign 128                     // SError
guest_serror:
    save_caller_saved
    save_callee_saved
    mov     x0, sp
    bl      {serror}
    b       leave_saved

    .balign 128                     // lower EL, AArch32: EL1 is AArch64, EL0 may be AArch32 and gets here too
    b       guest_sync
    .balign 128
    b       guest_irq
    .balign 128
    b       guest_irq
    .balign 128
    b       guest_serror
    .balign 128

// Any other synchronous exit may name any register.
guest_sync_full:
    save_callee_saved
    mov     x0, sp
    bl      {sync}
    cbnz    x0, leave_saved
    restore_callee_saved
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

// The vCPU leaves this pCPU: the rest of its registers join the frame, and the run loop takes over until one is to run.
leave:
    save_callee_saved
leave_saved:
    mov     x0, sp
    bl      {run}
    restore_callee_saved
    b       resume

// The first entry to the run loop: x0 = top of this pCPU's stack, from which the frame is taken. Does not return.
.global enter_run_loop
enter_run_loop:
    sub     x0, x0, {frame_size}
    mov     sp, x0
    b       leave_saved

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
